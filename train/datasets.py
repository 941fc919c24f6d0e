"""What is particular to each data set: how many classes, which symmetries, how frames are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ffn_edge.errors import DataError
from ffn_edge.train.augment import Symmetries

# Classes that become each other. An empty tuple: the operation is allowed and no class changes.
Swaps = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFacts:
    """One data set.

    Attributes:
        name: as it is written.
        num_classes: how many it has; None if that is not known.
        frame_pattern: the name of an image in a frame folder; the first frame is number 1. None
            is whatever images there are, in the order of the numbers in their names.
        mirror: which classes become each other when left and right are swapped; None: never
            mirror, since direction is part of the labels.
        upside_down: the same for top and bottom.
        backwards: the same for playing backwards.
    """

    name: str
    num_classes: int | None
    frame_pattern: str | None = "img_%05d.jpg"
    mirror: Swaps | None = None
    upside_down: Swaps | None = None
    backwards: Swaps | None = None

    def check_classes(self, classes: Sequence[str]) -> None:
        """Check the names that a class-name file gives against the data set.

        Raises:
            DataError: there are more or fewer than the data set has.
        """
        if self.num_classes is not None and len(classes) != self.num_classes:
            raise DataError(
                f"{self.name} has {self.num_classes} classes; the class-name file has "
                f"{len(classes)}",
                "use the file of this data set; for your own clips, --set dataset=custom, or the "
                'recipe "custom".',
            )

    def symmetries(self, classes: Sequence[str]) -> Symmetries:
        """Return the symmetries in numbers, for classes in this order.

        Raises:
            DataError: a class that changes is not among them.
        """
        return Symmetries(
            mirror=self._relabelled(self.mirror, classes),
            upside_down=self._relabelled(self.upside_down, classes),
            backwards=self._relabelled(self.backwards, classes),
        )

    def _relabelled(self, swaps: Swaps | None, classes: Sequence[str]) -> tuple[int, ...] | None:
        if swaps is None:
            return None
        other = dict(swaps) | {second: first for first, second in swaps}
        if absent := sorted(set(other) - set(classes)):
            raise DataError(
                f"the class-name file of {self.name} lacks {absent[0]!r}",
                "use the file that came with the data set.",
            )
        numbers = {name: number for number, name in enumerate(classes)}
        return tuple(numbers[other.get(name, name)] for name in classes)


_SIDES = (("left", "right"), ("clockwise", "counter-clockwise"))
_HEIGHTS = (("up", "down"), ("clockwise", "counter-clockwise"))
_ORDERS = (
    ("left", "right"),
    ("up", "down"),
    ("approach", "recede"),
    ("clockwise", "counter-clockwise"),
    ("together", "apart"),
    ("appear", "disappear"),
)

DATASETS = {
    "something-v1": DatasetFacts(
        name="Something-Something V1", num_classes=174, frame_pattern="%05d.jpg"
    ),
    "something-v2": DatasetFacts(
        name="Something-Something V2", num_classes=174, frame_pattern="%06d.jpg"
    ),
    "jester": DatasetFacts(name="Jester", num_classes=27, frame_pattern="%05d.jpg"),
    "kinetics400": DatasetFacts(name="Kinetics-400", num_classes=400, mirror=()),
    "ucf101": DatasetFacts(name="UCF101", num_classes=101, mirror=()),
    "hmdb51": DatasetFacts(name="HMDB51", num_classes=51, mirror=()),
    # Twelve classes, and "nothing" where that was rendered.
    "demo": DatasetFacts(
        name="the demo clips",
        num_classes=None,
        mirror=_SIDES,
        upside_down=_HEIGHTS,
        backwards=_ORDERS,
    ),
    # Any other. Whether its labels tell left from right is not known: no flip.
    "custom": DatasetFacts(name="this data set", num_classes=None, frame_pattern=None),
}


def dataset_facts(name: str) -> DatasetFacts:
    """Return the data set called `name`.

    Raises:
        DataError: there is none.
    """
    try:
        return DATASETS[name]
    except KeyError:
        raise DataError(
            f"unknown data set {name!r}",
            f'choose among {", ".join(DATASETS)}; "custom" is any other.',
        ) from None
