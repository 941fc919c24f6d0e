"""The orders of a training step give the same loss and the same gradients."""

from __future__ import annotations

import copy
import traceback
from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ffn_edge.network import build
from ffn_edge.train.objective import LossTerms, MultiFrequencyLoss
from ffn_edge.train.processes import Processes
from ffn_edge.train.step import Learner, Order, backward


@pytest.mark.parametrize("supervise_all", [False, True])
@pytest.mark.parametrize("order", ["each", "together"])
def test_every_order_gives_the_gradients_of_the_joint_loss(
    order: Order, supervise_all: bool
) -> None:
    torch.manual_seed(0)
    network = build("tsm_tiny", 3, (2, 3, 5), dropout=0.0).double().train()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".phi." in name:
                parameter.uniform_(-0.3, 0.3)
    clips = {t: torch.randn(4, t, 3, 32, 32, dtype=torch.float64) for t in (2, 3, 5)}
    target = torch.tensor([0, 1, 2, 0])
    objective = MultiFrequencyLoss(0.7, label_smoothing=0.1, supervise_all=supervise_all)

    def run(chosen: Order) -> tuple[LossTerms, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        model = copy.deepcopy(network)
        options = {"autocast": nullcontext, "scale": lambda x: 3 * x}
        terms = backward(model, clips, target, objective, order=chosen, **options)
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        return terms, gradients, dict(model.named_buffers())

    terms, gradients, statistics = run(order)
    expected, expected_gradients, expected_statistics = run("joint")
    assert not terms.total.requires_grad
    assert terms.total.item() == pytest.approx(expected.total.item())
    assert set(terms.distillation) == {2, 3}
    assert set(terms.extra_cross_entropy) == ({2, 3} if supervise_all else set())
    for t, term in terms.distillation.items():
        assert term.item() == pytest.approx(expected.distillation[t].item())
    assert gradients.keys() == expected_gradients.keys()
    largest = max(gradient.abs().max() for gradient in expected_gradients.values())
    for name, gradient in gradients.items():
        # The loss is computed in float32, so its gradient is exact to 1e-7 of the largest.
        torch.testing.assert_close(
            gradient, expected_gradients[name], rtol=1e-5, atol=1e-6 * float(largest)
        )
    for name, value in statistics.items():
        torch.testing.assert_close(value, expected_statistics[name])


class Waits(TorchDispatchMode):
    """Counts where the host would wait for the value of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if function is torch.ops.aten._local_scalar_dense.default:
            self.found.append("".join(traceback.format_stack(limit=8)))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("order", ["each", "together", "joint"])
def test_a_step_never_waits_for_a_value(order: Order) -> None:
    network = build("tsm_tiny", 3, (2, 4)).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    learner = Learner(
        network=network,
        objective=MultiFrequencyLoss(supervise_all=True),
        optimizer=optimizer,
        schedule=torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0),
        processes=Processes(0, 1, torch.device("cpu")),
        dtype=torch.bfloat16,
        warm_share=0.0,
        order=order,
        accumulate=2,
        clip_gradient=1.0,
    )
    clips = {t: torch.randn(2, t, 3, 32, 32) for t in (2, 4)}
    with Waits() as waits:
        terms = learner.step([(clips, torch.tensor([0, 1])), (clips, torch.tensor([1, 2]))])
    assert not waits.found, waits.found[0]
    with waits:
        float(terms["loss"])
    assert waits.found  # it would have been noticed


@pytest.mark.parametrize("warm_share", [0.0, 1.0])
def test_a_causal_network_learns_clips_as_a_stream_too(warm_share: float) -> None:
    network = build("tsm_tiny", 3, (2, 4), causal=True).train()
    joined = []
    network.body.register_forward_pre_hook(lambda *_: joined.append(network.route.joined))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    learner = Learner(
        network=network,
        objective=MultiFrequencyLoss(),
        optimizer=optimizer,
        schedule=torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0),
        processes=Processes(0, 1, torch.device("cpu")),
        dtype=torch.float32,
        warm_share=warm_share,
    )
    clips = {t: torch.randn(2, t, 3, 32, 32) for t in (2, 4)}
    learner.step([(clips, torch.tensor([0, 1]))])
    assert joined == [warm_share == 1.0] * 2
    assert not network.route.joined  # what evaluates it next has whole clips


def test_from_a_frozen_teacher_others_learn_and_no_label_is_read() -> None:
    network = build("tsm_tiny", 3, (2, 4), dropout=0.0).eval().requires_grad_(False)
    learned = [p for name, p in network.named_parameters() if ".norms.2." in name]
    for parameter in learned:
        parameter.requires_grad_(True)
    clips = {t: torch.randn(2, t, 3, 32, 32) for t in (2, 4)}
    terms = backward(
        network,
        clips,
        torch.tensor([-1, -1]),
        MultiFrequencyLoss(),
        order="each",
        autocast=nullcontext,
        teacher=4,
    )
    assert terms.total == terms.distillation[2] > 0 and terms.cross_entropy == 0
    assert all(parameter.grad is not None for parameter in learned)
