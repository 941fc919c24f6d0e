"""Which cascade is planned, whom it escalates, and that the budget holds whatever comes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable

import numpy as np
import pytest

from ffn_edge.runtime.cascade.calibration import Calibration, Cascade, Confidence
from ffn_edge.runtime.cascade.cascade import (
    CascadePlan,
    Drift,
    corrected,
    costs_of,
    is_sure,
    join,
    plan,
)
from ffn_edge.runtime.cascade.confidence import Logits
from ffn_edge.runtime.policy.interface import OperatingPoint

COSTS = {4: 1.0, 8: 2.0, 16: 4.0}
GAIN = 0.02


def confidence(accuracy: float, temperature: float = 1.0) -> Confidence:
    return Confidence(
        temperature=temperature,
        accuracy=accuracy,
        log_loss_before=1.0,
        log_loss_after=1.0,
        error_before=0.0,
        error_after=0.0,
    )


def cascade(first: int, second: int, *accuracies: float) -> Cascade:
    """A cascade of rows in equal steps, of clips whose margins are spread evenly over 0..1."""
    steps = tuple(np.linspace(0, 1, len(accuracies)).tolist())
    return Cascade(
        first=first,
        second=second,
        weights=(0.5, 2.0),
        thresholds=steps,
        shares=steps,
        accuracies=accuracies,
    )


CALIBRATION = Calibration(
    bundle="0" * 64,
    clips=1000,
    created="",
    confidences={4: confidence(0.80, 0.5), 8: confidence(0.87), 16: confidence(0.88)},
    cascades=(
        cascade(4, 8, 0.80, 0.84, 0.86, 0.87, 0.87),
        cascade(4, 16, 0.80, 0.85, 0.88, 0.88, 0.88),
        cascade(8, 16, 0.87, 0.88, 0.89, 0.89, 0.89),
    ),
)


def planned(chosen: int, budget: float, *unfit: tuple[int, int]) -> tuple[int, int, float] | None:
    found = plan(
        CALIBRATION,
        COSTS,
        chosen=chosen,
        budget=budget,
        fits=lambda first, second: (first, second) not in unfit,
    )
    return found and (*found.pair, found.share)


def test_the_most_accurate_cascade_within_the_budget_is_planned() -> None:
    assert planned(4, budget=1.6) == (4, 8, 0.25)
    assert planned(4, budget=2.0) == (4, 8, 0.5)
    assert planned(4, budget=3.0) == (4, 16, 0.5)
    assert planned(16, budget=4.0) == (8, 16, 0.5)


def test_at_equal_accuracy_the_cheaper_one_is_planned() -> None:
    # 8 and then 16 frames for a quarter: 0.88 for 3, as 16 frames alone for 4, and as 4 and then
    # 16 frames for half.
    assert planned(16, 3.2) == (4, 16, 0.5)
    assert planned(16, 3.2, (4, 16)) == (8, 16, 0.25)


def test_a_plan_tells_what_it_should_come_to() -> None:
    found = plan(CALIBRATION, COSTS, chosen=16, budget=4.0, fits=lambda a, b: True)
    assert found is not None
    assert (found.accuracy, found.cost, found.temperature) == (0.89, 4.0, 1.0)


def test_nothing_is_planned_where_no_cascade_is_better_than_the_frame_count_alone() -> None:
    assert planned(8, budget=2.0) is None


def test_nothing_is_planned_where_the_budget_is_for_the_fewest_frames_only() -> None:
    assert planned(4, budget=1.0) is None
    assert planned(4, budget=1.1) is None


def test_a_cascade_that_escalates_nothing_is_not_planned() -> None:
    # Its first frame count alone is better than the chosen one, but that is the policy's affair.
    confidences = {**CALIBRATION.confidences, 8: confidence(0.5)}
    calibration = dataclasses.replace(CALIBRATION, confidences=confidences)
    assert plan(calibration, COSTS, chosen=8, budget=1.1, fits=lambda a, b: True) is None


def test_a_cascade_that_misses_the_deadline_is_not_planned() -> None:
    assert planned(4, 2.0, (4, 16)) == (4, 8, 0.5)
    assert planned(4, 2.0, (4, 16), (4, 8)) is None


def test_a_cascade_of_an_engine_that_is_not_there_is_not_planned() -> None:
    costs = {4: 1.0, 8: 2.0}
    found = plan(CALIBRATION, costs, chosen=4, budget=2.0, fits=lambda a, b: True)
    assert found is not None
    assert found.pair == (4, 8)


def test_a_plan_never_costs_more_than_its_budget() -> None:
    for chosen, budget in itertools.product(COSTS, np.linspace(1, 8, 57)):
        found = plan(CALIBRATION, COSTS, chosen=chosen, budget=budget, fits=lambda a, b: True)
        assert found is None or found.cost <= budget


def points(*powers: float | None) -> list[OperatingPoint]:
    return [
        OperatingPoint(frames=frames, base_ms=10.0 * frames, power_w=power)
        for frames, power in zip((4, 8, 16), powers, strict=True)
    ]


def test_an_inference_costs_energy_where_the_power_is_known() -> None:
    assert costs_of(points(5.0, 6.0, 7.0)) == pytest.approx({4: 0.2, 8: 0.48, 16: 1.12})


@pytest.mark.parametrize("power", [None, 0.0, -1.0])
def test_an_inference_costs_time_where_a_power_is_not_known(power: float | None) -> None:
    assert costs_of(points(5.0, power, 7.0)) == {4: 40.0, 8: 80.0, 16: 160.0}


def cascade_plan(
    share: float = 0.25, useful: float = 0.75, temperature: float = 1.0
) -> CascadePlan:
    """A plan whose validation clips gained by every clip up to the useful share."""
    accuracies = [0.8 + 0.1 * min(step / 20, useful) for step in range(21)]
    return CascadePlan(
        cascade=cascade(4, 8, *accuracies),
        temperature=temperature,
        share=share,
        accuracy=0.85,
        cost=1.5,
    )


def logits_with(margin: float) -> Logits:
    return np.log([(1 + margin) / 2, (1 - margin) / 2]).astype(np.float32)


def test_an_answer_is_accepted_from_the_threshold_on() -> None:
    assert not is_sure(cascade_plan(), {}, logits_with(0.24))
    assert is_sure(cascade_plan(), {}, logits_with(0.26))


def test_the_margin_is_that_of_the_temperature() -> None:
    assert is_sure(cascade_plan(temperature=2.0), {}, 2 * logits_with(0.26))
    assert not is_sure(cascade_plan(temperature=2.0), {}, 2 * logits_with(0.24))


def test_logits_that_are_not_numbers_are_not_computed_again() -> None:
    assert is_sure(cascade_plan(), {}, np.array([np.nan, 0.0], np.float32))


def test_an_accepted_answer_is_the_first_one_over_its_temperature() -> None:
    probabilities = np.exp(join(cascade_plan(temperature=2.0), 2 * logits_with(0.4), None))
    assert probabilities == pytest.approx([0.7, 0.3])


def test_a_second_answer_is_weighed_with_the_first() -> None:
    first, second = np.array([1.0, 0.0]), np.array([-1.0, 1.0])
    scores = np.exp(0.5 * first + 2.0 * second)
    assert np.exp(join(cascade_plan(), first, second)) == pytest.approx(scores / scores.sum())


def shares(plan: CascadePlan, contents: Iterable[float], drift: Drift | None = None) -> np.ndarray:
    """Return the share that was escalated after each inference of clips with these margins."""
    drift, escalated = drift or {}, []
    for margin in contents:
        sure = is_sure(plan, drift, logits_with(margin))
        escalated.append(not sure)
        drift = corrected(plan, drift, escalated=not sure)
    return np.cumsum(escalated) / np.arange(1, len(escalated) + 1)


def spread(low: float, high: float, count: int = 4000) -> np.ndarray:
    """Margins that are spread evenly, in random order."""
    return np.random.default_rng(0).permutation(np.linspace(low, high, count))


def test_the_planned_share_is_escalated_of_clips_like_the_validation_clips() -> None:
    assert shares(cascade_plan(), spread(0, 0.999))[-1] == pytest.approx(0.25, abs=0.02)


def test_the_planned_share_is_escalated_of_clips_that_are_harder() -> None:
    assert shares(cascade_plan(), spread(0, 0.5))[-1] == pytest.approx(0.25, abs=0.02)


def test_the_planned_share_is_escalated_of_clips_that_are_a_little_easier() -> None:
    # Without correction, a twelfth of it: only margins below 0.25 are escalated.
    assert shares(cascade_plan(), spread(0.24, 0.8))[-1] == pytest.approx(0.25, abs=0.02)


def test_nothing_is_spent_on_clips_that_are_easier_than_what_gained_anything() -> None:
    assert shares(cascade_plan(), spread(0.8, 0.999))[-1] == 0


@pytest.mark.parametrize(
    "contents",
    [
        np.zeros(3000),
        np.concatenate([spread(0.8, 0.999), np.zeros(3000)]),
        np.concatenate([np.zeros(500), spread(0.7, 0.999), spread(0, 0.1), spread(0, 0.999)]),
        np.tile(np.repeat([0.0, 0.9], 200), 10),
    ],
    ids=["hard", "easy, then hard", "by turns", "waves"],
)
def test_the_average_never_exceeds_the_planned_share_by_more_than_its_bound(
    contents: np.ndarray,
) -> None:
    escalated = shares(cascade_plan(), contents)
    bound = (1 + GAIN) / (GAIN * np.arange(1, len(contents) + 1))
    assert (escalated <= 0.25 + bound).all()


def test_time_without_a_chance_to_escalate_is_not_made_up_for_later() -> None:
    plan, drift = cascade_plan(), dict[tuple[int, int], float]()
    for _ in range(10_000):
        drift = corrected(plan, drift, escalated=False)
    later = shares(plan, np.zeros(1000), drift)
    assert later[-1] <= 0.25 + (1 + GAIN) / (GAIN * 1000)


def test_each_cascade_learns_for_itself() -> None:
    drift: Drift = {}
    for _ in range(20):
        drift = corrected(cascade_plan(), drift, escalated=True)
    other = CascadePlan(
        cascade=cascade(8, 16, 0.8, 0.85, 0.9), temperature=1.0, share=0.5, accuracy=0.85, cost=1.0
    )
    assert is_sure(cascade_plan(), drift, logits_with(0.1))
    assert not is_sure(other, drift, logits_with(0.4))


def test_what_was_observed_leaves_the_drift_before_as_it_was() -> None:
    before = {}
    assert corrected(cascade_plan(), before, escalated=True) != before
    assert before == {}
