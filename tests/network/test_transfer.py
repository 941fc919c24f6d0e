"""A network that starts from another, and the ablation that shares nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ffn_edge import network
from ffn_edge.errors import CheckpointError, FrameCountError, NetworkError
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.checkpoint import ModelCard, load_checkpoint, save_checkpoint, start_from


def random_network(*frame_counts: int, classes: int = 3, without: str = "") -> FrameFlexibleNetwork:
    model = network.build("tsm_tiny", classes, frame_counts, without=tuple(without.split())).eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    return model


def test_each_frame_count_starts_from_the_nearest() -> None:
    torch.manual_seed(0)
    other = random_network(4, 16)
    model = random_network(2, 12)

    start_from(model, other)

    theirs, ours = other.state_dict(), model.state_dict()
    assert torch.equal(ours["body.layer2.0.conv2.weight"], theirs["body.layer2.0.conv2.weight"])
    for name in ("body.bn1.norms.{}.running_var", "body.layer1.0.conv1.alteration.phi.{}"):
        assert torch.equal(ours[name.format(2)], theirs[name.format(4)])
        assert torch.equal(ours[name.format(12)], theirs[name.format(16)])
    assert ours["body.conv1.weight"].data_ptr() != theirs["body.conv1.weight"].data_ptr()


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        ({"classes": 4}, r"2 of another shape \(body.fc.linear.weight \(4, 128\), not \(3, 128\)"),
        ({"without": "sn"}, r"missing \(body.bn1.norms.2.weight, .*unexpected \(body.bn1.weight"),
        ({"without": "wa"}, r"16 missing \(body.layer1.0.conv1.alteration.phi.2, .*, …\)"),
    ],
    ids=["classes", "norms", "alteration"],
)
def test_a_network_of_another_kind_is_no_start(other: dict[str, object], differs: str) -> None:
    with pytest.raises(CheckpointError, match="cannot start from .*" + differs):
        start_from(random_network(2, 4), random_network(2, 4, **other))  # type: ignore[arg-type]


def test_without_sharing_each_frame_count_has_a_network_of_its_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = network.build("tsm_tiny", 3, (2, 4), without=("ws",)).eval()
    clip = torch.randn(1, 4, 3, 32, 32)
    with torch.inference_mode():
        logits = model({2: clip[:, :2], 4: clip})
        assert torch.equal(model(clip), logits[4])
        assert torch.equal(model(clip[:, :2]), logits[2])
        assert not torch.equal(model(clip, 2), logits[4])
        save_checkpoint(tmp_path / "model.pt", model, ModelCard(classes=("a", "b", "c"), size=32))
        loaded = load_checkpoint(tmp_path / "model.pt").network
        assert torch.equal(loaded(clip), logits[4])
    single = random_network(4)
    assert model.specialized == network.build("tsm_tiny", 3, (4,)).specialized
    assert sum(p.numel() for p in model.parameters()) == 2 * sum(
        p.numel() for p in single.parameters()
    )


def test_no_frame_counts_are_not_the_papers() -> None:
    assert network.build("tsm_tiny", 3).frame_counts == (4, 8, 16)
    with pytest.raises(FrameCountError):
        network.build("tsm_tiny", 3, [])


def test_only_parts_of_the_method_can_be_left_out() -> None:
    with pytest.raises(NetworkError, match="without 'norms'"):
        network.build("tsm_tiny", 3, without=("norms",))
