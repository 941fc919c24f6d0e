"""A bundle is opened whole, or refused with what is wrong and what to do."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from ffn_edge.bundle.bundle import (
    MANIFEST,
    SCHEMA_VERSION,
    SCHEMA_VERSION_WITH_VECTORS,
    WEIGHTS,
    Accuracy,
    Bundle,
    Manifest,
    file_record,
    standard_error,
)
from ffn_edge.bundle.compose import check_layers
from ffn_edge.errors import BundleError


@pytest.mark.slow
def test_a_bundle_tells_what_it_is(exported: Bundle) -> None:
    manifest = Bundle.load(exported.path).manifest

    assert manifest.architecture == "tsm_tiny"
    assert manifest.classes == ("left", "right", "up", "down", "none")
    assert manifest.frame_counts == (2, 4)
    assert manifest.weights_dtype == "float32"
    assert (manifest.input.batch, manifest.input.height, manifest.input.width) == (1, 32, 32)
    assert manifest.input.short_side == 40
    assert manifest.sub_networks[2].accuracy == Accuracy(top1=0.5, top5=1.0, clips=8)
    assert manifest.sub_networks[4].accuracy is None
    assert manifest.sub_networks[4].macs == 2 * manifest.sub_networks[2].macs


def test_the_standard_error_is_the_binomials() -> None:
    assert standard_error(0.5, 100) == pytest.approx(0.05)


def test_a_manifest_comes_back_as_it_was_written(exported: Bundle) -> None:
    assert Manifest.from_json(exported.manifest.to_json()) == exported.manifest


def test_the_identity_is_the_hash_of_the_manifest(exported: Bundle) -> None:
    text = (exported.path / MANIFEST).read_bytes()

    assert exported.identity == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize("change", [{"batch": 2}, {"width": 48}])
def test_a_stream_needs_one_square_clip_at_a_time(exported: Bundle, change: dict[str, int]) -> None:
    contract = exported.manifest.input
    contract.check_streamable()
    with pytest.raises(BundleError, match="square clip"):
        dataclasses.replace(contract, **change).check_streamable()


def test_a_frame_count_that_is_not_served_is_refused_with_those_that_are(
    exported: Bundle,
) -> None:
    with pytest.raises(BundleError, match="serves 2, 4 frames; 16 was asked for") as caught:
        exported.graph_path(16)

    assert "--frames 16" in caught.value.hint


@pytest.mark.parametrize("name", [WEIGHTS, "graph_2.onnx"])
def test_a_truncated_file_is_refused(name: str, bundle_copy: Path) -> None:
    content = (bundle_copy / name).read_bytes()
    (bundle_copy / name).write_bytes(content[:-1])

    with pytest.raises(BundleError, match=f"{name} has {len(content) - 1} bytes; the manifest"):
        Bundle.load(bundle_copy)


@pytest.mark.parametrize("name", [WEIGHTS, "graph_4.onnx"])
def test_an_altered_file_is_refused(name: str, bundle_copy: Path) -> None:
    content = bytearray((bundle_copy / name).read_bytes())
    content[-1] ^= 1
    (bundle_copy / name).write_bytes(content)

    with pytest.raises(BundleError, match=f"{name} was altered"):
        Bundle.load(bundle_copy)


@pytest.mark.parametrize("name", [WEIGHTS, "graph_4.onnx"])
def test_a_missing_file_is_refused(name: str, bundle_copy: Path) -> None:
    (bundle_copy / name).unlink()

    with pytest.raises(BundleError, match=f"{name} is missing") as caught:
        Bundle.load(bundle_copy)

    assert "export" in caught.value.hint


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    for path in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(BundleError, match=r"is not a bundle: (there is no|cannot read)"):
            Bundle.load(path)


def set_field(*keys: str, to: object) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = to

    return change


def remove_field(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        del manifest[keys[-1]]

    return change


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION_WITH_VECTORS + 1, "1", None, [1]])
def test_an_unknown_schema_version_is_refused(version: object, bundle_copy: Path) -> None:
    change_manifest(bundle_copy, set_field("schema_version", to=version))

    stated = re.escape(repr(version))
    with pytest.raises(BundleError, match=f"version {stated}; this release reads") as caught:
        Bundle.load(bundle_copy)

    assert "update ffn-edge" in caught.value.hint


@pytest.mark.parametrize("version", [SCHEMA_VERSION, SCHEMA_VERSION_WITH_VECTORS])
def test_the_schema_version_of_a_manifest_is_kept(version: int, bundle_copy: Path) -> None:
    change_manifest(bundle_copy, set_field("schema_version", to=version))

    manifest = Bundle.load(bundle_copy).manifest

    assert json.loads(manifest.to_json())["schema_version"] == version


def test_a_manifest_from_before_vector_files_is_read(exported: Bundle, bundle_copy: Path) -> None:
    def forget(manifest: dict[str, Any]) -> None:
        for sub_network in manifest["sub_networks"].values():
            del sub_network["vectors"]

    change_manifest(bundle_copy, forget)

    assert Bundle.load(bundle_copy).manifest == exported.manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_field("classes"), "classes is missing"),
        (remove_field("input", "mean"), r"input\.mean is missing"),
        (set_field("input", to=[1, 2]), "input is"),
        (set_field("input", "batch", to="one"), r"input\.batch is"),
        (set_field("classes", to=None), "classes is"),
        (set_field("frame_counts", to=[4, 2]), "ascend"),
        (set_field("frame_counts", to=[2, 4, 8]), "frame_counts and sub_networks differ"),
        (set_field("sub_networks", to=[]), "sub_networks is"),
        (set_field("sub_networks", "4", "graph", to="graph_8.onnx"), "no record of graph_8.onnx"),
        (set_field("sub_networks", "4", "vectors", to="frames_4"), "no record of frames_4"),
        (remove_field("files", WEIGHTS), "no record of weights.safetensors"),
        (set_field("files", WEIGHTS, to={"bytes": 3}), "sha256 is missing"),
        (set_field("sub_networks", "2", "accuracy", to={"top9": 1.0}), "clips is missing"),
    ],
)
def test_a_damaged_manifest_is_refused(
    change: Callable[[dict[str, Any]], None], message: str, bundle_copy: Path
) -> None:
    change_manifest(bundle_copy, change)

    with pytest.raises(BundleError, match=f"is damaged: .*{message}"):
        Bundle.load(bundle_copy)


@pytest.mark.parametrize(
    ("layers", "message"), [(["fc", "fc"], "twice"), (["no layer"], "has no weight")]
)
def test_layers_that_cannot_be_composed_are_refused(
    layers: list[str], message: str, bundle_copy: Path
) -> None:
    change_manifest(bundle_copy, set_field("layers", to=layers))

    with pytest.raises(BundleError, match=message):
        Bundle.load(bundle_copy)


def test_a_vector_that_would_enlarge_its_weight_is_refused() -> None:
    shapes = {"a.weight": (4, 3), "frames/2/a.s_in": (1, 3), "frames/2/a.s_out": (4, 1)}
    check_layers(shapes, ["a"], 2)
    for shape in ((5, 1), (2, 4, 1), (4, 2)):
        with pytest.raises(ValueError, match=r"s_out|broadcast"):
            check_layers(shapes | {"frames/2/a.s_out": shape}, ["a"], 2)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "{}", '"manifest"'])
def test_a_manifest_of_something_else_is_refused(text: str, bundle_copy: Path) -> None:
    (bundle_copy / MANIFEST).write_text(text)

    with pytest.raises(BundleError, match="is not a bundle's manifest"):
        Bundle.load(bundle_copy)


@pytest.mark.parametrize(
    "name",
    [
        "../outside.onnx", "/etc/hostname", "sub/graph.onnx", "./graph_2.onnx", "..", ".", "",
        ".hidden", "-rf", "a\\b", "a\0b", "a b", "graph\n", "x" * 300, MANIFEST, MANIFEST.upper(),
    ],
)  # fmt: skip
def test_a_manifest_that_names_what_is_no_plain_file_is_refused(
    name: str, bundle_copy: Path
) -> None:
    shutil.copy(bundle_copy / "graph_2.onnx", bundle_copy.parent / "outside.onnx")

    def point_outside(manifest: dict[str, Any]) -> None:
        manifest["files"][name] = manifest["files"].pop("graph_2.onnx")
        manifest["sub_networks"]["2"]["graph"] = name

    change_manifest(bundle_copy, point_outside)

    with pytest.raises(BundleError, match=r"name of a file|can be shown"):
        Bundle.load(bundle_copy)


@pytest.mark.parametrize(
    "name",
    ["../x", "/x", "a/b", "a\\b", "..", "", "\0", "x\x1b[2J", "\ud800", "[/b]", "x" * 300, 7],
)
def test_an_architecture_that_could_lead_out_of_a_folder_is_refused(
    name: object, bundle_copy: Path
) -> None:
    change_manifest(bundle_copy, set_field("architecture", to=name))

    with pytest.raises(BundleError, match="is damaged"):
        Bundle.load(bundle_copy)


@pytest.mark.parametrize(
    "change",
    [
        set_field("input", "batch", to=0),
        set_field("input", "batch", to=True),
        set_field("input", "batch", to=1.5),
        set_field("input", "batch", to=1 << 30),
        set_field("input", "batch", to=float("inf")),
        set_field("input", "height", to=-16),
        set_field("input", "short_side", to=1),
        set_field("input", "short_side", to=1 << 40),
        set_field("input", "mean", to=[10**400, 0, 0]),
        set_field("input", "std", to=[float("nan"), 1, 1]),
        set_field("input", "std", to=[1]),
        set_field("classes", to="abcde"),
        set_field("classes", to=["a", "a", "b", "c", "d"]),
        set_field("classes", to=[]),
        set_field("layers", to="layers"),
        set_field("producer", to={}),
        set_field("weights_dtype", to="int4"),
        set_field("weights_dtype", to="int8"),
        set_field("sub_networks", "4", "macs", to=float("inf")),
        set_field("sub_networks", "4", "macs", to=-1),
        *(
            set_field("sub_networks", "4", "accuracy", to={"top1": top1, "top5": 1.0, "clips": 1})
            for top1 in ("x", float("nan"), -3, 7, [1])
        ),
    ],
)
def test_a_value_that_cannot_be_is_refused(
    change: Callable[[dict[str, Any]], None], bundle_copy: Path
) -> None:
    change_manifest(bundle_copy, change)

    with pytest.raises(BundleError, match="is damaged"):
        Bundle.load(bundle_copy)


def test_a_manifest_of_a_clip_that_fills_the_memory_is_refused(exported: Bundle) -> None:
    huge = dataclasses.replace(
        exported.manifest.input, batch=2, height=8192, width=8192, short_side=8192
    )

    with pytest.raises(BundleError, match="bytes"):
        dataclasses.replace(exported.manifest, input=huge)


@pytest.mark.parametrize("name", [MANIFEST, "graph_2.onnx", WEIGHTS])
def test_a_pipe_in_place_of_a_file_is_refused(name: str, bundle_copy: Path) -> None:
    (bundle_copy / name).unlink()
    os.mkfifo(bundle_copy / name)

    with pytest.raises(BundleError):
        Bundle.load(bundle_copy)


@pytest.mark.parametrize("name", [MANIFEST, "graph_2.onnx"])
def test_a_text_or_graph_that_fills_the_memory_is_not_read(name: str, bundle_copy: Path) -> None:
    with open(bundle_copy / name, "r+b") as file:
        file.truncate(1 << 40)  # a hole
    if name != MANIFEST:
        size = {"bytes": 1 << 40, "sha256": ""}
        change_manifest(bundle_copy, set_field("files", name, to=size))

    with pytest.raises(BundleError):
        Bundle.load(bundle_copy)


def test_a_file_may_be_a_link_to_what_the_manifest_says(bundle_copy: Path) -> None:
    for name in (WEIGHTS, "graph_2.onnx"):
        (bundle_copy / name).rename(bundle_copy.parent / name)
        (bundle_copy / name).symlink_to(bundle_copy.parent / name)

    assert len(Bundle.load(bundle_copy).tensors()) > 0


def test_a_graph_is_checked_when_its_bundle_is_loaded(bundle_copy: Path) -> None:
    model = onnx.load(str(bundle_copy / "graph_4.onnx"), load_external_data=False)
    model.graph.node[-1].domain = "com.example"
    (bundle_copy / "graph_4.onnx").write_bytes(model.SerializeToString())
    record = dataclasses.asdict(file_record(bundle_copy / "graph_4.onnx"))
    change_manifest(bundle_copy, set_field("files", "graph_4.onnx", to=record))

    with pytest.raises(BundleError, match=r"graph_4\.onnx is not a graph of a bundle"):
        Bundle.load(bundle_copy)


def test_a_graph_that_changes_while_in_use_is_refused(bundle_copy: Path) -> None:
    bundle = Bundle.load(bundle_copy)
    shutil.copy(bundle_copy / "graph_2.onnx", bundle_copy / "graph_4.onnx")

    with pytest.raises(BundleError, match="altered while in use"):
        bundle.read_graph(4)


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))
