"""Specialised norms, weight alteration and temporal shift, each against its definition."""

from __future__ import annotations

import threading
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ffn_edge.network.layers import (
    BranchStart,
    Route,
    Segment,
    SpecializedNorm,
    TemporalShift,
    WeightAlteration,
    temporal_shift,
)


def route_of(*segments: Segment) -> Route:
    route = Route()
    route.segments = segments
    return route


def naive_shift(clip: Tensor, fraction: int) -> Tensor:
    """The temporal shift of one clip (T, C, H, W), frame by frame and channel by channel."""
    frames, channels = clip.shape[:2]
    fold = channels // fraction
    shifted = torch.zeros_like(clip)
    for t in range(frames):
        for c in range(channels):
            if c < fold:
                source = t + 1
            elif c < 2 * fold:
                source = t - 1
            else:
                source = t
            if 0 <= source < frames:
                shifted[t, c] = clip[source, c]
    return shifted


@pytest.mark.parametrize(("frames", "channels", "fraction"), [(4, 16, 8), (1, 8, 4), (3, 10, 4)])
def test_the_temporal_shift_is_that_of_a_naive_loop(
    frames: int, channels: int, fraction: int
) -> None:
    clips = torch.randn(2, frames, channels, 3, 2)

    shifted = temporal_shift(clips.flatten(0, 1), frames, fraction)

    expected = torch.cat([naive_shift(clip, fraction) for clip in clips])
    assert torch.equal(shifted, expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_one_clip_is_shifted_as_it_is_among_others(memory_format: torch.memory_format) -> None:
    clips = torch.randn(3, 4, 16, 2, 2)

    together = temporal_shift(clips.flatten(0, 1), 4, 8).unflatten(0, (3, 4))
    alone = [temporal_shift(clip.contiguous(memory_format=memory_format), 4, 8) for clip in clips]

    assert torch.equal(torch.stack(alone), together)


def test_nothing_leaks_from_one_clip_into_another() -> None:
    clips = torch.randn(3, 4, 16, 2, 2)
    changed = clips.clone()
    changed[1] += 1

    before = temporal_shift(clips.flatten(0, 1), 4, 8).unflatten(0, (3, 4))
    after = temporal_shift(changed.flatten(0, 1), 4, 8).unflatten(0, (3, 4))

    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[1], after[1])


def test_the_temporal_shift_keeps_channels_last() -> None:
    rows = torch.randn(4, 16, 3, 3).contiguous(memory_format=torch.channels_last)

    shifted = temporal_shift(rows, 4, 8)

    assert shifted.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(shifted, naive_shift(rows, 8))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("dtype", "channels"), [(torch.float32, 32), (torch.float32, 18), (torch.float64, 16)]
)
def test_the_shift_in_training_is_the_same_and_has_the_gradient_of_slices(
    memory_format: torch.memory_format, dtype: torch.dtype, channels: int
) -> None:
    rows = torch.randn(6, channels, 2, 2, dtype=dtype).contiguous(memory_format=memory_format)
    weights = torch.randn(6, channels, 2, 2, dtype=dtype)
    expected = torch.cat([naive_shift(clip, 8) for clip in rows.unflatten(0, (2, 3))])
    sliced = rows.clone().requires_grad_()
    clips = sliced.unflatten(0, (2, 3))
    fold = channels // 8
    later = F.pad(clips[:, 1:, :fold], (0, 0, 0, 0, 0, 0, 0, 1))
    earlier = F.pad(clips[:, :-1, fold : 2 * fold], (0, 0, 0, 0, 0, 0, 1, 0))
    by_slices = torch.cat([later, earlier, clips[:, :, 2 * fold :]], 2).flatten(0, 1)
    (gradient,) = torch.autograd.grad(by_slices, sliced, weights)
    trained = rows.requires_grad_()

    shifted = temporal_shift(trained, 3, 8)
    (found,) = torch.autograd.grad(shifted, trained, weights)

    assert torch.equal(shifted, expected)
    assert shifted.is_contiguous(memory_format=memory_format)
    assert torch.equal(found, gradient)


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(6, 6, 3, groups=3), nn.Linear(6, 4)],
)
def test_training_alters_the_weight_as_evaluation_alters_the_activations(layer: nn.Module) -> None:
    route = route_of(Segment(4, 8, 2))
    is_linear = isinstance(layer, nn.Linear)
    alteration = WeightAlteration(6, (4, 8), route, dim=-1 if is_linear else 1)
    for phi in alteration.phi.values():
        nn.init.normal_(phi)
    start = BranchStart()
    start.add_module("alteration", alteration)
    start.add_module("layer", layer)
    x = torch.randn(4, 6) if is_linear else torch.randn(4, 6, 5, 5)

    trained, evaluated = start.train()(x), start.eval()(x)

    torch.testing.assert_close(trained, evaluated, atol=1e-5, rtol=1e-5)  # rounding alone
    (gradient,) = torch.autograd.grad(start.train()(x).square().sum(), alteration.phi["8"])
    (expected,) = torch.autograd.grad(start.eval()(x).square().sum(), alteration.phi["8"])
    torch.testing.assert_close(gradient, expected, atol=1e-3, rtol=1e-4)


class Standardised(nn.Conv2d):
    """A convolution that computes its weight anew."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply it."""
        return F.conv2d(input, self.weight - self.weight.mean((1, 2, 3), keepdim=True))


@pytest.mark.parametrize(
    "layer",
    [
        Standardised(6, 4, 3),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 4, 3)),
        nn.utils.spectral_norm(nn.Conv2d(6, 4, 3)),
    ],
    ids=["subclass", "parametrized", "hooked"],
)
def test_training_alters_what_a_layer_is_given_where_it_computes_its_weight(
    layer: nn.Module,
) -> None:
    alteration = WeightAlteration(6, (4,), route_of(Segment(2, 4, 2)))
    nn.init.normal_(alteration.phi["4"])
    start = BranchStart(OrderedDict(alteration=alteration, layer=layer)).train()
    x = torch.randn(2, 6, 5, 5)

    trained = start(x)

    (gradient,) = torch.autograd.grad(trained.square().sum(), alteration.phi["4"])
    assert gradient.abs().min() > 0
    if not layer._forward_pre_hooks:  # that of spectral_norm goes on with each call
        assert torch.equal(trained, layer(alteration(x)))


def test_the_shift_has_no_second_derivative_and_says_so() -> None:
    x = torch.randn(4, 32, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(temporal_shift(x, 4, 8).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_channels_that_are_not_aligned_in_memory_are_shifted_too() -> None:
    memory = torch.randn(4 * 32 * 4 + 1)
    x = memory[1:].view(4, 2, 2, 32).permute(0, 3, 1, 2).requires_grad_()
    assert torch.equal(temporal_shift(x, 4, 8), naive_shift(x, 8))


def test_segments_of_one_batch_are_shifted_by_their_own_frame_counts() -> None:
    short, long = torch.randn(2 * 2, 8, 1, 1), torch.randn(1 * 6, 8, 1, 1)
    route = route_of(Segment(4, 4, 2), Segment(6, 8, 6))

    shifted = TemporalShift(route, 4)(torch.cat([short, long]))

    expected = [naive_shift(short[:2], 4), naive_shift(short[2:], 4), naive_shift(long, 4)]
    assert torch.equal(shifted, torch.cat(expected))


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm1d(6), (5, 6)),
        (nn.BatchNorm2d(6), (5, 6, 3, 3)),
        (nn.BatchNorm3d(6), (5, 6, 2, 3, 3)),
        (nn.BatchNorm2d(6, eps=0.1, affine=False), (5, 6, 3, 3)),
        (nn.LayerNorm(6, eps=0.1), (5, 4, 6)),
        (nn.LayerNorm(6, bias=False), (5, 6)),
        (nn.LayerNorm([4, 6], elementwise_affine=False), (5, 4, 6)),
    ],
    ids=lambda value: repr(value) if isinstance(value, nn.Module) else None,
)
def test_a_specialised_norm_starts_as_the_norm_it_replaces(
    norm: nn.Module, shape: tuple[int, ...]
) -> None:
    with torch.no_grad():
        for tensor in (*norm.parameters(), *norm.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    x = torch.randn(shape)
    route = route_of(Segment(shape[0], 4, 1))

    specialised = SpecializedNorm(norm.eval(), (2, 4), route).eval()

    assert torch.equal(specialised(x), norm(x))
    own, original = dict(specialised.norms["2"].named_parameters()), dict(norm.named_parameters())
    assert own.keys() == original.keys()
    assert all(own[name].data_ptr() != original[name].data_ptr() for name in own)


def test_a_norm_that_is_synchronised_stays_so_in_its_group_of_processes() -> None:
    group = threading.Lock()  # as little to be copied as a group of processes
    norm = nn.SyncBatchNorm(3, process_group=group)

    specialised = SpecializedNorm(norm, (2, 4), Route())

    assert [each.process_group for each in specialised.norms.values()] == [group, group]


def test_only_the_routed_frame_count_gathers_statistics() -> None:
    route = route_of(Segment(8, 4, 4))
    norm = SpecializedNorm(nn.BatchNorm2d(3), (2, 4, 8), route).train()
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}

    norm(torch.randn(8, 3, 2, 2) + 1)

    changed = {n for n, tensor in norm.state_dict().items() if not torch.equal(tensor, before[n])}
    assert changed == {
        "norms.4.running_mean",
        "norms.4.running_var",
        "norms.4.num_batches_tracked",
    }


def test_rows_of_several_frame_counts_meet_their_own_norms_and_alterations() -> None:
    route = Route()
    layers = nn.Sequential(
        SpecializedNorm(nn.BatchNorm2d(3), (2, 4), route), WeightAlteration(3, (2, 4), route)
    ).eval()
    with torch.no_grad():
        for tensor in layers.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    two, four = torch.randn(2, 3, 2, 2), torch.randn(4, 3, 2, 2)

    route.segments = (Segment(2, 2, 2),)
    expected_two = layers(two)
    route.segments = (Segment(4, 4, 4),)
    expected_four = layers(four)
    route.segments = (Segment(2, 2, 2), Segment(4, 4, 4))
    both = layers(torch.cat([two, four]))

    assert torch.equal(both, torch.cat([expected_two, expected_four]))


def test_an_alteration_scales_each_channel_by_one_plus_phi() -> None:
    route = route_of(Segment(2, 4, 1))
    alteration = WeightAlteration(3, (2, 4), route)
    x = torch.randn(2, 3, 2, 2)

    assert torch.equal(alteration(x), x)  # φ starts at zero
    with torch.no_grad():
        alteration.phi["4"].copy_(torch.tensor([0.5, -1.0, 0.0]))

    scaled = alteration(x)

    assert torch.equal(scaled, x * torch.tensor([1.5, 0.0, 1.0]).reshape(3, 1, 1))


def test_a_small_phi_is_not_lost_in_bfloat16() -> None:
    route = route_of(Segment(1, 4, 1))
    alteration = WeightAlteration(64, (4,), route)
    with torch.no_grad():
        alteration.phi["4"].fill_(0.75 * 2**-8)  # 1 + φ rounds to 1 in bfloat16
    x = torch.tensor([1.0, 1.25, 1.5, 1.75]).bfloat16().repeat_interleave(16).reshape(1, 64, 1, 1)

    scaled = alteration(x)

    # x + φ·x reaches the next value, 2⁻⁷ away, where φ·x is over half of that: from x = 4/3.
    assert scaled.dtype == torch.bfloat16
    assert ((scaled - x).flatten()[::16] * 2**7).tolist() == [0, 0, 1, 1]
