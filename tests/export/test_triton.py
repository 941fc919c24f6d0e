"""A repository of Triton: what it says of the graphs is what they are, and they answer from there.

Triton itself does not run here: its configuration is read as protobuf's text format is, and the
models are opened by path with ONNX Runtime, as its backend does.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

from ffn_edge.bundle.bundle import WEIGHTS, Bundle
from ffn_edge.bundle.known_answer import TOLERANCES, fault, known_clips, known_logits
from ffn_edge.cli import cli
from ffn_edge.errors import BundleError, ExportError
from ffn_edge.export.bundle_update import update_bundle
from ffn_edge.export.triton import export_triton
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.checkpoint import load_checkpoint

# Of Triton's model_config.proto (ModelConfig and the messages in it): what may be said, and
# whether it may be said several times.
FIELDS = {
    "": {"name": str, "backend": str, "max_batch_size": int, "input": list, "output": list}
    | {"model_warmup": list},
    "input": {"name": str, "data_type": "enum", "dims": list},
    "output": {"name": str, "data_type": "enum", "dims": list, "label_filename": str},
    "model_warmup": {"name": str, "batch_size": int, "inputs": list},
    "inputs": {"key": str, "value": dict},
    "value": {"data_type": "enum", "dims": list, "random_data": "enum"},
}


def parsed(text: str) -> dict[str, Any]:
    """Read a message in protobuf's text format; a field that `FIELDS` lacks is an error."""
    tokens = re.findall(r"\"[^\"\n]*\"|[\[\]{}:,]|[\w-]+", text)
    assert "".join(tokens) == re.sub(r"\s", "", text)  # names have no spaces
    message = _message(tokens, "")
    assert not tokens
    return message


def _message(tokens: list[str], kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while tokens and tokens[0] != "}":
        name = tokens.pop(0)
        wanted = FIELDS[kind][name]
        if tokens[0] == ":":
            tokens.pop(0)
        values = _values(tokens, name)
        if wanted is list:
            found.setdefault(name, []).extend(values)
        else:
            (value,) = values
            assert name not in found
            assert isinstance(value, str if wanted == "enum" else wanted)
            found[name] = value
    return found


def _values(tokens: list[str], name: str) -> list[Any]:
    token = tokens.pop(0)
    if token == "{":
        message = _message(tokens, name)
        assert tokens.pop(0) == "}"
        return [message]
    if token == "[":
        values = _values(tokens, name)
        while (token := tokens.pop(0)) == ",":
            values += _values(tokens, name)
        assert token == "]"
        return values
    if token.startswith('"'):
        return [token[1:-1]]
    return [int(token) if token.isdigit() else token]


def answers(bundle: Bundle, frames: int, model: Path) -> str | None:
    """Say what is wrong with a model's answers to the known clips, as `fault` does."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    clips = known_clips(bundle.manifest.input, frames)
    logits = np.stack([session.run(["logits"], {"frames": clip})[0] for clip in clips])
    return fault(logits, known_logits(bundle.tensors(), frames), TOLERANCES["fp32"])


def test_each_frame_count_is_a_model_that_gives_the_known_answers(
    exported: Bundle, tmp_path: Path
) -> None:
    assert export_triton(exported, tmp_path / "models") == ("tsm_tiny_2", "tsm_tiny_4")

    shutil.copytree(tmp_path / "models", tmp_path / "deployed")  # without what was linked
    shutil.rmtree(tmp_path / "models")
    for frames in (2, 4):
        folder = tmp_path / "deployed" / f"tsm_tiny_{frames}"
        assert answers(exported, frames, folder / "1" / "model.onnx") is None
        labels = (folder / "labels.txt").read_text().splitlines()
        assert tuple(labels) == exported.manifest.classes


def test_the_configuration_is_what_the_graph_says(exported: Bundle, tmp_path: Path) -> None:
    export_triton(exported, tmp_path)

    for frames in (2, 4):
        folder = tmp_path / f"tsm_tiny_{frames}"
        config = parsed((folder / "config.pbtxt").read_text())
        session = onnxruntime.InferenceSession(str(folder / "1" / "model.onnx"))
        (taken,), (given,) = session.get_inputs(), session.get_outputs()
        assert config["name"] == folder.name
        assert config["backend"] == "onnxruntime" and config["max_batch_size"] == 0
        (frame,), (logits,), (warmup,) = (
            config[each] for each in ("input", "output", "model_warmup")
        )
        assert (frame["name"], frame["dims"]) == (taken.name, taken.shape)
        assert (taken.type, frame["data_type"]) == ("tensor(uint8)", "TYPE_UINT8")
        assert (logits["name"], logits["dims"]) == (given.name, given.shape)
        assert (given.type, logits["data_type"]) == ("tensor(float)", "TYPE_FP32")
        assert (folder / logits["label_filename"]).is_file()
        (clip,) = warmup["inputs"]
        assert clip["key"] == taken.name and clip["value"]["dims"] == taken.shape


def test_the_models_share_one_weight_file_on_the_disk(exported: Bundle, tmp_path: Path) -> None:
    export_triton(exported, tmp_path)

    files = [tmp_path / f"tsm_tiny_{frames}" / "1" / WEIGHTS for frames in (2, 4)]
    assert os.path.samefile(*files)
    assert not os.path.samefile(files[0], exported.path / WEIGHTS)


def test_a_frame_count_that_was_added_is_served_with_its_vectors(
    exported: Bundle, tiny: FrameFlexibleNetwork, checkpoint_file: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exported.path, tmp_path / "bundle"))
    card = load_checkpoint(checkpoint_file).card
    bundle = update_bundle(tiny, card, folder, (4,)).bundle

    export_triton(bundle, tmp_path / "models")

    version = tmp_path / "models" / "tsm_tiny_4" / "1"
    assert answers(bundle, 4, version / "model.onnx") is None
    assert {file.name for file in version.iterdir()} == {
        *("model.onnx", WEIGHTS, bundle.manifest.sub_networks[4].vectors)
    }


def test_models_are_replaced_and_nothing_else_is(exported: Bundle, tmp_path: Path) -> None:
    export_triton(exported, tmp_path)
    (tmp_path / "other").mkdir()
    export_triton(exported, tmp_path)
    assert {each.name for each in tmp_path.iterdir()} == {"other", "tsm_tiny_2", "tsm_tiny_4"}

    (tmp_path / "tsm_tiny_4" / "config.pbtxt").unlink()
    with pytest.raises(ExportError, match="no model of Triton"):
        export_triton(exported, tmp_path)


def test_weights_that_were_altered_are_not_served(bundle_copy: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(bundle_copy)
    (bundle_copy / WEIGHTS).write_bytes((bundle_copy / WEIGHTS).read_bytes()[:-1] + b"x")

    with pytest.raises(BundleError, match="altered"):
        export_triton(bundle, tmp_path / "models")
    assert not list((tmp_path / "models").iterdir())


def test_the_command_writes_a_bundles_models(exported: Bundle, tmp_path: Path) -> None:
    words = ["export", str(exported.path), "--triton", str(tmp_path / "models")]
    result = CliRunner().invoke(cli, [*words, "--json"], catch_exceptions=False)

    assert json.loads(result.stdout)["models"] == ["tsm_tiny_2", "tsm_tiny_4"]
    assert CliRunner().invoke(cli, [*words, "-o", str(tmp_path / "b")]).exit_code == 2
    assert CliRunner().invoke(cli, words[:2]).exit_code == 2


@pytest.mark.parametrize("other", [["-o", "bundle"], ["--triton", "models"]])
def test_a_checkpoint_is_no_bundle(other: list[str], checkpoint_file: Path) -> None:
    if other[0] == "-o":
        checkpoint_file = checkpoint_file.parent
    result = CliRunner().invoke(cli, ["export", str(checkpoint_file), *other])

    assert result.exit_code == 2
