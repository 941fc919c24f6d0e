"""Statistics of what passes in parts: those of the whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from ffn_edge.train import moments as moments_module
from ffn_edge.train.moments import Moments, population_statistics


def test_a_large_mean_costs_no_digit_of_a_small_deviation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments_module, "_PART", 10)
    values = 1e6 + np.random.default_rng(0).normal(size=(1000, 3)) * 1e-3
    moments = Moments()
    for part in np.array_split(values, 7):
        moments.add(torch.from_numpy(part))
    std = (moments.squares / moments.rows).sqrt().numpy()
    assert std == pytest.approx(values.std(0), rel=1e-6)


@pytest.mark.parametrize("sizes", [(24,), (2,) * 12, (16, 5, 2, 1)])
@pytest.mark.parametrize("norm", [nn.BatchNorm1d(5), nn.BatchNorm2d(5), nn.BatchNorm3d(5)])
def test_running_statistics_of_batches_of_any_size_are_those_of_one(
    norm: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d, sizes: Sequence[int]
) -> None:
    space = {nn.BatchNorm1d: (7,), nn.BatchNorm2d: (3, 4), nn.BatchNorm3d: (2, 3, 4)}[type(norm)]
    # Clips differ in their means more than within themselves, as those of a camera do.
    clips = torch.randn(24, 5, *space) + 3 * torch.randn(24, 5, *[1] * len(space)) + 10
    assert norm.running_mean is not None and norm.running_var is not None

    with torch.no_grad(), population_statistics([norm.train()]):
        for batch in torch.split(clips, list(sizes)):
            norm(batch)

    values = clips.double().movedim(1, -1).flatten(0, -2)
    # float64 sums, stored as float32
    assert torch.allclose(norm.running_mean.double(), values.mean(0), rtol=1e-6)
    assert torch.allclose(norm.running_var.double(), values.var(0), rtol=1e-6)


def test_statistics_stay_when_nothing_enters_or_the_pass_breaks_off() -> None:
    norm = nn.BatchNorm2d(3)
    with population_statistics([norm]):
        pass
    with pytest.raises(RuntimeError), population_statistics([norm.eval()]):
        norm(torch.randn(2, 3, 4, 4))
        raise RuntimeError
    assert norm.running_mean is not None and not norm.running_mean.any()
    assert not norm._forward_pre_hooks
