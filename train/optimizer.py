"""Optimisers with their parameter groups, learning rates by the step, averages of weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from ffn_edge.errors import RecipeError, counted
from ffn_edge.network import FrameFlexibleNetwork, family_of
from ffn_edge.network.layers import NORM_TYPES, WeightAlteration
from ffn_edge.train.recipe import Recipe


def freeze(network: FrameFlexibleNetwork, stages: int) -> None:
    """Let the shared weights of a network's first stages learn no more; see `Family.stages`.

    Norms and weight alterations learn: they are what each frame count has of its own.

    Raises:
        RecipeError: the network has fewer stages.
    """
    names = family_of(network.architecture).stages
    for body in dict.fromkeys(network.serving(t).body for t in network.frame_counts):
        own = {
            parameter
            for layer in body.modules()
            if isinstance(layer, (*NORM_TYPES, WeightAlteration))
            for parameter in layer.parameters()
        }
        for stage in range(stages):
            inside = [
                parameter
                for name, parameter in body.named_parameters()
                if stage < len(names) and re.match(names[stage], name)
            ]
            if not inside:
                raise RecipeError(
                    f"a {network.architecture} has {counted(stage, 'stage')}; "
                    f"{stages} were to be frozen",
                    "freeze fewer.",
                )
            for parameter in inside:
                parameter.requires_grad_(parameter in own)


def make_optimizer(network: FrameFlexibleNetwork, recipe: Recipe) -> Optimizer:
    """Return the recipe's optimiser of what learns, with its parameter groups."""
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adamw":
        learning = [p for p in network.parameters() if p.requires_grad]
        matrices = [p for p in learning if p.dim() > 1]
        vectors = [p for p in learning if p.dim() <= 1]
        return torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=rate,
        )
    return torch.optim.SGD(
        list(_paper_groups(network, rate, decay)),
        lr=rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
    )


def _paper_groups(
    network: FrameFlexibleNetwork, rate: float, decay: float
) -> Iterator[dict[str, Any]]:
    """Yield the groups of TSM and FFN: norms undecayed, the classifier faster.

    The classifier's weight learns at 5×, its bias at 10× and undecayed; φ decays as a weight does.
    """
    norm_parameters = {
        id(p)
        for module in network.modules()
        if isinstance(module, NORM_TYPES)
        for p in module.parameters(recurse=False)
    }
    # Without weight sharing, each frame count's network has a classifier.
    wholes = dict.fromkeys(map(network.serving, network.frame_counts))
    classifier = [[m for m in w.modules() if isinstance(m, nn.Linear)][-1:] for w in wholes]
    classifier_weights = [m.weight for each in classifier for m in each]
    classifier_biases = [m.bias for each in classifier for m in each if m.bias is not None]
    special = norm_parameters | {id(p) for p in (*classifier_weights, *classifier_biases)}
    norms = [p for p in network.parameters() if id(p) in norm_parameters]
    others = [p for p in network.parameters() if id(p) not in special and p.requires_grad]
    yield {"params": others, "lr": rate, "weight_decay": decay}
    yield {"params": norms, "lr": rate, "weight_decay": 0.0}
    yield {"params": classifier_weights, "lr": 5 * rate, "weight_decay": decay}
    yield {"params": classifier_biases, "lr": 10 * rate, "weight_decay": 0.0}


class MovingAverage(AveragedModel):
    """The exponential moving average of a network's weights and statistics.

    The n-th update decays it by min(decay, (1 + n) / (10 + n)), so that a short run's average is
    not its start. Source: tf.train.ExponentialMovingAverage, `num_updates`.
    """

    def __init__(self, network: FrameFlexibleNetwork, decay: float) -> None:
        super().__init__(network)
        self._decay = decay

    @property
    def network(self) -> FrameFlexibleNetwork:
        """The network with averaged weights."""
        averaged: FrameFlexibleNetwork = self.module  # type: ignore[assignment]
        return averaged

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Let the average follow the network, without waiting for its device."""
        n = int(self.n_averaged)  # on the CPU, wherever the network is
        weight = 1 - min(self._decay, (1 + n) / (10 + n)) if n else 1.0
        averages, values = self.module.state_dict().values(), model.state_dict().values()
        pairs = list(zip(averages, values, strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floats], [v for _, v in floats], weight)
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)  # a count
        self.n_averaged += 1


def learning_rate_factor(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Return what the learning rate is multiplied by at optimiser step `step` (from 0)."""
    total = max(1, recipe.epochs * steps_per_epoch)
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / warmup
    if recipe.schedule == "step":
        passed = sum(step >= epoch * steps_per_epoch for epoch in recipe.step_epochs)
        return recipe.step_factor**passed
    if recipe.schedule == "cosine":
        floor = recipe.final_learning_rate / recipe.learning_rate
        return _cosine(1.0, floor, (step - warmup) / max(1, total - warmup))
    # One-cycle (Smith & Topin, 2018), with the rates of torch.optim.lr_scheduler.OneCycleLR.
    peak = 0.3 * total - 1
    if step <= peak:
        return _cosine(1 / 25, 1.0, step / peak)
    return _cosine(1.0, 1 / 25e4, (step - peak) / max(1e-9, total - 1 - peak))


def take_step(optimizer: Optimizer, schedule: LRScheduler, scaler: torch.amp.GradScaler) -> None:
    """Let the optimiser step, and the learning rate go on with it.

    Where gradients overflow float16, the scaler skips the step and lowers its scale instead.
    """
    scale = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    if scaler.get_scale() >= scale:
        schedule.step()


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
