"""Exporting writes a whole bundle or leaves what was there."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ffn_edge import network
from ffn_edge.bundle.bundle import MANIFEST, WEIGHTS, Bundle
from ffn_edge.bundle.compose import compose, composed_sha256
from ffn_edge.errors import ExportError, FrameCountError
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.checkpoint import Checkpoint


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_bundle_holds_what_the_design_says_and_nothing_else(exported: Bundle) -> None:
    assert set(content_of(exported.path)) == {
        MANIFEST, WEIGHTS, "graph_2.onnx", "graph_4.onnx"
    }  # fmt: skip


def test_the_manifest_has_the_hash_of_each_frame_counts_composed_weights(
    exported: Bundle,
) -> None:
    for frames, sub in exported.manifest.sub_networks.items():
        composed = compose(exported.tensors(), exported.manifest.layers, frames)
        assert composed_sha256(composed) == sub.composed_sha256


@pytest.mark.slow
def test_exporting_again_gives_the_same_bytes_in_the_place_of_the_old_ones(
    checkpoint: Checkpoint, exported: Bundle, bundle_copy: Path
) -> None:
    export_bundle(checkpoint.network, checkpoint.card, bundle_copy)

    assert content_of(bundle_copy) == content_of(exported.path)


@pytest.mark.slow
def test_what_was_measured_of_a_bundle_stays_with_the_same_weights_and_goes_with_others(
    checkpoint: Checkpoint, bundle_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (bundle_copy / "profile.json").write_text("measured")
    export_bundle(checkpoint.network, checkpoint.card, bundle_copy)
    assert (bundle_copy / "profile.json").read_text() == "measured"

    export_bundle(checkpoint.network, checkpoint.card, bundle_copy, weights_dtype="fp16")
    assert not (bundle_copy / "profile.json").exists()
    assert "profile.json" in caplog.text


@pytest.mark.slow
def test_a_frame_count_is_not_lost_unless_that_is_asked_for(
    checkpoint: Checkpoint, bundle_copy: Path
) -> None:
    before = content_of(bundle_copy)
    with pytest.raises(ExportError, match="serves 2 frames too"):
        export_bundle(checkpoint.network, checkpoint.card, bundle_copy, frame_counts=(4,))
    assert content_of(bundle_copy) == before

    after = export_bundle(
        checkpoint.network, checkpoint.card, bundle_copy, frame_counts=(4,), replace=True
    )
    assert after.manifest.frame_counts == (4,)


def test_one_frame_count_alone_can_be_exported(half_exported: Bundle) -> None:
    manifest = half_exported.manifest

    assert (manifest.frame_counts, manifest.weights_dtype) == ((4,), "float16")
    assert manifest.input.batch == 2
    assert not any(name.startswith("frames/2/") for name in half_exported.tensors())
    assert set(content_of(half_exported.path)) == {MANIFEST, WEIGHTS, "graph_4.onnx"}


@pytest.mark.slow
def test_a_full_disk_leaves_the_previous_bundle_whole(
    checkpoint_file: Path,
    bundle_copy: Path,
    on_a_full_disk: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    before = content_of(bundle_copy)
    program = (
        "import sys\n"
        "from ffn_edge.export.bundle_writer import export_bundle\n"
        "from ffn_edge.network.checkpoint import load_checkpoint\n"
        "loaded = load_checkpoint(sys.argv[1])\n"
        "export_bundle(loaded.network, loaded.card, sys.argv[2])\n"
    )

    process = on_a_full_disk(program, checkpoint_file, bundle_copy, room=1_000_000)

    assert "ExportError: could not write" in process.stderr
    assert content_of(bundle_copy) == before
    assert [path.name for path in bundle_copy.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("occupied", ["file", "folder"])
def test_what_is_no_bundle_is_not_replaced(
    occupied: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    target = tmp_path / "precious"
    precious = target if occupied == "file" else target / "thesis.tex"
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("years of work")

    with pytest.raises(ExportError, match="exists and is not a bundle"):
        export_bundle(checkpoint.network, checkpoint.card, target)

    assert precious.read_text() == "years of work"


def test_a_class_count_that_does_not_fit_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    card = dataclasses.replace(checkpoint.card, classes=("a", "b"))

    with pytest.raises(ExportError, match="5 logits; 2 class names"):
        export_bundle(checkpoint.network, card, tmp_path / "bundle")


def test_options_that_do_not_exist_are_refused_before_anything_is_written(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    model, card, target = checkpoint.network, checkpoint.card, tmp_path / "bundle"

    with pytest.raises(ExportError, match="no sub-network for 8 frames"):
        export_bundle(model, card, target, frame_counts=(2, 8))
    with pytest.raises(FrameCountError, match="ascend"):
        export_bundle(model, card, target, frame_counts=(4, 2))
    with pytest.raises(ExportError, match="'int8'"):
        export_bundle(model, card, target, weights_dtype="int8")
    with pytest.raises(ExportError, match="batches of 0"):
        export_bundle(model, card, target, batch=0)
    assert list(tmp_path.iterdir()) == []


def test_weights_beyond_half_precision_are_refused(
    checkpoint: Checkpoint, randomise: Callable[..., FrameFlexibleNetwork], tmp_path: Path
) -> None:
    model = randomise(network.build("tsm_tiny", 5, (2,)))
    with torch.no_grad():
        model.body.layer1[0].conv2.weight[0, 0, 0, 0] = 7e4

    with pytest.raises(ExportError, match=r"layer1\.0\.conv2\.weight has values beyond") as caught:
        export_bundle(model, checkpoint.card, tmp_path / "bundle", weights_dtype="fp16")

    assert "fp32" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("tensor", "value"),
    [
        ("conv1.weight", float("nan")),
        ("conv1.weight", float("inf")),
        ("bn1.norms.2.bias", -float("inf")),
        ("bn1.norms.2.running_var", float("nan")),
    ],
)
def test_a_network_that_diverged_leaves_what_stood_there(
    tensor: str, value: float, checkpoint: Checkpoint, bundle_copy: Path
) -> None:
    before = content_of(bundle_copy)
    model = copy.deepcopy(checkpoint.network)
    with torch.no_grad():
        model.body.state_dict()[tensor].flatten()[0] = value

    with pytest.raises(ExportError, match="no numbers"):
        export_bundle(model, checkpoint.card, bundle_copy)

    assert content_of(bundle_copy) == before


@pytest.mark.slow
def test_a_network_whose_graph_no_bundle_may_hold_leaves_what_stood_there(
    checkpoint: Checkpoint, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content_of(bundle_copy)
    monkeypatch.setattr("ffn_edge.bundle.graph_check._OPERATORS", frozenset({"Conv"}))

    with pytest.raises(ExportError, match="cannot hold this network"):
        export_bundle(checkpoint.network, checkpoint.card, bundle_copy)

    assert content_of(bundle_copy) == before
