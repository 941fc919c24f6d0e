"""Exporting writes a whole bundle or leaves what was there."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ffn_edge import network
from ffn_edge.bundle.bundle import MANIFEST, WEIGHTS, Bundle
from ffn_edge.bundle.compose import S_IN, S_OUT, compose, composed_sha256, vector_name
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


@pytest.mark.parametrize("bundle", ["exported", "int8_exported"])
def test_the_manifest_has_the_hash_of_each_frame_counts_composed_weights(
    bundle: str, request: pytest.FixtureRequest
) -> None:
    written: Bundle = request.getfixturevalue(bundle)
    for frames, sub in written.manifest.sub_networks.items():
        composed = compose(written.tensors(), written.manifest.layers, frames)
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
    with pytest.raises(ExportError, match="'int4'"):
        export_bundle(model, card, target, weights_dtype="int4")
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


def test_int8_weights_are_a_quarter_of_the_bytes_and_half_a_step_off_at_most(
    exported: Bundle, int8_exported: Bundle
) -> None:
    original, stored = exported.tensors(), int8_exported.tensors()
    layers = exported.manifest.layers

    assert int8_exported.manifest.weights_dtype == "int8"
    for layer in layers:
        weight, rounded = original[f"{layer}.weight"], stored[f"{layer}.weight"]
        assert rounded.dtype == np.int8
        assert rounded.nbytes * 4 == weight.nbytes
        assert np.abs(rounded.reshape(len(rounded), -1)).max(1).tolist() == [127] * len(rounded)
    for frames in (2, 4):
        exact, composed = (dict(compose(each, layers, frames)) for each in (original, stored))
        assert set(composed) == set(exact)
        for layer in layers:
            s_in = stored.get(vector_name(frames, layer, S_IN), np.float32(1))
            step = np.abs(s_in * stored[vector_name(frames, layer, S_OUT)])
            off = np.abs(composed[f"{layer}.weight"] - exact[f"{layer}.weight"])
            assert (off <= 0.5001 * step).all(), layer


def test_a_dead_channel_stays_dead_in_int8(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = copy.deepcopy(checkpoint.network)
    with torch.no_grad():
        model.body.layer1[0].conv2.weight[0] = 0

    bundle = export_bundle(model, checkpoint.card, tmp_path / "bundle", weights_dtype="int8")

    composed = dict(compose(bundle.tensors(), bundle.manifest.layers, 4))
    assert (composed["layer1.0.conv2.weight"][0] == 0).all()
    assert all(np.isfinite(array).all() for array in composed.values())


@pytest.mark.parametrize("weights_dtype", ["fp32", "int8"])
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
    tensor: str, value: float, weights_dtype: str, checkpoint: Checkpoint, bundle_copy: Path
) -> None:
    before = content_of(bundle_copy)
    model = copy.deepcopy(checkpoint.network)
    with torch.no_grad():
        model.body.state_dict()[tensor].flatten()[0] = value

    with pytest.raises(ExportError, match="no numbers"):
        export_bundle(model, checkpoint.card, bundle_copy, weights_dtype=weights_dtype)

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
