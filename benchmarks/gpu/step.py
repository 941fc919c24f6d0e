"""A training step of TSM-ResNet-50 in bfloat16: the orders of `train/step.py`, and three passes.

A step is forward, objective, backward and the optimiser's step, on clips that are on the device
already, normalised there as in training. "Three passes" are a step for each frame count by itself,
as three networks would be trained. A frame costs a forward pass and a backward pass of twice as
much; the share is of the matrix units' peak in bfloat16, without sparsity.

    python -m benchmarks.gpu.step [--dry-run]
"""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu.report import Report, run_part
from ffn_edge.network import FrameFlexibleNetwork, build, family_of
from ffn_edge.network.cost import count_macs
from ffn_edge.train.loading import to_model_input
from ffn_edge.train.objective import LossTerms, MultiFrequencyLoss
from ffn_edge.train.optimizer import make_optimizer
from ffn_edge.train.processes import autocast_to, to_channels_last
from ffn_edge.train.recipe import load_recipe
from ffn_edge.train.step import Order, backward

CLASSES = 174
# NVIDIA H100 and H200 Tensor Core GPU data sheets, of the SXM boards: 1,979 TFLOP/s in bfloat16
# with sparsity, half of it without. Of other cards no share is printed.
PEAK_FLOPS = {"NVIDIA H100 80GB HBM3": 1979e12 / 2, "NVIDIA H200": 1979e12 / 2}
_TOLERANCE = 0.02  # of a loss: bfloat16 has eight bits of mantissa


@dataclass(frozen=True)
class Setting:
    """What is trained, and on what."""

    architecture: str
    size: int
    batch: int
    rounds: int
    device: torch.device

    def clips(self) -> dict[int, Tensor]:
        """Return random clips, uint8 (B, T, S, S, 3), by frame count, on the device."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.size, self.size, 3)
        return {
            frames: torch.randint(
                256, (self.batch, frames, *shape), dtype=torch.uint8, generator=generator
            ).to(self.device)
            for frames in self.frame_counts
        }

    @property
    def frame_counts(self) -> tuple[int, ...]:
        """Those of the paper."""
        return (4, 8, 16)


def chosen_setting(dry_run: bool) -> Setting:
    """Return the paper's network, half of its batch; in a dry run a tiny one on the CPU."""
    if dry_run:
        return Setting("tsm_tiny", 32, 2, 1, torch.device("cpu"))
    return Setting("tsm_resnet50", 224, 16, 8, torch.device("cuda"))


def main(report: Report) -> None:
    """Measure every order."""
    setting = chosen_setting(report.dry_run)
    recipe = load_recipe("tsm_something_v1").replace(weights=None, dropout=0.0)
    network = build(setting.architecture, CLASSES, setting.frame_counts, dropout=0.0)
    network = network.to(setting.device).train()
    flops = (
        3
        * 2
        * setting.batch
        * sum(count_macs(network, frames, setting.size) for frames in setting.frame_counts)
    )
    report.fact(
        f"{setting.architecture}, {setting.size}×{setting.size}, {setting.batch} clips of "
        f"{' + '.join(map(str, setting.frame_counts))} frames",
        f"{flops / 1e12:.3g} TFLOP a step",
    )
    last = copy.deepcopy(network)
    to_channels_last(last)
    clips = setting.clips()
    target = torch.randint(CLASSES, (setting.batch,)).to(setting.device)
    loss = float(_terms(last, clips, target, "each").total)
    for name, model in (("contiguous", network), ("channels-last", last)):
        own = copy.deepcopy(model)
        steps = _three_passes(own, clips, target, make_optimizer(own, recipe))
        report.run(f"three passes, {name}", partial(_figure, setting, steps, flops))
    for order in get_args(Order):
        own = copy.deepcopy(last)
        optimizer = make_optimizer(own, recipe)

        def step(forward: Any = own, order: Order = order, optimizer: Any = optimizer) -> None:
            _terms(forward, clips, target, order)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        def run(
            forward: Any = own,
            order: Order = order,
            step: Callable[[], None] = step,
            optimizer: Any = optimizer,
        ) -> str:
            found = float(_terms(forward, clips, target, order).total)
            optimizer.zero_grad(set_to_none=True)
            assert abs(found - loss) <= _TOLERANCE * loss, (found, loss)
            return _figure(setting, step, flops)

        report.run(f"{order}, channels-last; the same loss as each", run)


def _terms(forward: Any, clips: Mapping[int, Tensor], target: Tensor, order: Order) -> LossTerms:
    """Do a forward and backward pass of the product's."""
    return backward(
        forward,
        _inputs(clips),
        target,
        MultiFrequencyLoss(),
        order=order,
        autocast=autocast_to(torch.bfloat16, target.device),
    )


def _inputs(clips: Mapping[int, Tensor]) -> dict[int, Tensor]:
    family = family_of("tsm_resnet50")
    return {t: to_model_input(clip, family.mean, family.std) for t, clip in clips.items()}


def _three_passes(
    model: FrameFlexibleNetwork, clips: Mapping[int, Tensor], target: Tensor, optimizer: Any
) -> Callable[[], None]:
    autocast = autocast_to(torch.bfloat16, target.device)

    def step() -> None:
        for frames, clip in clips.items():
            (given,) = _inputs({frames: clip}).values()
            with autocast():
                logits = model(given, frames)
            F.cross_entropy(logits.float(), target).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def _figure(setting: Setting, step: Callable[[], None], flops: float) -> str:
    """Time steps; return clips and TFLOP a second, and the peak of the memory."""
    cuda = setting.device.type == "cuda"
    synchronize = torch.cuda.synchronize if cuda else lambda: None
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for turn in itertools.count():
        synchronize()
        begin = time.perf_counter()
        step()
        synchronize()
        if turn >= min(3, setting.rounds):  # the first ones warm up
            seconds.append(time.perf_counter() - begin)
        if len(seconds) == setting.rounds:
            break
    median = statistics.median(seconds)
    text = f"{1e3 * median:.1f} ms, {setting.batch / median:.1f} clips/s"
    if cuda:
        text += f", {flops / median / 1e12:.0f} TFLOP/s"
        peak = PEAK_FLOPS.get(torch.cuda.get_device_name())
        text += f" ({flops / median / peak:.1%} of the peak)" if peak else ""
        text += f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    return text


if __name__ == "__main__":
    run_part("a training step", main)
