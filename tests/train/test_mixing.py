"""What is done to a batch's clips: alike for all frame counts, known by the seed and the step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from ffn_edge.train.mixing import mixed, rand_augmented
from ffn_edge.train.objective import MultiFrequencyLoss
from ffn_edge.train.recipe import Recipe

LABELS = torch.tensor([0, 2, 1, 2])
SIZE = 16


def clips() -> dict[int, Tensor]:
    """Clips in which each pixel tells whose it is: clip i has 2ⁱ, as the network gets them."""
    each = 2.0 ** torch.arange(len(LABELS))
    return {
        t: each.reshape(-1, 1, 1, 1, 1).repeat(1, t, SIZE, SIZE, 3).permute(0, 1, 4, 2, 3)
        for t in (2, 4)
    }


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_all_frames_of_all_frame_counts_have_the_partner_and_the_share_of_the_target(
    recipe: Recipe, kind: str
) -> None:
    given, own = clips(), clips()[2][:, 0, 0, 0, 0]
    turns = set()
    for step in range(30):
        found, targets = mixed(recipe.replace(**{kind: 1.0}), given, LABELS, 3, step)

        frames = found[2][:, :1, :1]
        for clip in found.values():
            assert torch.equal(clip, frames.expand_as(clip))
        means = frames.mean((1, 2, 3, 4))
        fitting = []
        for turn in range(1, len(LABELS)):  # the partner is so many places before, for all
            share = (means - own.roll(turn)) / (own - own.roll(turn))
            mixed_labels = share[:, None] * torch.eye(3)[LABELS]
            mixed_labels += (1 - share[:, None]) * torch.eye(3)[LABELS.roll(turn)]
            if torch.allclose(targets, mixed_labels, atol=1e-5):
                fitting.append(turn)
        assert fitting
        turns.update(fitting)
    assert turns == {1, 2, 3}


def test_a_cut_is_one_box_of_the_partner(recipe: Recipe) -> None:
    given = clips()
    cuts = 0
    for step in range(20):
        found, _ = mixed(recipe.replace(cutmix=1.0), given, LABELS, 3, step)
        for i in range(len(LABELS)):
            other = found[4][i, 0, 0] != given[4][i, 0, 0]
            down, across = other.any(1), other.any(0)
            assert torch.equal(other, down[:, None] & across[None])  # a rectangle
            for side in (down, across):
                assert torch.diff(side.int()).abs().sum() <= 2  # in one piece
            assert set(found[4][i].unique().tolist()) <= set(given[4].unique().tolist())
            cuts += int(other.any())
    assert cuts > 40


def test_draws_follow_from_the_seed_the_step_and_the_part_alone(recipe: Recipe) -> None:
    chosen = recipe.replace(mixup=0.4, cutmix=1.0)

    def targets(chosen: Recipe, step: int, part: int = 0) -> Tensor:
        torch.rand(3)  # nothing of the generator that others draw from
        return mixed(chosen, clips(), LABELS, 3, step, part)[1]

    first = targets(chosen, 5)
    assert torch.equal(first, targets(chosen, 5))
    for other in (targets(chosen, 6), targets(chosen, 5, 1), targets(chosen.replace(seed=1), 5)):
        assert not torch.equal(first, other)


def test_with_both_set_each_batch_has_one_or_the_other(recipe: Recipe) -> None:
    chosen = recipe.replace(mixup=1.0, cutmix=1.0)
    given = clips()
    pure = given[2].unique()
    cuts = [
        bool(torch.isin(mixed(chosen, given, LABELS, 3, step)[0][2], pure).all())
        for step in range(100)
    ]
    assert 25 < sum(cuts) < 75


def test_a_batch_of_one_stays_as_it_is(recipe: Recipe) -> None:
    alone = {2: torch.rand(1, 2, 3, 8, 8)}
    found, targets = mixed(recipe.replace(mixup=1.0), alone, torch.tensor([1]), 3, 0)
    torch.testing.assert_close(found[2], alone[2])
    torch.testing.assert_close(targets, torch.tensor([[0.0, 1.0, 0.0]]))


def test_the_memory_of_a_clip_keeps_its_order(recipe: Recipe) -> None:
    given = clips()
    found, _ = mixed(recipe.replace(mixup=1.0), given, LABELS, 3, 0)
    assert found[4].stride() == given[4].stride()


def test_the_loss_of_a_mixed_target_is_the_mean_of_both_labels_losses() -> None:
    logits = {t: torch.randn(4, 3, generator=torch.Generator().manual_seed(t)) for t in (2, 4)}
    one, other = LABELS, LABELS.roll(1)
    for smoothing in (0.0, 0.1):
        loss = MultiFrequencyLoss(label_smoothing=smoothing, supervise_all=True)
        target = 0.3 * torch.eye(3)[one] + 0.7 * torch.eye(3)[other]

        found = loss(logits, target).flat()

        first, second = loss(logits, one).flat(), loss(logits, other).flat()
        for name, value in found.items():
            expected = 0.3 * first[name] + 0.7 * second[name]
            assert value.item() == pytest.approx(expected.item(), rel=1e-5), name


def noise() -> dict[int, Tensor]:
    """Two videos; the clip of 2 frames has frames of that of 4."""
    generator = torch.Generator().manual_seed(0)
    longer = torch.randint(0, 256, (2, 4, 24, 24, 3), dtype=torch.uint8, generator=generator)
    return {2: longer[:, ::2], 4: longer}


def test_rand_augment_varies_all_frames_of_a_video_alike() -> None:
    changed = 0
    for seed in range(20):
        torch.manual_seed(seed)
        found = rand_augmented(noise(), 9)
        assert torch.equal(found[2], found[4][:, ::2])
        changed += int((found[4] != noise()[4]).any())
    assert changed >= 18


def test_rand_augment_is_torchvisions_of_each_video() -> None:
    torch.manual_seed(3)
    found = rand_augmented({4: noise()[4]}, 15)[4]
    torch.manual_seed(3)
    augment = v2.RandAugment(2, 15)
    for video, expected in zip(found, noise()[4].permute(0, 1, 4, 2, 3), strict=True):
        assert torch.equal(video.permute(0, 3, 1, 2), augment(expected))
    assert math.prod(found.shape) == noise()[4].numel() and found.dtype == torch.uint8
