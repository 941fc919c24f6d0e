"""`python -m benchmarks.simulation` from end to end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from click.testing import CliRunner, Result

from benchmarks.simulation import profiled
from benchmarks.simulation.__main__ import simulate
from benchmarks.simulation.board import SYNTHETIC
from ffn_edge.bundle.bundle import Accuracy, Bundle
from ffn_edge.errors import FfnEdgeError
from ffn_edge.runtime.policy.interface import Limits, Observation, OperatingPoint, Setting
from ffn_edge.runtime.profile.profile import Latency
from ffn_edge.runtime.trace import TraceWriter

SHORT = ("--seeds", "1", "--hours", "0.01")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(simulate, arguments, catch_exceptions=False)


def test_all_policies_stand_side_by_side_with_the_best_static_and_the_oracle() -> None:
    found = call("--scenario", "steady", "--json", *SHORT)
    by_rate = json.loads(found.stdout)["scenarios"]["steady"]
    assert list(by_rate) == ["0.01", "0.05"]
    shown = list(by_rate["0.01"])
    assert shown[:3] == ["static-4", "static-8", "static-16"]
    assert shown[3].startswith("best static (")
    assert {"adaptive", "alert", "pid", "hysteresis"} < set(shown[4:-1])
    assert shown[-1] == "oracle"
    assert by_rate["0.01"]["static-8"]["mean"]["accuracy"] == pytest.approx(0.4820)
    assert by_rate["0.01"]["oracle"]["mean"]["regret"] == 0.0


def test_a_policy_that_misses_too_often_is_marked() -> None:
    found = call(
        "--scenario",
        "mode",
        "--policy",
        "static-16,static-4",
        "--miss-rate",
        "0.01",
        "--seeds",
        "1",
        "--json",
    )
    policies = json.loads(found.stdout)["scenarios"]["mode"]["0.01"]
    assert policies["static-16"]["too_many_misses"] is True
    assert policies["static-4"]["too_many_misses"] is False
    assert policies["best static (4)"]["mean"] == policies["static-4"]["mean"]


def test_recordings_run_once_and_are_as_long_as_they_are() -> None:
    found = call("--scenario", "recorded", "--policy", "static-4", "--hours", "9", "--json")
    fields = json.loads(found.stdout)
    assert fields["seeds"] == 1
    assert len(fields["scenarios"]) == 6
    assert fields["scenarios"]["gpu-demo-compute"]["0.01"]["static-4"]["share"]["4"] == 1.0


def test_the_table_shows_each_target() -> None:
    found = call("--scenario", "steady", "--policy", "static-8", *SHORT)
    assert "target 0.01" in found.stdout and "target 0.05" in found.stdout
    assert "48.20" in found.stdout


def test_a_plot_is_written_for_each_scenario(tmp_path: Path) -> None:
    call(
        "--scenario",
        "power,heat",
        "--policy",
        "static-4",
        "--plot",
        str(tmp_path / "out.png"),
        *SHORT,
    )
    for name in ("out-power.png", "out-heat.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--scenario", "stedy"), "no scenario 'stedy'"),
        (("--policy", "magic"), "no policy 'magic'"),
        (("--policy", "static-5"), "no engine for 5 frames"),
        (("--miss-rate", "often"), "miss rates are numbers"),
        (("--miss-rate", "1.5"), "miss rates are numbers"),
    ],
)
def test_what_cannot_be_simulated_is_refused(arguments: tuple[str, str], message: str) -> None:
    with pytest.raises(FfnEdgeError, match=message):
        call(*arguments)


def test_a_trace_keeps_its_own_length(tmp_path: Path) -> None:
    found = CliRunner().invoke(simulate, ["--trace", str(tmp_path / "x"), "--hours", "1"])
    assert found.exit_code == 2


def test_a_trace_is_replayed_with_every_rival_and_both_oracles(tmp_path: Path) -> None:
    path = tmp_path / "walk.jsonl"
    points = [OperatingPoint(frames=frames, base_ms=5.0 * frames) for frames in (4, 8, 16)]
    limits = Limits(latency_ms=60.0)
    with TraceWriter(path) as writer:
        writer.begin(Setting(points=points, period_s=0.25), limits, {})
        for hop in range(40):
            writer.write(Observation(frames=8, latency_ms=40.0, now=hop / 4 + 0.04, limits=limits))
    found = json.loads(call("--trace", str(path), "--json").stdout)["scenarios"]["walk"]["0.05"]
    assert set(found) > {"static-16", "alert-deviation", "oracle-late", "oracle"}
    assert found["oracle"]["share"] == {"4": 0.0, "8": 1.0, "16": 0.0}
    assert found["oracle-late"]["mean"]["miss_rate"] == pytest.approx(0.05)


def test_a_bundle_that_was_not_profiled_is_refused(bundle: Bundle) -> None:
    with pytest.raises(FfnEdgeError, match="no profile to simulate"):
        call("--profile", str(bundle.path))


def test_a_profiled_bundle_gives_the_engines_and_their_noise(
    write_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = write_bundle()
    accuracy = Accuracy(top1=0.5, top5=0.9, clips=10)
    bundle = write_bundle(
        sub_networks={
            frames: replace(sub_network, accuracy=accuracy)
            for frames, sub_network in plain.manifest.sub_networks.items()
        }
    )
    samples = {2: (9.0, 10.0, 12.0), 4: (19.0, 20.0, 24.0), 8: (40.0, 40.0, 40.0)}
    measured = SimpleNamespace(
        latencies={"fp32": {frames: Latency(ms) for frames, ms in samples.items()}},
        power=SimpleNamespace(idle_w=4.0, above_idle_w={"fp32": {2: 3.0, 4: 4.0, 8: 5.0}}),
    )
    monkeypatch.setattr(profiled, "load_profile", lambda folder: measured)
    spec, note = profiled.board_from_bundle(bundle.path)
    assert note is None
    assert [(p.frames, p.base_ms, p.accuracy, p.power_w) for p in spec.points] == [
        (2, 10.0, 0.5, 3.0),
        (4, 20.0, 0.5, 4.0),
        (8, 40.0, 0.5, 5.0),
    ]
    assert (spec.idle_w, spec.ratios[0], spec.ratios[-1]) == (4.0, 0.9, 1.2)

    measured.power = SimpleNamespace(idle_w=None, above_idle_w={})
    spec, note = profiled.board_from_bundle(bundle.path)
    assert note is not None and "no power" in note
    assert spec.idle_w == SYNTHETIC.idle_w


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--plot", "p.xyz"], "names no format"),
        (["--plot", "nowhere/p.png"], "there is no folder nowhere"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_simulated(
    arguments: list[str], words: str
) -> None:
    with pytest.raises(FfnEdgeError, match=words):
        CliRunner().invoke(simulate, [*arguments, "--seeds", "1"], catch_exceptions=False)


@pytest.mark.slow
def test_an_interrupt_ends_a_comparison_at_once_and_leaves_no_process() -> None:
    command = [sys.executable, "-m", "benchmarks.simulation", "--seeds", "1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        parent = psutil.Process(process.pid)
        while not any("spawn_main" in " ".join(child.cmdline()) for child in parent.children()):
            time.sleep(0.05)
        children = parent.children(recursive=True)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode != 0
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
