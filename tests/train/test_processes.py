"""What this process may do, and how a network is laid out in its memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ffn_edge.errors import RecipeError
from ffn_edge.network import FrameFlexibleNetwork, build, specialize
from ffn_edge.train.processes import (
    compute_dtype,
    is_first_process,
    require_one_process,
    to_channels_last,
)


def test_a_command_of_one_process_refuses_to_be_one_of_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require_one_process("adapt")
    monkeypatch.setenv("WORLD_SIZE", "1")
    require_one_process("adapt")
    monkeypatch.setenv("WORLD_SIZE", "4")

    with pytest.raises(
        RecipeError, match="`ffn-edge adapt` works in one process; 4 were"
    ) as caught:
        require_one_process("adapt")

    assert "without torchrun" in caught.value.hint


@pytest.mark.parametrize(
    ("world_size", "rank", "first"),
    [(None, None, True), ("2", "0", True), ("2", "1", False), ("1", "1", True)],
)
def test_the_first_of_the_processes_prints(
    world_size: str | None, rank: str | None, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WORLD_SIZE", world_size), ("RANK", rank)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)

    assert is_first_process() == first


class Volumes(nn.Module):
    """Over (B, 3, T, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 3)
        self.norm = nn.BatchNorm3d(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Give logits (B, 2)."""
        logits: Tensor = self.fc(self.norm(self.conv(x)).mean((2, 3, 4)))
        return logits


@pytest.mark.parametrize(
    ("network", "memory_format"),
    [
        (build("tsm_tiny", 2, (2, 4)), torch.channels_last),
        (
            specialize(Volumes(), (2, 4), num_classes=2, layout="clip", branches=["conv"]),
            torch.channels_last_3d,
        ),
    ],
)
def test_channels_are_last_in_every_filter(
    network: FrameFlexibleNetwork, memory_format: torch.memory_format
) -> None:
    to_channels_last(network)

    dimensions = 5 if memory_format is torch.channels_last_3d else 4
    filters = [
        tensor
        for tensor in network.parameters()
        # Where all but one dimension have one element, both orders are the same.
        if tensor.dim() == dimensions and tensor.shape[1] > 1 and tensor.shape[-1] > 1
    ]
    assert filters
    for tensor in filters:
        assert tensor.is_contiguous(memory_format=memory_format)
        assert not tensor.is_contiguous()


def test_three_dimensional_convolutions_are_computed_in_float32_on_a_cpu() -> None:
    cpu = torch.device("cpu")
    videos, images = nn.Conv3d(3, 3, 1), nn.Conv2d(3, 3, 1)
    assert compute_dtype("auto", cpu, videos) is torch.float32
    assert compute_dtype("auto", cpu, images) in (torch.float32, torch.bfloat16)
    assert compute_dtype("bf16", cpu, videos) is torch.bfloat16  # who asks for it gets it
