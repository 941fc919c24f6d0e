"""Where the residual branches of a network begin, read off its graph."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch import fx, nn

from ffn_edge.network.layers import LINEAR, NORM_TYPES, SpecializedNorm
from ffn_edge.network.tracing import TracedNetwork

_ADDITIONS = (operator.add, operator.iadd, torch.add)
_ADDING_METHODS = ("add", "add_")


@dataclass(frozen=True, slots=True)
class Branch:
    """A residual branch.

    Attributes:
        start: the layer that holds its first weights.
        reason: why nothing can be put before these weights; empty if something can.
    """

    start: str
    reason: str = ""


def residual_branches(network: TracedNetwork) -> list[Branch]:
    """Find the residual branches of a traced network, in the order in which they end.

    A residual branch ends at an addition of activations that come from one: it is each way from
    there but that with the fewest layers that have weights. (That one is nothing, or a projection;
    of those that have as few, it is the one that is written last.)
    """
    nodes = list(network.graph.nodes)
    ancestors = _ancestors(nodes)
    branches: dict[str, Branch] = {}
    sums: dict[fx.Node, tuple[int, list[fx.Node]]] = {}  # addition -> where from, and what it adds
    for node in nodes:
        added = [each for each in _summands(node) if each in ancestors]
        if len(added) != 2:
            continue
        common = ancestors[added[0]] & ancestors[added[1]]
        if not common:
            continue
        fork = common.bit_length() - 1  # the last that both come from
        arms: list[fx.Node] = []
        for each in added:  # x + a(x) + b(x) is one sum of three
            inner_fork, inner = sums.get(each, (-1, []))
            arms += inner if inner_fork == fork else [each]
        sums[node] = fork, arms
        ways = [
            [
                other
                for i, other in enumerate(nodes)
                if (ancestors[arm] & ~common) >> i & 1
                and ancestors[other] >> fork & 1
                and has_weight_matrix(network, other)
            ]
            for arm in arms
        ]
        ways.remove(min(reversed(ways), key=len))
        for weights in filter(None, ways):
            branch = _branch_from(network, weights[0])
            branches.setdefault(branch.start, branch)
    return list(branches.values())


def _ancestors(nodes: list[fx.Node]) -> dict[fx.Node, int]:
    """Return for each activation what it is computed from: bit i for nodes[i], its own included.

    A size that is read off an activation is none, nor is what follows from sizes alone.
    """
    ancestors: dict[fx.Node, int] = {}
    for i, node in enumerate(nodes):
        inputs = [each for each in node.all_input_nodes if each in ancestors]
        if node.op == "placeholder" or (inputs and not _asks_size(node)):
            ancestors[node] = 1 << i
            for each in inputs:
                ancestors[node] |= ancestors[each]
    return ancestors


def _asks_size(node: fx.Node) -> bool:
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in ("shape", "ndim", "device", "dtype")
    return node.op == "call_method" and node.target in ("size", "dim")


def _summands(node: fx.Node) -> list[fx.Node]:
    """Return what a node adds, without numbers; nothing if it is no addition."""
    adds = node.target in (_ADDITIONS if node.op == "call_function" else _ADDING_METHODS)
    return node.all_input_nodes if adds else []


def has_weight_matrix(network: TracedNetwork, node: fx.Node) -> bool:
    """Whether a node holds, or a function takes, a matrix of weights (and not just a scale)."""
    layer = network.layer_of(node)
    if isinstance(layer, (*NORM_TYPES, SpecializedNorm)):
        return False
    if layer is not None:
        return isinstance(layer, LINEAR) or any(map(_is_matrix, layer.parameters()))
    return any(
        each.op == "get_attr" and _is_matrix(operator.attrgetter(str(each.target))(network.module))
        for each in node.all_input_nodes
    )


def _is_matrix(value: object) -> bool:
    return isinstance(value, nn.Parameter) and sum(size > 1 for size in value.shape) > 1


def _branch_from(network: TracedNetwork, node: fx.Node) -> Branch:
    layer = network.layer_of(node)
    if layer is None:
        function = getattr(node.target, "__name__", node.target)
        inside = [name.partition("@")[0] for name in node.meta.get("nn_module_stack", ())]
        start = inside[-1] if any(inside) else node.name
        return Branch(start, f"its weights are read by a function, {function}")
    start = str(node.target)
    if not isinstance(layer, LINEAR):
        return Branch(start, f"a {type(layer).__name__} is neither a convolution nor linear")
    if network.times_called(node) > 1:
        return Branch(start, "it is called in several places")
    return Branch(start)
