"""A small valid bundle that tells red, green and blue apart, and videos in those colours."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from ffn_edge.bundle.bundle import (
    MANIFEST,
    SCHEMA_VERSION,
    WEIGHTS,
    Accuracy,
    Bundle,
    InputContract,
    Manifest,
    SubNetwork,
    file_record,
)
from ffn_edge.bundle.weight_file import read_header
from ffn_edge.media.video_writer import VideoWriter
from ffn_edge.runtime.profile import profile

SIZE = 16
FRAME_COUNTS = (2, 4, 8)
COLOURS = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}  # BGR


def _graph(frames: int, weights: Path, batch: int) -> onnx.ModelProto:
    """Logits = the mean of each colour over the clip, times a matrix in the weight file."""
    entry = read_header(weights)["head.weight"]
    matrix = TensorProto(name="head.weight", data_type=TensorProto.FLOAT, dims=entry.shape)
    matrix.data_location = TensorProto.EXTERNAL
    for key, value in (
        ("location", WEIGHTS),
        ("offset", str(entry.offset)),
        ("length", str(entry.length)),
    ):
        matrix.external_data.add(key=key, value=value)
    axes = helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])
    nodes = [
        helper.make_node("Cast", ["frames"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "head.weight"], ["logits"]),
    ]
    shape = [batch, frames, SIZE, SIZE, 3]
    clip = helper.make_tensor_value_info("frames", TensorProto.UINT8, shape)
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, len(COLOURS)])
    graph = helper.make_graph(nodes, "colours", [clip], [logits], [axes, matrix])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.fixture
def write_bundle(tmp_path: Path) -> Callable[..., Bundle]:
    """Write a bundle; keyword arguments replace fields of its manifest."""

    def write(**changes: Any) -> Bundle:
        contract = InputContract(
            batch=1, height=SIZE, width=SIZE, short_side=SIZE, mean=(0.0,) * 3, std=(1.0,) * 3
        )
        contract = changes.get("input", contract)
        folder = tmp_path / "bundle"
        folder.mkdir(exist_ok=True)
        save_file({"head.weight": np.eye(3, dtype=np.float32) / 50}, folder / WEIGHTS)
        names = [WEIGHTS]
        sub_networks = {}
        for frames in FRAME_COUNTS:
            names.append(f"graph_{frames}.onnx")
            model = _graph(frames, folder / WEIGHTS, contract.batch)
            (folder / names[-1]).write_bytes(model.SerializeToString())
            sub_networks[frames] = SubNetwork(
                graph=names[-1], composed_sha256=hashlib.sha256(b"").hexdigest(), macs=frames
            )
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            producer="the tests",
            architecture="colours",
            classes=tuple(COLOURS),
            frame_counts=FRAME_COUNTS,
            weights_dtype="float32",
            input=contract,
            sub_networks=sub_networks,
            layers=("head",),
            unfolded=(),
            files={name: file_record(folder / name) for name in names},
        )
        manifest = dataclasses.replace(manifest, **changes)
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        return Bundle.load(folder)

    return write


@pytest.fixture
def bundle(write_bundle: Callable[..., Bundle]) -> Bundle:
    """A bundle for 2, 4 and 8 frames of 16x16."""
    return write_bundle()


@pytest.fixture
def write_video(tmp_path: Path) -> Callable[..., Path]:
    """Write an MP4 with one colour for each frame."""

    def write(name: str, colours: Iterable[str], fps: float = 10.0) -> Path:
        path = tmp_path / name
        with VideoWriter(path, fps=fps, width=32, height=32) as writer:
            for colour in colours:
                writer.write(np.full((32, 32, 3), COLOURS[colour], np.uint8))
        return path

    return write


@pytest.fixture
def quantize(exported_int8: Bundle, tmp_path: Path) -> Callable[..., Bundle]:
    """Return what makes a quantised bundle; its argument is what INT8 loses, by frame count."""

    def make(losses: Mapping[int, float]) -> Bundle:
        folder = Path(shutil.copytree(exported_int8.path, tmp_path / "quantized"))
        manifest = Bundle.load(folder).manifest
        sub_networks = {}
        for frames, sub_network in manifest.sub_networks.items():
            assert sub_network.int8 is not None
            int8 = dataclasses.replace(
                sub_network.int8,
                accuracy=Accuracy(top1=0.9 - losses[frames], top5=1.0, clips=200),
                accuracy_float32=Accuracy(top1=0.9, top5=1.0, clips=200),
            )
            sub_networks[frames] = dataclasses.replace(
                sub_network, int8=int8, accuracy=Accuracy(top1=0.8, top5=1.0, clips=200)
            )
        changed = dataclasses.replace(manifest, sub_networks=sub_networks)
        (folder / MANIFEST).write_text(changed.to_json(), encoding="utf-8")
        return Bundle.load(folder)

    return make


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else runs beside the tests, no measurement of theirs is repeated for it."""
    monkeypatch.setattr(profile, "disturbance", lambda *_: None)
