"""What was specialised in a network, what was left alone, and where export puts each part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from ffn_edge.network.branches import residual_branches
from ffn_edge.network.folding import FoldTarget, fold_targets
from ffn_edge.network.layers import SpecializedNorm, TemporalShift, WeightAlteration
from ffn_edge.network.tracing import traced

# Every layer of PyTorch that normalises. Of those that are not specialised, the report says why.
_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)


_OURS = (SpecializedNorm, WeightAlteration, TemporalShift)


@dataclass(frozen=True, slots=True, kw_only=True)
class Specialization:
    """The specialised parts of a network, by the names of its layers.

    Attributes:
        norms: each specialised norm, and where its affine goes at export.
        alterations: each weight alteration, and where it goes.
        shifts: the temporal shifts.
        left_alone: norms that all frame counts share, branches without an alteration, and
            why.
    """

    norms: Mapping[str, FoldTarget]
    alterations: Mapping[str, FoldTarget]
    shifts: tuple[str, ...]
    left_alone: Mapping[str, str]

    def __str__(self) -> str:
        lines = [
            *_summary("specialised norm", self.norms),
            *_summary("weight alteration", self.alterations),
            _count(len(self.shifts), "temporal shift"),
        ]
        if not self.alterations and not self.shifts:
            lines.append("no residual branch begins with a shift or an alteration: norms alone")
        return "\n".join([*lines, *_by_reason("left alone", self.left_alone)])


def specialization_of(body: nn.Module) -> Specialization:
    """Report on the body of a network that `specialize` made.

    Raises:
        NetworkError: it cannot be traced.
    """
    network = traced(body)
    layers = network.layers
    norms: dict[str, FoldTarget] = {}
    alterations: dict[str, FoldTarget] = {}
    called = {network.layer_of(node) for node in network.graph.nodes}
    for node, target in fold_targets(network).items():
        layer, name = network.layer_of(node), str(node.target)
        found = norms if isinstance(layer, SpecializedNorm) else alterations
        if isinstance(layer, SpecializedNorm | WeightAlteration) and (
            name not in found or target.reason  # in several places: the one where it stays
        ):
            found[name] = target
    left_alone = {
        branch.start: branch.reason for branch in residual_branches(network) if branch.reason
    }
    specialised = {
        id(norm)
        for layer in layers.values()
        if isinstance(layer, SpecializedNorm)
        for norm in layer.norms.values()
    }
    for name, layer in layers.items():
        if isinstance(layer, _OURS) and layer not in called:
            left_alone[name] = "nothing calls it in evaluation"
        elif isinstance(layer, _NORMS) and id(layer) not in specialised:
            left_alone[name] = f"a {type(layer).__name__} stays one for all frame counts"
    shifts = tuple(
        name
        for name, layer in layers.items()
        if isinstance(layer, TemporalShift) and layer in called
    )
    return Specialization(
        norms=norms, alterations=alterations, shifts=shifts, left_alone=left_alone
    )


def _summary(what: str, targets: Mapping[str, FoldTarget]) -> list[str]:
    before = sum(target.producer is not None for target in targets.values())
    after = sum(bool(target.consumers) for target in targets.values())
    facts = [
        f"{number} {where}"
        for number, where in ((before, "fold into the layer before"), (after, "into layers after"))
        if number
    ]
    stays = {name: target.reason for name, target in targets.items() if target.reason}
    head = _count(len(targets), what) + (f": {', '.join(facts)}" if facts else "")
    return [head, *_by_reason("  stays in the graph", stays)]


def _by_reason(what: str, reasons: Mapping[str, str]) -> list[str]:
    """Say for each reason how many layers have it, and name the first three."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return [
        f"{what} ({len(each)}; {reason}): {', '.join(each[:3])}{', ...' * (len(each) > 3)}"
        for reason, each in names.items()
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
