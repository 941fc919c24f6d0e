"""The learning rate against PyTorch's own schedules, and the paper's parameter groups."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import SGD, lr_scheduler

from ffn_edge.errors import RecipeError
from ffn_edge.network import ARCHITECTURES, build
from ffn_edge.train.optimizer import (
    MovingAverage,
    freeze,
    learning_rate_factor,
    make_optimizer,
    take_step,
)
from ffn_edge.train.recipe import Recipe

EPOCHS, STEPS = 6, 5
BASE = Recipe(architecture="tsm_tiny", dataset="custom", learning_rate=0.1, epochs=EPOCHS)


def rates(make: object) -> list[float]:
    """The learning rates that a schedule of PyTorch gives, step by step."""
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = make(optimizer)  # type: ignore[operator]
    found = []
    for _ in range(EPOCHS * STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def ours(recipe: Recipe) -> list[float]:
    return [0.1 * learning_rate_factor(recipe, step, STEPS) for step in range(EPOCHS * STEPS)]


def test_step_schedule_equals_multi_step() -> None:
    theirs = rates(lambda o: lr_scheduler.MultiStepLR(o, [2 * STEPS, 4 * STEPS]))
    assert ours(BASE.replace(schedule="step", step_epochs=(2, 4))) == pytest.approx(theirs)


def test_cosine_schedule_equals_cosine_annealing() -> None:
    theirs = rates(lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS * STEPS, 1e-3))
    assert ours(BASE.replace(schedule="cosine", final_learning_rate=1e-3)) == pytest.approx(theirs)


def test_one_cycle_schedule_equals_one_cycle() -> None:
    theirs = rates(lambda o: lr_scheduler.OneCycleLR(o, 0.1, EPOCHS * STEPS, cycle_momentum=False))
    assert ours(BASE.replace(schedule="one_cycle")) == pytest.approx(theirs, abs=1e-12)


def test_warm_up_rises_to_the_full_rate() -> None:
    recipe = BASE.replace(schedule="step", warmup_epochs=1.0)
    assert ours(recipe)[: STEPS + 1] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1])


@pytest.mark.parametrize("without", [(), ("ws",)], ids=["shared", "unshared"])
def test_every_parameter_is_in_one_group_with_the_papers_rate_and_decay(
    without: tuple[str, ...],
) -> None:
    network = build("tsm_tiny", 3, (2, 4), without=without)
    optimizer = make_optimizer(network, BASE.replace(weight_decay=1e-3))
    settings = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert len(settings) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        expected = (0.1, 1e-3)  # convolutions, and φ like any weight
        if ".norms." in name:
            expected = (0.1, 0.0)
        elif name.endswith("fc.linear.weight"):
            expected = (0.5, 1e-3)
        elif name.endswith("fc.linear.bias"):
            expected = (1.0, 0.0)
        assert settings[id(parameter)] == pytest.approx(expected), name


def test_a_step_that_overflows_float16_is_skipped_and_the_rate_waits_for_it() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    taken = []
    for _ in range(200):
        before = weight.detach().clone()
        with torch.autocast("cpu", torch.float16):
            loss = (weight * 1e-3).half().sum()
        scaler.scale(loss).backward()
        take_step(optimizer, schedule, scaler)
        optimizer.zero_grad()
        taken.append(not torch.equal(weight, before))
        assert schedule.get_last_lr() == [0.5 ** sum(taken)]
        if sum(taken) == 3:
            break
    assert taken[0] is False
    assert sum(taken) == 3


def test_an_average_follows_a_short_run_and_then_decays_as_it_is_told() -> None:
    layer = nn.BatchNorm1d(1)
    average = MovingAverage(layer, 0.9)
    expected = None
    for update in range(100):
        with torch.no_grad():
            for tensor in (layer.weight, layer.running_mean):
                assert tensor is not None
                tensor.fill_(update)
        average.update_parameters(layer)
        # 2/11, 3/12, ... up to 0.9 at n = 80; the first update is the start itself.
        decay = min(0.9, (1 + update) / (10 + update)) if update else 0.0
        expected = float(update) if expected is None else expected * decay + update * (1 - decay)
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-5)  # float32
        assert average.module.running_mean.item() == pytest.approx(expected, rel=1e-5)
    assert expected == pytest.approx(99 - 9, abs=1)  # a lag of decay / (1 - decay) updates


STAGES = {"tsm_mobilenet_v3_small": 13, "tsm_mobilenet_v3_large": 17}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_stages_of_an_architecture_are_all_that_is_shared_but_its_classifier(
    architecture: str,
) -> None:
    stages = STAGES.get(architecture, 5)

    def learning(frozen: int) -> set[str]:
        with torch.device("meta"):
            network = build(architecture, 3, (4, 8))
        freeze(network, frozen)
        return {name for name, p in network.named_parameters() if p.requires_grad}

    before = learning(0)
    own = {name for name in before if ".norms." in name or ".phi." in name}
    for frozen in range(1, stages + 1):
        after = learning(frozen)
        assert after < before and own <= after
        before = after
    assert {name.split(".")[1] for name in before - own} <= {"fc", "classifier", "head"}
    with pytest.raises(RecipeError, match=f"{stages} stages"):
        learning(stages + 1)


def test_without_shared_weights_each_network_is_frozen() -> None:
    network = build("tsm_tiny", 3, (2, 4), without=("ws",))
    freeze(network, 1)
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {f"body.{t}.body.conv1.weight" for t in (2, 4)}
