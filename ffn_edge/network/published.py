"""Checkpoints that others have published, of networks of ours by other names.

Of the paper's code (BeSpontaneous/FFN-pytorch), with norms for each frame count; and plain TSM
networks of the paper's, of mit-han-lab/temporal-shift-module and of open-mmlab/mmaction2, which
have one norm for all. Those networks see red, green and blue in this order but where
`PublishedNames.blue_first` says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ffn_edge.errors import CheckpointError
from ffn_edge.frames import nearest_frame_count
from ffn_edge.network.families import family_of
from ffn_edge.network.ffn import FrameFlexibleNetwork
from ffn_edge.network.pretrained import differences

# The vectors of a frame count: ….norms.16.weight, ….phi.16.
OWN = re.compile(r"\.(norms|phi)\.(\d+)(?=\.|$)")
# What mit-han-lab's and mmaction2's names have of torchvision's, in this order.
_PLAIN = (
    (r"^(base_model|backbone)\.", ""),
    (r"^(new_fc|cls_head\.fc_cls)\.", "fc."),
    (r"(^|\.)conv(\d)\.bn\.", r"\1bn\2."),
    (r"(^|\.)conv(\d)\.conv\.", r"\1conv\2."),
    (r"\.downsample\.conv\.", ".downsample.0."),
    (r"\.downsample\.bn\.", ".downsample.1."),
    (r"\.conv1\.net\.", ".conv1."),  # the shift is a layer around the convolution
)


@dataclass(frozen=True, slots=True)
class Published:
    """The tensors of a published checkpoint.

    Attributes:
        tensors: by their names there; those of plain networks by torchvision's.
        classifier: the name of its weight, (classes, features).
        frame_counts: that have vectors of their own; none in a plain network.
        source: our name of a tensor -> its name there; None if plain networks do not have it.
        unshifted: how many residual branches do not begin with a temporal shift, as they do here.
    """

    tensors: dict[str, Tensor]
    classifier: str
    frame_counts: tuple[int, ...]
    source: Callable[[str], str | None]
    unshifted: int = 0

    @property
    def num_classes(self) -> int:
        """The number of logits."""
        return self.tensors[self.classifier].shape[0]


def published(arch: str, state_dict: Mapping[str, Tensor]) -> Published | None:
    """Return what the tensors of a file are, if their names are those of a published checkpoint.

    Args:
        arch: which network it is: the file does not say.
        state_dict: the file's tensors, with or without DataParallel's "module.".
    """
    family = family_of(arch)
    tensors = {name.removeprefix("module."): value for name, value in state_dict.items()}
    if (naming := family.published) is None:
        return None
    numbers = sorted(
        int(match[1])
        for name in tensors
        if (match := re.fullmatch(naming.norm, name)) and len(match[1]) < 10
    )
    if numbers and _is_matrix(tensors.get(naming.classifier)):
        if naming.blue_first in tensors:
            tensors[naming.blue_first] = tensors[naming.blue_first].flip(1)
        counts = tuple(number * naming.frames_per_number for number in numbers)
        return Published(
            tensors, naming.classifier, counts, lambda name: published_name(arch, name)
        )
    if family.plain is None or not any(n.startswith(("base_model.", "backbone.")) for n in tensors):
        return None
    starts = [
        name for name in tensors if re.search(r"\.\d+\.conv1\.(conv\.)?(net\.)?weight$", name)
    ]
    unshifted = [name for name in starts if ".net." not in name]
    # The paper's code shifts every branch, and has no name for it.
    marked = len(unshifted) < len(starts) or any(name.startswith("backbone.") for name in starts)
    renamed = {_plain_name(name): value for name, value in tensors.items()}
    if not _is_matrix(renamed.get("fc.weight")):
        return None
    return Published(renamed, "fc.weight", (), family.plain, len(unshifted) * marked)


def _is_matrix(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.dim() == 2


def _plain_name(name: str) -> str:
    for theirs, ours in _PLAIN:
        name = re.sub(theirs, ours, name)
    return name


def check_published(network: FrameFlexibleNetwork, found: Published) -> dict[str, Tensor]:
    """Return what a network takes from a published checkpoint, by our names.

    A frame count takes the vectors of the nearest one that the checkpoint has, or those that a
    plain network has for all; a network of other classes keeps its own classifier.

    Raises:
        CheckpointError: the tensors are not those of the architecture.
    """
    state = network.state_dict()
    classifier = found.classifier.removesuffix("weight")
    expected: dict[str, Tensor] = {}
    taken: dict[str, str] = {}
    for name, tensor in state.items():
        counts = found.frame_counts if OWN.search(name) else ()
        for other in {with_frame_count(name, count) for count in counts} or {name}:
            source = found.source(other)
            if source is not None and (
                source in found.tensors or not source.endswith("num_batches_tracked")
            ):
                expected[source] = tensor
        source = found.source(nearest_of(name, counts))
        if source in expected:
            taken[name] = source
    is_new = found.num_classes != network.num_classes
    if is_new:
        expected = {k: v for k, v in expected.items() if not k.startswith(classifier)}
        taken = {k: v for k, v in taken.items() if not v.startswith(classifier)}
    tensors = {
        name: value
        for name, value in found.tensors.items()
        if not (is_new and name.startswith(classifier))
    }
    for name, tensor in expected.items():
        # φ is published as a depth-wise kernel (C, 1, 1, 1), TEA's (C, 1, 3) is ours (C, 1, 3, 1).
        value = tensors.get(name, tensor)
        if value.shape != tensor.shape and value.squeeze().shape == tensor.squeeze().shape:
            tensors[name] = value.reshape(tensor.shape)
    if differ := differences(expected, tensors):
        raise CheckpointError(
            f"the checkpoint is not a {network.architecture}: {differ}",
            "name the architecture it was trained as.",
        )
    return {name: tensors[source] for name, source in taken.items()}


def with_frame_count(name: str, frames: int) -> str:
    """Return the name of a tensor of a frame count as that of another one's."""
    return OWN.sub(lambda match: f".{match[1]}.{frames}", name)


def nearest_of(name: str, frame_counts: Sequence[int]) -> str:
    """Return the name of a tensor as that of the nearest of `frame_counts`, if there are any."""
    match = OWN.search(name)
    if match is None or not frame_counts:
        return name
    return with_frame_count(name, nearest_frame_count(int(match[2]), tuple(frame_counts)))


def published_name(arch: str, name: str) -> str:
    """Return the published code's name of a tensor of one of our networks.

    In a tsm_resnet50, body.layer1.0.bn1.norms.4.weight is base_model.layer1.0.bn1_4.weight.
    """
    naming = family_of(arch).published
    assert naming is not None
    # The number stands for the slow pathway's frames in SlowFast: our frame counts are the clip's.
    ours = OWN.sub(lambda m: f".{m[1]}.{int(m[2]) // naming.frames_per_number}", name)
    return naming.name(ours.removeprefix("body."))
