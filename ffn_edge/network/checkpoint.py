"""Checkpoints: a network, what it was trained for, and optionally the state of its training.

One torch file of plain values, read with `weights_only=True`, so that a checkpoint cannot run
code. `ffn-edge import` writes one without training state; every command reads both kinds.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from reprlib import repr as short_repr
from typing import Any

import torch

from ffn_edge.atomic import atomic_file
from ffn_edge.bundle import Accuracy
from ffn_edge.classes import read_classes
from ffn_edge.errors import CheckpointError, FfnEdgeError, reason_of
from ffn_edge.network import (
    ARCHITECTURES,
    FrameFlexibleNetwork,
    build,
    family_of,
    import_published,
)
from ffn_edge.network.family import IMAGENET_MEAN, IMAGENET_STD
from ffn_edge.network.torch_file import (
    FORMAT,
    differences,
    in_one_line,
    load_tensors,
    load_torch_file,
)

SCHEMA_VERSION = 1

_MOST_SHORT_SIDE = 8192  # as in a bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a network was trained for: class names, and how its input is prepared.

    A frame's short side is scaled to `short_side` pixels, the centre `size`×`size` is cut out, and
    values in [0, 1] are normalised by `mean` and `std`. `dataset` names the facts of the training's
    data set. `accuracy` is by frame count.
    """

    classes: tuple[str, ...]
    size: int = 224
    short_side: int = 256
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    dataset: str = "custom"
    accuracy: dict[int, Accuracy] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise a CheckpointError unless each value is of its kind and can be."""
        shares = [share for a in self.accuracy.values() for share in (a.top1, a.top5)]
        counts = [*self.accuracy, *(a.clips for a in self.accuracy.values())]
        sound = {
            "classes": self.classes and all(isinstance(name, str) for name in self.classes),
            "size": _is_whole(self.size) and 0 < self.size <= self.short_side,
            "short_side": _is_whole(self.short_side) and self.short_side <= _MOST_SHORT_SIDE,
            "mean": len(self.mean) == 3 and all(map(_is_number, self.mean)),
            "std": len(self.std) == 3 and all(_is_number(each) and each > 0 for each in self.std),
            "dataset": isinstance(self.dataset, str),
            "accuracy": all(_is_number(share) and 0 <= share <= 1 for share in shares)
            and all(_is_whole(count) and count >= 0 for count in counts),
        }
        for name, is_sound in sound.items():
            if not is_sound:
                raise CheckpointError(
                    f"a network cannot have {name} {short_repr(getattr(self, name))}",
                    "train or import it again.",
                )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    """Whether a value is a number in the order of pixels and shares."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint in memory. `training` is what the training loop saved, or None."""

    network: FrameFlexibleNetwork
    card: ModelCard
    training: dict[str, Any] | None


def save_checkpoint(
    path: str | os.PathLike[str],
    network: FrameFlexibleNetwork,
    card: ModelCard,
    training: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint atomically.

    Raises:
        CheckpointError: the network is of no architecture that `build` makes, the folder cannot be
            written, or the disk is full. What stood at `path` stays whole.
    """
    if network.architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"a network of architecture {network.architecture!r} cannot be made again from a "
            "checkpoint",
            "save network.state_dict(), and export from the program that specialised it.",
        )
    content = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "architecture": network.architecture,
        "num_classes": network.num_classes,
        "frame_counts": list(network.frame_counts),
        "without": list(network.without),
        "card": dataclasses.asdict(card),
        "state_dict": network.state_dict(),
        "training": training,
    }
    try:
        with atomic_file(path) as temporary:
            torch.save(content, temporary)
    except (OSError, RuntimeError) as error:
        # torch's zip writer reports a full disk as a RuntimeError.
        raise CheckpointError(
            f"could not write {path}: {reason_of(error)}",
            "free space on the disk or name another folder; an older file there is untouched.",
        ) from error


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint of `save_checkpoint`; the network is on the CPU, in evaluation mode.

    Raises:
        CheckpointError: no such file, a damaged one, one with code in it, one of another kind.
    """
    content = load_torch_file(path)
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not an ffn-edge checkpoint",
            "a checkpoint of the paper's code is read by `ffn-edge import`.",
        )
    if content.get("schema_version") != SCHEMA_VERSION:
        raise CheckpointError(
            f"{path} has schema version {content.get('schema_version')!r}; "
            f"this release reads {SCHEMA_VERSION}",
            "update ffn-edge.",
        )
    try:
        # What the file says may not be what it holds: nothing is made before the two agree.
        with torch.device("meta"):
            network = build(
                content["architecture"],
                content["num_classes"],
                content["frame_counts"],
                without=content.get("without", ()),
            ).eval()
        if differ := differences(network.state_dict(), content["state_dict"]):
            raise CheckpointError(
                f"{path} does not hold a {network.architecture}: {differ}",
                "train or import it again.",
            )
        network.to_empty(device="cpu").load_state_dict(content["state_dict"])
        raw = content["card"]
        card = ModelCard(
            classes=tuple(raw["classes"]),
            size=raw["size"],
            short_side=raw["short_side"],
            mean=tuple(raw["mean"]),
            std=tuple(raw["std"]),
            dataset=raw.get("dataset", "custom"),
            accuracy={int(t): Accuracy(**value) for t, value in raw["accuracy"].items()},
        )
        if len(card.classes) != network.num_classes:
            raise CheckpointError(
                f"{path} names {len(card.classes)} classes of {network.num_classes}",
                "train or import it again.",
            )
    except FfnEdgeError:
        raise
    except (
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
        RuntimeError,
    ) as error:
        raise CheckpointError(
            f"{path} does not hold a {content.get('architecture')}: {in_one_line(error)}",
            "train or import it again.",
        ) from error
    return Checkpoint(network, card, content.get("training"))


def import_file(
    path: str | os.PathLike[str],
    architecture: str,
    output: str | os.PathLike[str],
    classes: str | os.PathLike[str] | None = None,
) -> FrameFlexibleNetwork:
    """Read a checkpoint file of the paper's code and write it as one of ours.

    Args:
        path: a file of the paper's code; see `load_tensors`.
        architecture: which network it is.
        output: the file to write.
        classes: class names, one per line; left out, the classes are named by their number.

    Raises:
        CheckpointError: the file cannot be read, or is of another network; the class file has
            another number of names.
        DataError: the class file cannot be used.
    """
    network = import_published(architecture, load_tensors(path))
    names = tuple(map(str, range(network.num_classes)))
    if classes is not None:
        names = read_classes(classes)
    if len(names) != network.num_classes:
        raise CheckpointError(
            f"{classes} has {len(names)} names; the network has {network.num_classes} classes",
            "give one name per line, in the order of the labels.",
        )
    family = family_of(architecture)
    card = ModelCard(
        classes=names,
        size=family.size,
        short_side=family.short_side,
        mean=family.mean,
        std=family.std,
    )
    save_checkpoint(output, network, card)
    return network
