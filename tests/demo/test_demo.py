"""The demo's parts on small input: the load, the page, and what is called correct."""

from __future__ import annotations

import base64
import dataclasses
import multiprocessing
import os
import re
import shutil
import time
from ctypes import c_double
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from ffn_edge.bundle.bundle import Accuracy, Bundle, Quantized
from ffn_edge.demo import load, page, pipeline
from ffn_edge.demo.clips import Action, render_stream
from ffn_edge.demo.gallery import ShownClip
from ffn_edge.demo.load import BackgroundLoad
from ffn_edge.demo.modes import ModeRun, TimedVideo, is_correct, run_mode
from ffn_edge.demo.page import _verdict, write_page
from ffn_edge.demo.pipeline import DemoResult, Streamed, TimelineRun, run_on_stream
from ffn_edge.export.bundle_files import add_int8
from ffn_edge.export.clips import synthetic_clips
from ffn_edge.export.verify import verify
from ffn_edge.runtime.classifier import Prediction, Result
from ffn_edge.runtime.engines.engine import cpu_backend
from ffn_edge.runtime.policy.interface import Decision, Limits, Observation
from ffn_edge.runtime.profile.profile import Latency, save_profile
from ffn_edge.runtime.run import RunOptions
from ffn_edge.train.evaluate import Row
from ffn_edge.train.recipe import load_recipe

FOUR = Decision(frames=4, reason="asked for")


def result_at(
    elapsed_s: float,
    class_name: str = "left",
    *,
    missed: bool = False,
    decision: Decision = FOUR,
) -> Result:
    return Result(
        time_s=elapsed_s,
        elapsed_s=elapsed_s,
        source="x",
        decision=decision,
        observation=Observation(
            frames=decision.frames,
            latency_ms=2.0,
            now=elapsed_s,
            limits=Limits(latency_ms=1.0 if missed else 3.0),
        ),
        engine_ms=1.5,
        device_ms=None,
        precision="fp32",
        overhead_ms=0.5,
        covers_s=2.0,
        top=(Prediction(class_name, 1.0),),
    )


def test_the_load_works_only_while_it_is_on_and_leaves_nothing_behind() -> None:
    with BackgroundLoad() as busy:
        processes = [psutil.Process(process.pid) for process in busy._processes]

        def busy_s() -> float:
            return sum(process.cpu_times().user for process in processes)

        deadline = time.monotonic() + 30
        busy.set_level(1.0)
        while busy_s() < 0.5 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert busy_s() >= 0.5
        busy.set_level(0.0)
        time.sleep(0.2)  # a process finishes its 30 ms of work
        before = busy_s()
        time.sleep(0.3)
        assert busy_s() - before < 0.1
    assert not any(process.is_running() for process in processes)


def test_the_load_rests_for_the_other_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, worked_s, rested_s = 0.0, 0.0, 0.0

    def work_until(end: float) -> None:
        nonlocal now, worked_s
        worked_s, now = worked_s + end - now, end

    def sleep(seconds: float) -> None:
        nonlocal now, rested_s
        rested_s, now = rested_s + seconds, now + seconds

    parents = iter([1] * 50 + [0])  # which dies in the end
    monkeypatch.setattr(load, "_multiply_until", work_until)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    load._work(multiprocessing.Barrier(1), c_double(0.6), parent=1)
    assert worked_s == pytest.approx(0.6 * now) and rested_s == pytest.approx(0.4 * now)
    assert 50 * 0.01 < now < 50 * 0.03


def test_correct_is_the_action_that_fills_most_of_the_window() -> None:
    actions = [Action(0, 2, "left"), Action(2, 4, "up")]
    assert is_correct(result_at(2.9, "left"), actions)
    assert not is_correct(result_at(3.1, "left"), actions)
    assert is_correct(result_at(3.1, "up"), actions)


def test_misses_are_counted_apart_under_load() -> None:
    results = tuple(result_at(t, missed=t in (3, 4, 8)) for t in range(10))
    run = TimelineRun("run", 1.0, (3, 6), results, (True,) * 10)
    assert run.missed(under_load=True) == pytest.approx(2 / 3)
    assert run.missed(under_load=False) == pytest.approx(1 / 7)
    assert run.missed() == pytest.approx(3 / 10)


def test_an_answer_is_in_time_if_it_is_right_and_not_late() -> None:
    results = tuple(result_at(t, missed=t in (3, 4, 8)) for t in range(10))
    run = TimelineRun("run", 1.0, (3, 6), results, tuple(t not in (0, 3, 5) for t in range(10)))
    assert run.in_time() == pytest.approx(5 / 10)
    assert run.in_time(under_load=True) == 0.0
    assert run.in_time(under_load=False) == pytest.approx(5 / 7)
    assert run.mean_frames() == 4


@pytest.mark.parametrize(
    ("fewer_ms", "highest_ms", "deadline_ms"),
    [
        # A wait of 4 ms under load: 8 frames have room for it up to 7.8 ms, and 16 have not.
        ([2.2] * 5 + [6.2] * 5, [4.0] + [7.8] * 99, (6.2 + 7.8) / 2),
        # The load makes no difference: what the idle machine needs.
        ([2.0] * 10, [4.0] * 10, 6.0),
        ([9.0] * 10, [9.0] * 10, 6.0),
        ([2.0] * 99 + [40.0], [4.0] * 98 + [50.0] * 2, 6.0),
    ],
)
def test_the_deadline_is_one_that_the_load_makes_a_difference_for(
    exported: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fewer_ms: list[float],
    highest_ms: list[float],
    deadline_ms: float,
) -> None:
    rehearsed = {2: fewer_ms, 4: highest_ms}

    def results(
        bundle: Bundle, stream: Path, limits: Limits, length_s: float, load_s: tuple[float, float]
    ) -> list[SimpleNamespace]:
        assert load_s == (0.0, length_s)
        return [SimpleNamespace(latency_ms=ms) for ms in rehearsed[limits.frames or 0]]

    monkeypatch.setattr(pipeline, "_results", results)
    profile = save_profile(
        Bundle.load(shutil.copytree(exported.path, tmp_path / "bundle")),
        cpu_backend(1),
        {"fp32": {t: Latency((float(t),) * 3) for t in (2, 4)}},
    )
    found = pipeline.rehearsed_deadline(exported, tmp_path / "stream.mp4", profile)
    assert found == pytest.approx(deadline_ms)


def test_every_frame_count_runs_beside_the_adaptive_run_with_its_deadline() -> None:
    runs = pipeline.limits_of_runs(7.0, (4, 8, 16))
    assert [limits.frames for limits in runs.values()] == [None, 4, 8, 16]
    assert {limits.latency_ms for limits in runs.values()} == {7.0}


def test_the_causal_network_starts_from_the_first_and_trains_for_less_time() -> None:
    recipe = pipeline.causal_recipe(load_recipe("demo").replace(epochs=4), Path("ffn.pt"))
    assert recipe.causal and recipe.start_from == "ffn.pt" and recipe.epochs == 2


def test_a_mode_counts_its_answers_and_those_of_whole_windows(
    exported_causal: Bundle, tmp_path: Path
) -> None:
    stream = tmp_path / "stream.mp4"
    actions = render_stream(stream, seconds=6, seed=3)
    clips = run_mode(exported_causal, stream, actions, 4, RunOptions(hop_s=0.5))
    steps = run_mode(exported_causal, stream, actions, 4, RunOptions(stream=True))
    assert len(clips.answered_ms) == len(clips.correct) == 9
    assert (len(steps.answered_ms), len(steps.correct)) == (12, 8)
    assert steps.answers_per_s == 2.0
    with TimedVideo(stream) as video:
        assert [frame.time_s for frame in video] == list(video.arrived)


def test_the_decoding_is_taken_from_the_time_of_a_mode() -> None:
    run = ModeRun(10.0, 3.0, (2.0,) * 40, (1.5,) * 40, (True,) * 32)
    assert run.cpu_ms_per_s() == 300 and run.cpu_ms_per_s(1.0) == 200
    assert run.cpu_ms_per_answer() == 75 and run.cpu_ms_per_answer(1.0) == 50


@pytest.mark.parametrize(
    ("late", "words"),
    [((), "did not pay: it lost 0.0 points"), ((2, 3), "did not pay: it lost 50.0 points")],
)
def test_the_page_says_where_adapting_does_not_pay(late: tuple[int, ...], words: str) -> None:
    def run(name: str, late: tuple[int, ...]) -> TimelineRun:
        results = tuple(result_at(t, missed=t in late) for t in range(4))
        return TimelineRun(name, 1.0, (2, 4), results, (True,) * 4)

    text = _verdict([run("adaptive", late), run("always 4", (0, 1, 2, 3)), run("always 8", ())])
    assert words in text
    assert ("“always 8” was 100.0 points better under load" in text) is bool(late)
    assert "Adapting gained 50.0 points" in _verdict([run("adaptive", ()), run("always 4", (0, 1))])


def test_the_page_says_where_the_naive_network_has_not_learnt_its_frames() -> None:
    def rows(*top1: float) -> list[Row]:
        counts = (8, 16)
        return [
            Row(frames=t, sub_network=16, gmacs=0.1, top1=share, top5=1.0, clips=600)
            for t, share in zip(counts, top1, strict=True)
        ]

    assert page._plateau_note(rows(0.85, 0.88), rows(0.5, 0.86)) == ""
    assert "16 frames" in page._plateau_note(rows(0.85, 0.88), rows(0.2, 0.33))


def test_a_move_is_where_the_frame_count_changed_within_a_span() -> None:
    frames = {0: 4, 1: 8, 2: 8, 3: 4, 4: 8}
    results = tuple(
        result_at(t, decision=Decision(frames=count, reason="")) for t, count in frames.items()
    )
    run = TimelineRun("run", 1.0, (2, 4), results, (True,) * 5)
    moves = run.moves(2, 4)
    assert [(before, after.elapsed_s) for before, after in moves] == [(8, 3)]
    assert [before for before, after in run.moves(0)] == [4, 8, 4]


def test_the_page_stands_alone_and_holds_what_was_measured(
    bundle_copy: Path, exported_causal: Bundle, tmp_path: Path
) -> None:
    bundle, stream = Bundle.load(bundle_copy), tmp_path / "stream.mp4"
    actions = render_stream(stream, seconds=6, seed=3)
    run = run_on_stream(bundle, stream, actions, "fixed <4>", Limits(latency_ms=50, frames=4))
    assert len(run.results) == len(run.correct) > 10
    sixteen = Decision(frames=16, reason="")
    four = Decision(frames=4, reason="2 ms <= 3 ms", rejected={16: "9 ms > 3 ms"})
    results = [result_at(0), result_at(1, decision=sixteen), result_at(2, decision=four)]
    moved = TimelineRun("adaptive", 3.0, (1.5, 2.5), (*results, result_at(3)), (True,) * 4)
    row = Row(frames=4, sub_network=4, gmacs=0.1, top1=0.8125, top5=0.9, clips=64)
    counts = bundle.manifest.frame_counts
    quantized = Quantized(
        graph="",
        method="max",
        calibrated_on=300,
        agreement=0.985,
        compared_on=640,
        accuracy=Accuracy(top1=0.75, top5=1, clips=640),
        accuracy_float32=Accuracy(top1=0.8, top5=1, clips=640),
        deviation=0.1,
        in_float32={},
    )
    graphs = {t: [bundle.read_graph(t)] for t in counts}
    bundle = add_int8(bundle, dict.fromkeys(counts, quantized), graphs)
    profile = save_profile(
        bundle,
        cpu_backend(1),
        {
            "fp32": {t: Latency((1.0, 2.0, 3.0)) for t in counts},
            "int8": {t: Latency((0.5, 0.7, 0.9)) for t in counts},
        },
        disturbance="a game",
    )
    causal = exported_causal.manifest
    streamed = Streamed(
        bundle=exported_causal,
        verified=verify(exported_causal, synthetic_clips(causal.input, causal.frame_counts, 1)),
        profile=dataclasses.replace(profile, latencies={"fp32": {4: Latency((0.25,) * 3)}}),
        decoding_s=1.0,
        runs={
            "frame by frame": ModeRun(
                10.0, 3.0, (2.0,) * 40, (1.5,) * 40, (True,) * 24 + (False,) * 8
            )
        },
    )
    demo = DemoResult(
        folder=tmp_path,
        seconds={"train": 12.0},
        rows={"ffn": [row], "naive": [row], "causal": [dataclasses.replace(row, top1=0.75)]},
        bundle=bundle,
        verified=verify(bundle, synthetic_clips(bundle.manifest.input, counts, 2)),
        profile=profile,
        shown=[
            ShownClip(
                "<left>",
                np.zeros((4, 8, 8, 3), np.uint8),
                {4: Prediction("<left>", 0.9), 8: Prediction("right", 0.5)},
            )
        ],
        runs=[moved, run],
        streamed=streamed,
    )
    demo.annotated.write_bytes(b"a video")
    text = write_page(demo, tmp_path / "report.html").read_text()
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", text)
    assert "not of an idle machine: a game." in text
    assert "81.2 ± 4.9" in text and "fixed &lt;4&gt;" in text
    assert text.count("<svg") == 2
    for cells in (("✓", "80.0%", "2.00", "100.0%"), ("", "75.0%", "0.70", "98.5%")):  # too lossy
        assert "".join(f"<td>{cell}</td>" for cell in cells) in text
    assert "<span>4 frames: &lt;left&gt; 0.90 ✓</span> · <span>8 frames: right 0.50 ✗" in text
    assert base64.b64encode(b"a video").decode() in text
    assert text.count("why the frame count moved") == 1  # that of one run never did
    why = ("2.00", "16 → 4", "2 ms &lt;= 3 ms", "9 ms &gt; 3 ms")
    assert "".join(f"<td>{cell}</td>" for cell in why) in text
    assert "4 → 16" not in text  # before the load began
    modes = ("frame by frame", "4.0", "75.0%", "200.0", "50.00", "2.00", "2.00")
    assert "".join(f"<td>{cell}</td>" for cell in modes) in text
    assert "right for 75.0 % of the test clips" in text and "takes 0.25 ms" in text
    HTMLParser().feed(text)
