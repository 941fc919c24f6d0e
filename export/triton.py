"""A model repository for Triton Inference Server: one model per frame count, its graph as it is.

    REPOSITORY/
      tsm_tiny_4/
        config.pbtxt            what the graph takes and gives
        labels.txt              the classes, one a line
        1/model.onnx            the bundle's graph_4.onnx, byte by byte
        1/weights.safetensors   which it refers to, by this name, in its own folder
      tsm_tiny_8/ …

ONNX Runtime refuses tensors that lie outside a model's folder, also behind a link, so each model
has the weight file beside its graph. All are hard links of one file, which the disk and the
page cache hold once; what copies the repository file by file makes copies.

The graphs are those in float32, for clips. One for the next frame of a stream hands its state on,
and one in INT8 is rewritten for each engine: neither is served as it is.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ffn_edge.bundle.bundle import WEIGHTS, Bundle, Manifest, check_file
from ffn_edge.errors import ExportError, reason_of
from ffn_edge.files.atomic import atomic_folder

CONFIG, LABELS = "config.pbtxt", "labels.txt"


def export_triton(bundle: Bundle, path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Write a bundle as models into a repository of Triton, each atomically; return their names.

    A model of the same name is replaced; others in the repository stay.

    Raises:
        ExportError: the repository cannot be written, or a model's folder is something else.
        BundleError: the bundle was altered since it was loaded.
    """
    manifest = bundle.manifest
    weights = bundle.path / WEIGHTS
    names: list[str] = []
    for frames, sub in manifest.sub_networks.items():
        name = f"{manifest.architecture}_{frames}"
        target = Path(path) / name
        if os.path.lexists(target) and not (target / CONFIG).is_file():
            raise ExportError(f"{target} exists and is no model of Triton", "name another folder.")
        try:
            with atomic_folder(target) as folder:
                version = folder / "1"
                version.mkdir()
                (version / "model.onnx").write_bytes(bundle.read_graph(frames))
                if names:
                    _link_or_copy(weights, version / WEIGHTS)
                else:
                    shutil.copyfile(weights, version / WEIGHTS)
                if sub.vectors:
                    shutil.copyfile(bundle.path / sub.vectors, version / sub.vectors)
                for file in filter(None, (WEIGHTS, sub.vectors)):
                    check_file(version / file, manifest.files[file])
                (folder / LABELS).write_text(_labels(manifest), encoding="utf-8")
                (folder / CONFIG).write_text(config(manifest, frames), encoding="utf-8")
        except OSError as error:
            raise ExportError(
                f"could not write {target}: {reason_of(error)}",
                "free space on the disk, or name another folder.",
            ) from error
        weights = target / "1" / WEIGHTS
        names.append(name)
    return tuple(names)


def config(manifest: Manifest, frames: int) -> str:
    """Return the text of `config.pbtxt` for one frame count.

    The graph's own shapes, of which the first is the bundle's batch: Triton puts none before them
    (`max_batch_size: 0`). Before a model is ready it has answered a clip of noise.
    """
    contract = manifest.input
    dims = [contract.batch, frames, contract.height, contract.width, 3]
    return f"""\
name: "{manifest.architecture}_{frames}"
backend: "onnxruntime"
max_batch_size: 0
input [
  {{ name: "frames" data_type: TYPE_UINT8 dims: {dims} }}
]
output [
  {{
    name: "logits"
    data_type: TYPE_FP32
    dims: {[contract.batch, len(manifest.classes)]}
    label_filename: "{LABELS}"
  }}
]
model_warmup [
  {{
    name: "noise"
    batch_size: 1
    inputs {{
      key: "frames"
      value {{ data_type: TYPE_UINT8 dims: {dims} random_data: true }}
    }}
  }}
]
"""


def _labels(manifest: Manifest) -> str:
    return "".join(name.replace("\n", " ") + "\n" for name in manifest.classes)


def _link_or_copy(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # FAT, and some network file systems
        shutil.copyfile(file, target)
