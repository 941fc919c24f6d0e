"""What one step of training sees: every frame count, or what the methods without FFN make of it.

    all            each frame count's own clip
    proportional   the lowest or the highest frame count's clip, for the whole batch
    mixed          the highest frame count's clip, or one as long that repeats the lowest's frames,
                   video by video

"Mixed" and "proportional" are baselines of the paper. Its code has neither; they are built here
from the paper's description, and `low_share` is the share of clips with the lowest frame count.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ffn_edge.train.recipe import Recipe


def trained_frame_counts(recipe: Recipe) -> tuple[int, ...]:
    """Return the frame counts of the network that a recipe trains."""
    return recipe.frame_counts if recipe.sampling == "all" else recipe.frame_counts[-1:]


def sampled_frame_counts(recipe: Recipe) -> tuple[int, ...]:
    """Return the frame counts that training clips are read at."""
    if recipe.sampling == "all":
        return recipe.frame_counts
    return (recipe.frame_counts[0], recipe.frame_counts[-1])


def clips_of_step(
    recipe: Recipe, clips: dict[int, Tensor], step: int, part: int = 0
) -> dict[int, Tensor]:
    """Choose what a step trains on: clips by the sub-network that classifies them.

    Args:
        recipe: `sampling`, `low_share` and `seed` are read.
        clips: uint8 (B, T, S, S, 3) by frame count, of `sampled_frame_counts`.
        step: the optimiser step; with the seed it decides a frame count for the whole batch.
        part: of the step's batch, a number of its own on each process; it decides the draw for
            each video.
    """
    if recipe.sampling == "all":
        return clips
    low, high = min(clips), max(clips)
    if recipe.sampling == "proportional":
        drawn_low = np.random.default_rng([recipe.seed, step]).random() < recipe.low_share
        return {high: clips[low if drawn_low else high]}
    rng = np.random.default_rng([recipe.seed, step, part])
    repeated = clips[low][:, torch.arange(high) * low // high]
    drawn = torch.from_numpy(rng.random(len(repeated)) < recipe.low_share)
    return {high: torch.where(drawn.reshape(-1, 1, 1, 1, 1), repeated, clips[high])}
