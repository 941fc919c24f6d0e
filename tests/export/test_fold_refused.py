"""What cannot be folded is refused: the layer is named, and what to do."""

from __future__ import annotations

import warnings

import pytest
from torch import Tensor, nn
from torch.nn import functional as F

from ffn_edge import network
from ffn_edge.errors import ExportError, NetworkError
from ffn_edge.export.fold import fold
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.layers import Route, TemporalShift


def test_a_frame_count_that_was_not_trained_is_refused(tiny: FrameFlexibleNetwork) -> None:
    with pytest.raises(ExportError, match="no sub-network for 8 frames") as caught:
        fold(tiny, 8)

    assert "2, 4" in caught.value.hint


class Body(nn.Module):
    """A small network whose branch begins at `conv`, and has a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (rows, 3, H, W)."""
        return self.head(self.branch(self.stem(x)).mean((2, 3)))

    def branch(self, x: Tensor) -> Tensor:
        """The arrangement: (rows, C, H, W), the shape stays."""
        return F.relu(x + self.norm(self.conv(x)))


class Branching(Body):
    """Decides by a value, which no graph can hold."""

    def branch(self, x: Tensor) -> Tensor:
        """Convolve bright images only."""
        return self.norm(self.conv(x)) if x.mean() > 0 else x


class PaddedByReflection(Body):
    """Scaling channels and mirroring edges commute, but no ONNX convolution mirrors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")


class WithoutStatistics(Body):
    """A norm that normalises by each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8, track_running_stats=False)


class Doubling(nn.Conv2d):
    """A convolution that computes something else."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, 2 * weight, bias)


class OtherConvolution(Body):
    """A convolution by its type and by its forward alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = Doubling(8, 8, 3, padding=1)


class Hooked(Body):
    """A convolution whose result a hook changes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv.register_forward_hook(lambda layer, inputs, result: 2 * result)


class HookedBefore(Body):
    """A linear layer whose input a hook changes."""

    def __init__(self) -> None:
        super().__init__()
        self.head.register_forward_pre_hook(lambda layer, inputs: (2 * inputs[0],))


class HookedNorm(Body):
    """A norm whose result a hook changes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm.register_forward_hook(lambda layer, inputs, result: 2 * result)


class HookedShift(Body):
    """A temporal layer whose result a hook changes."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = TemporalShift(Route())
        self.shift.register_forward_hook(lambda layer, inputs, result: 2 * result)

    def branch(self, x: Tensor) -> Tensor:
        """Shift before the branch, too."""
        return super().branch(self.shift(x))


class HookedBody(Body):
    """A network whose answer a hook changes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_forward_hook(lambda layer, inputs, result: 2 * result)


class OwnForward(Body):
    """A convolution that was given another forward, without a class of its own."""

    def __init__(self) -> None:
        super().__init__()
        plain = self.conv.forward
        self.conv.forward = lambda x: 2 * plain(x)  # type: ignore[method-assign]


class Parametrized(Body):
    """A convolution whose weight is computed at each call."""

    def __init__(self) -> None:
        super().__init__()
        nn.utils.parametrizations.weight_norm(self.conv)


class OldWeightNorm(Body):
    """A convolution whose weight a hook computes, which Python cannot copy."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated, and in use
            nn.utils.weight_norm(self.conv)


class TiedWeights(Body):
    """Two layers that share one weight tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.other.weight = self.conv.weight

    def branch(self, x: Tensor) -> Tensor:
        """Convolve twice."""
        return self.other(F.relu(self.norm(self.conv(x))))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (Branching, "Branching cannot be traced"),
        (PaddedByReflection, "reflect"),
        (WithoutStatistics, "without running statistics"),
        (TiedWeights, "shares its weight"),
        (OtherConvolution, r"conv\.conv, a Doubling, computes something else"),
        (Hooked, r"conv\.conv, a Conv2d, has a hook"),
        (HookedBefore, "head, a Linear, has a hook"),
        (HookedNorm, "norm, a BatchNorm2d, has a hook"),
        (HookedShift, "shift, a TemporalShift, has a hook"),
        (HookedBody, "its body, a HookedBody, has a hook"),
        (OwnForward, r"conv\.conv, a Conv2d, has a hook or a forward of its own"),
        (Parametrized, r"conv\.conv, a ParametrizedConv2d, has a parametrization"),
        (OldWeightNorm, "OldWeightNorm cannot be copied"),
    ],
)
def test_what_cannot_be_folded_is_refused(body: type[Body], message: str) -> None:
    model = network.specialize(body(), (2, 4), num_classes=5, branches=["conv"]).eval()

    with pytest.raises((ExportError, NetworkError), match=message):
        fold(model, 4)


def test_a_hook_on_the_whole_network_is_refused() -> None:
    model = network.build("tsm_tiny", 5, (2, 4))
    model.register_forward_hook(lambda network, inputs, result: 2 * result)

    with pytest.raises(ExportError, match="the network, a FrameFlexibleNetwork, has a hook"):
        fold(model, 4)


class NormAfterAddition(Body):
    """A norm that follows no convolution."""

    def branch(self, x: Tensor) -> Tensor:
        """Add, then normalise."""
        return F.relu(self.norm(x + self.conv(x)))


def test_an_ordinary_norm_without_statistics_is_refused_where_it_would_stay() -> None:
    body = NormAfterAddition()
    body.norm = nn.BatchNorm2d(8, track_running_stats=False)
    model = network.specialize(body, (2, 4), num_classes=5, branches=["conv"], without=("sn",))

    with pytest.raises(ExportError, match="without running statistics"):
        fold(model.eval(), 4)


def test_networks_that_share_no_weights_are_refused() -> None:
    model = network.build("tsm_tiny", 5, (2, 4), without=("ws",))

    with pytest.raises(ExportError, match="without weight sharing is not one bundle"):
        fold(model, 4)
