"""Checkpoints: what is saved comes back, and what is no checkpoint is refused."""

from __future__ import annotations

import os
import pickle
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from ffn_edge.bundle.bundle import Accuracy
from ffn_edge.errors import CheckpointError, DataError, FfnEdgeError, NetworkError
from ffn_edge.network import ARCHITECTURES, FrameFlexibleNetwork, build, specialize
from ffn_edge.network.checkpoint import (
    ModelCard,
    import_file,
    load_checkpoint,
    save_checkpoint,
)
from ffn_edge.network.published import published_name


def test_a_network_comes_back_as_it_was_saved(tiny: FrameFlexibleNetwork, tmp_path: Path) -> None:
    card = ModelCard(
        classes=("a", "b", "c", "d", "e"),
        size=32,
        short_side=40,
        mean=(0.5, 0.5, 0.5),
        dataset="jester",
        accuracy={4: Accuracy(top1=0.5, top5=0.75, clips=8)},
    )
    save_checkpoint(tmp_path / "model.pt", tiny, card, training={"epoch": 3})

    loaded = load_checkpoint(tmp_path / "model.pt")

    assert loaded.card == card
    assert loaded.training == {"epoch": 3}
    assert loaded.network.architecture == "tsm_tiny"
    assert loaded.network.frame_counts == (2, 4)
    assert not loaded.network.training
    expected = tiny.state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in loaded.network.state_dict().items())


class Malicious:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        """Have the unpickler call Path.touch."""
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_file_with_code_in_it_is_refused_and_does_not_run(writer: str, tmp_path: Path) -> None:
    file, ran = tmp_path / "model.pt", tmp_path / "ran"
    content = {"format": "ffn-edge checkpoint", "state_dict": Malicious(ran)}
    if writer == "torch":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))

    with pytest.raises(CheckpointError, match="refused"):
        load_checkpoint(file)
    assert not ran.exists()

    torch.load(file, weights_only=False) if writer == "torch" else pickle.loads(file.read_bytes())
    assert ran.exists()  # it would have run


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused(
    kept: float, checkpoint_file: Path, tmp_path: Path
) -> None:
    whole = checkpoint_file.read_bytes()
    file = tmp_path / "model.pt"
    file.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])

    with pytest.raises(CheckpointError):
        load_checkpoint(file)


@pytest.mark.parametrize(
    "content", [b"not a checkpoint\n", b"PK\x03\x04 not a zip", bytes(range(256)) * 8]
)
def test_a_file_of_another_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    file.write_bytes(content)

    with pytest.raises(CheckpointError):
        load_checkpoint(file)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no file .*absent\.pt"):
        load_checkpoint(tmp_path / "absent.pt")


def test_a_published_checkpoint_is_sent_to_the_import_command(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "arch": "resnet50"}, tmp_path / "published.pt")

    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "published.pt")

    assert "ffn-edge import" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema version 2"),
        ({"schema_version": torch.zeros(3)}, "schema version"),
        ({"frame_counts": list(range(1, 4000))}, "does not hold a tsm_tiny: .*frame counts"),
        ({"architecture": "tsm_resnet18"}, "does not hold a tsm_resnet18: .*body.conv1.weight"),
        ({"architecture": "tsm_resnet19"}, "no architecture 'tsm_resnet19'"),
        ({"num_classes": 6}, "does not hold a tsm_tiny: .*fc.linear"),
        ({"frame_counts": [2, 8]}, r"does not hold a tsm_tiny: .*norms\.8"),
        ({"card": {"size": 32}}, "card.classes"),
        ({"card": {"classes": []}}, "a class at least"),
        ({"state_dict": 3}, "does not hold a tsm_tiny"),
    ],
)
def test_a_checkpoint_that_contradicts_itself_is_refused(
    changes: dict[str, object], message: str, checkpoint_file: Path, tmp_path: Path
) -> None:
    content = torch.load(checkpoint_file, weights_only=True)
    torch.save(content | changes, tmp_path / "model.pt")

    with pytest.raises(FfnEdgeError, match=message):
        load_checkpoint(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("changes", "noun"),
    [
        ({"num_classes": 10**9}, "shape"),  # 512 GB, were it made first
        ({"num_classes": 10**400}, "tsm_tiny"),
        ({"num_classes": "5"}, "tsm_tiny"),
        ({"num_classes": float("nan")}, "tsm_tiny"),
        ({"frame_counts": list(range(1, 100_001))}, "frame counts"),
        ({"architecture": "slowfast_resnet50", "frame_counts": [4 * 10**9]}, "frame counts"),
    ],
)
def test_nothing_is_made_as_large_as_a_file_only_says(
    changes: dict[str, object], noun: str, checkpoint_file: Path, tmp_path: Path
) -> None:
    content = torch.load(checkpoint_file, weights_only=True)
    torch.save(content | changes, tmp_path / "model.pt")

    with pytest.raises(FfnEdgeError, match=noun):
        load_checkpoint(tmp_path / "model.pt")


def test_a_tensor_that_repeats_one_number_is_not_taken_for_its_shape(
    checkpoint_file: Path, tmp_path: Path
) -> None:
    content = torch.load(checkpoint_file, weights_only=True)
    many = 10**9
    content["num_classes"] = many
    content["state_dict"]["body.fc.linear.weight"] = torch.zeros(1, 1).expand(many, 128)
    content["state_dict"]["body.fc.linear.bias"] = torch.zeros(1).expand(many)
    torch.save(content, tmp_path / "model.pt")

    with pytest.raises(CheckpointError, match=r"2 of fewer numbers .*fc\.linear"):
        load_checkpoint(tmp_path / "model.pt")


def test_a_file_that_unfolds_to_more_than_it_is_is_refused(
    checkpoint_file: Path, tmp_path: Path
) -> None:
    with (
        zipfile.ZipFile(checkpoint_file) as whole,
        zipfile.ZipFile(tmp_path / "model.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))

    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(tmp_path / "model.pt")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_that_a_network_computes_with_is_in_its_checkpoint(architecture: str) -> None:
    # It is made without memory first: a tensor that is not in the file would stay without values.
    with torch.device("meta"):
        network = build(architecture, 3)

    held = {name for name, _ in (*network.named_parameters(), *network.named_buffers())}
    assert held == set(network.state_dict())
    outside = [
        value
        for layer in network.modules()
        for value in vars(layer).values()
        if isinstance(value, torch.Tensor)
    ]
    assert not outside


SHARES = {"top1": 0.5, "top5": 0.75, "clips": 8}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("classes", [1, 2, 3, 4, 5]),
        ("classes", ["a", "b"]),
        ("classes", 5),
        ("size", -1),
        ("size", 10**9),
        ("size", 32.0),
        ("size", None),
        ("short_side", 31),
        ("short_side", float("nan")),
        ("mean", [0.5, 0.5]),
        ("mean", [0.5, 0.5, float("inf")]),
        ("std", [0.5, 0.5, 0.0]),
        ("std", "abc"),
        ("dataset", 3),
        ("accuracy", {4: SHARES | {"top1": 1.5}}),
        ("accuracy", {4: SHARES | {"top5": float("nan")}}),
        ("accuracy", {4: SHARES | {"clips": -1}}),
        ("accuracy", {"four": SHARES}),
        ("accuracy", [0.5]),
    ],
)
def test_a_card_with_a_value_that_cannot_be_is_refused(
    field: str, value: object, checkpoint_file: Path, tmp_path: Path
) -> None:
    content = torch.load(checkpoint_file, weights_only=True)
    content["card"][field] = value
    torch.save(content, tmp_path / "model.pt")

    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "model.pt")


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "name"])
def test_what_is_no_file_is_refused_and_not_waited_for(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path(os.devnull)
    else:
        path = tmp_path / ("n" * 300)

    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(path)
    with pytest.raises(NetworkError, match="no weights file"):
        build("tea_resnet50", 3, weights=str(path))


def test_what_a_checkpoint_lacks_is_counted_and_the_first_ten_named(
    checkpoint_file: Path, tmp_path: Path
) -> None:
    content = torch.load(checkpoint_file, weights_only=True)
    norms = [name for name in content["state_dict"] if ".norms." in name]
    content["state_dict"] = {
        name: tensor for name, tensor in content["state_dict"].items() if name not in norms
    }
    torch.save(content, tmp_path / "model.pt")

    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "model.pt")

    assert f"{len(norms)} missing ({', '.join(norms[:10])}, …)" in caught.value.message


def test_a_network_that_cannot_be_built_again_is_no_checkpoint(tmp_path: Path) -> None:
    model = specialize(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)), (2, 4))

    with pytest.raises(CheckpointError, match="'custom' cannot be made again") as caught:
        save_checkpoint(tmp_path / "model.pt", model, ModelCard(classes=("a", "b")))

    assert "network.state_dict()" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_full_disk_leaves_the_previous_checkpoint_whole(
    checkpoint_file: Path, on_a_full_disk: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    before = checkpoint_file.read_bytes()
    program = (
        "import sys\n"
        "from ffn_edge.network.checkpoint import load_checkpoint, save_checkpoint\n"
        "loaded = load_checkpoint(sys.argv[1])\n"
        "save_checkpoint(sys.argv[1], loaded.network, loaded.card)\n"
    )

    process = on_a_full_disk(program, checkpoint_file, room=len(before) // 2)

    assert "CheckpointError: could not write" in process.stderr
    assert checkpoint_file.read_bytes() == before
    assert list(checkpoint_file.parent.iterdir()) == [checkpoint_file]  # and no temporary file


def test_a_folder_that_cannot_be_written_is_an_error_with_a_hint(
    tiny: FrameFlexibleNetwork, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(CheckpointError, match="could not write"):
        save_checkpoint(tmp_path / "file" / "model.pt", tiny, ModelCard(classes=("a",)))


@pytest.fixture
def published_file(tmp_path: Path) -> Path:
    """A file as the paper's code saves it: tsm_resnet18, 3 classes, 2 and 4 frames."""
    from ffn_edge import network

    model = network.build("tsm_resnet18", 3, (2, 4))
    tensors = {
        f"module.{published_name('tsm_resnet18', name)}": t
        for name, t in model.state_dict().items()
    }
    path = tmp_path / "ckpt.best.pth.tar"
    torch.save({"epoch": 49, "arch": "resnet18", "state_dict": tensors, "best_prec1": 43.6}, path)
    return path


def test_a_published_file_becomes_a_checkpoint(published_file: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text("push\npull\nlift\n")

    import_file(published_file, "tsm_resnet18", tmp_path / "model.pt", classes)

    loaded = load_checkpoint(tmp_path / "model.pt")
    assert loaded.card.classes == ("push", "pull", "lift")
    assert loaded.network.frame_counts == (2, 4)
    import_file(published_file, "tsm_resnet18", tmp_path / "unnamed.pt")
    assert load_checkpoint(tmp_path / "unnamed.pt").card.classes == ("0", "1", "2")


def test_class_names_that_do_not_fit_a_published_file_are_refused(
    published_file: Path, tmp_path: Path
) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text("push\npull\n")

    with pytest.raises(CheckpointError, match="2 names; the network has 3 classes"):
        import_file(published_file, "tsm_resnet18", tmp_path / "model.pt", classes)
    with pytest.raises(DataError, match="cannot be read"):
        import_file(published_file, "tsm_resnet18", tmp_path / "model.pt", tmp_path / "absent")
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("tsm_resnet18", (224, 256, 0.485, 0.229)),
        ("slowfast_resnet50", (256, 256, 0.45, 0.225)),
        ("uniformer_small", (224, 224, 0.45, 0.225)),
    ],
)
def test_a_published_network_gets_the_input_that_it_was_trained_on(
    architecture: str,
    expected: tuple[float, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build(architecture, 3).eval()
    monkeypatch.setattr("ffn_edge.network.checkpoint.import_published", lambda *_: model)
    torch.save({"model_state": {"head.weight": torch.zeros(1)}}, tmp_path / "published.pyth")

    import_file(tmp_path / "published.pyth", architecture, tmp_path / "model.pt")

    card = load_checkpoint(tmp_path / "model.pt").card
    assert (card.size, card.short_side, card.mean[0], card.std[0]) == expected


def test_classes_can_be_renamed_but_not_put_into_another_order() -> None:
    card = ModelCard(classes=("left", "right", "up"))

    assert card.renamed(["links", "right", "oben"]).classes == ("links", "right", "oben")
    for wrong in (["right", "left", "up"], ["none", "left", "right", "up"], ["a", "b", "right"]):
        with pytest.raises(CheckpointError, match="class"):
            card.renamed(wrong)


def test_a_checkpoint_of_ours_needs_no_import(checkpoint_file: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is an ffn-edge checkpoint already"):
        import_file(checkpoint_file, "tsm_resnet18", tmp_path / "model.pt")
