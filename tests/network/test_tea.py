"""TEA: what works along time, within each clip. What all families keep: test_families."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ffn_edge import network
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.families.tea import MotionDifference, TemporalConvolution
from ffn_edge.network.layers import Route, temporal_shift
from ffn_edge.network.published import published_name
from tests.data.parity.cases import published_tensor

NAME = "tea_resnet50"


@pytest.fixture(scope="module")
def model() -> FrameFlexibleNetwork:
    """A network for 2 and 4 frames, with values as in a published case. Not to be changed."""
    built = network.build(NAME, 5, (2, 4), dropout=0.0)
    for name, tensor in built.state_dict().items():
        tensor.copy_(published_tensor(published_name(NAME, name), tensor.shape))
    return built.eval()


def random_clip(frames: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(batch, frames, 3, 32, 32, generator=generator)


def test_at_its_start_a_temporal_convolution_is_the_identity_or_a_shift() -> None:
    x = torch.randn(6, 8, 5, 4)

    still = TemporalConvolution(8, Route(), "still").along_time(x, 3)
    shift = TemporalConvolution(8, Route(), "shift").along_time(x, 3)

    assert torch.equal(still, x)
    assert torch.equal(shift, temporal_shift(x, 3, 2))


def test_a_change_is_from_each_frame_to_the_next_and_zero_at_a_clips_end() -> None:
    x = torch.randn(6, 4, 5, 5)
    layer = MotionDifference(4, Route())

    change = layer.along_time(x, 3)

    convolved = layer.conv(x)
    for row in (0, 1, 3, 4):
        expected = (convolved[row + 1] - x[row]).mean((1, 2))
        torch.testing.assert_close(change[row, :, 0, 0], expected)
    assert not change[[2, 5]].any()


@pytest.mark.parametrize("frames", [1, 2, 3, 7])
def test_clips_of_any_length_are_classified_each_by_itself(
    frames: int, model: FrameFlexibleNetwork
) -> None:
    clips = random_clip(frames)
    with torch.inference_mode():
        both = model(clips)
        each = torch.cat([model(clip[None]) for clip in clips])
        backwards = model(clips.flip(1))

    assert (both - each).abs().max() < 1e-5 * each.abs().max()  # float32: rounding only
    # The order of frames tells, where there is one.
    assert torch.allclose(both, backwards, rtol=1e-3) == (frames == 1)
