"""Checkpoints: a network, what it was trained for, and optionally the state of its training.

One torch file of plain values, read with `weights_only=True`, so that a checkpoint cannot run
code. `ffn-edge import` writes one without training state; every command reads both kinds.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor

from ffn_edge.bundle.bundle import MOST_SHORT_SIDE, Accuracy
from ffn_edge.errors import CheckpointError, FfnEdgeError, reason_of
from ffn_edge.files import schema
from ffn_edge.files.atomic import atomic_file
from ffn_edge.files.schema import Above0, Between, Positive, Rgb, RgbAbove0
from ffn_edge.media.classes import read_classes
from ffn_edge.network.building import build, import_published
from ffn_edge.network.families import ARCHITECTURES, family_of
from ffn_edge.network.families.family import IMAGENET_MEAN, IMAGENET_STD
from ffn_edge.network.ffn import FrameFlexibleNetwork
from ffn_edge.network.pretrained import (
    FORMAT,
    differences,
    in_one_line,
    load_tensors,
    load_torch_file,
)
from ffn_edge.network.published import OWN, nearest_of

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a network was trained for: class names, and how its input is prepared.

    A frame's short side is scaled to `short_side` pixels, the centre `size`×`size` is cut out, and
    values in [0, 1] are normalised by `mean` and `std`. A clip spans `window_s` seconds of a video;
    None is all of it. `dataset` names the facts of the training's data set. `accuracy` is by frame
    count.
    """

    classes: tuple[str, ...]
    size: Positive = 224
    short_side: Annotated[int, Between(1, MOST_SHORT_SIDE)] = 256
    mean: Rgb = IMAGENET_MEAN
    std: RgbAbove0 = IMAGENET_STD
    window_s: Above0 | None = None
    dataset: str = "custom"
    accuracy: dict[int, Accuracy] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # What is saved is plain values, and names of a file may know more than names.
        object.__setattr__(self, "classes", tuple(self.classes))
        if not self.classes or self.short_side < self.size:
            raise CheckpointError(
                f"a network has a class at least, and frames of short_side {self.short_side} have "
                f"no {self.size} pixels to cut out",
                "train or import it again.",
            )

    def renamed(self, classes: Sequence[str]) -> ModelCard:
        """Return the card with other names of the same classes, in the same order.

        Raises:
            CheckpointError: a name is there already, as that of another class.
        """
        for label, name in enumerate(classes):
            if name in self.classes and self.classes.index(name) != label:
                raise CheckpointError(
                    f"the class names have {name!r} as class {label}; the network was trained "
                    f"with it as class {self.classes.index(name)}",
                    "leave the names out for the checkpoint's own, or give them in its order.",
                )
        return dataclasses.replace(self, classes=tuple(classes))


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
        "causal": network.causal,
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


@dataclass(frozen=True, slots=True)
class _Content:
    """What a checkpoint says, and its tensors by name."""

    architecture: str
    num_classes: Positive
    frame_counts: tuple[Positive, ...]
    card: ModelCard
    state_dict: dict[str, Any]
    without: tuple[str, ...] = ()
    causal: bool = False
    training: dict[str, Any] | None = None


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint of `save_checkpoint`; the network is on the CPU, in evaluation mode.

        checkpoint = ffn_edge.load_checkpoint("demo/ffn/best.pt")
        print(checkpoint.network.frame_counts, checkpoint.card.classes)

    Raises:
        CheckpointError: no such file, a damaged one, one with code in it, one of another kind.
    """
    content = load_torch_file(path)
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not an ffn-edge checkpoint",
            "a checkpoint of the paper's code is read by `ffn-edge import`.",
        )
    version = content.get("schema_version")
    if not isinstance(version, int) or version != SCHEMA_VERSION:
        raise CheckpointError(
            f"{path} has schema version {version!r:.50}; this release reads {SCHEMA_VERSION}",
            "update ffn-edge.",
        )
    try:
        said = schema.parse(_Content, content)
        # What the file says may not be what it holds: nothing is made before the two agree.
        with torch.device("meta"):
            network = build(
                said.architecture,
                said.num_classes,
                said.frame_counts,
                without=said.without,
                causal=said.causal,
            ).eval()
        tensors = {k: v for k, v in said.state_dict.items() if isinstance(v, Tensor)}
        if differ := differences(network.state_dict(), tensors):
            raise CheckpointError(
                f"{path} does not hold a {network.architecture}: {differ}",
                "train or import it again.",
            )
        if len(said.card.classes) != said.num_classes:
            raise ValueError(f"it names {len(said.card.classes)} classes of {said.num_classes}")
        network.to_empty(device="cpu").load_state_dict(tensors)
    except CheckpointError:
        raise
    except (FfnEdgeError, ValueError, RuntimeError) as error:
        reason = getattr(error, "message", None) or in_one_line(error)
        raise CheckpointError(
            f"{path} does not hold a {content.get('architecture')!s:.50}: {reason}",
            "train or import it again.",
        ) from error
    return Checkpoint(network, said.card, said.training)


def start_from(network: FrameFlexibleNetwork, other: FrameFlexibleNetwork) -> None:
    """Copy the tensors of `other` into `network`.

    Shared tensors are copied as they are; each frame count starts from the vectors of the nearest
    frame count of `other`.

    Raises:
        CheckpointError: the two are not of one kind.
    """
    theirs = other.state_dict()
    ours = network.state_dict()
    wanted = {name: nearest_of(name, other.frame_counts) for name in ours}
    # Of their frame counts, those that none of ours is nearest to are not read.
    read = {
        name: tensor
        for name, tensor in theirs.items()
        if name in wanted.values() or not OWN.search(name)
    }
    if differ := differences({key: ours[name] for name, key in wanted.items()}, read):
        raise CheckpointError(
            f"a {network.architecture} with {network.num_classes} classes cannot start from a "
            f"{other.architecture} with {other.num_classes}: {differ}",
            "give a checkpoint of the same architecture, classes and parts.",
        )
    with torch.no_grad():
        network.load_state_dict({name: theirs[key] for name, key in wanted.items()})


def import_file(
    path: str | os.PathLike[str],
    architecture: str,
    output: str | os.PathLike[str],
    classes: str | os.PathLike[str] | None = None,
) -> FrameFlexibleNetwork:
    """Read a published checkpoint file and write it as one of ours.

    Args:
        path: a file of the paper's code, or of a plain TSM network; see `import_published`.
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
