"""From an ordinary network to a Frame Flexible Network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_args

import torch
from torch import fx, nn

from ffn_edge.errors import NetworkError
from ffn_edge.frames import check_frame_counts
from ffn_edge.network.ablations import ABLATIONS
from ffn_edge.network.branches import residual_branches
from ffn_edge.network.ffn import FrameFlexibleNetwork, Layout
from ffn_edge.network.layers import (
    LINEAR,
    AlterationPoint,
    BranchStart,
    Route,
    SpecializedNorm,
    TemporalLayer,
    TemporalShift,
    WeightAlteration,
    can_be_specialized,
)
from ffn_edge.network.tracing import TracedNetwork, is_leaf, traced


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
    causal: bool = False,
) -> FrameFlexibleNetwork:
    """Turn an ordinary network into a Frame Flexible Network, in place unless it is refused.

        import torchvision
        images = torchvision.models.mobilenet_v3_small(num_classes=3)
        network = ffn_edge.specialize(images, (4, 8))
        print(network.specialized)  # what folds where at export, and what was left alone

    Every BatchNorm and LayerNorm becomes a `SpecializedNorm`, every `AlterationPoint` a
    `WeightAlteration`. At the start of every residual branch, the convolution or linear layer gets
    a `WeightAlteration` before it, and before that a Conv2d of layout "frames" a `TemporalShift`.
    What was done, and what was left alone, is in `specialized` of the result. Of a network that
    gives side outputs in training, as GoogLeNet does, only the logits are used, and the layers that
    only the side outputs have are taken out.

    Only `ffn_edge.network.build` can make a network again, so that one of another architecture is
    no checkpoint: save its state_dict(), and export it in the program that specialised it.

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
        without: of `ABLATIONS`: "sn" to keep the norms as they are, "wa" for no weight
            alteration. The others are not of one network, and change nothing here.
        causal: the temporal shift takes from the past alone, so that the network can go frame by
            frame (see `FrameFlexibleNetwork.step`). Layout "frames" only.

    Raises:
        NetworkError: there is no norm layer to specialise, or a specialised one already, a name
            does not exist, or something that was left out cannot be found, as the network cannot
            be traced; or it gives more than logits, in training too, and which they are cannot be
            told.
    """
    counts = check_frame_counts(frame_counts)
    if layout not in (None, *get_args(Layout)):
        raise NetworkError(
            f"there is no layout {layout!r}", f"it is one of {', '.join(get_args(Layout))}."
        )
    unknown = [without] if isinstance(without, str) else sorted(set(without) - set(ABLATIONS))
    if unknown:
        raise NetworkError(
            f"a network cannot be built without {unknown[0]!r}",
            f"give a list of what to leave out, of {', '.join(ABLATIONS)}.",
        )
    for name, layer in module.named_modules():
        if isinstance(layer, SpecializedNorm):
            raise NetworkError(
                f"{type(module).__name__} is specialised already: {name} is a specialised norm",
                "specialise an ordinary network, once.",
            )
    output: int | str | None = None
    unused: list[str] = []
    route = route or Route()
    layout = layout or ("clip" if _has_conv3d(module) else "frames")
    if causal and layout == "clip":
        raise NetworkError(
            f"{type(module).__name__} takes whole clips, and looks into the future",
            "make a causal network of one that takes frames, such as a ResNet.",
        )
    try:
        network = traced(module)
    except NetworkError:
        if num_classes is None or branches is None:
            raise
    else:
        if not isinstance(network.graph.output_node().args[0], fx.Node):  # but a tuple or a dict
            raise NetworkError(
                f"what {type(module).__name__} gives is not one tensor",
                "wrap it in a module whose forward gives the logits alone.",
            )
        output, unused = _in_training(module, network.graph)
        if num_classes is None:
            num_classes = _outputs(network)
        if branches is None:
            found = residual_branches(network)
            branches = [branch.start for branch in found if not branch.reason]
    # First all is made, then it is put in place: a network that is refused stays as it was.
    if causal and any(isinstance(each, TemporalLayer) for each in module.modules()):
        raise NetworkError(
            f"{type(module).__name__} has temporal layers of its own, which look into the future",
            "make a causal network of one that has none.",
        )
    starts = [_first_linear(module, name) for name in branches]
    made: dict[nn.Module, nn.Module] = {}
    if "sn" not in without:
        made |= {norm: _specialized(norm, counts, route) for norm in _norms(module)}
    if "wa" not in without:
        like = next(module.parameters(), torch.empty(0))
        for layer in module.modules():
            if isinstance(layer, AlterationPoint):
                made[layer] = WeightAlteration(layer.channels, counts, route).to(like)
    for layer in starts:
        start = BranchStart()
        if shift_fraction is not None and layout == "frames" and isinstance(layer, nn.Conv2d):
            start.add_module("shift", TemporalShift(route, shift_fraction, causal=causal))
        if "wa" not in without:
            start.add_module("alteration", _alteration_before(layer, counts, route))
        start.add_module("linear" if isinstance(layer, nn.Linear) else "conv", layer)
        made[layer] = start
    made |= {module.get_submodule(name): nn.Identity() for name in unused}
    # A layer that has two names is one layer under both of them.
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            if child in made:
                parent._modules[name] = made[child]
    return FrameFlexibleNetwork(
        module,
        route,
        counts,
        architecture=architecture,
        num_classes=num_classes,
        layout=layout,
        without=without,
        output=output,
        causal=causal,
    )


def _in_training(module: nn.Module, evaluated: fx.Graph) -> tuple[int | str | None, list[str]]:
    """Tell the logits from the side outputs that a network gives in training.

    Returns:
        Where the logits are in what it gives, None if it gives nothing else; and the names of the
        layers that are there for the side outputs alone.
    """
    try:
        training = traced(module, training=True)
    except NetworkError:  # only in evaluation must it be one that can be traced
        return None, []
    given: Any = training.graph.output_node().args[0]
    if isinstance(given, fx.Node) and isinstance(given.target, type):
        given = given.args if issubclass(given.target, tuple) else None
    if not isinstance(given, tuple | list | dict):
        return None, []
    places = given.items() if isinstance(given, dict) else enumerate(given)
    logits = _layers_behind(evaluated.output_node())
    found: list[int | str] = [
        place
        for place, node in places
        if isinstance(node, fx.Node) and logits and _layers_behind(node) >= logits
    ]
    if len(found) != 1:
        raise NetworkError(
            f"which of what {type(module).__name__} gives in training are the logits cannot be "
            "told: none, or several, are of the layers that give them in evaluation",
            "wrap it in a module whose forward gives the logits alone.",
        )
    sides = _layers_behind(training.graph.output_node()) - logits
    unused: list[str] = []
    for name, _ in training.module.named_modules():  # what is outside comes before what is inside
        within = f"{name}."
        if (
            any(f"{side}.".startswith(within) for side in sides)
            and not any(f"{used}.".startswith(within) for used in logits)
            and not within.startswith(tuple(f"{outer}." for outer in unused))
        ):
            unused.append(name)
    for name in unused:
        training.module.set_submodule(name, nn.Identity())
    try:
        traced(training.module, training=True)
    except NetworkError:  # what becomes of the side outputs needs their layers
        return found[0], []
    return found[0], unused


def _layers_behind(node: fx.Node) -> set[str]:
    """Return the names of the layers that a result comes from."""
    seen = {node}
    behind = [node]
    while behind:
        new = set(behind.pop().all_input_nodes) - seen
        seen |= new
        behind += new
    return {str(each.target) for each in seen if each.op == "call_module"}


def _has_conv3d(module: nn.Module) -> bool:
    return any(isinstance(layer, nn.Conv3d) for layer in module.modules())


def _outputs(network: TracedNetwork) -> int:
    """Return how many outputs the linear layers have that give a network's result."""
    found: set[int] = set()
    seen: set[fx.Node] = set()
    behind = [network.graph.output_node()]
    while behind:
        node = behind.pop()
        layer = network.layer_of(node)
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


def _within_reach(module: nn.Module) -> Iterator[nn.Module]:
    """Give the layers of a network, but for those inside a layer of PyTorch's own.

    Inside a TransformerEncoderLayer nothing can fold, and its fast path, as MultiheadAttention's,
    reads the tensors of the layers inside itself.
    """
    for layer in module.children():
        yield layer
        if isinstance(layer, nn.ModuleList | nn.ModuleDict) or not is_leaf(layer):
            yield from _within_reach(layer)


def _first_linear(module: nn.Module, name: str) -> nn.Module:
    """Return the first convolution or linear layer at or inside the layer `name`."""
    try:
        layer = module.get_submodule(name)
    except AttributeError as error:
        raise NetworkError(
            f"{type(module).__name__} has no layer {name!r}",
            "branches are names as in module.named_modules().",
        ) from error
    inside = set(layer.modules())
    for child in _within_reach(module):
        if isinstance(child, LINEAR) and child in inside:
            return child
    raise NetworkError(
        f"{name!r} is a {type(layer).__name__} without a convolution or linear layer to begin with",
        "a branch begins with a Conv1d, Conv2d, Conv3d or Linear, and not inside another layer of "
        "PyTorch's, such as MultiheadAttention.",
    )


def _alteration_before(layer: nn.Module, counts: Sequence[int], route: Route) -> WeightAlteration:
    assert isinstance(layer, LINEAR)
    if isinstance(layer, nn.Linear):
        alteration = WeightAlteration(layer.in_features, counts, route, dim=-1)
    else:
        alteration = WeightAlteration(layer.in_channels, counts, route)
    return alteration.to(layer.weight)


def _specialized(norm: nn.Module, counts: Sequence[int], route: Route) -> SpecializedNorm:
    try:
        return SpecializedNorm(norm, counts, route)
    except (RuntimeError, TypeError) as error:
        raise NetworkError(
            f"a {type(norm).__name__} cannot be copied for each frame count: {error}",
            "a norm must not hold what Python's copy.deepcopy refuses, such as a lock.",
        ) from error


def _norms(module: nn.Module) -> list[nn.Module]:
    """Return the norms of a network that can be specialised."""
    norms = [layer for layer in _within_reach(module) if can_be_specialized(layer)]
    if not norms:
        raise NetworkError(
            f"{type(module).__name__} has no norm layer that can be specialised",
            "a Frame Flexible Network needs BatchNorm or LayerNorm, as layers of their own.",
        )
    return norms
