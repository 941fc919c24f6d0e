"""TSM on MobileNetV3, for small boards: where it shifts, how large it is, what it starts from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torchvision.models import get_model_weights

from ffn_edge import network
from ffn_edge.errors import CheckpointError
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.cost import count_macs
from ffn_edge.network.layers import TemporalShift

SMALL, LARGE = "tsm_mobilenet_v3_small", "tsm_mobilenet_v3_large"


def on_paper(architecture: str) -> FrameFlexibleNetwork:
    """The network for 174 classes, without values."""
    with torch.device("meta"):
        return network.build(architecture, 174)


@pytest.mark.parametrize(
    ("architecture", "blocks"),
    # Those with a residual connection: stride 1, and as many channels out as in.
    [(SMALL, (3, 5, 6, 8, 10, 11)), (LARGE, (1, 3, 5, 6, 8, 9, 10, 12, 14, 15))],
)
def test_the_shift_and_the_alteration_begin_the_residual_blocks(
    architecture: str, blocks: tuple[int, ...]
) -> None:
    model = on_paper(architecture)

    for block in blocks:
        start = model.body.features[block].block[0][0]
        assert [name for name, _ in start.named_children()] == ["shift", "alteration", "conv"]
    assert sum(isinstance(module, TemporalShift) for module in model.modules()) == len(blocks)
    assert model.specialized.left_alone == {}


@pytest.mark.parametrize(
    ("architecture", "features", "norms", "altered"),
    # inputs of the classifier; channels with a norm; channels with an alteration
    [
        (SMALL, 1024, 6056, 24 + 2 * 40 + 48 + 2 * 96),
        (LARGE, 1280, 12_200, 16 + 24 + 2 * 40 + 3 * 80 + 112 + 2 * 160),
    ],
)
def test_its_size_and_cost_are_the_image_networks_and_its_vectors(
    architecture: str, features: int, norms: int, altered: int
) -> None:
    model = on_paper(architecture)

    image_network = get_model_weights(architecture.removeprefix("tsm_")).DEFAULT.meta
    # The image network has 1000 classes and one norm in each place.
    parameters = image_network["num_params"] - (1000 - 174) * (features + 1)
    expected = parameters + 2 * (2 * norms) + 3 * altered
    assert sum(p.numel() for p in model.parameters()) == expected
    gmacs = 16 * (image_network["_ops"] - (1000 - 174) * features / 1e9)
    # published with three digits after the point, for each of 16 frames
    assert count_macs(model, 16, 224) / 1e9 == pytest.approx(gmacs, abs=16 * 0.0006)


def test_image_weights_are_read_from_a_file_whatever_its_classes(tmp_path: Path) -> None:
    image_network = torchvision.models.mobilenet_v3_small(num_classes=3)
    torch.save(image_network.state_dict(), tmp_path / "weights.pth")

    body = network.build(SMALL, 5, (2, 4), weights=str(tmp_path / "weights.pth")).body

    expected = image_network.state_dict()
    assert torch.equal(
        body.features[3].block[0][0].conv.weight, expected["features.3.block.0.0.weight"]
    )
    assert torch.equal(body.classifier[0].weight, expected["classifier.0.weight"])
    for norm in body.features[0][1].norms.values():
        assert torch.equal(norm.running_var, expected["features.0.1.running_var"])
    assert body.classifier[3].out_features == 5


def test_the_classifier_is_the_papers_with_dropout_before_it() -> None:
    model = network.build(LARGE, 5, (2, 4), dropout=0.3)

    dropout, classifier = model.body.classifier[-2:]
    assert dropout.p == 0.3
    assert 0.0005 < classifier.weight.std() < 0.002
    assert not classifier.bias.any()


def test_the_paper_has_published_no_such_network() -> None:
    with pytest.raises(CheckpointError, match=f"the paper's code has no {SMALL}"):
        network.import_published(SMALL, {})
