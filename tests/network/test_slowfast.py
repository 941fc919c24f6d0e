"""SlowFast: two pathways from one clip. What all families keep: test_families."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ffn_edge import network
from ffn_edge.errors import NetworkError
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.cost import count_macs
from ffn_edge.network.families.slowfast import Lateral, slow_indices

Randomise = Callable[[FrameFlexibleNetwork], FrameFlexibleNetwork]

NAME = "slowfast_resnet50"


@pytest.fixture(scope="module")
def shapes() -> FrameFlexibleNetwork:
    """The paper's network, without values."""
    with torch.device("meta"):
        return network.build(NAME, 174)


def test_a_clip_costs_what_the_slowfast_paper_says(shapes: FrameFlexibleNetwork) -> None:
    # Table 2: 65.7 G for SlowFast 8×8, R50 at 32 frames of 256².
    assert count_macs(shapes, 32, 256) == pytest.approx(65.7e9, abs=0.05e9)


def test_the_slow_pathway_sees_the_published_frames() -> None:
    def published(frames: int) -> list[int]:
        return torch.linspace(0, frames - 1, frames // 4).long().tolist()

    lengths = [frames for frames in range(4, 1033, 4) if slow_indices(frames) != published(frames)]

    # Rounding in float32 puts one frame of these a place earlier there.
    assert lengths == [160, 544]
    for frames in lengths:
        pairs = zip(slow_indices(frames), published(frames), strict=True)
        assert [ours - theirs for ours, theirs in pairs if ours != theirs] == [1]


@pytest.mark.parametrize("frames", [4, 20, 28, 100])
def test_any_multiple_of_four_frames_is_classified(
    frames: int, shapes: FrameFlexibleNetwork
) -> None:
    clip = torch.empty(2, frames, 3, 32, 32, device="meta")

    assert shapes.eval()(clip).shape == (2, 174)


@pytest.mark.parametrize(
    ("frames", "hint"), [(3, "give 4 frames"), (5, "give 4 or 8"), (18, "give 16 or 20")]
)
def test_a_clip_that_the_pathways_cannot_share_is_refused(
    frames: int, hint: str, shapes: FrameFlexibleNetwork
) -> None:
    with pytest.raises(NetworkError, match=f"multiple of 4 frames.*got {frames}") as caught:
        shapes(torch.empty(1, frames, 3, 32, 32, device="meta"))

    assert hint in caught.value.hint


def test_what_a_lateral_connection_gives_fits_multiples_of_four_alone() -> None:
    lateral = Lateral(8).to("meta")
    for frames in range(4, 24):
        joined = lateral.conv_f2s(torch.empty(1, 8, frames, 1, 1, device="meta"))

        assert (joined.shape[2] == frames // 4) == (frames % 4 == 0)


def test_a_network_for_frame_counts_that_cannot_be_is_not_built() -> None:
    with pytest.raises(NetworkError, match="got 18"):
        network.build(NAME, 5, (16, 18))


def test_without_weights_residual_branches_start_at_nothing() -> None:
    torch.manual_seed(0)
    started = network.build(NAME, 174, (4,))

    last_norms = [
        norm.weight for name, norm in started.named_modules() if name.endswith("c_bn.norms.4")
    ]
    assert len(last_norms) == 2 * 16
    assert not any(weight.any() for weight in last_norms)
    assert started.body.head.projection.weight.std().item() == pytest.approx(0.01, rel=0.01)
