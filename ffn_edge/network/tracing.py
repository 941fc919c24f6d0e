"""A network as a graph of layers, to see which layer reads which."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import fx, nn

from ffn_edge.errors import NetworkError
from ffn_edge.network.specialized import (
    AlterationPoint,
    SpecializedNorm,
    TemporalLayer,
    WeightAlteration,
)

_OURS = (SpecializedNorm, WeightAlteration, AlterationPoint, TemporalLayer)


class _Tracer(fx.Tracer):
    """Traces down to layers: whatever PyTorch or this project defines is one call."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[str] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _OURS) or super().is_leaf_module(m, module_qualified_name)

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


def traced(body: nn.Module) -> tuple[nn.Module, fx.Graph]:
    """Trace a network as in evaluation mode; it is left as it is.

    Returns:
        A copy of `body` in evaluation mode that shares its tensors, and the copy's graph.

    Raises:
        NetworkError: it cannot be traced; the layer is named.
    """
    # A body may read its mode while it is traced (dropout, stochastic depth), and the caller's
    # network stays in the mode it is in.
    tensors = (*body.parameters(), *body.buffers())
    network = copy.deepcopy(body, {id(tensor): tensor for tensor in tensors}).eval()
    tracer = _Tracer()
    try:
        return network, tracer.trace(network)
    except Exception as error:
        name = tracer.inside[-1] if tracer.inside else ""
        kind = type(network.get_submodule(name)).__name__
        where = f"{name} ({kind})" if name else kind
        raise NetworkError(
            f"{where} cannot be traced: {error}",
            "its forward must not branch on, or loop over, values of tensors.",
        ) from error
