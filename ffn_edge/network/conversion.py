"""From an ordinary network to a Frame Flexible Network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx, nn

from ffn_edge.errors import NetworkError
from ffn_edge.frames import check_frame_counts
from ffn_edge.network.branches import residual_branches
from ffn_edge.network.ffn import FrameFlexibleNetwork, Layout
from ffn_edge.network.neighbours import LINEAR, layer_of
from ffn_edge.network.specialized import (
    AlterationPoint,
    Route,
    SpecializedNorm,
    TemporalShift,
    WeightAlteration,
    can_be_specialized,
)
from ffn_edge.network.tracing import is_leaf, traced


def specialize(
    module: nn.Module,
    frame_counts: Sequence[int],
    *,
    num_classes: int | None = None,
    architecture: str = "custom",
    layout: Layout | None = None,
    branches: Sequence[str] | None = None,
    shift_fraction: int | None = 8,
    route: Route | None = None,
    without: Sequence[str] = (),
) -> FrameFlexibleNetwork:
    """Turn an ordinary network into a Frame Flexible Network, in place.

    Every BatchNorm and LayerNorm becomes a `SpecializedNorm`, every `AlterationPoint` a
    `WeightAlteration`. At the start of every residual branch, the convolution or linear layer gets
    a `WeightAlteration` before it, and before that a Conv2d of layout "frames" a `TemporalShift`.
    What was done, and what was left alone, is in `specialized` of the result.

    Args:
        module: a network in torchvision's style. It is changed, and becomes the body.
        frame_counts: the frame counts to serve, ascending.
        num_classes: the number of logits of `module`; left out, the outputs of the layer that
            gives them.
        architecture: a name for it.
        layout: what `module` takes: "frames", an image network over rows (rows, 3, H, W), or
            "clip", a video network over (B, 3, T, H, W). Left out, "clip" if it has a Conv3d.
        branches: names of the layers at whose first convolution (or linear layer) a residual
            branch begins, none for []; left out, they are found by tracing.
        shift_fraction: the temporal shift moves 1/n of the channels each way; None for no shift.
        route: the route of the module's own temporal layers, where it has any.
        without: "sn" to keep the norms as they are, "wa" for no weight alteration: the paper's
            ablations.

    Raises:
        NetworkError: there is no norm layer to specialise, a name does not exist, or something
            that was left out cannot be found, as the network cannot be traced.
    """
    counts = check_frame_counts(frame_counts)
    route = route or Route()
    layout = layout or ("clip" if _has_conv3d(module) else "frames")
    if num_classes is None or branches is None:
        network, graph = traced(module)
        layers = dict(network.named_modules())
        if num_classes is None:
            num_classes = _outputs(graph, layers)
        if branches is None:
            found = residual_branches(graph, layers)
            branches = [branch.start for branch in found if not branch.reason]
    starts = [_first_linear(module, name) for name in branches]
    if "sn" not in without:
        _specialize_norms(module, counts, route)
    if "wa" not in without:
        for name, point in list(module.named_modules()):
            if isinstance(point, AlterationPoint):
                module.set_submodule(name, WeightAlteration(point.channels, counts, route))
    for name, layer in starts:
        start = nn.Sequential()
        if shift_fraction is not None and layout == "frames" and isinstance(layer, nn.Conv2d):
            start.add_module("shift", TemporalShift(route, shift_fraction))
        if "wa" not in without:
            start.add_module("alteration", _alteration_before(layer, counts, route))
        start.add_module("linear" if isinstance(layer, nn.Linear) else "conv", layer)
        module.set_submodule(name, start)
    return FrameFlexibleNetwork(
        module,
        route,
        counts,
        architecture=architecture,
        num_classes=num_classes,
        layout=layout,
        without=without,
    )


def _has_conv3d(module: nn.Module) -> bool:
    return any(isinstance(layer, nn.Conv3d) for layer in module.modules())


def _outputs(graph: fx.Graph, layers: dict[str, nn.Module]) -> int:
    """Return how many outputs the linear layers have that give a network's result."""
    found: set[int] = set()
    seen: set[fx.Node] = set()
    behind = [node for node in graph.nodes if node.op == "output"]
    while behind:
        node = behind.pop()
        layer = layer_of(layers, node)
        if isinstance(layer, LINEAR):
            found.add(layer.weight.shape[0])
        elif node not in seen:
            seen.add(node)
            behind += node.all_input_nodes
    if len(found) != 1:
        raise NetworkError(
            "cannot read the number of classes off the network: the layers that give its result "
            f"have {' and '.join(map(str, sorted(found))) or 'no'} outputs",
            "give specialize(..., num_classes=...).",
        )
    return found.pop()


def _first_linear(module: nn.Module, name: str) -> tuple[str, nn.Module]:
    """Return the first convolution or linear layer at or inside layer `name`, with its own name."""
    try:
        layer = module.get_submodule(name)
    except AttributeError as error:
        raise NetworkError(
            f"{type(module).__name__} has no layer {name!r}",
            "branches are names as in module.named_modules().",
        ) from error
    for inner, child in layer.named_modules():
        if isinstance(child, LINEAR):
            return (f"{name}.{inner}" if inner else name), child
    raise NetworkError(
        f"{name!r} is a {type(layer).__name__} without a convolution or linear layer",
        "a branch begins with a Conv1d, Conv2d, Conv3d or Linear.",
    )


def _alteration_before(layer: nn.Module, counts: Sequence[int], route: Route) -> WeightAlteration:
    if isinstance(layer, nn.Linear):
        return WeightAlteration(layer.in_features, counts, route, dim=-1)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    return WeightAlteration(layer.in_channels, counts, route)


def _specialize_norms(module: nn.Module, counts: Sequence[int], route: Route) -> None:
    """Replace every norm that can be specialised; one used in two places stays one."""
    made: dict[nn.Module, SpecializedNorm] = {}

    def visit(parent: nn.Module) -> None:
        for name, child in list(parent._modules.items()):  # named_children() skips a second name
            if child is None:
                continue
            if can_be_specialized(child):
                if child not in made:
                    try:
                        made[child] = SpecializedNorm(child, counts, route)
                    except TypeError as error:
                        raise NetworkError(
                            f"cannot copy {name}, a {type(child).__name__}: {error}",
                            "its class must take the arguments of the PyTorch norm it is made of.",
                        ) from error
                setattr(parent, name, made[child])
            # Inside a layer of PyTorch's own, such as a TransformerEncoderLayer, nothing can fold,
            # and its fast path reads the norms' tensors itself.
            elif isinstance(child, nn.ModuleList | nn.ModuleDict) or not is_leaf(child):
                visit(child)

    visit(module)
    if not made:
        raise NetworkError(
            f"{type(module).__name__} has no norm layer that can be specialised",
            "a Frame Flexible Network needs BatchNorm or LayerNorm, as layers of their own.",
        )
