"""Splits by groups: nothing on two sides, a share of each class, and stable."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ffn_edge.train.scan.split import split_by_group


def items(seed: int, count: int = 300, classes: int = 6) -> tuple[list[str], list[str]]:
    """Labels and groups: groups of 1 to 5 items, a tenth of them of two classes."""
    rng = np.random.default_rng(seed)
    labels: list[str] = []
    groups: list[str] = []
    while len(labels) < count:
        name, own = f"group {len(groups)} of {seed}", rng.integers(0, classes, 2)
        for i in range(rng.integers(1, 6)):
            labels.append(f"class {own[i % 2 if rng.random() < 0.1 else 0]}")
            groups.append(name)
    return labels, groups


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_on_two_sides_and_each_class_gives_its_share(seed: int) -> None:
    labels, groups = items(seed)
    val = split_by_group(labels, groups, seed=seed)
    assert {groups[i] for i in val}.isdisjoint(
        groups[i] for i in range(len(groups)) if i not in val
    )
    given = Counter(labels[i] for i in val)
    for label, count in Counter(labels).items():
        # A group has at most 5 items, and is given whole.
        assert abs(given[label] - 0.2 * count) <= 5, label


def test_a_seed_gives_one_split_and_another_seed_another() -> None:
    labels, groups = items(0)
    assert split_by_group(labels, groups) == split_by_group(labels, groups, seed=0)
    assert split_by_group(labels, groups) != split_by_group(labels, groups, seed=1)


def test_the_order_of_the_items_does_not_matter() -> None:
    labels, groups = items(0)
    order = np.random.default_rng(0).permutation(len(labels))
    shuffled = split_by_group([labels[i] for i in order], [groups[i] for i in order])
    assert {int(order[i]) for i in shuffled} == split_by_group(labels, groups)


def test_what_was_divided_before_stays_and_the_new_is_divided() -> None:
    labels, groups = items(0)
    val = split_by_group(labels, groups)
    before = {group: i in val for i, group in enumerate(groups)}
    more_labels, more_groups = items(1)
    both = split_by_group([*labels, *more_labels], [*groups, *more_groups], before=before)
    assert {i for i in both if i < len(labels)} == val
    given = Counter([*labels, *more_labels][i] for i in both)
    for label, count in Counter([*labels, *more_labels]).items():
        assert abs(given[label] - 0.2 * count) <= 6, label


def test_few_move_when_items_are_added_and_nothing_is_remembered() -> None:
    labels, groups = items(0)
    val = split_by_group(labels, groups)
    more = split_by_group([*labels, *labels[:15]], [*groups, *(f"new {i}" for i in range(15))])
    assert len({i for i in more if i < len(labels)} ^ val) < 0.1 * len(labels)


def test_a_class_of_one_group_trains_and_one_of_two_is_divided() -> None:
    labels = ["one"] * 4 + ["two"] * 4
    groups = ["a"] * 4 + ["b", "b", "b", "c"]
    val = split_by_group(labels, groups)
    assert {labels[i] for i in val} == {"two"} and len({groups[i] for i in val}) == 1


def test_a_share_of_nothing_takes_nothing() -> None:
    assert split_by_group(["a"] * 9, [f"{i}" for i in range(9)], share=0) == set()
