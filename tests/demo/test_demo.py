"""The demo's parts on small input: the load, the page, and what is called correct."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from pathlib import Path

import psutil
import pytest

from ffn_edge.bundle import Bundle
from ffn_edge.demo.load import BackgroundLoad
from ffn_edge.demo.page import standard_error, write_page
from ffn_edge.demo.pipeline import DemoResult, TimelineRun, _is_correct, _run_on_stream
from ffn_edge.export.clips import synthetic_clips
from ffn_edge.export.verify import verify
from ffn_edge.runtime.policy import Decision, Limits
from ffn_edge.runtime.profile import Latency
from ffn_edge.runtime.session import Prediction, Result
from ffn_edge.train.clips import Action, render_stream
from ffn_edge.train.report import Row


def result_at(elapsed_s: float, class_name: str = "left", *, missed: bool = False) -> Result:
    return Result(
        time_s=elapsed_s,
        elapsed_s=elapsed_s,
        source="x",
        decision=Decision(frames=4, reason="asked for"),
        latency_ms=2.0,
        engine_ms=1.5,
        device_ms=None,
        overhead_ms=0.5,
        missed=missed,
        top=(Prediction(class_name, 1.0),),
    )


def test_the_load_works_only_while_it_is_on_and_leaves_nothing_behind() -> None:
    with BackgroundLoad() as load:
        processes = [psutil.Process(process.pid) for process in load._processes]

        def busy_s() -> float:
            return sum(process.cpu_times().user for process in processes)

        deadline = time.monotonic() + 30
        load.switch(True)
        while busy_s() < 0.5 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert busy_s() >= 0.5
        load.switch(False)
        time.sleep(0.2)  # a process finishes its 20 ms of work
        before = busy_s()
        time.sleep(0.3)
        assert busy_s() - before < 0.1
    assert not any(process.is_running() for process in processes)


def test_correct_is_the_action_that_fills_most_of_the_window() -> None:
    actions = [Action(0, 2, "left"), Action(2, 4, "up")]
    assert _is_correct(result_at(2.9, "left"), actions)
    assert not _is_correct(result_at(3.1, "left"), actions)
    assert _is_correct(result_at(3.1, "up"), actions)


def test_misses_are_counted_apart_under_load() -> None:
    results = tuple(result_at(t, missed=t in (3, 4, 8)) for t in range(10))
    run = TimelineRun("run", 1.0, (3, 6), results, (True,) * 10)
    assert run.missed(under_load=True) == pytest.approx(2 / 3)
    assert run.missed(under_load=False) == pytest.approx(1 / 7)


def test_the_page_stands_alone_and_holds_what_was_measured(
    exported: Bundle, tmp_path: Path
) -> None:
    bundle, stream = exported, tmp_path / "stream.mp4"
    actions = render_stream(stream, seconds=6, seed=3)
    run = _run_on_stream(bundle, stream, actions, "fixed <4>", Limits(latency_ms=50, frames=4))
    assert len(run.results) == len(run.correct) > 10
    row = Row(frames=4, sub_network=4, gmacs=0.1, top1=0.8125, top5=0.9, clips=64)
    counts = bundle.manifest.frame_counts
    demo = DemoResult(
        folder=tmp_path,
        seconds={"train": 12.0},
        rows={"ffn": [row], "naive": [row]},
        bundle=bundle,
        verified=verify(bundle, synthetic_clips(bundle.manifest.input, counts, 2)),
        latencies={t: Latency((1.0, 2.0, 3.0)) for t in counts},
        runs=[run],
    )
    text = write_page(demo, tmp_path / "report.html").read_text()
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", text)
    assert "81.2 ± 4.9" in text and "fixed &lt;4&gt;" in text
    assert text.count("<svg") == 2
    HTMLParser().feed(text)


def test_the_standard_error_is_the_binomials() -> None:
    row = Row(frames=4, sub_network=4, gmacs=0.1, top1=0.5, top5=1.0, clips=100)
    assert standard_error(row) == pytest.approx(0.05)
