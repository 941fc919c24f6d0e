"""What a clip costs: multiply-accumulates, counted by PyTorch on shapes alone."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_macs(network: nn.Module, frames: int, size: int) -> int:
    """Return the multiply-accumulates of one clip of `frames` frames of `size`×`size` pixels.

    Convolutions and matrix products are counted (the paper's "GFLOPs"), element-wise work is not.
    """
    # The meta device has shapes and no values: nothing is computed.
    shapes = copy.deepcopy(network).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes(torch.empty(1, frames, 3, size, size, device="meta"))
    return int(counter.get_total_flops()) // 2
