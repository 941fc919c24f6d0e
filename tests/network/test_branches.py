"""Where residual branches begin: what is found in a graph, and what is left alone and reported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


# From a network, for its layers by name, and features (rows, 8, H, W) to the same shape.
Arrangement = Callable[[Any, Tensor], Tensor]


class Body(nn.Module):
    """A stem, one arrangement of layers, and a classifier of 5 classes."""

    def __init__(self, arrangement: Arrangement, layers: dict[str, Any]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.a: nn.Module = nn.Conv2d(8, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 1)
        self.c = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)
        self.alias = self.a
        self.arrangement = arrangement
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (rows, 3, H, W)."""
        x = self.arrangement(self, F.relu(self.norm(self.stem(x))))
        return self.head(x.mean((2, 3)))


def in_place(m: Any, x: Tensor) -> Tensor:
    x = m.a(x).add_(x)
    y = m.b(x)
    y += x
    return y


def nested(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    return x + (y + m.b(y))


def by_size(m: Any, x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    return x + m.b(m.table[:, :, :height, :width])


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(shape))


def two_convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))


@pytest.mark.parametrize(
    ("arrangement", "layers", "expected"),
    [
        pytest.param(arrangement, layers, expected, id=name)
        for name, arrangement, layers, expected in (
            ("a shortcut", lambda m, x: x + m.b(F.relu(m.a(x))), {}, ["a"]),
            (
                "a shortcut with a convolution, added first",
                lambda m, x: torch.add(m.c(x), m.b(m.a(x))),
                {},
                ["a"],
            ),
            ("additions that are methods and in place", in_place, {}, ["a", "b"]),
            ("a branch within a branch", nested, {}, ["a", "b"]),
            ("two branches from one place", lambda m, x: (x + m.a(x)) + m.b(x), {}, ["a", "b"]),
            (
                "two branches that are added first, and a shortcut with a convolution",
                lambda m, x: m.c(x) + (m.b(F.relu(m.a(x))) + m.d(x)),
                {"d": two_convolutions()},
                ["a", "d.0"],
            ),
            ("a summand by name", lambda m, x: torch.add(x, other=m.a(x)), {}, ["a"]),
            ("a convolution by its second name", lambda m, x: x + m.alias(x), {}, ["a"]),
            (
                "what depends on the size of the input alone",
                by_size,
                {"table": parameter(1, 8, 16, 16)},
                [],
            ),
            (
                "a scale per channel, which is no weight to begin with",
                lambda m, x: x + m.a(x * m.scale),
                {"scale": parameter(8, 1, 1)},
                ["a"],
            ),
            (
                "a learned offset: there is one activation",
                lambda m, x: (m.a(x) + 1.0) + m.offset,
                {"offset": parameter(8, 4, 4)},
                [],
            ),
        )
    ],
)
def test_a_branch_begins_at_its_first_layer_with_weights(
    arrangement: Arrangement, layers: dict[str, Any], expected: list[str]
) -> None:
    model = network.specialize(Body(arrangement, layers), (2, 4))

    assert altered(model) == expected
    # Each is called.
    assert len(model.specialized.alterations) == len(expected)
    assert model.specialized.left_alone == {}


@pytest.mark.parametrize(
    ("arrangement", "layers", "start", "reason"),
    [
        (lambda m, x: x + m.a(m.a(x)), {}, "a", "it is called in several places"),
        (
            lambda m, x: x + F.conv2d(x, m.a.weight, padding=1),
            {},
            "conv2d",
            "its weights are read by a function, conv2d",
        ),
        (
            lambda m, x: x + m.b(F.relu(m.a(x))),
            {"a": nn.ConvTranspose2d(8, 8, 1)},
            "a",
            "a ConvTranspose2d is neither a convolution nor linear",
        ),
    ],
)
def test_a_branch_that_cannot_begin_with_an_alteration_is_left_alone_and_reported(
    arrangement: Arrangement, layers: dict[str, Any], start: str, reason: str
) -> None:
    model = network.specialize(Body(arrangement, layers), (2, 4))

    assert altered(model) == []
    assert model.specialized.left_alone == {start: reason}
