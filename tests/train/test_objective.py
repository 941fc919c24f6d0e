"""The objective: labels teach the highest frame count, and that teaches the others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ffn_edge.errors import RecipeError
from ffn_edge.train.objective import LossTerms, MultiFrequencyLoss

TARGET = torch.tensor([2, 0, 1])


def random_logits(frame_counts: tuple[int, ...] = (4, 8, 16)) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        t: torch.randn(3, 5, generator=generator).mul_(2).requires_grad_() for t in frame_counts
    }


def weighted_sum(terms: LossTerms, weight: float) -> float:
    terms_of_lower = sum(term.item() for term in terms.distillation.values())
    extra = sum(term.item() for term in terms.extra_cross_entropy.values())
    return terms.cross_entropy.item() + weight * terms_of_lower + extra


def test_each_term_is_the_papers_equation() -> None:
    logits = random_logits()

    terms = MultiFrequencyLoss(weight=1.0)(logits, TARGET)

    p = {t: z.detach().double().softmax(1) for t, z in logits.items()}
    cross_entropy = -p[16][torch.arange(3), TARGET].log().mean()
    assert terms.cross_entropy.item() == pytest.approx(cross_entropy.item(), rel=1e-6)
    assert set(terms.distillation) == {4, 8}
    for t, term in terms.distillation.items():
        # KL(p_H ‖ p_T), summed over classes, averaged over the batch
        expected = (p[16] * (p[16] / p[t]).log()).sum(1).mean()
        assert term.item() == pytest.approx(expected.item(), rel=1e-5)
    assert terms.extra_cross_entropy == {}


@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("supervise_all", [False, True])
def test_the_total_is_the_weighted_sum_of_the_terms(weight: float, supervise_all: bool) -> None:
    loss = MultiFrequencyLoss(weight, label_smoothing=0.1, supervise_all=supervise_all)

    terms = loss(random_logits(), TARGET)

    assert terms.total.item() == pytest.approx(weighted_sum(terms, weight), rel=1e-6)
    assert set(terms.extra_cross_entropy) == ({4, 8} if supervise_all else set())


def test_the_highest_frame_count_teaches_whatever_the_order() -> None:
    logits = random_logits((2, 6))
    reverse = dict(reversed(logits.items()))

    forwards = MultiFrequencyLoss()(logits, TARGET)
    backwards = MultiFrequencyLoss()(reverse, TARGET)

    assert set(forwards.distillation) == {2}
    assert forwards.total.item() == backwards.total.item()


def test_the_teacher_learns_nothing_from_its_students() -> None:
    alone, together = random_logits(), random_logits()

    MultiFrequencyLoss(weight=0.0)(alone, TARGET).total.backward()
    MultiFrequencyLoss(weight=5.0)(together, TARGET).total.backward()

    assert torch.equal(together[16].grad, alone[16].grad)
    assert together[4].grad.abs().max() > 0


def test_a_student_learns_no_label_unless_all_are_supervised() -> None:
    logits, relabelled = random_logits(), random_logits()

    MultiFrequencyLoss()(logits, TARGET).total.backward()
    MultiFrequencyLoss()(relabelled, (TARGET + 1) % 5).total.backward()

    assert torch.equal(logits[4].grad, relabelled[4].grad)
    supervised = random_logits()
    MultiFrequencyLoss(supervise_all=True)(supervised, TARGET).total.backward()
    assert not torch.equal(logits[4].grad, supervised[4].grad)


def test_equal_logits_cost_no_distillation() -> None:
    z = torch.randn(3, 5)

    terms = MultiFrequencyLoss()({4: z.clone(), 8: z}, TARGET)

    assert terms.distillation[4].item() == pytest.approx(0.0, abs=1e-6)


def test_one_frame_count_alone_is_plain_cross_entropy() -> None:
    logits = random_logits((16,))

    terms = MultiFrequencyLoss()(logits, TARGET)

    assert terms.total.item() == terms.cross_entropy.item()


def test_label_smoothing_spreads_the_label() -> None:
    logits = random_logits((8,))
    log_p = logits[8].detach().log_softmax(1)

    terms = MultiFrequencyLoss(label_smoothing=0.2)(logits, TARGET)

    own = log_p[torch.arange(3), TARGET]
    expected = -(0.8 * own + 0.2 * log_p.mean(1)).mean()
    assert terms.cross_entropy.item() == pytest.approx(expected.item(), rel=1e-6)


def test_half_precision_logits_are_compared_in_float32() -> None:
    logits = {t: z.detach().bfloat16() for t, z in random_logits().items()}

    terms = MultiFrequencyLoss()(logits, TARGET)
    exact = MultiFrequencyLoss()({t: z.float() for t, z in logits.items()}, TARGET)

    assert terms.total.dtype == torch.float32
    assert terms.total.item() == exact.total.item()


def test_certain_logits_stay_finite() -> None:
    certain = torch.zeros(3, 5)
    certain[:, 0] = 1e4
    wrong = certain.roll(1, dims=1).requires_grad_()

    terms = MultiFrequencyLoss()({4: wrong, 8: certain}, TARGET)
    terms.total.backward()

    assert terms.total.isfinite()
    assert wrong.grad.isfinite().all()


@pytest.mark.parametrize(
    "settings", [{"weight": -1.0}, {"label_smoothing": 1.0}, {"label_smoothing": -0.1}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match="out of range"):
        MultiFrequencyLoss(**settings)
