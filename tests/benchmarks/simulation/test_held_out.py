"""The scenarios that judge: each is one that somebody who knows all can keep."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from click.testing import CliRunner

from benchmarks.simulation import scenarios
from benchmarks.simulation.__main__ import simulate as command
from benchmarks.simulation.baselines import named
from benchmarks.simulation.board import SYNTHETIC
from benchmarks.simulation.compare import EXCESS_ALLOWED, MISSES_ALLOWED, frames_of
from benchmarks.simulation.interference import Measured
from benchmarks.simulation.run import simulate
from benchmarks.simulation.scenario import Scenario

HELD_OUT = scenarios.HELD_OUT


def test_they_are_46_of_names_of_their_own_that_are_found() -> None:
    names = Counter(each.name for each in (*scenarios.ALL, *scenarios.AUDIT, *HELD_OUT))
    assert len(HELD_OUT) == 46
    assert set(names.values()) == {1}
    assert all(scenarios.named(each.name) is each for each in HELD_OUT)


def test_no_board_is_one_that_a_policy_was_tuned_on() -> None:
    tuned = {(each.board or SYNTHETIC).points for each in scenarios.AUDIT}
    boards = [each.board for each in HELD_OUT if isinstance(each, Scenario)]
    assert all(board is not None and board.points not in tuned for board in boards)


def test_all_are_found_together_and_a_recording_is_as_long_as_it_is() -> None:
    called = CliRunner().invoke(
        command,
        [
            *("--scenario", "held-out", "--policy", "static-8", "--seeds", "1"),
            *("--miss-rate", "0.05", "--hours", "0.002", "--json"),
        ],
        catch_exceptions=False,
    )
    assert set(json.loads(called.stdout)["scenarios"]) == {each.name for each in HELD_OUT}


@pytest.mark.slow
@pytest.mark.parametrize("workload", HELD_OUT, ids=lambda each: each.name)
def test_no_frame_count_that_keeps_the_limits_is_ahead_of_the_oracle(
    workload: Scenario | Measured,
) -> None:
    oracle = simulate(workload, None, 1, 0.01).figures
    for frames in frames_of(workload, SYNTHETIC):
        figures = simulate(workload, named(f"static-{frames}"), 1, 0.01).figures
        kept = figures.miss_rate <= MISSES_ALLOWED * 0.01 and (
            (figures.excess or 0.0) <= EXCESS_ALLOWED
        )
        assert not kept or figures.in_time <= oracle.in_time + 0.002


@pytest.mark.slow
@pytest.mark.parametrize("workload", HELD_OUT, ids=lambda each: each.name)
def test_they_can_be_kept_by_who_knows(workload: Scenario | Measured) -> None:
    assert 110.0 < workload.length_s <= 600.0
    for seed in (0, 1):
        figures = simulate(workload, None, seed, 0.01).figures
        assert 700 < figures.inferences <= 2500
        assert figures.miss_rate <= 0.01
        assert figures.excess is None or figures.excess <= 0.02
