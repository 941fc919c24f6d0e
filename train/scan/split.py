"""Which videos are for validation: by groups, a share of each class, the same for the same seed."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from ffn_edge.media.video_list import natural_order


def split_by_group(
    labels: Sequence[str | int],
    groups: Sequence[str],
    *,
    share: float = 0.2,
    seed: int = 0,
    before: Mapping[str, bool] | None = None,
) -> set[int]:
    """Choose items for validation; what belongs together stays on one side.

    The groups of a class are taken in the order of a hash of seed and name until the share is
    reached, so that new items move few others. A class keeps at least one group for training, and
    gives at least one to validation where it can.

    Args:
        labels: of each item, its class.
        groups: of each item, the name of what it was cut from; items of one group go together.
        share: of each class's items that validation should get, 0..1.
        seed: another one chooses others.
        before: groups that were divided earlier, and stay: whether they are for validation.

    Returns:
        The numbers of the items for validation.
    """
    items: dict[str, list[int]] = defaultdict(list)
    for number, group in enumerate(groups):
        items[group].append(number)
    of_group = {group: Counter(labels[i] for i in numbers) for group, numbers in items.items()}
    of_class: dict[str | int, list[str]] = defaultdict(list)
    for group, counts in of_group.items():
        for label in counts:
            of_class[label].append(group)
    size = Counter(labels)
    left = Counter({label: len(each) for label, each in of_class.items()})  # groups for training
    given: Counter[str | int] = Counter()  # items for validation
    chosen: set[str] = set()

    def give(group: str) -> None:
        chosen.add(group)
        given.update(of_group[group])
        left.subtract(of_group[group].keys())

    def can_give(group: str) -> bool:
        return all(left[label] > 1 for label in of_group[group])

    before = before or {}
    for group in sorted(of_group.keys() & before.keys()):
        if before[group] and can_give(group):
            give(group)
    order = {group: _drawn(seed, group) for group in of_group}
    # The rarest first: a group of several classes then serves where there is least choice.
    for label in sorted(of_class, key=lambda label: (size[label], natural_order(str(label)))):
        wanted = share * size[label]
        for group in sorted(of_class[label], key=order.__getitem__):
            if group in chosen or group in before or not can_give(group) or not share:
                continue
            more = of_group[group][label]
            if not given[label] or abs(given[label] + more - wanted) < abs(given[label] - wanted):
                give(group)
    return {number for group in chosen for number in items[group]}


def _drawn(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed} {group}".encode("utf-8", "surrogateescape")).digest()
