"""Causal networks: nothing from the future, and frame by frame the same as the whole clip."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from ffn_edge.errors import NetworkError
from ffn_edge.network import FrameFlexibleNetwork, build, specialize
from ffn_edge.network.layers import CAUSAL, TemporalShift, temporal_shift

COUNTS = (2, 4)
ARCHITECTURES = ("tsm_tiny", "tsm_resnet18", "tsm_resnet50", "tsm_mobilenet_v3_small")


def network_of(architecture: str, *, causal: bool = True) -> FrameFlexibleNetwork:
    """Return a network whose frame counts differ, in evaluation mode."""
    torch.manual_seed(0)
    if architecture == "specialised":
        images = resnet18(num_classes=5)
        network = specialize(images, COUNTS, architecture="resnet18", causal=causal)
    else:
        network = build(architecture, 5, COUNTS, causal=causal)
    for name, tensor in network.named_parameters():
        if ".phi." in name:
            nn.init.normal_(tensor, std=0.1)
        elif ".norms." in name:
            nn.init.uniform_(tensor, 0.5, 1.5)
    return network.eval()


def logits_of_each_frame(network: FrameFlexibleNetwork, clip: torch.Tensor) -> torch.Tensor:
    """Return what the body gives for each frame of a clip, before the mean."""
    found: list[torch.Tensor] = []
    handle = network.body.register_forward_hook(lambda *given: found.append(given[2]))
    with torch.inference_mode():
        network(clip, frames=4)
    handle.remove()
    return found[0]


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "specialised"])
def test_a_frame_changes_no_logit_before_it(architecture: str) -> None:
    network = network_of(architecture)
    clip = torch.randn(1, 6, 3, 64, 64)
    before = logits_of_each_frame(network, clip)
    for changed in range(6):
        other = clip.clone()
        other[:, changed] += 1
        after = logits_of_each_frame(network, other)
        assert torch.equal(after[:changed], before[:changed])
        moved = (after - before).abs().amax(1)
        assert moved[changed:].min() > 0  # and it reaches every frame from it on


def test_the_two_sided_shift_would_fail_that() -> None:
    network = network_of("tsm_tiny", causal=False)
    clip = torch.randn(1, 6, 3, 64, 64)
    other = clip.clone()
    other[:, 5] += 1
    before, after = (logits_of_each_frame(network, each) for each in (clip, other))
    assert not torch.equal(after[:5], before[:5])


@pytest.mark.parametrize("frames", [1, 2, 3, 7])
@pytest.mark.parametrize("training", [False, True])
def test_the_causal_shift_is_that_of_a_naive_loop(frames: int, training: bool) -> None:
    clips = torch.randn(2, frames, 8, 3, 5, requires_grad=training)
    shifted = temporal_shift(clips.flatten(0, 1), frames, 4, CAUSAL).unflatten(0, (2, frames))
    expected = torch.zeros_like(clips)
    for t in range(frames):
        if t >= 1:
            expected[:, t, 2:4] = clips[:, t - 1, 2:4]
        expected[:, t, :2] = clips[:, t, :2]
        expected[:, t, 4:] = clips[:, t, 4:]
    assert torch.equal(shifted, expected)
    if training:
        weight = torch.randn_like(shifted)
        (gradient,) = torch.autograd.grad((shifted * weight).sum(), clips)
        clips.grad = None
        (expected * weight).sum().backward()
        assert clips.grad is not None
        torch.testing.assert_close(gradient, clips.grad)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "specialised"])
@pytest.mark.parametrize("frames", COUNTS)
def test_step_by_step_is_the_whole_clip(architecture: str, frames: int) -> None:
    network = network_of(architecture)
    clips = torch.randn(2, 7, 3, 64, 64)
    with torch.inference_mode():
        whole = network(clips, frames=frames)
        state = None
        parts = []
        for few in torch.split(clips, [1, 3, 2, 1], dim=1):
            logits, state = network.step(few, state, sub_network=frames)
            parts.append(logits)
    by_steps = torch.cat(parts, 1)
    assert by_steps.shape == (2, 7, 5)
    torch.testing.assert_close(by_steps.mean(1), whole, rtol=1e-5, atol=1e-5)
    shifts = [each for each in network.body.modules() if isinstance(each, TemporalShift)]
    assert state is not None
    assert len(state) == len(shifts)


def test_a_step_leaves_whole_clips_as_they_were() -> None:
    network = network_of("tsm_tiny")
    clip = torch.randn(1, 4, 3, 64, 64)
    with torch.inference_mode():
        before = network(clip)
        _, state = network.step(clip, None, sub_network=4)
        with pytest.raises(NetworkError, match="shape"):
            network.step(clip[0], state, sub_network=4)
        with pytest.raises(NetworkError, match="sub-network"):
            network.step(clip, state, sub_network=5)
        assert torch.equal(network(clip), before)


def test_the_state_of_a_stream_is_not_changed_by_a_step() -> None:
    network = network_of("tsm_tiny")
    frame = torch.randn(1, 1, 3, 64, 64)
    with torch.inference_mode():
        _, state = network.step(frame, None, sub_network=4)
        copies = [each.clone() for each in state]
        once, _ = network.step(frame, state, sub_network=4)
        again, _ = network.step(frame, state, sub_network=4)
    assert torch.equal(once, again)
    assert all(map(torch.equal, state, copies))


def test_what_looks_into_the_future_is_refused() -> None:
    with pytest.raises(NetworkError, match="future"):
        build("tea_resnet50", 5, COUNTS, causal=True)
    with pytest.raises(NetworkError, match="future"):
        specialize(nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4)), COUNTS, causal=True)
    with pytest.raises(NetworkError, match="sharing"):
        build("tsm_tiny", 5, COUNTS, causal=True, without=("ws",))
    two_sided = network_of("tsm_tiny", causal=False)
    with pytest.raises(NetworkError, match="future"):
        two_sided.step(torch.randn(1, 1, 3, 64, 64), None, sub_network=4)


def test_joined_clips_are_one_stream() -> None:
    network = network_of("tsm_tiny")
    clips = torch.randn(3, 4, 3, 64, 64)
    network.route.joined = True
    joined = network(clips, frames=4)
    network.route.joined = False
    stream = clips.flatten(0, 1)[None]
    with torch.inference_mode():
        logits, _ = network.step(stream, None, sub_network=4)
    expected = logits[0].unflatten(0, (3, 4)).mean(1)
    torch.testing.assert_close(joined, expected, rtol=1e-5, atol=1e-5)
    apart = network(clips, frames=4)
    torch.testing.assert_close(apart[0], joined[0])
    assert not torch.allclose(apart[1:], joined[1:])
