"""One step of training: passes over all frame counts, then one step of the optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.train.objective import LossTerms, MultiFrequencyLoss
from ffn_edge.train.optimizer import MovingAverage, take_step
from ffn_edge.train.processes import Processes, autocast_to

Order = Literal["each", "together", "joint"]


@dataclass(kw_only=True)
class Learner:
    """A network and what teaches it. Nothing but `step` changes its weights.

    Attributes:
        network: on the device of `processes`.
        objective: the loss.
        optimizer: of the network's parameters, or of those that learn.
        schedule: of its learning rate, by the step.
        processes: that learn together.
        dtype: what the forward pass computes in.
        order: of the frame counts' passes; see `backward`.
        teacher: see `backward`.
        warm_share: of the steps of a causal network, of each process, those whose clips are joined;
            see `Route`.
        accumulate: parts of a batch.
        clip_gradient: the largest norm of the gradient; None for any.
        average: of the weights; it follows each step.
    """

    network: FrameFlexibleNetwork
    objective: MultiFrequencyLoss
    optimizer: Optimizer
    schedule: LambdaLR
    processes: Processes
    dtype: torch.dtype
    order: Order = "each"
    teacher: int | None = None
    warm_share: float
    accumulate: int = 1
    clip_gradient: float | None = None
    average: MovingAverage | None = None
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        device = self.processes.device
        # Only float16 needs scaled gradients; a disabled scaler passes everything through.
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)
        self.autocast = autocast_to(self.dtype, device)
        self._measured = self.processes.measured()
        self._forward: Any = self.network
        if self.processes.world_size > 1:
            self._forward = DistributedDataParallel(self.network)

    def step(self, parts: Iterable[tuple[Mapping[int, Tensor], Tensor]]) -> dict[str, Tensor]:
        """Learn from one batch. The host does not wait for the device, but where float16 does.

        Args:
            parts: the `accumulate` parts of the batch, each with its clips and labels as
                `backward` takes them.

        Returns:
            The means of the loss's terms over the parts, on the device; see `LossTerms.flat`.
        """
        # On the host's generator, which the loop seeds for each step.
        self.network.route.joined = self.network.causal and bool(torch.rand(()) < self.warm_share)
        try:
            return self._step(parts)
        finally:
            self.network.route.joined = False

    def _step(self, parts: Iterable[tuple[Mapping[int, Tensor], Tensor]]) -> dict[str, Tensor]:
        means: dict[str, Tensor] = {}
        number = 0
        for number, (clips, target) in enumerate(parts, start=1):
            with self._measured(), self._exchange(number == self.accumulate):
                terms = backward(
                    self._forward,
                    clips,
                    target,
                    self.objective,
                    order=self.order,
                    autocast=self.autocast,
                    scale=lambda loss: self.scaler.scale(loss / self.accumulate),
                    teacher=self.teacher,
                )
            for name, value in terms.flat().items():
                means[name] = means.get(name, 0) + value / self.accumulate
        assert number == self.accumulate  # else processes never exchanged gradients
        if self.clip_gradient is not None:
            # Gradients are scaled under float16; clip what the optimiser will see.
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.clip_gradient)
        take_step(self.optimizer, self.schedule, self.scaler)
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.network)
        return means

    def _exchange(self, enabled: bool) -> AbstractContextManager[None]:
        """Exchange gradients between processes only with the last part of a batch."""
        if enabled or self.processes.world_size == 1:
            return nullcontext()
        context: AbstractContextManager[None] = self._forward.no_sync()
        return context


def backward(
    forward: Callable[..., Any],
    clips: Mapping[int, Tensor],
    target: Tensor,
    objective: MultiFrequencyLoss,
    *,
    order: Order,
    autocast: Callable[[], AbstractContextManager[object]],
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
    teacher: int | None = None,
) -> LossTerms:
    """Add the gradients of the objective to the network's parameters.

    Args:
        forward: a `FrameFlexibleNetwork`, or what wraps one.
        clips: float32 (B, T, 3, H, W), normalised, by frame count.
        target: as `MultiFrequencyLoss` takes it.
        objective: the loss.
        order: "each": forward and backward pass of one frame count after the other, the teacher
            first; only one frame count's activations are held at a time. "together": all rows pass
            each shared layer in one call. "joint": one forward pass after the other, then one
            backward pass, as gradient exchange between processes needs it. Equal to rounding.
        autocast: the context of the forward passes.
        scale: is applied to a loss before its backward pass; linear.
        teacher: the frame count, with order "each", from whose logits the others learn: one whose
            parameters are frozen, so that labels are not read. None: the highest, which learns too.

    Returns:
        The terms, without gradient.
    """
    if order != "each":
        with autocast():
            logits = forward(clips, together=order == "together")
        terms = objective(logits, target)
        _backward(scale(terms.total))
        return terms.detached()
    first = max(clips) if teacher is None else teacher
    with autocast():
        answers = forward(clips[first], first)
    if teacher is None:
        terms = objective({first: answers}, target)
        _backward(scale(terms.total))
        terms = terms.detached()
    else:
        terms = LossTerms(answers.new_zeros(()), answers.new_zeros(()), {}, {})
    for frames in sorted(clips.keys() - {first}, reverse=True):
        with autocast():
            student = forward(clips[frames], frames)
        term = objective.student(frames, student, answers, target)
        _backward(scale(term.total))
        terms = terms.plus(term.detached())
    return terms


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]
