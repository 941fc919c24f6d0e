"""What answers tell, on answers of which it is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ffn_edge.train.answers import Answers, Changes, corrected, interval, join


def answers(
    labels: list[int],
    *columns: list[int],
    confidence: list[list[float]] | None = None,
    indices: list[int] | None = None,
) -> Answers:
    """Answers, a column a frame count: 2, 4, 6, …; the wrong ones are as sure as the right."""
    classes = np.array(columns, np.int64).T.reshape(len(labels), len(columns))
    of_first = np.full(classes.shape, 0.9) if confidence is None else np.array(confidence).T
    right = classes == np.array(labels, np.int64)[:, None]
    return Answers(
        tuple(range(2, 2 * len(columns) + 1, 2)),
        np.arange(len(labels)) if indices is None else np.array(indices, np.int64),
        np.array(labels, np.int64),
        classes,
        right,
        of_first,
        np.where(right, of_first, 1 - of_first),
    )


def test_accuracy_and_confusion_count_each_clip_once() -> None:
    found = answers([0, 0, 1, 2], [0, 1, 1, 1], [0, 0, 1, 0])

    assert [each.top1 for each in found.accuracy().values()] == [0.5, 0.75]
    assert found.confusion(3).tolist() == [
        [[1, 1, 0], [0, 1, 0], [0, 1, 0]],
        [[2, 0, 0], [0, 1, 0], [1, 0, 0]],
    ]
    assert [(each.label, each.answer, each.clips) for each in found.confused()] == [
        (2, 0, (0, 1)),
        (0, 1, (1, 0)),
        (2, 1, (1, 0)),
    ]


def test_a_pair_of_classes_needs_more_frames_if_clips_of_both_are_mended() -> None:
    # 0 and 1 are confused in both directions with few frames, and one clip with many; 2 for 3 with
    # any.
    labels = [0] * 10 + [1] * 10 + [2] * 10
    low = [1] * 7 + [0] * 3 + [0] * 6 + [1] * 4 + [3] * 10
    high = [0] * 10 + [1] * 9 + [0] + [3] * 10

    first, second = answers(labels, low, high).needing_frames()

    assert (first.first, first.second, first.before, first.after) == (0, 1, 13, 1)
    assert first.changes == Changes(gained=13, lost=1)
    assert first.chance == pytest.approx(2 * (1 + 14) / 2**14)  # the other pair could tell nothing
    assert (second.first, second.second, second.before, second.after) == (2, 3, 10, 10)
    assert second.changes == Changes(0, 0) and second.chance == 1


def test_the_chance_is_that_of_a_fair_coin() -> None:
    for gained, lost in itertools.product(range(9), repeat=2):
        throws = gained + lost
        as_uneven = sum(
            math.comb(throws, heads)
            for heads in range(throws + 1)
            if abs(2 * heads - throws) >= abs(gained - lost)
        )

        assert Changes(gained, lost).chance == pytest.approx(as_uneven / 2**throws)
        assert Changes(gained, lost).can_tell() == (Changes(throws, 0).chance < 0.05)


def test_many_clips_are_no_trouble() -> None:
    assert Changes(60_000, 60_000).chance == 1
    assert 0.003 < Changes(60_500, 59_500).chance < 0.005  # 2.9 standard deviations
    assert Changes(100_000, 0).chance == 0


def test_many_tests_need_more_to_be_sure_and_those_that_can_tell_nothing_do_not_count() -> None:
    assert corrected([0.02, 0.01, 0.9], [True] * 3) == pytest.approx([0.04, 0.03, 0.9])
    assert corrected([0.5, 0.01, 0.3], [False, True, False]) == [1, 0.01, 1]
    assert corrected([], []) == []


def test_an_interval_is_wilsons() -> None:
    assert interval(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert interval(1, 10) == pytest.approx((0.7225, 1), abs=1e-4)
    assert interval(0, 1) == pytest.approx((0, 0.7935), abs=1e-4)


def test_probabilities_that_hold_have_no_calibration_error() -> None:
    right = [0] * 75 + [1] * 25  # of a hundred clips of class 0
    exact, sure = answers(
        [0] * 100, right, right, confidence=[[0.75] * 100, [1.0] * 100]
    ).calibration()

    assert exact.bins == ((0.75, 0.75, 100),)
    assert exact.error == exact.surplus == 0
    assert exact.by_chance == pytest.approx(math.sqrt(2 / math.pi * 0.75 * 0.25 / 100))
    assert (sure.error, sure.by_chance, sure.surplus) == (0.25, 0, 0.25)


def test_exact_probabilities_seem_as_far_off_as_is_said() -> None:
    rng = np.random.default_rng(0)
    errors, said = [], []
    for _ in range(200):
        confidence = rng.uniform(0.3, 1, 500)
        classes = (rng.random(500) > confidence).astype(int).tolist()
        (found,) = answers([0] * 500, classes, confidence=[confidence.tolist()]).calibration()
        errors.append(found.error)
        said.append(found.by_chance)
    assert np.mean(errors) == pytest.approx(np.mean(said), rel=0.05)


def test_the_surest_wrong_answer_comes_first_and_right_ones_never() -> None:
    found = answers([0] * 4, [1, 1, 0, 1], confidence=[[0.6, 0.9, 0.95, 0.7]])

    assert found.most_wrong(2) == [1, 3]
    assert answers([0], [0]).most_wrong(2) == []


def test_answers_of_several_processes_come_in_the_order_of_the_list() -> None:
    whole = answers([0, 1, 2, 3, 4], [0, 0, 0, 0, 4])
    parts = [
        answers([0, 2, 4], [0, 0, 4], indices=[0, 2, 4]),
        answers([], []),
        answers([1, 3], [0, 0], indices=[1, 3]),
    ]

    joined = join(parts)

    assert joined.indices.tolist() == [0, 1, 2, 3, 4]
    assert joined.labels.tolist() == whole.labels.tolist()
    assert joined.classes.tolist() == whole.classes.tolist()
    assert joined.frame_counts == (2,)


def test_the_answers_at_some_frame_counts_are_those() -> None:
    found = answers([0, 1], [0, 0], [1, 1], [0, 1]).at((2, 6))
    assert found.frame_counts == (2, 6) and found.classes.tolist() == [[0, 0], [0, 1]]
