"""The Frame Flexible Network: routing, any-frame inference, cost and size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ffn_edge import network
from ffn_edge.errors import FrameCountError, NetworkError
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.cost import count_macs

Randomise = Callable[[FrameFlexibleNetwork], FrameFlexibleNetwork]


def clips(frames: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, frames, 3, 32, 32, generator=torch.Generator().manual_seed(frames))


def infer(model: FrameFlexibleNetwork, clip: Tensor, frames: int | None = None) -> Tensor:
    with torch.inference_mode():
        return model(clip, frames)


@pytest.mark.parametrize("frame_counts", [(2, 6), (3, 5, 7), (1,)])
def test_any_set_of_frame_counts_can_be_built(
    frame_counts: tuple[int, ...], randomise: Randomise
) -> None:
    model = randomise(network.build("tsm_tiny", 5, frame_counts))

    for frames in frame_counts:
        assert infer(model, clips(frames), frames).shape == (2, 5)


@pytest.mark.parametrize(
    ("frames", "served_by"), [(1, 2), (2, 2), (3, 4), (4, 4), (5, 4), (6, 8), (7, 8), (20, 8)]
)
def test_a_clip_of_any_length_is_served_by_the_nearest_sub_network_ties_to_the_larger(
    frames: int, served_by: int, randomise: Randomise
) -> None:
    model = randomise(network.build("tsm_tiny", 5, (2, 4, 8)))
    clip = clips(frames)

    assert torch.equal(infer(model, clip), infer(model, clip, served_by))
    other = next(t for t in model.frame_counts if t != served_by)
    assert not torch.allclose(infer(model, clip), infer(model, clip, other))


def test_the_shift_uses_the_clips_own_frame_count(tiny: FrameFlexibleNetwork) -> None:
    # Two clips of 3 frames through the 4-frame sub-network: were they shifted by 4, or as one
    # sequence of 6, the first would depend on the second.
    clip = clips(3)
    changed = torch.stack([clip[0], clip[1] + 1])

    assert torch.equal(infer(tiny, clip, 4)[0], infer(tiny, changed, 4)[0])
    # And it matters that the frames are in order: the shift is there.
    assert not torch.allclose(infer(tiny, clip, 4), infer(tiny, clip.flip(1), 4))


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_rows_together_give_what_they_give_one_after_the_other(
    training: bool, randomise: Randomise
) -> None:
    batch = {t: clips(t, batch=3).double() for t in (2, 4)}
    results = {}
    for together in (False, True):
        torch.manual_seed(0)
        model = randomise(network.build("tsm_tiny", 5, (2, 4), dropout=0.0)).double()
        logits = model.train(training)(batch, together=together)
        sum(each.square().mean() for each in logits.values()).backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        statistics = {name: b.double() for name, b in model.named_buffers()}
        results[together] = {f"logits {t}": z for t, z in logits.items()} | gradients | statistics

    for name, expected in results[False].items():
        # float64: sums in another order, and weights altered in place of activations
        atol = 1e-10 * expected.abs().max().item()
        torch.testing.assert_close(results[True][name], expected, rtol=1e-8, atol=atol, msg=name)


def test_a_sub_network_that_does_not_exist_is_refused_with_those_that_do(
    tiny: FrameFlexibleNetwork,
) -> None:
    with pytest.raises(NetworkError, match=r"for 2, 4 frames; 16 was asked for"):
        tiny(clips(4), 16)


def test_a_clip_of_another_shape_is_refused(tiny: FrameFlexibleNetwork) -> None:
    with pytest.raises(NetworkError, match=r"\(B, T, 3, H, W\); got \(4, 3, 32, 32\)"):
        tiny(torch.zeros(4, 3, 32, 32))


def test_frame_counts_that_do_not_ascend_are_refused() -> None:
    with pytest.raises(FrameCountError, match="ascend"):
        network.build("tsm_tiny", 5, (8, 4))


def test_an_unknown_architecture_names_the_nearest() -> None:
    with pytest.raises(NetworkError) as caught:
        network.build("tsm_resnet5", 5)
    assert "tsm_resnet50" in caught.value.hint


def test_a_network_without_classes_is_refused() -> None:
    with pytest.raises(NetworkError, match="0 classes"):
        network.build("tsm_tiny", 0)


@pytest.mark.parametrize(("frames", "gmacs"), [(4, 16.37), (8, 32.74), (16, 65.49)])
def test_the_cost_of_tsm_resnet50_is_the_papers(frames: int, gmacs: float) -> None:
    with torch.device("meta"):
        model = network.build("tsm_resnet50", 174)

    # The paper counts 0.02 GMACs per frame otherwise (a norm counted, or the classifier).
    assert count_macs(model, frames, 224) / 1e9 == pytest.approx(gmacs, rel=0.005)
