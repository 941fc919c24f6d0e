"""Image weights that a network starts from, by file and by name."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision

from ffn_edge import network
from ffn_edge.errors import CheckpointError, NetworkError


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-18's state_dict as torchvision publishes it, with random values."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return path


def test_image_weights_are_read_from_a_file(weights_file: Path) -> None:
    expected = torch.load(weights_file, weights_only=True)

    body = network.build("tsm_resnet18", 5, (2, 4), weights=str(weights_file)).body

    assert torch.equal(body.layer2[0].conv1.conv.weight, expected["layer2.0.conv1.weight"])
    for norm in body.layer2[0].bn1.norms.values():
        assert torch.equal(norm.running_mean, expected["layer2.0.bn1.running_mean"])
    assert body.fc.linear.out_features == 5


def test_weights_of_another_network_are_refused(weights_file: Path) -> None:
    with pytest.raises(CheckpointError, match="is of another network") as caught:
        network.build("tsm_resnet34", 5, weights=str(weights_file))

    assert "torchvision's resnet34" in caught.value.hint


def test_a_file_that_holds_no_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_text("not a torch file")

    with pytest.raises(CheckpointError, match="is refused"):
        network.build("tsm_resnet18", 5, weights=str(path))


def test_a_tensor_that_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(torch.zeros(3), path)

    with pytest.raises(CheckpointError, match="holds a Tensor, not tensors by name"):
        network.build("tsm_resnet18", 5, weights=str(path))


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(NetworkError) as caught:
        network.build("tsm_resnet18", 5, weights="IMAGENET")

    assert "IMAGENET1K_V1" in caught.value.hint


def test_without_a_network_the_hint_says_where_to_fetch_the_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)

    with pytest.raises(NetworkError, match="could not download") as caught:
        network.build("tsm_resnet18", 5, weights="IMAGENET1K_V1")

    assert "https://download.pytorch.org/models/resnet18" in caught.value.hint


def test_tsm_tiny_has_no_image_weights() -> None:
    with pytest.raises(NetworkError, match="no pre-trained weights"):
        network.build("tsm_tiny", 5, weights="IMAGENET1K_V1")
