"""One training step of three frame counts, by memory layout, precision and number of calls.

The baseline is contiguous float32, the 4-, 8- and 16-frame sequences by themselves: a forward
and backward pass each, as three networks would be trained. The orders of a step are those of
`ffn_edge.train.step`; all give the same gradients.
Variants take turns, so that drift of the machine hits all alike.

    python -m benchmarks.training_step --arch tsm_resnet50 --size 224 --batch 1
"""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from benchmarks.machine import describe_machine
from ffn_edge import network
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.train.objective import MultiFrequencyLoss
from ffn_edge.train.processes import autocast_to
from ffn_edge.train.step import Order, backward

FRAME_COUNTS = (4, 8, 16)
CPU = torch.device("cpu")
ORDERS: tuple[Order, ...] = ("each", "joint", "together")


@dataclass(frozen=True)
class Variant:
    """How a step is computed."""

    channels_last: bool
    dtype: torch.dtype
    order: Order

    def __str__(self) -> str:
        layout = "channels-last" if self.channels_last else "contiguous"
        return f"{layout}, {str(self.dtype).removeprefix('torch.')}, {self.order}"


VARIANTS = [
    Variant(channels_last, dtype, order)
    for dtype in (torch.float32, torch.bfloat16)
    for channels_last in (False, True)
    for order in ORDERS
]


def clips_of(variant: Variant | None, batch: int, size: int) -> dict[int, Tensor]:
    """Random clips by frame count, in the layout that the loader gives them."""
    clips = {}
    for frames in FRAME_COUNTS:
        rows = torch.randn(batch * frames, 3, size, size)
        if variant is not None and variant.channels_last:
            rows = rows.contiguous(memory_format=torch.channels_last)
        clips[frames] = rows.unflatten(0, (batch, frames))
    return clips


def separate_passes(model: FrameFlexibleNetwork, batch: int, size: int, target: Tensor) -> float:
    """The baseline: seconds for a forward and backward pass for each frame count by itself."""
    clips = clips_of(None, batch, size)
    start = time.perf_counter()
    for clip in clips.values():
        F.cross_entropy(model(clip), target).backward()
    return time.perf_counter() - start


def one_step(
    model: FrameFlexibleNetwork, variant: Variant, batch: int, size: int, target: Tensor
) -> float:
    """Seconds for a forward and backward pass of the objective over all frame counts."""
    clips = clips_of(variant, batch, size)
    start = time.perf_counter()
    backward(
        model,
        clips,
        target,
        MultiFrequencyLoss(),
        order=variant.order,
        autocast=autocast_to(variant.dtype, CPU),
    )
    return time.perf_counter() - start


@click.command()
@click.option("--arch", default="tsm_resnet50", show_default=True)
@click.option("--size", default=224, show_default=True)
@click.option("--batch", default=1, show_default=True)
@click.option("--rounds", default=4, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(arch: str, size: int, batch: int, rounds: int, threads: int) -> None:
    """Print a table of step times and their ratios to the baseline."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    target = torch.randint(174, (batch,))
    plain = network.build(arch, 174, FRAME_COUNTS).train()
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    seconds: dict[Variant | None, list[float]] = {}
    for turn in range(rounds + 1):
        measured = {None: separate_passes(plain, batch, size, target)}
        for variant in VARIANTS:
            model = last if variant.channels_last else plain
            measured[variant] = one_step(model, variant, batch, size, target)
        for model in (plain, last):
            model.zero_grad(set_to_none=True)
        if turn:  # the first round warms up
            for key, value in measured.items():
                seconds.setdefault(key, []).append(value)
    table = Table(
        title=f"a training step of {arch}, {size}×{size}, batch {batch}, 4 + 8 + 16 frames",
        caption=f"{describe_machine()}; {threads} threads; medians of {rounds} rounds. Targets "
        "against the baseline: at most 1.0× in float32, 0.6× with the recipe's settings (bfloat16, "
        "channels-last).",
    )
    for heading in ("variant", "seconds", "× baseline"):
        table.add_column(heading, justify="right" if heading != "variant" else "left")
    baseline = statistics.median(seconds[None])
    for key, values in seconds.items():
        median = statistics.median(values)
        name = "baseline: three passes, contiguous float32" if key is None else str(key)
        table.add_row(name, f"{median:.2f}", f"{median / baseline:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
