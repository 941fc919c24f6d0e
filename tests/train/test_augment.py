"""How training videos are varied, and what becomes of their labels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ffn_edge.demo.scenes import ACTIONS
from ffn_edge.errors import DataError
from ffn_edge.media.picture import Box
from ffn_edge.train.augment import (
    MULTI_SCALE,
    Symmetries,
    Variation,
    draw_variation,
    multi_scale_crop,
)
from ffn_edge.train.datasets import DATASETS, dataset_facts

WHOLE = Box(0, 0, 64, 64)


def crops(height: int, width: int, size: int, scales: tuple[float, ...]) -> set[Box]:
    rng = np.random.default_rng(0)
    return {multi_scale_crop(height, width, size, scales, rng) for _ in range(5000)}


def test_crops_are_those_of_tsm() -> None:
    # TSM's GroupMultiScaleCrop for Kinetics' 340x256 frames, written out by hand: 224 is 0.875
    # of 256, and neighbouring scales may be paired.
    sides = [256, 224, 192, 168]
    pairs = [(a, b) for a, b in itertools.product(range(4), repeat=2) if abs(a - b) <= 1]
    places = [(0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0)]
    places += [(1, 1), (3, 1), (1, 3), (3, 3)]
    expected = {
        Box(down * ((256 - sides[a]) // 4), across * ((340 - sides[b]) // 4), sides[a], sides[b])
        for (a, b), (across, down) in itertools.product(pairs, places)
    }
    assert crops(256, 340, 224, MULTI_SCALE) == expected


def test_a_side_close_to_the_networks_size_becomes_it() -> None:
    assert {box.height for box in crops(100, 150, 87, (1.0, 0.88))} == {100, 87}


@pytest.mark.parametrize(("height", "width"), [(64, 64), (100, 176), (63, 90), (240, 135), (7, 9)])
def test_crops_lie_inside_the_frame(height: int, width: int) -> None:
    for box in crops(height, width, 64, MULTI_SCALE):
        assert box.top >= 0 and box.left >= 0 and box.height > 0 and box.width > 0
        assert box.top + box.height <= height and box.left + box.width <= width


def test_each_allowed_symmetry_is_drawn_half_the_time_and_no_other() -> None:
    rng = np.random.default_rng(0)
    symmetries = Symmetries(mirror=(0, 1), backwards=(1, 0))
    drawn = [draw_variation(64, 64, 64, symmetries, (1.0,), rng) for _ in range(1000)]
    assert 440 < sum(v.mirror for v in drawn) < 560  # 50 % within four standard errors
    assert 440 < sum(v.backwards for v in drawn) < 560
    assert not any(v.upside_down for v in drawn)
    assert {v.box for v in drawn} == {WHOLE}


def relabelled(action: str, **done: bool) -> str:
    """What a demo clip of `action` shows after something was done to it."""
    variation = Variation(
        WHOLE,
        mirror=done.get("mirror", False),
        upside_down=done.get("upside_down", False),
        backwards=done.get("backwards", False),
    )
    symmetries = dataset_facts("demo").symmetries(ACTIONS)
    return ACTIONS[variation.label(ACTIONS.index(action), symmetries)]


def test_a_mirrored_demo_clip_has_its_sides_swapped() -> None:
    assert relabelled("left", mirror=True) == "right"
    assert relabelled("counter-clockwise", mirror=True) == "clockwise"
    for action in set(ACTIONS) - {"left", "right", "clockwise", "counter-clockwise"}:
        assert relabelled(action, mirror=True) == action


def test_a_demo_clip_upside_down_has_its_heights_swapped() -> None:
    assert relabelled("up", upside_down=True) == "down"
    assert relabelled("clockwise", upside_down=True) == "counter-clockwise"
    for action in set(ACTIONS) - {"up", "down", "clockwise", "counter-clockwise"}:
        assert relabelled(action, upside_down=True) == action


def test_every_demo_clip_played_backwards_is_the_other_of_its_pair() -> None:
    for first, second in zip(ACTIONS[::2], ACTIONS[1::2], strict=True):
        assert relabelled(first, backwards=True) == second
        assert relabelled(second, backwards=True) == first


def test_symmetries_compose() -> None:
    assert relabelled("clockwise", mirror=True, upside_down=True) == "clockwise"
    assert relabelled("left", mirror=True, backwards=True) == "left"


def test_a_label_stays_where_nothing_is_done() -> None:
    assert [relabelled(action) for action in ACTIONS] == list(ACTIONS)


def test_swaps_follow_the_order_of_the_class_names() -> None:
    shuffled = ACTIONS[::-1]
    symmetries = dataset_facts("demo").symmetries(shuffled)
    assert symmetries.mirror is not None
    assert shuffled[symmetries.mirror[shuffled.index("left")]] == "right"


@pytest.mark.parametrize("name", ["something-v1", "something-v2", "jester", "custom"])
def test_data_sets_whose_labels_know_direction_are_never_flipped(name: str) -> None:
    assert DATASETS[name].symmetries(["a"] * 3) == Symmetries()


@pytest.mark.parametrize("name", ["kinetics400", "ucf101", "hmdb51"])
def test_mirroring_changes_no_label_where_direction_does_not_matter(name: str) -> None:
    symmetries = DATASETS[name].symmetries(["archery", "bowling"])
    assert symmetries == Symmetries(mirror=(0, 1))


def test_a_class_count_that_does_not_fit_the_data_set_is_refused() -> None:
    with pytest.raises(DataError, match="UCF101 has 101 classes; the class-name file has 2"):
        dataset_facts("ucf101").check_classes(["archery", "bowling"])
    dataset_facts("custom").check_classes(["archery", "bowling"])


def test_class_names_without_one_that_a_flip_needs_are_refused() -> None:
    with pytest.raises(DataError, match="lacks 'left'"):
        dataset_facts("demo").symmetries([a if a != "left" else "links" for a in ACTIONS])


def test_an_unknown_data_set_is_refused_with_those_there_are() -> None:
    with pytest.raises(DataError, match="kinetics") as caught:
        dataset_facts("kinetics")
    assert "kinetics400" in caught.value.hint
