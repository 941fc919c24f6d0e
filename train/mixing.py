"""What training does to the clips of a batch, after they were read: RandAugment, mixup, cutmix.

Whatever is drawn for a video is the same for its clips of every frame count and for all their
frames. It is done where the batch is learned from: loader processes have no PyTorch.
Legend: B clips a batch, T frames a clip, frames of S x S pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import RandAugment  # type: ignore[import-untyped]

from ffn_edge.train.recipe import Recipe


def rand_augmented(clips: Mapping[int, Tensor], magnitude: int) -> dict[int, Tensor]:
    """Apply two operations of torchvision's RandAugment to each video, its clips alike.

    They are drawn on the host's generator, which the loop seeds for each step.

    Args:
        clips: uint8 (B, T, S, S, 3) by frame count.
        magnitude: 1..30.
    """
    augment = RandAugment(num_ops=2, magnitude=magnitude)
    videos = torch.cat([*clips.values()], 1).permute(0, 1, 4, 2, 3)  # (B, ΣT, 3, S, S)
    varied = torch.stack([augment(video) for video in videos]).permute(0, 1, 3, 4, 2)
    return dict(
        zip(clips, torch.split(varied, [clip.shape[1] for clip in clips.values()], 1), strict=True)
    )


def mixed(
    recipe: Recipe,
    clips: Mapping[int, Tensor],
    labels: Tensor,
    num_classes: int,
    step: int,
    part: int = 0,
) -> tuple[dict[int, Tensor], Tensor]:
    """Mix each clip of a batch, and its label, with another one: mixup or cutmix.

    Mixup (Zhang et al., ICLR 2018) adds λ of a clip and 1 - λ of its partner; cutmix (Yun et al.,
    ICCV 2019) puts a box of the partner, the same in all frames, in place of 1 - λ of its area.

    Args:
        recipe: `mixup`, `cutmix` and `seed` are read.
        clips: float32 (B, T, 3, S, S) by frame count.
        labels: int64 (B,).
        num_classes: of the network.
        step: the optimiser step.
        part: of the step's batch, a number of its own on each process.

    Returns:
        The clips, and the share of each class, float32 (B, classes).
    """
    batch, size = len(labels), next(iter(clips.values())).shape[-1]
    # The last number keeps these draws apart from those of `clips_of_step`.
    rng = np.random.default_rng([recipe.seed, step, part, 1])
    cuts = recipe.cutmix > 0 and (recipe.mixup == 0 or rng.random() < 0.5)
    alpha = recipe.cutmix if cuts else recipe.mixup
    kept = rng.beta(alpha, alpha, batch)
    shift = int(rng.integers(1, max(batch, 2)))
    if cuts:
        # Clipped at the frame's edges, so that every pixel is equally likely to be in a box.
        half = size * np.sqrt(1 - kept) / 2
        centres = rng.integers(size, size=(2, batch))
        least, end = np.round([centres - half, centres + half]).clip(0, size).astype(np.int64)
        kept = 1 - (end - least).prod(0) / size**2
        places = np.arange(size)
        down, across = (least[..., None] <= places) & (places < end[..., None])  # (B, S) each
        shares = 1.0 - (down[:, :, None] & across[:, None, :])[:, None, :, :, None]
    else:
        shares = kept[:, None, None, None, None]  # (B, 1, 1 or S, 1 or S, 1)

    def mix(values: Tensor, shares: Tensor) -> Tensor:
        return torch.lerp(values.roll(shift, 0), values, shares)

    def on_device(shares: np.typing.NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(shares.astype(np.float32)).to(labels.device, non_blocking=True)

    pixels = on_device(shares)
    # Colours last, as they lie in memory, or the result would lie there otherwise.
    varied = {
        t: mix(clip.permute(0, 1, 3, 4, 2), pixels).permute(0, 1, 4, 2, 3)
        for t, clip in clips.items()
    }
    targets = F.one_hot(labels, num_classes).to(torch.float32)
    return varied, mix(targets, on_device(kept[:, None]))
