"""Pre-trained files as a start: read under any usual key, refused whole when they do not fit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ffn_edge.errors import CheckpointError, NetworkError
from ffn_edge.network.pretrained import load_start


class Body(nn.Module):
    """Twelve layers and a norm that were pre-trained, and a classifier that is new."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(12))
        self.norm = nn.BatchNorm1d(2)
        self.fc = nn.Linear(2, classes)


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    """The tensors of a pre-trained network with more classes."""
    return {name: torch.full_like(value, 3) for name, value in Body(9).state_dict().items()}


def load(path: Path, content: object) -> tuple[Body, dict[str, Tensor]]:
    """Load a file with `content` into a network; return it, and what it was before."""
    torch.save(content, path)
    body = Body(4)
    before = copy.deepcopy(body.state_dict())
    load_start(body, path, source="a Body", new=lambda name: name.startswith("fc."))
    return body, before


@pytest.mark.parametrize("key", [None, "state_dict", "model_state", "model"])
def test_tensors_are_read_bare_and_under_a_key(
    key: str | None, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    content: dict[str, Any] = tensors if key is None else {"epoch": 90, key: tensors}

    body, before = load(tmp_path / "start.pth", content)

    for name, value in body.state_dict().items():
        assert torch.equal(value, before[name] if name.startswith("fc.") else tensors[name]), name


def test_what_is_new_need_not_be_in_the_file(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    del tensors["fc.weight"], tensors["fc.bias"]

    body, before = load(tmp_path / "start.pth", tensors)

    assert torch.equal(body.fc.weight, before["fc.weight"])
    assert torch.equal(body.layers[0].weight, tensors["layers.0.weight"])


def test_a_file_without_batch_counters_is_read(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    del tensors["norm.num_batches_tracked"]

    body, _ = load(tmp_path / "start.pth", tensors)

    assert torch.equal(body.norm.running_mean, tensors["norm.running_mean"])
    assert body.norm.num_batches_tracked == 0


def test_missing_tensors_are_counted_and_the_first_ten_named(
    tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    rest = {name: value for name, value in tensors.items() if not name.startswith("layers.")}

    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "start.pth", rest)

    listed = ", ".join(f"layers.{i}.weight" for i in range(10))
    assert f"12 missing ({listed}, …)" in caught.value.message
    assert "a Body" in caught.value.hint


def test_a_larger_network_is_not_read_in_part(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"1 unexpected \(layers.12.weight\)"):
        load(tmp_path / "start.pth", tensors | {"layers.12.weight": torch.zeros(2, 2)})


def test_a_tensor_of_another_shape_is_named_with_both(
    tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"layers.3.weight \(2, 5\), not \(2, 2\)"):
        load(tmp_path / "start.pth", tensors | {"layers.3.weight": torch.zeros(2, 5)})


def test_a_file_that_does_not_exist_is_refused_naming_what_it_has_to_be(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="no weights file") as caught:
        load_start(Body(4), tmp_path / "none.pth", source="a Body", new=lambda name: False)

    assert "a local file of a Body" in caught.value.hint
