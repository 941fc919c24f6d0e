"""What cannot be traced is refused, with the layer, the line and what to do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ffn_edge import network
from ffn_edge.errors import NetworkError
from ffn_edge.network.layers import WeightAlteration
from ffn_edge.network.tracing import traced


class Gate(nn.Module):
    """A layer that decides by a value, which no graph can hold."""

    def forward(self, x: Tensor) -> Tensor:
        """Pass bright images only."""
        if x.mean() > 0:
            return x
        return -x


class Gated(nn.Module):
    """A network with such a layer in a residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.block = nn.Sequential(nn.Conv2d(3, 3, 1), Gate())

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (rows, 3, H, W) into 3."""
        x = self.norm(x)
        return (x + self.block(x)).mean((2, 3))


def test_a_layer_that_cannot_be_traced_is_named_with_its_line_and_what_to_do() -> None:
    with pytest.raises(NetworkError, match=r"block\.1 \(Gate\) cannot be traced") as caught:
        network.specialize(Gated(), (2, 4))

    assert "at test_tracing.py:" in str(caught.value)
    assert "`if x.mean() > 0:`" in str(caught.value)
    assert "torch.where" in caught.value.hint


def test_a_network_that_cannot_be_traced_is_specialised_where_nothing_has_to_be_found() -> None:
    model = network.specialize(Gated(), (2, 4), num_classes=3, branches=["block.0"])

    assert isinstance(model.body.block[0].alteration, WeightAlteration)
    assert model(torch.randn(1, 2, 3, 4, 4)).shape == (1, 3)
    with pytest.raises(NetworkError, match="cannot be traced"):
        model.specialized  # noqa: B018


class RenamedConvolution(nn.Conv2d):
    """A convolution of another name, and no other forward."""


class RenamedNorm(nn.BatchNorm2d):
    """A norm of another name. PyTorch's forward of it asks for the number of dimensions."""


def test_pytorchs_layers_under_another_name_are_one_call_each() -> None:
    body = nn.Sequential(RenamedConvolution(3, 3, 1), RenamedNorm(3), nn.ReLU())

    graph = traced(body).graph

    assert [node.target for node in graph.nodes if node.op == "call_module"] == ["0", "1", "2"]
