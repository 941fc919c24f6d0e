"""Published checkpoints that are not what they were said to be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ffn_edge import network
from ffn_edge.errors import CheckpointError, FrameCountError, NetworkError
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.published import published_name


@pytest.fixture(scope="module")
def state_dict() -> dict[str, Tensor]:
    """A published TSM-ResNet-18 for 2 and 6 frames and 7 classes, all zeros."""
    with torch.device("meta"):
        model = network.build("tsm_resnet18", 7, (2, 6))
    tensors = {}
    for name, tensor in model.state_dict().items():
        shape = (*tensor.shape, 1, 1, 1) if ".phi." in name else tensor.shape
        tensors[f"module.{published_name('tsm_resnet18', name)}"] = torch.zeros(
            shape, dtype=tensor.dtype
        )
    return tensors


@pytest.mark.parametrize(
    ("ours", "published"),
    [
        ("body.conv1.weight", "conv1.weight"),
        ("body.bn1.norms.16.running_var", "bn1_16.running_var"),
        ("body.layer1.0.conv1.conv.weight", "layer1.0.conv1.weight"),
        ("body.layer1.0.conv1.alteration.phi.8", "layer1.0.adaconv_8.weight"),
        ("body.layer3.5.bn3.norms.4.bias", "layer3.5.bn3_4.bias"),
        ("body.layer2.0.downsample.0.weight", "layer2.0.downsample_conv.weight"),
        ("body.layer2.0.downsample.1.norms.8.weight", "layer2.0.downsample_bn_8.weight"),
    ],
)
def test_names_are_those_of_the_published_code(ours: str, published: str) -> None:
    assert published_name("tsm_resnet18", ours) == f"base_model.{published}"


def test_the_classifier_has_the_published_name() -> None:
    assert published_name("tsm_resnet18", "body.fc.linear.weight") == "new_fc.weight"


@pytest.mark.parametrize(
    ("arch", "blue_first"),
    [("tsm_resnet18", False), ("slowfast_resnet50", False), ("uniformer_small", True)],
)
def test_an_imported_network_takes_red_first_whatever_the_published_one_takes(
    arch: str, blue_first: bool, randomise: Callable[[FrameFlexibleNetwork], FrameFlexibleNetwork]
) -> None:
    published = randomise(network.build(arch, 2, (4,)))
    state = {published_name(arch, name): value for name, value in published.state_dict().items()}

    imported = network.import_published(arch, state)

    red_first = torch.rand(1, 4, 3, 64, 64)
    with torch.no_grad():
        right, wrong = red_first, red_first.flip(2)
        if blue_first:
            right, wrong = wrong, right
        # float32: the sum over colours has another order
        torch.testing.assert_close(imported(red_first), published(right), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(published(wrong), published(right), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("prefix", ["module.", ""], ids=["DataParallel", "bare"])
def test_classes_and_frame_counts_are_read_off_the_tensors(
    prefix: str, state_dict: dict[str, Tensor]
) -> None:
    renamed = {prefix + name.removeprefix("module."): t for name, t in state_dict.items()}

    model = network.import_published("tsm_resnet18", renamed)

    assert (model.num_classes, model.frame_counts, model.training) == (7, (2, 6), False)


def test_a_missing_and_an_unexpected_tensor_are_named(state_dict: dict[str, Tensor]) -> None:
    altered = state_dict | {"module.base_model.extra": torch.zeros(1)}
    del altered["module.base_model.layer4.1.conv2.weight"]

    with pytest.raises(CheckpointError) as caught:
        network.import_published("tsm_resnet18", altered)

    assert "1 missing (base_model.layer4.1.conv2.weight)" in caught.value.message
    assert "1 unexpected (base_model.extra)" in caught.value.message


def test_another_architecture_is_refused_naming_ten_tensors(state_dict: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError) as caught:
        network.import_published("tsm_resnet50", state_dict)

    message = caught.value.message
    assert "not a tsm_resnet50" in message
    missing, more, _ = message.partition("missing (")[2].partition(", …)")
    assert len(missing.split(", ")) == 10
    assert more
    assert "unexpected" not in message  # a ResNet-18's names are all names of a ResNet-50


def test_a_tensor_of_another_shape_is_named(state_dict: dict[str, Tensor]) -> None:
    altered = state_dict | {"module.base_model.conv1.weight": torch.zeros(64, 1, 7, 7)}

    with pytest.raises(CheckpointError) as caught:
        network.import_published("tsm_resnet18", altered)

    assert "base_model.conv1.weight (64, 1, 7, 7), not (64, 3, 7, 7)" in caught.value.message


def test_tensors_of_something_else_are_refused() -> None:
    with pytest.raises(CheckpointError, match="not a published checkpoint"):
        network.import_published("tsm_resnet18", {"conv1.weight": torch.zeros(1)})


def test_a_classifier_that_is_no_matrix_is_refused(state_dict: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match=r"new_fc\.weight of \(classes, features\)"):
        network.import_published(
            "tsm_resnet18", state_dict | {"module.new_fc.weight": torch.tensor(1.0)}
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"new_fc.weight": torch.zeros(1).expand(10**9, 512)},
        {"new_fc.weight": torch.zeros(10**6, 1)},
        {f"base_model.bn1_{'9' * 5000}.weight": torch.zeros(1)},
        {f"base_model.bn1_{t}.weight": torch.zeros(1) for t in range(1, 5000)},
    ],
    ids=["repeated", "narrow", "digits", "frame counts"],
)
def test_nothing_is_made_as_large_as_a_file_only_says(
    changes: dict[str, Tensor], state_dict: dict[str, Tensor]
) -> None:
    altered = {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}
    with pytest.raises((CheckpointError, FrameCountError)):
        network.import_published("tsm_resnet18", altered | changes)


def test_an_unknown_architecture_is_refused_before_the_tensors_are_read() -> None:
    with pytest.raises(NetworkError, match="no architecture 'tsm_resnet19'"):
        network.import_published("tsm_resnet19", {})
