"""Runs with a budget, limits that change, a cascade and a trace: real files and engines."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffn_edge.bundle.bundle import Bundle, Precision
from ffn_edge.errors import FfnEdgeError, VideoError
from ffn_edge.runtime.cascade.calibrate import calibrate_bundle
from ffn_edge.runtime.cascade.calibration import Calibration, load_calibration, save_calibration
from ffn_edge.runtime.cascade.cascade import CascadeController
from ffn_edge.runtime.classifier import Result
from ffn_edge.runtime.engines.engine import (
    EngineOptions,
    OpenEngines,
    cpu_backend,
    open_engines,
)
from ffn_edge.runtime.policy.interface import Decision, Limits
from ffn_edge.runtime.power.ina import InaMeter
from ffn_edge.runtime.power.meter import Averaging, NullMeter, PowerReading
from ffn_edge.runtime.profile.power import PowerProfile
from ffn_edge.runtime.profile.profile import Latency, save_profile
from ffn_edge.runtime.profile.setting import learn_setting, setting_from_latencies
from ffn_edge.runtime.run import RunOptions, open_session, run_session
from ffn_edge.runtime.sinks import AnnotatedVideo, result_fields
from ffn_edge.runtime.stream.sources import Frame, Source
from ffn_edge.runtime.summary import Summary
from ffn_edge.runtime.trace import read_trace

ENGINES = EngineOptions(backend="onnxruntime", threads=1)
COLOURS = ("red", "green", "blue")


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """The file system of a board whose module draws 11 W."""
    folder = tmp_path / "root/sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
    folder.mkdir(parents=True)
    for number, (rail, milliamperes) in enumerate({"VDD_IN": 2200, "VDD_SOC": 200}.items(), 1):
        (folder / f"in{number}_label").write_text(f"{rail}\n")
        (folder / f"in{number}_input").write_text("5000\n")
        (folder / f"curr{number}_input").write_text(f"{milliamperes}\n")
    zone = tmp_path / "root/sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    (zone / "temp").write_text("51500\n")
    return tmp_path / "root"


@pytest.fixture
def profiled(bundle: Bundle, board: Path) -> Bundle:
    """The bundle with a profile: 3 W at rest, and 2, 4 and 8 W more for 2, 4 and 8 frames."""
    save_profile(
        bundle,
        cpu_backend(1),
        {"fp32": {frames: Latency((0.1, 0.2, 0.3)) for frames in (2, 4, 8)}},
        power=PowerProfile(
            meter="INA",
            scope="module input (VDD_IN)",
            idle_w=3.0,
            above_idle_w={"fp32": {2: 2.0, 4: 4.0, 8: 8.0}},
        ),
        root=board,
    )
    return bundle


@pytest.fixture
def video(write_video: Callable[..., Path]) -> Path:
    """Sixty seconds of green."""
    return write_video("long.mp4", ["green"] * 600)


class Recorder:
    """A sink that keeps the results, and does something after some of them."""

    def __init__(self, after: int = 0, do: Callable[[], object] = lambda: None) -> None:
        self.results: list[Result] = []
        self._after, self._do = after, do

    def write(self, result: Result) -> None:
        """Keep a result."""
        self.results.append(result)
        if len(self.results) == self._after:
            self._do()


@pytest.fixture(autouse=True)
def info(caplog: pytest.LogCaptureFixture) -> None:
    """Record what is said of a run."""
    caplog.set_level("INFO")


@pytest.fixture
def quick_power(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure power in little time."""
    monkeypatch.setattr("ffn_edge.runtime.profile.power.SETTLE_S", 0.05)
    monkeypatch.setattr("ffn_edge.runtime.profile.power.MEASURE_S", 0.1)


def run(
    bundle: Bundle,
    source: Path,
    limits: Limits,
    sink: Recorder,
    record: Path | None = None,
    **options: Any,
) -> None:
    run_session(
        bundle,
        source,
        limits,
        RunOptions(engines=ENGINES, **options),
        summary=Summary(),
        sinks=[sink],
        record=record,
    )


@pytest.mark.parametrize("fps", [0.0, -1.0, math.nan, math.inf, 1e9])
def test_a_rate_that_no_images_have_is_refused(fps: float) -> None:
    with pytest.raises(FfnEdgeError, match="frames a second"):
        RunOptions(fps=fps)


@pytest.mark.parametrize("annotate", [True, False])
def test_a_cameras_frames_are_scaled_unless_people_watch_them(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, annotate: bool
) -> None:
    asked = []

    def refuse(*_: object, **settings: object) -> Source:
        asked.append(settings)
        raise VideoError("no camera")

    monkeypatch.setattr("ffn_edge.runtime.run.open_source", refuse)
    with pytest.raises(VideoError, match="no camera"):
        run_session(
            bundle,
            "csi://0",
            Limits(),
            summary=Summary(),
            annotate=tmp_path / "out.mp4" if annotate else None,
        )
    assert asked[0]["short_side"] == (None if annotate else 256)


def test_a_budget_step_moves_the_frame_count_and_says_why(
    profiled: Bundle,
    board: Path,
    video: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "limits.json"
    path.write_text('{"power_w": 20}')

    def step() -> None:
        path.with_suffix(".new").write_text('{"power_w": 5.5}')
        os.replace(path.with_suffix(".new"), path)

    sink = Recorder(after=40, do=step)
    run(profiled, video, Limits(), sink, root=board, limits_file=path)

    frames = [result.decision.frames for result in sink.results]
    assert set(frames[:40]) == {8}
    assert set(frames[40:]) == {2}
    after = sink.results[40].decision
    assert after.rejected[8].startswith("11 W > ")
    assert after.reason.endswith("of 5.5 W")
    assert "limits: 5.5 W" in caplog.text
    assert "measuring" not in caplog.text


@pytest.mark.parametrize(("given", "spans"), [(None, 0.5), (0.5, 0.5), (1.0, 1.0)])
def test_clips_span_what_they_did_in_training_unless_told_otherwise(
    given: float | None,
    spans: float,
    bundle: Bundle,
    video: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    manifest["input"]["window_s"] = 0.5
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    sink = Recorder()
    run(Bundle.load(bundle.path), video, Limits(), sink, window_s=given, max_seconds=3.0)
    assert sink.results[0].elapsed_s == pytest.approx(spans, abs=0.15)
    assert ("trained on clips of 0.5 s" in caplog.text) == (spans != 0.5)


def test_a_list_of_parts_is_run_part_by_part(bundle: Bundle, video: Path) -> None:
    rows = f"video,start_s,end_s\n{video.name},1,2\n{video.name},2.5,\n"
    (video.parent / "parts.csv").write_text(rows)
    sink = Recorder()
    run(bundle, video.parent / "parts.csv", Limits(), sink, window_s=0.5)
    names = list(dict.fromkeys(result.source for result in sink.results))
    assert names == [f"{video}#t=1,2", f"{video}#t=2.5"]


def test_a_result_tells_power_energy_and_heat(profiled: Bundle, board: Path, video: Path) -> None:
    sink = Recorder()
    options: dict[str, Any] = {"realtime": True, "window_s": 0.2, "hop_s": 0.2, "max_seconds": 1.5}
    run(profiled, video, Limits(power_w=20.0), sink, root=board, **options)
    fields = result_fields(sink.results[-1])
    assert fields["power_w"] == 11.0
    assert fields["temperatures_c"] == {"cpu-thermal": 51.5}
    assert fields["sensor_fault"] is None
    energies_j = [result.observation.sensed.energy_j for result in sink.results]
    assert sum(filter(None, energies_j)) == pytest.approx(11.0 * 1.2, rel=0.3)


def test_without_a_meter_a_budget_is_kept_by_the_fewest_frames_and_said_at_once(
    profiled: Bundle, video: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Recorder()
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    run(profiled, video, Limits(power_w=20.0), sink, root=nothing, max_seconds=30.0)
    assert "no power can be measured here" in caplog.text
    assert {result.decision.frames for result in sink.results[1:]} == {2}
    assert sink.results[0].observation.sensed.fault is not None


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(latency_ms=0.001), "of 0.001 ms"),
        (Limits(power_w=2.0), "of 2 W"),
    ],
)
def test_a_limit_that_nothing_keeps_is_said_at_once_and_the_run_goes_on(
    profiled: Bundle,
    board: Path,
    video: Path,
    limits: Limits,
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = RunOptions(engines=ENGINES, root=board, max_seconds=10.0)
    with open_session(profiled, video, limits=limits, options=options) as session:
        results = iter(session)
        frames = {next(results).decision.frames}
        (warning,) = [each for each in caplog.records if each.levelname == "WARNING"]
        assert words in warning.message
        frames |= {result.decision.frames for result in results}
    assert frames == {2}
    assert sum(each.levelname == "WARNING" for each in caplog.records) == 1


class OtherMeter:
    """A meter of the graphics card alone, or what a test makes of it."""

    averaging = Averaging()

    def __init__(self, name: str = "NVML", scope: str = "GPU board (a card)") -> None:
        self.name, self.scope = name, scope

    def read(self, now: float) -> PowerReading:  # noqa: D102
        return PowerReading(time_s=now, total_w=1.5 + now % 0.01, rails_w={})

    def close(self) -> None:
        """Nothing is held."""


@pytest.mark.usefixtures("quick_power")
@pytest.mark.parametrize("needs_power", [True, False])
@pytest.mark.parametrize(
    "meter",
    [OtherMeter(), OtherMeter(name="INA", scope="sum of the rails A and B; no rail measures ...")],
)
def test_power_of_another_meters_scope_is_not_used_and_said(
    profiled: Bundle,
    board: Path,
    meter: OtherMeter,
    needs_power: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with open_engines(profiled, ENGINES) as engines:
        setting = learn_setting(profiled, engines, meter, needs_power=needs_power, root=board)
    assert "by INA, module input (VDD_IN)" in caplog.messages[0]
    assert meter.scope in caplog.messages[0]
    # The latencies are the profile's all the same.
    assert [point.base_ms for point in setting.points] == pytest.approx([0.12] * 3)
    powers = {point.power_w for point in setting.points}
    if needs_power:  # above 1.5 W at rest the engines draw nothing
        assert setting.idle_w == pytest.approx(1.5, abs=0.02)
        assert all(power_w is not None and power_w < 0.1 for power_w in powers)
    else:
        assert (setting.idle_w, powers) == (None, {None})


def test_without_a_meter_the_profiles_power_is_told_where_no_budget_needs_one(
    profiled: Bundle, board: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_engines(profiled, ENGINES) as engines:
        setting = learn_setting(profiled, engines, NullMeter({}), needs_power=False, root=board)
    assert (caplog.messages, setting.idle_w) == ([], 3.0)


def test_power_of_the_same_scope_is_used(
    profiled: Bundle, board: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_engines(profiled, ENGINES) as engines:
        setting = learn_setting(profiled, engines, InaMeter(board), root=board)
    assert (caplog.messages, setting.idle_w) == ([], 3.0)
    assert [point.power_w for point in setting.points] == [2.0, 4.0, 8.0]


@pytest.mark.usefixtures("quick_power")
def test_the_power_is_measured_where_the_profile_lacks_it(
    bundle: Bundle, board: Path, video: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Recorder()
    run(bundle, video, Limits(power_w=20.0), sink, root=board, max_seconds=10.0)
    assert "measuring power" in caplog.text
    assert {result.decision.frames for result in sink.results} == {8}


@pytest.mark.usefixtures("quick_power")
def test_the_power_is_measured_where_a_file_may_ask_for_it(
    bundle: Bundle, board: Path, video: Path, tmp_path: Path
) -> None:
    path = tmp_path / "limits.json"
    path.write_text('{"power_w": 20}')
    sink = Recorder()
    run(bundle, video, Limits(), sink, root=board, limits_file=path, max_seconds=10.0)
    assert {result.decision.frames for result in sink.results} == {8}


def test_a_recorded_run_is_read_back(
    profiled: Bundle, board: Path, video: Path, tmp_path: Path
) -> None:
    path = tmp_path / "trace.jsonl"
    sink = Recorder()
    run(profiled, video, Limits(latency_ms=50.0), sink, root=board, max_seconds=20.0, record=path)
    trace = read_trace(path)
    assert [(o.frames, o.sensed.power_w) for o in trace.observations] == [
        (result.decision.frames, result.observation.sensed.power_w) for result in sink.results
    ]
    assert trace.setting.idle_w == 3.0
    assert json.loads(path.read_text().splitlines()[0])["conditions"]["bundle"] == profiled.identity


def test_a_run_names_the_precision_of_each_answer(
    quantize: Callable[[dict[int, float]], Bundle],
    board: Path,
    video: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bundle = quantize({2: 0.0, 4: 0.002})
    save_profile(
        bundle,
        cpu_backend(1),
        {
            "fp32": {2: Latency((1.0,)), 4: Latency((4.0,))},
            "int8": {2: Latency((2.0,)), 4: Latency((3.0,))},
        },
        root=board,
    )
    path, sink = tmp_path / "trace.jsonl", Recorder()
    limits = [Limits(frames=4), Limits(frames=2), Limits()]
    for each in limits:
        run(bundle, video, each, sink, root=board, max_seconds=5.0, record=path)
    lines = [result_fields(result) for result in sink.results]
    assert {(line["frames"], line["precision"]) for line in lines} == {(4, "int8"), (2, "fp32")}
    assert [point.precision for point in read_trace(path).setting.points] == ["fp32", "int8"]
    said = "4 frames in int8: 3 ms against 4 in fp32 and it lost 0.2 points on 200 clips"
    assert said in caplog.messages


def test_a_cascade_of_other_precisions_than_run_is_told_of(
    calibrated: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    calibration = load_calibration(calibrated)
    assert calibration.precisions == {2: "fp32", 4: "fp32", 8: "fp32"}
    setting = setting_from_latencies(calibrated, {t: Latency((1.0,)) for t in (2, 4, 8)})
    alike: dict[int, Precision] = {2: "fp32", 4: "fp32", 8: "fp32"}
    other: dict[int, Precision] = {**alike, 8: "int8"}
    untold = dataclasses.replace(calibration, precisions={})  # of an earlier release

    def warnings(learnt: Calibration, precisions: dict[int, Precision]) -> list[str]:
        caplog.clear()
        off = dict.fromkeys(precisions, 1e3)
        engines = OpenEngines({}, cpu_backend(1), precisions, logit_errors=off)
        CascadeController(learnt, engines, setting)
        return caplog.messages

    assert warnings(calibration, alike) == []  # its thresholds are of engines that round alike
    assert "rounding alone" in warnings(untold, alike)[0]
    (message,) = warnings(calibration, other)
    assert "made in fp32, and fp32 at 2, 4 and int8 at 8 frames runs" in message


@pytest.fixture
def calibrated(profiled: Bundle, write_video: Callable[..., Path], tmp_path: Path) -> Bundle:
    """The bundle, calibrated on videos of which few frames miss what they show."""
    lines = []
    for number in range(12):
        mine, other = COLOURS[number % 3], COLOURS[(number + 1) % 3]
        name = f"val {number}.mp4"
        write_video(name, [mine] * 10 + [other] * (2 + number // 2))
        lines.append(f"{name} {number % 3}\n")
    path = tmp_path / "val.txt"
    path.write_text("".join(lines))
    save_calibration(profiled, calibrate_bundle(profiled, path, ENGINES))
    return profiled


def test_a_cascade_looks_again_at_unsure_clips_alone(
    calibrated: Bundle, board: Path, write_video: Callable[..., Path]
) -> None:
    # Two frames see one of each colour, and eight see more of the first.
    hard = [
        colour
        for mine, other in (("red", "green"), ("green", "blue"), ("blue", "red"))
        for colour in ([mine] * 10 + [other] * 6) * 10
    ]
    easy = write_video("easy.mp4", ["green"] * 200)
    sink, easily = Recorder(), Recorder()
    run(calibrated, write_video("hard.mp4", hard), Limits(), sink, root=board, escalate=True)
    run(calibrated, easy, Limits(), easily, root=board, escalate=True)

    twice = [result for result in sink.results if len(result.observation.ran) == 2]
    assert twice
    for result in twice:
        (first, first_ms), (second, second_ms) = result.observation.ran
        assert first < second
        assert first_ms + second_ms <= result.latency_ms
        assert sum(best.probability for best in result.top) == pytest.approx(1.0)
    assert not [result for result in easily.results if len(result.observation.ran) == 2]
    assert {result.top[0].class_name for result in easily.results} == {"green"}


def test_a_cascade_keeps_a_deadline_that_two_engines_cannot(
    calibrated: Bundle, board: Path, write_video: Callable[..., Path]
) -> None:
    hard = write_video("hard.mp4", (["green"] * 6 + ["blue"] * 5) * 20)
    sink = Recorder()
    run(calibrated, hard, Limits(latency_ms=0.001), sink, root=board, escalate=True)
    assert not [result for result in sink.results if len(result.observation.ran) == 2]


def test_a_cascade_never_runs_what_the_decision_bars(
    calibrated: Bundle, board: Path, write_video: Callable[..., Path]
) -> None:
    setting = setting_from_latencies(
        calibrated,
        {frames: Latency((0.1, 0.2, 0.3)) for frames in (2, 4, 8)},
        power=PowerProfile(
            meter="m", scope="s", idle_w=3.0, above_idle_w={"fp32": {2: 2.0, 4: 4.0, 8: 8.0}}
        ),
        period_s=0.25,
    )
    engines = OpenEngines({}, cpu_backend(1))
    cascade = CascadeController(load_calibration(calibrated), engines, setting)
    unsure = np.array([0.1, 0.1, 0.0])
    decision = Decision(frames=4, reason="", latencies_ms={2: 0.2, 4: 0.2, 8: 0.2}, engine_w=50.0)

    def run_engine(frames: int) -> tuple[np.ndarray, float]:
        return unsure, 0.2

    _, free = cascade.answer(decision, Limits(power_w=60.0), run_engine)
    barred = dataclasses.replace(decision, barred=frozenset({8}))
    _, guarded = cascade.answer(barred, Limits(power_w=60.0), run_engine)
    assert 8 in dict(free)
    assert 8 not in dict(guarded)


def test_a_run_says_at_its_end_what_it_left_out(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Camera:
        """Two hundred frames a second, for half a second."""

        name, live, comes_back, fps = "camera", True, False, 200.0

        def __enter__(self) -> Camera:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __iter__(self) -> Iterator[Frame]:
            for number in range(100):
                yield Frame(np.zeros((32, 32, 3), np.uint8), number / 200)
                time.sleep(0.005)

    def slowly(self: AnnotatedVideo, labelled: object) -> None:
        time.sleep(0.1)

    monkeypatch.setattr(AnnotatedVideo, "_append", slowly)
    options = RunOptions(engines=ENGINES, window_s=0.1)
    path = tmp_path / "out.mp4"
    source = Source(streams=(Camera(),))
    run_session(bundle, source, Limits(), options, summary=Summary(), annotate=path)
    (line,) = [line for line in caplog.messages if str(path) in line]
    left_out, received = (int(word) for word in line.split() if word.isdecimal())
    assert received // 2 < left_out < received <= 100
    assert f"({left_out / received:.0%})" in line


def test_a_cascade_needs_a_calibration(bundle: Bundle, video: Path) -> None:
    with pytest.raises(FfnEdgeError) as caught:
        run(bundle, video, Limits(), Recorder(), escalate=True)
    assert "ffn-edge calibrate" in caught.value.hint
