"""A configuration is read whole, or refused with the line of everything that is wrong."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from ffn_edge.bundle import Bundle
from ffn_edge.errors import ConfigError
from ffn_edge.runtime.engines.engine import BACKENDS
from ffn_edge.runtime.serve.changes import changes_between
from ffn_edge.runtime.serve.config import Config, EnginesTable, load_config

CAMERA = '[[camera]]\nname = "door"\nsource = "0"\n'
LEAST = f'bundle = "bundle"\n{CAMERA}'

FULL = """\
bundle = "bundle"                  # a folder, or a link to one

state = "kept"

[limits]
power_w = 12
latency_ms = 80
miss_rate = 0.01

[engines]
backend = "onnxruntime"
threads = 2
precision = "fp32"
stream = false

[[camera]]
name = "door"
source = "env:DOOR"
window_s = 2
hop_s = 0.5
weight = 2
roi = [0.1, 0.2, 0.5, 0.5]

[[camera]]
name = "yard #2"
source = "yard.mp4"
loop = true

[events]
nothing = "none"
onset = { up = 0.7, down = 0.6 }
offset = 0.4
least_s = 0.5
merge_s = 1
refractory_s = 0
gate = false

[mqtt]
host = "broker"
user = "edge"
password = "file:mqtt"
tls = true
ca_file = "ca.pem"
topic = "site/edge"
discovery = false

[webhook]
url = "https://example.org/hook?token=hunter5"
secret = "hunter4"
timeout_s = 2

[http]
host = "0.0.0.0"
port = 443
token = "env:TOKEN"
certificate = "ca.pem"
key = "ca.pem"

[clips]
folder = "clips"
before_s = 1
after_s = 2
most_mb = 10

[files]
events = "events.jsonl"
results = "/var/log/results.jsonl"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that `FULL` names."""
    monkeypatch.setenv("DOOR", "rtsp://u:hunter1@door/1")
    monkeypatch.setenv("TOKEN", "hunter2")
    (tmp_path / "mqtt").write_text("hunter3\n")
    (tmp_path / "mqtt").chmod(0o600)
    (tmp_path / "ca.pem").touch()
    (tmp_path / "yard.mp4").touch()
    return tmp_path


def config(folder: Path, text: str) -> Config:
    (folder / "serve.toml").write_text(text)
    return load_config(folder / "serve.toml")


def refusal(folder: Path, text: str) -> dict[int, str]:
    """What is said of a text that is refused, by line."""
    with pytest.raises(ConfigError, match=r"serve\.toml, line 1?\d") as caught:
        config(folder, text)
    said = re.split(r"(?:, |; )line (\d+): ", caught.value.message)
    found: dict[int, str] = {}
    for line, words in zip(said[1::2], said[2::2], strict=True):
        found[int(line)] = f"{found.get(int(line), '')} {words}".strip()
    return found


def test_four_lines_are_enough(folder: Path) -> None:
    found = config(folder, LEAST)
    assert found.bundle == folder / "bundle" and found.http.host == "127.0.0.1"
    assert [(each.name, each.source.reveal()) for each in found.camera] == [("door", "0")]
    assert (found.mqtt, found.webhook, found.clips) == (None, None, None)
    assert found.limits.limits().miss_rate == 0.05
    assert found.engines.options().backend == "auto"


def test_every_key_is_read(folder: Path) -> None:
    found = config(folder, FULL)
    assert found.state == folder / "kept"
    assert found.limits.limits().power_w == 12 and found.engines.options().threads == 2
    door, yard = found.camera
    assert door.source.reveal() == "rtsp://u:hunter1@door/1"
    assert door.roi == (0.1, 0.2, 0.5, 0.5) and (door.window_s, door.hop_s) == (2, 0.5)
    assert (yard.name, yard.source.reveal(), yard.loop) == (
        "yard #2",
        str(folder / "yard.mp4"),
        True,
    )
    assert found.events.onset == {"up": 0.7, "down": 0.6} and found.events.offset == 0.4
    assert found.mqtt is not None and found.mqtt.password is not None
    assert found.mqtt.password.reveal() == "hunter3" and found.mqtt.ca_file == folder / "ca.pem"
    assert found.webhook is not None and found.webhook.secret is not None
    assert found.clips is not None and found.clips.folder == folder / "clips"
    assert found.files.events == folder / "events.jsonl"
    assert found.files.results == Path("/var/log/results.jsonl")
    for table in dataclasses.fields(found):  # nothing was forgotten above
        assert table.name in ("toml", "path") or table.name in FULL
    hidden = {secret.reveal() for secret in found.secrets()}
    assert hidden == {"hunter2", "hunter3", "hunter4", found.webhook.url.reveal()}
    assert "hunter" not in repr(found) and "hunter" not in str(dataclasses.asdict(found.mqtt))


def test_the_backends_are_those_that_there_are() -> None:
    assert get_args(get_type_hints(EnginesTable)["backend"]) == BACKENDS


@pytest.mark.parametrize(
    ("text", "line", "noun"),
    [
        ("", 1, "bundle"),
        ('bundle = "b"\n', 1, "camera"),
        (LEAST + "[limits]\npower_w = \n", 6, "value"),
        (LEAST + "[limits]\npower_w = 'much'\n", 6, "power_w"),
        (LEAST + "[limits]\npower_w = 0\n", 6, "above 0"),
        (LEAST + "[limits]\npower_w = nan\n", 6, "number"),
        (LEAST + "[limits]\nmiss_rate = 1.5\n", 6, "at most"),
        (LEAST + "[limits]\nlatency = 1\n", 6, "did you mean latency_ms"),
        (LEAST + "[limit]\nlatency_ms = 1\n", 5, "did you mean limits"),
        (LEAST + "[[limits]]\nlatency_ms = 1\n", 5, "table"),
        (LEAST + "[engines]\nbackend = 'cuda'\n", 6, "onnxruntime"),
        (LEAST + "[engines]\nthreads = 0\n", 6, "threads"),
        (LEAST + "[engines]\nthreads = true\n", 6, "threads"),
        (LEAST.replace("[[camera]]", "[camera]"), 2, r"\[\[camera\]\]"),
        (LEAST.replace("[[camera]]", "[camera]") + "'a[' = 1\n", 2, r"\[\[camera\]\]"),
        (LEAST + CAMERA, 6, "door"),
        (LEAST + CAMERA.replace("door", "Door"), 6, "Door"),
        (LEAST.replace('"door"', '" "'), 3, "name"),
        (LEAST.replace('"door"', '"a\\nb"'), 3, "name"),
        (LEAST.replace('"door"', '"a\\u001bb"'), 3, "name"),
        (LEAST.replace('"0"', "0"), 4, "text"),
        (LEAST.replace('"0"', '""'), 4, "empty"),
        (LEAST.replace('"0"', '"absent.mp4"'), 4, "absent"),
        (LEAST.replace('"0"', '"ftp://host/1"'), 4, "camera"),
        (LEAST.replace('"0"', '"env:NO_SUCH"'), 4, "NO_SUCH"),
        (LEAST.replace('"0"', '"file:no_such"'), 4, "no_such"),
        (LEAST + "roi = [0, 0, 1]\n", 5, "list of 4"),
        (LEAST + "roi = [0, 0, 1,\n 1.5]\n", 6, r"roi\[3\]"),
        (LEAST + "roi = [0.6, 0, 0.5, 1]\n", 5, "width"),
        (LEAST + "roi = [0, 0, 0, 1]\n", 5, "width"),
        (LEAST + "hop_s = -1\n", 5, "hop_s"),
        (LEAST + "bundle = 'x'\n", 5, "bundle"),
        (LEAST + "[events]\nonset = 2\n", 6, "at most 1"),
        (LEAST + "[events]\nonset = { up = 2 }\n", 6, r"onset\.up"),
        (LEAST + "[events.onset]\nup = 1\n'a\\u0001' = 0.5\n".replace("'", '"'), 7, "key of"),
        (LEAST + "[events]\nonset = 0.5\noffset = 0.6\n", 7, "offset"),
        (LEAST + "[http]\nport = 65536\n", 6, "65535"),
        (LEAST + "[http]\nport = '80'\n", 6, "whole number"),
        (LEAST + "[http]\nhost = '0.0.0.0'\n", 6, "token"),
        (LEAST + "[http]\nkey = 'ca.pem'\n", 6, "certificate"),
        (LEAST + "[http]\nkey = 'x.pem'\ncertificate = 'ca.pem'\n", 6, "exist"),
        (LEAST + "[mqtt]\n", 5, "host"),
        (LEAST + "[mqtt]\nhost = 'b'\nport = 0\n", 7, "port"),
        (LEAST + "[mqtt]\nhost = 'b'\npassword = 'x'\n", 7, "user"),
        (LEAST + "[mqtt]\nhost = 'b'\ntls = true\nca_file = 'x.pem'\n", 8, "exist"),
        (LEAST + "[mqtt]\nhost = 'b'\nca_file = 'ca.pem'\n", 7, "tls"),
        (LEAST + "[mqtt]\nhost = 'b'\ntopic = 'a/#'\n", 7, "topic"),
        (LEAST + "[mqtt]\nhost = 'b'\ntopic = '$SYS/a'\n", 7, "topic"),
        (LEAST + "[mqtt]\nhost = 'b'\ntopic = '/a'\n", 7, "topic"),
        (LEAST + "[mqtt]\nhost = 'b'\ntopic = 'a/'\n", 7, "topic"),
        (LEAST + "[mqtt]\nhost = 'b'\ntopic = ''\n", 7, "topic"),
        (LEAST + "[webhook]\nurl = 'example.org'\n", 6, "https"),
        (LEAST + "[webhook]\nurl = 'https://me@host/'\n", 6, "user"),
        (LEAST + "[clips]\nfolder = 'x'\nmost_mb = 0\n", 7, "most_mb"),
        (LEAST + "[files]\nevents = 7\n", 6, "events"),
        (LEAST + "[a]\n[a]\n", 6, "twice"),
        (LEAST + "a.b.c.d = 1\n", 5, "there is no key"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(folder: Path, text: str, line: int, noun: str) -> None:
    found = refusal(folder, text)
    assert re.search(noun, found[line]), found


def test_everything_that_is_wrong_is_told_in_the_order_of_the_lines(folder: Path) -> None:
    text = FULL.replace("power_w = 12", "power_w = -1").replace("weight = 2", "wieght = 2")
    text = text.replace("port = 443", "port = 0.5").replace("timeout_s = 2", "timeout_s = []")
    found = refusal(folder, text)
    lines = text.splitlines()
    assert [lines[line - 1] for line in found] == [
        "power_w = -1",
        "wieght = 2",
        "timeout_s = []",
        "port = 0.5",
    ]
    # What holds between values is looked at where each is right.
    assert len(refusal(folder, LEAST + CAMERA + "[http]\nhost = '::'\n[mqtt]\nhost = ''\n")) == 3


def test_no_error_shows_a_secret(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRONG", "hunter2 is no camera")
    for text in (
        LEAST + "[http]\ntoken = ['hunter2']\n",
        LEAST + "[http]\ntoken = { hunter = 'hunter2' }\n",
        LEAST + "[[mqtt]]\npassword = 'hunter2'\n",
        LEAST + "[mqtt]\nhost = 'a'\npassword = 'hunter2\\u0007'\n",
        LEAST + "[webhook]\nurl = 'hunter2'\n",
        LEAST + "[webhook]\nurl = 'https://a'\nsecret = 'hunter2\n",
        LEAST.replace('"0"', '"env:WRONG"'),
        LEAST.replace('"0"', '"rtsp://me:hunter2@host/ 1"'),
    ):
        assert "hunter2" not in str(refusal(folder, text))


def test_a_file_that_cannot_be_read_is_told(folder: Path) -> None:
    for path in (folder, folder / "absent.toml"):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(path)
    (folder / "latin.toml").write_bytes(b"a = 1\n# gr\xfc\xdfe\n")
    with pytest.raises(ConfigError, match="line 2"):
        load_config(folder / "latin.toml")


def test_classes_are_held_against_the_bundle(folder: Path, exported: Bundle) -> None:
    config(folder, FULL).check(exported.manifest)
    for text, line in (
        (LEAST + "[events]\nnothing = 'idle'\n", 6),
        (LEAST + "[events]\nonset.up = 0.5\noffset.idle = 0.5\n", 7),
        (LEAST + "[engines]\nstream = true\n", 6),
    ):
        found = config(folder, text)
        with pytest.raises(ConfigError, match=f"line {line}"):
            found.check(exported.manifest)


def test_what_can_change_while_it_runs_is_told_from_what_cannot(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = config(folder, FULL)
    assert changes_between(old, config(folder, "# the same\n" + FULL)).in_words() == (
        "nothing has changed"
    )
    text = FULL.replace("power_w = 12", "power_w = 8").replace("least_s = 0.5", "least_s = 1")
    found = changes_between(old, config(folder, text))
    assert found.limits and found.events and not found.cameras and not found.restart

    text = FULL.replace('"yard #2"', '"gate"').replace("weight = 2", "weight = 1")
    found = changes_between(old, config(folder, text))
    assert (found.added, found.removed, found.changed) == (("gate",), ("yard #2",), ("door",))
    assert not found.limits and not found.events and not found.restart

    text = FULL.replace("port = 443", "port = 444").replace("gate = false", "gate = true")
    found = changes_between(old, config(folder, text.partition("[clips]")[0]))
    assert found.restart == ("events.gate", "http.port", "files.events", "files.results", "clips")
    assert "restart" in found.in_words() and not found.events

    monkeypatch.setenv("DOOR", "rtsp://u:hunter9@door/1")
    (folder / "mqtt").write_text("hunter9")
    found = changes_between(old, config(folder, FULL))
    assert (found.changed, found.restart) == (("door",), ("mqtt.password",))
    assert "hunter" not in found.in_words() + repr(found)
