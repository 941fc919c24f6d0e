"""Limits that change while a run goes on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ffn_edge.errors import FfnEdgeError
from ffn_edge.runtime.limits_file import LimitsFile, describe
from ffn_edge.runtime.policy.interface import Limits

BASE = Limits(latency_ms=50.0, power_w=10.0)


def replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


def test_the_file_says_what_differs_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    path.write_text('{"power_w": 8.5, "miss_rate": 0.01}')
    limits = LimitsFile(path, BASE)()
    assert limits == Limits(latency_ms=50.0, miss_rate=0.01, power_w=8.5)


def test_null_is_no_limit(tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    path.write_text('{"latency_ms": null}')
    assert LimitsFile(path, BASE)().latency_ms is None


def test_a_miss_rate_cannot_be_left_open(tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    path.write_text('{"miss_rate": null}')
    with pytest.raises(FfnEdgeError, match="miss_rate"):
        LimitsFile(path, BASE)


def test_a_change_is_read_once_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "limits.json"
    path.write_text("{}")
    limits = LimitsFile(path, BASE)
    assert (limits(), caplog.messages) == (BASE, [])
    replace(path, '{"power_w": 6}')
    assert limits().power_w == limits().power_w == 6.0
    assert caplog.messages == [f"limits: 50 ms in all but 5 %, 6 W, as {path} says"]


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", "[" * 100_000, '{"frames": 4}', '{"power_w": true}', '{"power_w": "7"}'),
        '{"power_w": 1' + "0" * 400 + "}",
        '{"power_w": "much"}',
        '{"power_w": -1}',
        '{"miss_rate": null}',
    ],
)
def test_a_file_that_cannot_be_used_is_refused_at_first_and_then_changes_nothing(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "limits.json"
    path.write_text(text)
    with pytest.raises(FfnEdgeError) as caught:
        LimitsFile(path, BASE)
    assert caught.value.hint
    path.write_text('{"power_w": 7}')
    limits = LimitsFile(path, BASE)
    replace(path, text)
    assert limits().power_w == 7.0
    (message,) = caplog.messages
    assert "the limits stay: 50 ms in all but 5 %, 7 W" in message


def test_a_file_that_goes_away_changes_nothing_and_one_that_comes_back_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "limits.json"
    path.write_text('{"power_w": 7}')
    limits = LimitsFile(path, BASE)
    path.unlink()
    assert limits().power_w == limits().power_w == 7.0
    assert len(caplog.messages) == 1
    replace(path, '{"power_w": 9}')
    assert limits().power_w == 9.0


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FfnEdgeError, match="cannot be read"):
        LimitsFile(tmp_path / "none.json", BASE)


def test_limits_in_words() -> None:
    assert describe(Limits()) == "none"
    limits = Limits(battery_j=7200.0, until_s=1.0, frames=8)
    assert describe(limits) == "2 Wh, 8 frames"
