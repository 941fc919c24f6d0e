"""The training objective: the highest frame count learns the labels, the others learn from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ffn_edge.errors import RecipeError


@dataclass(frozen=True, slots=True)
class LossTerms:
    """One step's loss, as scalars.

    `total` = `cross_entropy` + weight · (the sum of `distillation`, by frame count)
    + the sum of `extra_cross_entropy`, by frame count (empty in the paper's objective).
    """

    total: Tensor
    cross_entropy: Tensor
    distillation: dict[int, Tensor]
    extra_cross_entropy: dict[int, Tensor]

    def detached(self) -> LossTerms:
        """Return the terms without gradient."""
        return LossTerms(
            self.total.detach(),
            self.cross_entropy.detach(),
            {t: term.detach() for t, term in self.distillation.items()},
            {t: term.detach() for t, term in self.extra_cross_entropy.items()},
        )

    def flat(self) -> dict[str, Tensor]:
        """Return the terms by name; those of a frame count are named "distillation/4"."""
        return {
            "loss": self.total,
            "cross_entropy": self.cross_entropy,
            **{f"distillation/{t}": term for t, term in self.distillation.items()},
            **{f"extra_cross_entropy/{t}": term for t, term in self.extra_cross_entropy.items()},
        }

    def plus(self, other: LossTerms) -> LossTerms:
        """Return the terms of two sets of frame counts."""
        return LossTerms(
            self.total + other.total,
            self.cross_entropy + other.cross_entropy,
            self.distillation | other.distillation,
            self.extra_cross_entropy | other.extra_cross_entropy,
        )


class MultiFrequencyLoss:
    """CE(z_H, y) + λ · Σ KL(p_H ‖ p_T) over the lower frame counts T; Eq. 6 of the paper.

    The teacher p_H is detached, the temperature is 1, KL is summed over classes and averaged
    over the batch. Under autocast the loss is computed in float32.

    Args:
        weight: λ.
        label_smoothing: of the cross-entropy, in [0, 1).
        supervise_all: add a cross-entropy on every lower frame count too. Not the paper's: in
            a short schedule the students otherwise wait for their teacher.
    """

    def __init__(
        self, weight: float = 1.0, *, label_smoothing: float = 0.0, supervise_all: bool = False
    ) -> None:
        if weight < 0 or not 0 <= label_smoothing < 1:
            raise RecipeError(
                f"distillation weight {weight} or label smoothing {label_smoothing} out of range",
                "the weight is at least 0, the smoothing in [0, 1).",
            )
        self.weight = weight
        self.label_smoothing = label_smoothing
        self.supervise_all = supervise_all

    def __call__(self, logits: Mapping[int, Tensor], target: Tensor) -> LossTerms:
        """Compute the terms.

        Args:
            logits: (B, classes) by frame count; the highest key is the teacher.
            target: labels, int64 (B,), or the shares of each, float32 (B, classes).
        """
        highest = max(logits)
        cross_entropy = self._cross_entropy(logits[highest], target)
        terms = LossTerms(cross_entropy, cross_entropy, {}, {})
        for frames, student in logits.items():
            if frames != highest:
                terms = terms.plus(self.student(frames, student, logits[highest], target))
        return terms

    def student(self, frames: int, logits: Tensor, teacher: Tensor, target: Tensor) -> LossTerms:
        """Compute the terms of one lower frame count.

        Args:
            frames: the frame count.
            logits: (B, classes), its.
            teacher: (B, classes), the highest frame count's; detached here.
            target: see `__call__`.
        """
        distillation = F.kl_div(
            logits.float().log_softmax(1),
            teacher.detach().float().log_softmax(1),
            reduction="batchmean",
            log_target=True,
        )
        total, extra = self.weight * distillation, {}
        if self.supervise_all:
            extra[frames] = self._cross_entropy(logits, target)
            total = total + extra[frames]
        return LossTerms(total, torch.zeros_like(total), {frames: distillation}, extra)

    def _cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), target, label_smoothing=self.label_smoothing)
