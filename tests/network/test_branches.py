"""Where residual branches begin: what is found in a graph, and what is left alone and reported."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ffn_edge import network
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.layers import WeightAlteration


def altered(model: FrameFlexibleNetwork) -> list[str]:
    """The layers that have an alteration before them, in the order of the modules."""
    names = [name for name, m in model.body.named_modules() if isinstance(m, WeightAlteration)]
    return [name.removesuffix(".alteration") for name in names]


class Body(nn.Module):
    """A stem, one arrangement of layers, and a classifier of 5 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 1)
        self.c = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (rows, 3, H, W)."""
        x = self.arrangement(F.relu(self.norm(self.stem(x))))
        return self.head(x.mean((2, 3)))

    def arrangement(self, x: Tensor) -> Tensor:
        """The arrangement: (rows, 8, H, W), the shape stays."""
        return x + self.b(F.relu(self.a(x)))


class ProjectionFirst(Body):
    """The shortcut has a convolution, and is the first that is added."""

    def arrangement(self, x: Tensor) -> Tensor:
        """Project beside two convolutions."""
        return torch.add(self.c(x), self.b(self.a(x)))


class InPlace(Body):
    """Additions that are methods and in place."""

    def arrangement(self, x: Tensor) -> Tensor:
        """Add twice."""
        x = self.a(x).add_(x)
        y = self.b(x)
        y += x
        return y


class Nested(Body):
    """A branch within a branch."""

    def arrangement(self, x: Tensor) -> Tensor:
        """Add what was added."""
        y = self.a(x)
        return x + (y + self.b(y))


class Parallel(Body):
    """Two branches from one place."""

    def arrangement(self, x: Tensor) -> Tensor:
        """Add to the sum of two."""
        return (x + self.a(x)) + self.b(x)


class ParallelInBrackets(Body):
    """Two branches that are added first, and a shortcut with a convolution."""

    def arrangement(self, x: Tensor) -> Tensor:
        """Add a sum of two."""
        return self.c(x) + (self.b(F.relu(self.a(x))) + self.d(x))

    def __init__(self) -> None:
        super().__init__()
        self.d = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))


class ByName(Body):
    """An addition whose second summand is given by name."""

    def arrangement(self, x: Tensor) -> Tensor:
        """Add by name."""
        return torch.add(x, other=self.a(x))


class TwoNames(Body):
    """The branch's convolution is registered twice, and called by its second name."""

    def __init__(self) -> None:
        super().__init__()
        self.alias = self.a

    def arrangement(self, x: Tensor) -> Tensor:
        """Convolve by the second name."""
        return x + self.alias(x)


class BySize(Body):
    """What is added depends on the size of the input alone."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1, 8, 16, 16))

    def arrangement(self, x: Tensor) -> Tensor:
        """Add an encoding of the positions."""
        height, width = x.shape[2:]
        return x + self.b(self.table[:, :, :height, :width])


class Scaled(Body):
    """A scale per channel is no weight that a branch could begin with."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def arrangement(self, x: Tensor) -> Tensor:
        """Scale, then convolve."""
        return x + self.a(x * self.scale)


class NotFromOne(Body):
    """A learned offset is added: there is one activation."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(8, 4, 4))

    def arrangement(self, x: Tensor) -> Tensor:
        """Add a constant, and a parameter."""
        return (self.a(x) + 1.0) + self.offset


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (Body, ["a"]),
        (ProjectionFirst, ["a"]),
        (InPlace, ["a", "b"]),
        (Nested, ["a", "b"]),
        (Parallel, ["a", "b"]),
        (ParallelInBrackets, ["a", "d.0"]),
        (ByName, ["a"]),
        (TwoNames, ["a"]),
        (BySize, []),
        (Scaled, ["a"]),
        (NotFromOne, []),
    ],
)
def test_a_branch_begins_at_its_first_layer_with_weights(
    body: type[Body], expected: list[str]
) -> None:
    model = network.specialize(body(), (2, 4))

    assert altered(model) == expected
    # Each is called.
    assert len(model.specialized.alterations) == len(expected)
    assert model.specialized.left_alone == {}


class CalledTwice(Body):
    """The convolution of the branch is also called elsewhere."""

    def arrangement(self, x: Tensor) -> Tensor:
        """Convolve twice with one layer."""
        return x + self.a(self.a(x))


class ByFunction(Body):
    """The weights of the branch are read by a function."""

    def arrangement(self, x: Tensor) -> Tensor:
        """Convolve by another layer's weight."""
        return x + F.conv2d(x, self.a.weight, padding=1)


class Deconvolution(Body):
    """A layer with weights into which nothing folds."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.ConvTranspose2d(8, 8, 1)


@pytest.mark.parametrize(
    ("body", "start", "reason"),
    [
        (CalledTwice, "a", "it is called in several places"),
        (ByFunction, "conv2d", "its weights are read by a function, conv2d"),
        (Deconvolution, "a", "a ConvTranspose2d is neither a convolution nor linear"),
    ],
)
def test_a_branch_that_cannot_begin_with_an_alteration_is_left_alone_and_reported(
    body: type[Body], start: str, reason: str
) -> None:
    model = network.specialize(body(), (2, 4))

    assert altered(model) == []
    assert model.specialized.left_alone == {start: reason}
