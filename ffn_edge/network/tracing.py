"""A network as a graph of layers, to see which layer reads which."""

from __future__ import annotations

import copy
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from ffn_edge.errors import NetworkError
from ffn_edge.network.layers import (
    LINEAR,
    AlterationPoint,
    SpecializedNorm,
    TemporalLayer,
    WeightAlteration,
    can_be_specialized,
)

_OURS = (SpecializedNorm, WeightAlteration, AlterationPoint, TemporalLayer)
_FORWARDS = tuple(kind.forward for kind in LINEAR)


class _Tracer(fx.Tracer):
    """Traces down to layers: whatever PyTorch or this project defines is one call."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[str] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # torchvision's Conv3DSimple and the like are PyTorch's layers under another name.
        known = isinstance(m, _OURS) or can_be_specialized(m) or type(m).forward in _FORWARDS
        return known or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        self.inside.append(self.path_of_module(m))
        result = super().call_module(m, forward, args, kwargs)
        self.inside.pop()  # not after an error: the innermost name is what failed
        return result


class TracedNetwork:
    """A network as a graph of the calls of its layers.

    Attributes:
        module: the network, in the mode that was asked for.
        graph: what it computes.
        layers: by name; "" is the network itself.
    """

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        self.module = module
        self.graph = graph
        self.layers = dict(module.named_modules())
        self._calls = Counter(map(self.layer_of, graph.nodes))

    def layer_of(self, node: Any) -> nn.Module | None:
        """Return the layer that `node` calls, if it is a node that calls one."""
        called = isinstance(node, fx.Node) and node.op == "call_module"
        return self.layers[str(node.target)] if called else None

    def times_called(self, node: fx.Node) -> int:
        """Return how many places call the layer that `node` calls."""
        return self._calls[self.layer_of(node)]


def is_leaf(module: nn.Module) -> bool:
    """Whether a layer is one call in a traced network, whatever is inside it."""
    return _Tracer().is_leaf_module(module, "")


def traced(body: nn.Module, *, training: bool = False) -> TracedNetwork:
    """Trace a copy of a network, as in evaluation or in training; it shares the tensors.

    Raises:
        NetworkError: it cannot be traced; the layer is named.
    """
    # A body may read its mode while it is traced (dropout, stochastic depth), and the caller's
    # network stays in the mode it is in.
    tensors = (*body.parameters(), *body.buffers())
    try:
        network = copy.deepcopy(body, {id(tensor): tensor for tensor in tensors})
    except Exception as error:  # whatever a layer holds may refuse to be copied
        raise NetworkError(
            f"{type(body).__name__} cannot be copied: {error}",
            "a layer must not hold what Python's copy.deepcopy refuses: take the old weight_norm "
            "off with torch.nn.utils.remove_weight_norm, and keep locks and files elsewhere.",
        ) from error
    network.train(training)
    tracer = _Tracer()
    try:
        return TracedNetwork(network, tracer.trace(network))
    except Exception as error:
        name = tracer.inside[-1] if tracer.inside else ""
        kind = type(network.get_submodule(name)).__name__
        where = f"{name} ({kind})" if name else kind
        raise NetworkError(
            f"{where} cannot be traced{_line_of(error)}: {error}",
            "Python must not decide there by what a tensor holds, nor by its size: in a forward, "
            "write torch.where for `if`, x.new_zeros(...) for torch.zeros, no while or for over a "
            "tensor, and no int(), float(), bool() or len() of one; what does not depend on the "
            "input belongs in __init__.",
        ) from error


def _line_of(error: Exception) -> str:
    """Say which line of a forward raised `error`: the innermost of the network's own code."""
    tracers = (Path(torch.__file__).parent, Path(__file__))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not any(map(Path(frame.filename).is_relative_to, tracers)):
            return f" at {Path(frame.filename).name}:{frame.lineno}, `{frame.line}`"
    return ""
