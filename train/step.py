"""One forward and backward pass over all frame counts: three ways, equal to rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal

from torch import Tensor

from ffn_edge.train.objective import LossTerms, MultiFrequencyLoss

Order = Literal["each", "together", "joint"]


def backward(
    forward: Callable[..., Any],
    clips: Mapping[int, Tensor],
    target: Tensor,
    objective: MultiFrequencyLoss,
    *,
    order: Order,
    autocast: Callable[[], AbstractContextManager[object]],
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
) -> LossTerms:
    """Add the gradients of the objective to the network's parameters.

    Args:
        forward: a `FrameFlexibleNetwork`, or what wraps one.
        clips: float32 (B, T, 3, H, W), normalised, by frame count.
        target: int64 (B,).
        objective: the loss.
        order: "each": forward and backward pass of one frame count after the other, the highest
            first, since the others learn from its logits; only one frame count's activations
            are held at a time. "together": all rows pass each shared layer in one call. "joint":
            one forward pass after the other, then one backward pass, as gradient exchange
            between processes needs it.
        autocast: the context of the forward passes.
        scale: is applied to a loss before its backward pass; linear.

    Returns:
        The terms, without gradient.
    """
    if order != "each":
        with autocast():
            logits = forward(clips, together=order == "together")
        terms = objective(logits, target)
        _backward(scale(terms.total))
        return terms.detached()
    highest = max(clips)
    with autocast():
        teacher = forward(clips[highest], highest)
    terms = objective({highest: teacher}, target)
    _backward(scale(terms.total))
    terms = terms.detached()
    for frames in sorted(clips.keys() - {highest}, reverse=True):
        with autocast():
            student = forward(clips[frames], frames)
        term = objective.student(frames, student, teacher, target)
        _backward(scale(term.total))
        terms = terms.plus(term.detached())
    return terms


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]
