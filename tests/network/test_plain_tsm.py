"""Plain TSM networks trained for actions: the same function at every frame count, or refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from ffn_edge import network
from ffn_edge.errors import CheckpointError
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.checkpoint import import_file, load_checkpoint
from ffn_edge.network.published import published_name

NAME, CLASSES = "tsm_resnet18", 7


class Shifted(nn.Module):
    """A convolution of frames of which an eighth of the channels is that of each neighbour."""

    def __init__(self, net: nn.Module, frames: int) -> None:
        super().__init__()
        self.net = net
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B·T, C, H, W)."""
        eighth = x.shape[1] // 8
        clips = x.unflatten(0, (-1, self.frames))
        shifted = clips.clone()
        shifted[:, :, : 2 * eighth] = 0
        shifted[:, :-1, :eighth] = clips[:, 1:, :eighth]
        shifted[:, 1:, eighth : 2 * eighth] = clips[:, :-1, eighth : 2 * eighth]
        return self.net(shifted.flatten(0, 1))


class Plain(nn.Module):
    """TSM as its authors build it: torchvision's ResNet, a shift before each branch, one head.

    Its tensors have the names of mit-han-lab's code. Weights come from a formula of their place.
    """

    def __init__(self, resnet: str, classes: int = CLASSES) -> None:
        super().__init__()
        self.base_model = get_model(resnet)
        self.new_fc = nn.Linear(self.base_model.fc.in_features, classes)
        self.base_model.fc = nn.Identity()
        for name, block in self.base_model.named_modules():
            if re.fullmatch(r"layer\d\.\d+", name):
                block.conv1 = Shifted(block.conv1, 0)
        for name, tensor in self.state_dict().items():
            if tensor.is_floating_point():
                places = torch.arange(tensor.numel(), dtype=torch.float64)
                values = torch.sin(places * 0.7 + len(name)).reshape(tensor.shape)
                if tensor.dim() > 1:
                    values *= (2 / tensor[0].numel()) ** 0.5
                elif name.endswith(("weight", "var")):
                    values = 1 + 0.3 * values
                tensor.copy_(values)

    def forward(self, clips: Tensor) -> Tensor:
        """Give logits (B, classes) for clips (B, T, 3, H, W)."""
        for layer in self.modules():
            if isinstance(layer, Shifted):
                layer.frames = clips.shape[1]
        per_frame: Tensor = self.new_fc(self.base_model(clips.flatten(0, 1)))
        return per_frame.unflatten(0, (-1, clips.shape[1])).mean(1)


def in_mmaction2(name: str) -> str:
    """Return a tensor's name in mmaction2's code for that in mit-han-lab's."""
    name = name.replace("new_fc.", "cls_head.fc_cls.").replace("base_model.", "backbone.")
    name = re.sub(r"downsample\.0\.", "downsample.conv.", name)
    name = re.sub(r"downsample\.1\.", "downsample.bn.", name)
    name = re.sub(r"(?<=\.)conv(\d)\.", r"conv\1.conv.", name)
    return re.sub(r"(?<=\.)bn(\d)\.", r"conv\1.bn.", name)


LAYOUTS: dict[str, Callable[[str], str]] = {
    "mit-han-lab": lambda name: f"module.{name}",
    "mit-han-lab without dropout": lambda name: f"module.{name}".replace(
        "new_fc.", "base_model.fc."
    ),
    "the paper's": lambda name: f"module.{name}".replace(".net.", "."),
    "mmaction2": in_mmaction2,
}


@pytest.fixture(scope="module", params=["resnet18", "resnet50"])
def plain(request: pytest.FixtureRequest) -> tuple[str, Plain]:
    """A plain network, with the name of our architecture."""
    return f"tsm_{request.param}", Plain(request.param).eval()


def saved(model: nn.Module, path: Path, layout: str = "mit-han-lab") -> str:
    tensors = {LAYOUTS[layout](name): value for name, value in model.state_dict().items()}
    torch.save({"state_dict": tensors, "meta": {"epoch": 50}}, path)
    return str(path)


def test_the_names_are_those_of_mmaction2s_code() -> None:
    names = [in_mmaction2(name) for name in Plain("resnet50").state_dict()]
    for name in (
        "backbone.conv1.conv.weight",
        "backbone.conv1.bn.running_var",
        "backbone.layer1.0.conv1.conv.net.weight",
        "backbone.layer1.0.conv3.conv.weight",
        "backbone.layer4.2.conv2.bn.bias",
        "backbone.layer2.0.downsample.conv.weight",
        "backbone.layer2.0.downsample.bn.running_mean",
        "cls_head.fc_cls.bias",
    ):
        assert name in names


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_network_that_starts_from_one_answers_as_it_does_at_every_frame_count(
    plain: tuple[str, Plain], layout: str, tmp_path: Path
) -> None:
    arch, model = plain
    file = saved(model, tmp_path / "tsm.pth", layout)

    ours = network.build(arch, CLASSES, (3, 8), weights=file).eval()

    for t in (3, 8):
        clips = torch.rand(2, t, 3, 64, 64, generator=torch.Generator().manual_seed(t))
        with torch.no_grad():
            # float32: the rows' order in a convolution may change its rounding
            torch.testing.assert_close(ours(clips, t), model(clips), rtol=1e-5, atol=1e-5)
            assert not torch.allclose(ours(clips.flip(1), t), model(clips), rtol=1e-4, atol=1e-4)


def test_other_classes_begin_with_a_classifier_of_their_own(tmp_path: Path) -> None:
    model = Plain("resnet18")
    file = saved(model, tmp_path / "tsm.pth")

    ours = network.build(NAME, 3, (2, 4), weights=file)

    assert ours.body.fc.linear.weight.std() < 0.002 and not ours.body.fc.linear.bias.any()
    for t in ("2", "4"):
        norm = ours.body.layer4[1].bn2.norms[t]
        assert torch.equal(norm.running_var, model.base_model.layer4[1].bn2.running_var)
        assert not ours.body.layer3[0].conv1.alteration.phi[t].any()


@pytest.mark.parametrize("without", [("ws",), ("sn",), ("wa",)])
def test_ablations_and_causal_networks_start_from_one_too(
    without: tuple[str, ...], tmp_path: Path
) -> None:
    model = Plain("resnet18").eval()
    file = saved(model, tmp_path / "tsm.pth")
    clips = torch.rand(1, 4, 3, 64, 64)
    ours = network.build(NAME, CLASSES, (2, 4), weights=file, without=without).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(clips, 4), model(clips), rtol=1e-5, atol=1e-5)
    causal = network.build(NAME, CLASSES, (2, 4), weights=file, causal=True)
    assert torch.equal(causal.body.conv1.weight, model.base_model.conv1.weight)


@pytest.mark.parametrize("layout", ["mit-han-lab", "mmaction2"])
def test_one_can_be_imported(layout: str, tmp_path: Path) -> None:
    model = Plain("resnet18").eval()
    file = saved(model, tmp_path / "tsm.pth", layout)

    import_file(file, NAME, tmp_path / "model.pt")

    found = load_checkpoint(tmp_path / "model.pt")
    assert (found.network.frame_counts, len(found.card.classes)) == ((4, 8, 16), CLASSES)
    assert found.card.mean == (0.485, 0.456, 0.406)
    for t in (4, 16):
        clips = torch.rand(1, t, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(found.network(clips, t), model(clips), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["mit-han-lab", "mmaction2"])
def test_branches_without_a_shift_are_said_at_a_start_and_not_imported(
    layout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As in the authors' ResNet-101, where every second block has none."""
    model = Plain("resnet18")
    for name, block in model.base_model.named_modules():
        if re.fullmatch(r"layer\d\.1", name):
            block.conv1 = block.conv1.net
    file = saved(model, tmp_path / "tsm.pth", layout)

    ours = network.build(NAME, CLASSES, (2, 4), weights=file)

    assert "4 residual branches" in caplog.text
    assert torch.equal(
        ours.body.layer2[1].conv1.conv.weight, model.base_model.layer2[1].conv1.weight
    )
    with pytest.raises(CheckpointError, match="4 residual branches"):
        import_file(file, NAME, tmp_path / "model.pt")


@pytest.mark.parametrize("layout", ["mit-han-lab", "mmaction2"])
def test_what_is_missing_or_of_another_network_is_named(layout: str, tmp_path: Path) -> None:
    model = Plain("resnet18")
    del model.base_model.layer3[0].bn2
    file = saved(model, tmp_path / "tsm.pth", layout)
    with pytest.raises(CheckpointError, match=r"missing \(layer3\.0\.bn2\.weight"):
        network.build(NAME, CLASSES, weights=file)
    with pytest.raises(CheckpointError, match=r"not a tsm_resnet50: .*layer1\.0\.conv3"):
        network.build("tsm_resnet50", CLASSES, weights=file)
    with pytest.raises(CheckpointError, match="unexpected"):
        network.build("tsm_mobilenet_v3_small", CLASSES, weights=file)


def test_networks_that_are_none_of_ours_are_refused(tmp_path: Path) -> None:
    def refused(model: nn.Module, noun: str) -> None:
        with pytest.raises(CheckpointError, match=noun):
            network.build(NAME, CLASSES, weights=saved(model, tmp_path / "other.pth"))

    flow = Plain("resnet18")
    flow.base_model.conv1 = nn.Conv2d(10, 64, 7, bias=False)
    refused(flow, r"conv1.weight \(64, 10, 7, 7\)")
    pooled = Plain("resnet18")
    pooled.base_model.layer2 = Shifted(pooled.base_model.layer2, 4)  # TemporalPool has a `net` too
    refused(pooled, "unexpected")
    with_repeats = Plain("resnet18").state_dict()
    with_repeats["new_fc.weight"] = torch.zeros(1).expand(CLASSES, 512)
    with pytest.raises(CheckpointError, match="fewer numbers"):
        network.import_published(NAME, with_repeats)


@pytest.mark.parametrize("arch", ["tsm_resnet18", "tea_resnet50", "uniformer_small"])
def test_training_starts_from_the_papers_own_network_at_other_frame_counts_and_classes(
    arch: str,
    tmp_path: Path,
    randomise: Callable[[FrameFlexibleNetwork], FrameFlexibleNetwork],
) -> None:
    theirs = randomise(network.build(arch, CLASSES, (4, 8, 16)))
    tensors = {published_name(arch, name): t for name, t in theirs.state_dict().items()}
    file = tmp_path / "ffn.pth"
    torch.save({"state_dict": tensors}, file)
    imported = network.import_published(arch, tensors)

    ours = network.build(arch, CLASSES, (4, 14), weights=str(file)).eval()

    for t, nearest in ((4, 4), (14, 16)):
        clips = torch.rand(1, t, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(ours(clips, t), imported(clips, nearest))
    other = network.build(arch, 3, (8,), weights=str(file))
    for name, tensor in other.state_dict().items():
        if not name.startswith(("body.fc.", "body.head.")):
            assert torch.equal(tensor, imported.state_dict()[name]), name
