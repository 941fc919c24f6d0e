"""Profiles: how they are measured, kept, and distrusted."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from ffn_edge.bundle import Bundle, InputContract
from ffn_edge.errors import FfnEdgeError
from ffn_edge.runtime.engine import Engine, EngineOptions, cpu_backend, open_engines
from ffn_edge.runtime.profile import (
    PROFILE,
    Latency,
    Profile,
    conditions_now,
    load_profile,
    profile_engines,
    save_profile,
)
from ffn_edge.runtime.run import learn_state

CONTRACT = InputContract(batch=1, height=4, width=4, short_side=4, mean=(0.0,) * 3, std=(1.0,) * 3)


class RecordingEngine:
    """Notes the shapes that all engines got, in their order."""

    def __init__(self, frames: int, calls: list[tuple[int, ...]]) -> None:
        self.frames = frames
        self.calls = calls

    def infer(self, frames: np.ndarray) -> np.ndarray:  # noqa: D102
        self.calls.append(frames.shape)
        return np.zeros((1, 3), np.float32)


def test_the_engines_take_turns_and_the_warm_up_is_not_counted() -> None:
    calls: list[tuple[int, ...]] = []
    engines = {t: RecordingEngine(t, calls) for t in (2, 4)}
    latencies = profile_engines(engines, CONTRACT, runs=3, warm_up=1)  # type: ignore[arg-type]
    assert calls == [(1, t, 4, 4, 3) for _ in range(4) for t in (2, 4)]
    assert {t: len(latency.samples_ms) for t, latency in latencies.items()} == {2: 3, 4: 3}


def test_engines_whose_switch_costs_something_come_one_after_the_other() -> None:
    calls: list[tuple[int, ...]] = []
    engines = {t: RecordingEngine(t, calls) for t in (2, 4)}
    latencies = profile_engines(
        engines,  # type: ignore[arg-type]
        CONTRACT,
        runs=3,
        warm_up=1,
        by_turns=False,
    )
    assert calls == [(1, t, 4, 4, 3) for t in (2, 4) for _ in range(4)]
    assert {t: len(latency.samples_ms) for t, latency in latencies.items()} == {2: 3, 4: 3}


@pytest.mark.parametrize("by_turns", [True, False])
def test_progress_is_told_and_reaches_the_number_of_runs(by_turns: bool) -> None:
    rounds: list[int] = []
    engines = {t: RecordingEngine(t, []) for t in (2, 4)}
    profile_engines(
        engines,  # type: ignore[arg-type]
        CONTRACT,
        runs=3,
        by_turns=by_turns,
        on_round=rounds.append,
    )
    assert rounds == [1, 2, 3]


def test_the_figures_of_a_latency() -> None:
    latency = Latency(tuple(float(ms) for ms in range(1, 102)))
    assert latency.summary() == {
        "p50": 51.0,
        "p90": 91.0,
        "p95": 96.0,
        "p99": 100.0,
        "mean": 51.0,
        "min": 1.0,
        "max": 101.0,
    }


def test_no_runs_are_refused() -> None:
    with pytest.raises(FfnEdgeError, match="at least one run"):
        profile_engines({2: RecordingEngine(2, [])}, CONTRACT, runs=0)  # type: ignore[arg-type]


def saved(bundle: Bundle, threads: int = 1) -> Profile:
    latencies = {2: Latency((1.0, 2.0)), 4: Latency((2.0, 4.0)), 8: Latency((4.0, 8.0))}
    return save_profile(bundle, cpu_backend(threads), latencies)


def test_a_profile_is_read_back_as_it_was_written(bundle: Bundle) -> None:
    written = saved(bundle)
    assert load_profile(bundle.path) == written
    assert Bundle.load(bundle.path).identity == bundle.identity  # the bundle is still whole


def test_without_a_profile_there_is_none(bundle: Bundle) -> None:
    assert load_profile(bundle.path) is None


def test_a_profile_names_the_machine(bundle: Bundle) -> None:
    saved(bundle)
    conditions = json.loads((bundle.path / PROFILE).read_text())["conditions"]
    assert conditions["bundle"] == bundle.identity
    assert conditions["backend"] == "onnxruntime"
    assert set(conditions["machine"]) == {"cpu", "cores", "system", "python"}
    assert all(conditions["machine"].values())


def test_an_unknown_schema_version_is_refused(bundle: Bundle) -> None:
    saved(bundle)
    path = bundle.path / PROFILE
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(FfnEdgeError, match="schema version 2; this release reads 1"):
        load_profile(bundle.path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"schema_version": 1}',
        '{"schema_version": 1, "created": "", "conditions": {}, "latency_ms": {}}',
    ],
)
def test_a_damaged_profile_is_refused(bundle: Bundle, text: str) -> None:
    (bundle.path / PROFILE).write_text(text)
    with pytest.raises(FfnEdgeError, match=r"not a profile|damaged"):
        load_profile(bundle.path)


def test_a_profile_with_impossible_latencies_is_refused(bundle: Bundle) -> None:
    saved(bundle)
    path = bundle.path / PROFILE
    path.write_text(path.read_text().replace("1.0,", "-1.0,"))
    with pytest.raises(FfnEdgeError, match="positive number of milliseconds"):
        load_profile(bundle.path)


def test_a_folder_that_cannot_be_written_is_named(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    elsewhere = dataclasses.replace(bundle, path=tmp_path / "file")
    with pytest.raises(FfnEdgeError, match="cannot be written"):
        saved(elsewhere)


def test_each_condition_that_moves_latency_is_compared(bundle: Bundle) -> None:
    now = conditions_now(bundle, cpu_backend(1))
    assert now.differences(now) == []
    others = {
        "bundle": dataclasses.replace(now, bundle="0" * 64),
        "processor": dataclasses.replace(now, machine=dataclasses.replace(now.machine, cpu="Z80")),
        "cores": dataclasses.replace(now, machine=dataclasses.replace(now.machine, cores=99)),
        "backend": dataclasses.replace(now, backend_version="0.1"),
        "device": dataclasses.replace(now, device="Orin, SM 87"),
        "precision": dataclasses.replace(now, precision="fp16"),
        "threads": dataclasses.replace(now, threads=99),
    }
    for what, other in others.items():
        (difference,) = other.differences(now)
        assert difference.startswith(what)


def learnt_with(bundle: Bundle, engines: dict[int, Engine]) -> tuple[list[str], list[float]]:
    """Return what `learn_state` said, and the bases it found."""
    said: list[str] = []
    state = learn_state(bundle, engines, said.append)
    return said, [point.base_ms for point in state.points]


def test_a_profile_made_here_is_trusted(bundle: Bundle) -> None:
    saved(bundle)
    with open_engines(bundle, EngineOptions(threads=1)) as engines:
        assert learnt_with(bundle, engines) == ([], pytest.approx([1.1, 2.2, 4.4]))


def test_a_profile_made_otherwise_is_said_and_measured_anew(bundle: Bundle) -> None:
    saved(bundle, threads=7)
    with open_engines(bundle, EngineOptions(threads=1)) as engines:
        said, bases = learnt_with(bundle, engines)
    assert said == [
        "the profile was made for threads 7, not 1; measuring quickly. `ffn-edge profile` "
        "measures thoroughly."
    ]
    assert bases != pytest.approx([1.1, 2.2, 4.4])
    assert load_profile(bundle.path).conditions.threads == 7  # type: ignore[union-attr]


def test_without_a_profile_a_quick_one_is_measured_and_not_written(bundle: Bundle) -> None:
    with open_engines(bundle, EngineOptions(threads=1)) as engines:
        said, bases = learnt_with(bundle, engines)
    assert said[0].startswith("there is no profile of this bundle yet")
    assert all(ms > 0 for ms in bases)
    assert load_profile(bundle.path) is None


def test_a_profile_that_cannot_be_read_is_said_and_measured_anew(bundle: Bundle) -> None:
    (bundle.path / PROFILE).write_text("{")
    with open_engines(bundle, EngineOptions(threads=1)) as engines:
        said, _ = learnt_with(bundle, engines)
    assert "is not a profile; measuring quickly" in said[0]


def test_a_profile_that_lacks_an_engine_is_not_enough(bundle: Bundle) -> None:
    save_profile(bundle, cpu_backend(1), {2: Latency((1.0,))})
    with open_engines(bundle, EngineOptions(threads=1)) as engines:
        said, bases = learnt_with(bundle, engines)
    assert said[0].startswith("the profile lacks 4, 8 frames")
    assert len(bases) == 3
