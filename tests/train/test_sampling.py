"""What a step trains on, in FFN and in the methods that mix frame counts."""

from __future__ import annotations

import torch
from torch import Tensor

from ffn_edge.train.recipe import Recipe
from ffn_edge.train.sampling import clips_of_step, sampled_frame_counts, trained_frame_counts


def clips(videos: int = 64) -> dict[int, Tensor]:
    """Clips whose pixels tell their frame count and their place in time: 10·T + t."""
    return {
        t: (10 * t + torch.arange(t, dtype=torch.uint8))
        .reshape(1, t, 1, 1, 1)
        .repeat(videos, 1, 2, 2, 3)
        for t in (2, 6)
    }


def mixing(recipe: Recipe, sampling: str, low_share: float = 0.5) -> Recipe:
    return recipe.replace(frame_counts=(2, 4, 6), sampling=sampling, low_share=low_share)


def test_ffn_trains_on_every_frame_count(recipe: Recipe) -> None:
    given = clips()
    assert clips_of_step(recipe, given, 0) is given
    assert trained_frame_counts(recipe) == sampled_frame_counts(recipe) == (2, 4)


def test_mixing_trains_one_network_on_the_lowest_and_the_highest(recipe: Recipe) -> None:
    for sampling in ("mixed", "proportional"):
        assert trained_frame_counts(mixing(recipe, sampling)) == (6,)
        assert sampled_frame_counts(mixing(recipe, sampling)) == (2, 6)


def test_proportional_takes_one_frame_count_a_step_in_the_given_share(recipe: Recipe) -> None:
    chosen = mixing(recipe, "proportional", low_share=0.25)
    lengths = [clips_of_step(chosen, clips(1), step)[6].shape[1] for step in range(400)]
    assert set(lengths) == {2, 6}
    assert 60 < lengths.count(2) < 140  # 100 expected, with a deviation of 9


def test_mixed_repeats_the_frames_of_the_lowest_video_by_video(recipe: Recipe) -> None:
    found = clips_of_step(mixing(recipe, "mixed"), clips(), 3)
    assert found.keys() == {6}
    rows = {tuple(row[:, 0, 0, 0].tolist()) for row in found[6]}
    assert rows == {(60, 61, 62, 63, 64, 65), (20, 20, 20, 21, 21, 21)}


def test_a_draw_follows_from_the_seed_the_step_and_the_part_alone(recipe: Recipe) -> None:
    chosen = mixing(recipe, "mixed")
    first = clips_of_step(chosen, clips(), 5)[6]
    assert torch.equal(first, clips_of_step(chosen, clips(), 5)[6])
    assert not torch.equal(first, clips_of_step(chosen, clips(), 6)[6])
    assert not torch.equal(first, clips_of_step(chosen.replace(seed=1), clips(), 5)[6])
    assert not torch.equal(first, clips_of_step(chosen, clips(), 5, part=1)[6])
