"""Networks that the paper never saw: specialised, trained a step, exported, and run."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torchvision
from torch import nn

from ffn_edge import network
from ffn_edge.bundle.bundle import Bundle
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.checkpoint import ModelCard

Randomise = Callable[[FrameFlexibleNetwork], FrameFlexibleNetwork]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A network of torchvision and what becomes of it.

    Attributes:
        name: torchvision's.
        before: how many norms fold into the layer before them.
        after: how many fold into layers after them.
        stay: how many stay in the graph.
        alterations: how many residual branches have one.
        shifts: how many of them begin with a temporal shift.
        left_alone: how many layers are reported as left alone.
        frames: the frame count that is exported.
    """

    name: str
    before: int = 0
    after: int = 0
    stay: int = 0
    alterations: int = 0
    shifts: int = 0
    left_alone: int = 0
    frames: int = 4

    def build(self) -> FrameFlexibleNetwork:
        """Specialise the network for half of its frames, and all."""
        torch.manual_seed(0)
        body = torchvision.models.get_model(self.name, num_classes=5)
        if self.name == "s3d":
            # Its pooling is of 7×7 positions, which only frames of 224 pixels leave.
            body.avgpool = nn.AdaptiveAvgPool3d(1)
        return network.specialize(body, (self.frames // 2, self.frames))


CASES = [
    Case(name="mobilenet_v3_small", before=34, alterations=6, shifts=6),
    Case(name="efficientnet_b0", before=49, alterations=9, shifts=9),
    Case(name="regnet_y_400mf", before=53, alterations=16, shifts=16),
    Case(name="convnext_tiny", after=22, stay=1, alterations=18, shifts=18),
    Case(name="r2plus1d_18", before=37, alterations=8),
    # It concatenates and adds nothing: norms alone. Time is halved three times before its end.
    Case(name="s3d", before=77, frames=8),
    # The weights of its attention are read by a function, its stem's norm by the first addition.
    Case(name="swin3d_t", after=16, stay=13, alterations=12, left_alone=12),
]


@pytest.fixture(
    scope="module",
    # Minutes for all of them: one shows the way, and blocks of the others are in test_fold_after.
    params=[CASES[0], *(pytest.param(case, marks=pytest.mark.slow) for case in CASES[1:])],
    ids=lambda case: case.name,
)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def model(case: Case, randomise: Randomise) -> FrameFlexibleNetwork:
    return randomise(case.build())


@pytest.fixture(scope="module")
def bundle(
    case: Case, model: FrameFlexibleNetwork, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """The bundle of the higher frame count alone: half of the time."""
    card = ModelCard(classes=tuple("abcde"), size=32, short_side=32)
    folder = tmp_path_factory.mktemp(case.name) / "bundle"
    return export_bundle(model, card, folder, frame_counts=(case.frames,))


def test_what_was_specialised_is_reported(case: Case, model: FrameFlexibleNetwork) -> None:
    report = model.specialized

    norms, alterations = report.norms.values(), report.alterations.values()
    assert sum(place.producer is not None for place in norms) == case.before
    assert sum(place.consumers != () for place in norms) == case.after
    assert sum(place.reason != "" for place in norms) == case.stay
    assert [bool(place.consumers) for place in alterations] == [True] * case.alterations
    assert len(report.shifts) == case.shifts
    assert len(report.left_alone) == case.left_alone


@pytest.mark.slow
def test_what_the_report_says_to_stay_is_what_export_leaves(
    model: FrameFlexibleNetwork, bundle: Bundle
) -> None:
    report = model.specialized

    stay = [name for name, place in report.norms.items() if place.reason]
    assert sorted(bundle.manifest.unfolded) == sorted(stay)


def test_the_bundle_gives_what_the_network_gives(
    case: Case,
    model: FrameFlexibleNetwork,
    bundle: Bundle,
    graph_error: Callable[[FrameFlexibleNetwork, Bundle, int], float],
) -> None:
    # float32: rounding through up to a hundred layers, which benchmarks/any_network.py measures
    assert graph_error(model, bundle, case.frames) < 1e-5
    # The weights are not in it, nor tables as large as the clip.
    assert bundle.graph_path(case.frames).stat().st_size < 150_000


def test_a_clip_of_another_length_is_served_by_the_nearest_sub_network(
    case: Case, model: FrameFlexibleNetwork
) -> None:
    clip = torch.randn(1, case.frames + 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    with torch.inference_mode():
        logits = model(clip)
        assert torch.equal(logits, model(clip, case.frames))
        assert not torch.allclose(logits, model(clip, case.frames // 2), rtol=1e-3)


def test_a_training_step_reaches_the_shared_weights_and_one_sub_network_alone(
    case: Case,
) -> None:
    model = case.build().train()
    clip = torch.randn(2, case.frames, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    model(clip, case.frames).square().sum().backward()

    other = re.compile(rf"\.(norms|phi)\.{case.frames // 2}(\.|$)")
    for name, parameter in model.named_parameters():
        if other.search(name):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
