"""Mean and variance of what passes in parts, and batch norms that take them as their statistics.

Legend: C channels, R rows: everything that is not a channel (clips, frames, positions).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

# Values that are float64 at a time: 32 MB, whatever the size of an activation.
_PART = 1 << 22


@dataclass
class Moments:
    """Mean and variance per channel of rows that come in parts, as if they had come at once."""

    rows: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    squares: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def add(self, values: Tensor) -> None:
        """Add rows (R, C) of any type, in float64."""
        for part in torch.split(values, max(1, _PART // values.shape[1])):
            part = part.double()
            mean = part.mean(0)
            self.merge(Moments(len(part), mean, (part - mean).square_().sum(0)))

    def merge(self, other: Moments) -> None:
        """Add other rows, at least one, by their moments."""
        # Chan et al., 1979: sums of squares about the mean lose no digits to a large mean.
        step, rows = other.mean - self.mean, self.rows + other.rows
        self.squares = self.squares + other.squares + step**2 * (self.rows * other.rows / rows)
        self.mean = self.mean + step * (other.rows / rows)
        self.rows = rows


def rows_of_channels(x: Tensor) -> Tensor:
    """Return (B, C, ...) as rows (R, C)."""
    return x.movedim(1, -1).flatten(0, -2)


@contextmanager
def population_statistics(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Have the running statistics of batch norms be those of all that enters them in the block.

    As if it had come in one batch: a mean over batches of their variances would lack how the
    batches' means differ, which is most of it where batches are small.
    """
    moments = {norm: Moments() for norm in norms}

    def record(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        moments[norm].add(rows_of_channels(inputs[0].detach()))  # type: ignore[index]

    hooks = [norm.register_forward_pre_hook(record) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for norm, found in moments.items():
        if norm.running_mean is not None and norm.running_var is not None and found.rows > 1:
            norm.running_mean.copy_(found.mean)
            norm.running_var.copy_(found.squares / (found.rows - 1))  # as PyTorch estimates it
