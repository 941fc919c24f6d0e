"""UniFormer: convolutions and attention. What all families keep: test_families."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import StochasticDepth

from ffn_edge import network
from ffn_edge.export.fold import fold
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.cost import count_macs
from ffn_edge.network.families.uniformer import UniFormer
from ffn_edge.network.layers import SpecializedNorm, WeightAlteration

Randomise = Callable[[FrameFlexibleNetwork], FrameFlexibleNetwork]

NAME = "uniformer_small"


@pytest.fixture(scope="module")
def shapes() -> FrameFlexibleNetwork:
    """The paper's network, without values."""
    with torch.device("meta"):
        return network.build(NAME, 174)


@pytest.fixture(scope="module")
def model(randomise: Randomise) -> FrameFlexibleNetwork:
    """A network for 2 and 5 frames that looks trained. Not to be changed."""
    torch.manual_seed(0)
    return randomise(network.build(NAME, 5, (2, 5)))


def random_clip(frames: int, size: int = 32, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(batch, frames, 3, size, size, generator=generator)


@pytest.mark.parametrize(("frames", "gflops"), [(8, 70), (16, 167)])
def test_it_costs_what_uniformers_authors_say(
    frames: int, gflops: int, shapes: FrameFlexibleNetwork
) -> None:
    # Theirs are multiply-accumulates of four clips at 224×224 pixels.
    assert round(4 * count_macs(shapes, frames, 224) / 1e9) == gflops


def test_branches_are_dropped_the_more_often_the_deeper(shapes: FrameFlexibleNetwork) -> None:
    rates = [module.p for module in shapes.modules() if isinstance(module, StochasticDepth)]

    assert rates == pytest.approx(np.linspace(0, 0.2, 18))


@pytest.mark.parametrize(("frames", "nearest"), [(1, 2), (3, 2), (4, 5), (9, 5)])
def test_a_clip_of_any_length_is_served_by_the_nearest_sub_network(
    frames: int, nearest: int, model: FrameFlexibleNetwork
) -> None:
    clip = random_clip(frames, size=48)  # 48 is no multiple of 32: the last stage sees a part
    with torch.inference_mode():
        logits = model(clip)
        other = model(clip, frames=7 - nearest)

        assert torch.equal(logits, model(clip, frames=nearest))
    assert logits.isfinite().all()
    assert not torch.allclose(logits, other, rtol=0.1)


def test_the_last_frame_of_an_odd_clip_counts(model: FrameFlexibleNetwork) -> None:
    clip = random_clip(5)
    changed = clip.clone()
    changed[:, -1] += 1

    with torch.inference_mode():
        assert not torch.allclose(model(clip), model(changed), rtol=1e-3)


def test_an_unaltered_network_is_the_ordinary_one() -> None:
    torch.manual_seed(1)
    ordinary = UniFormer(5, dropout=0.0).eval()
    torch.manual_seed(1)
    model = network.build(NAME, 5, (2, 4)).eval()
    clip = random_clip(3)

    with torch.inference_mode():
        assert torch.equal(model(clip), ordinary(clip.transpose(1, 2)))


def test_dropped_branches_differ_between_clips_only_in_training() -> None:
    torch.manual_seed(0)
    clip = random_clip(2, batch=1).expand(8, -1, -1, -1, -1)
    trained = network.build(NAME, 3, (2, 4), dropout=0.0)

    with torch.inference_mode():
        # Evaluation first: training changes the statistics.
        evaluated = trained.eval()(clip)
        logits = trained.train()(clip)

    assert (evaluated - evaluated[0]).abs().max() < 1e-5 * evaluated.abs().max()
    assert (logits - logits[0]).abs().max() > 1e-2 * logits.abs().max()


def test_folding_changes_no_result(model: FrameFlexibleNetwork) -> None:
    for frames in model.frame_counts:
        clip = random_clip(frames, size=64)
        folded = fold(model, frames)
        with torch.inference_mode():
            expected = model(clip)
            logits = folded.body(clip.transpose(1, 2))
        # float32: the same sums in another order, through 18 blocks
        assert (logits - expected).abs().max() < 2e-5 * expected.abs().max()
        assert not {type(m) for m in folded.body.modules()} & {SpecializedNorm, WeightAlteration}
