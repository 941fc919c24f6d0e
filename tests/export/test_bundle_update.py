"""A frame count is added to a deployed bundle, or replaced there, as kilobytes of its own."""

from __future__ import annotations

import copy
import dataclasses
import gc
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result

from ffn_edge import cli, network
from ffn_edge.bundle.bundle import (
    MANIFEST,
    SCHEMA_VERSION,
    SCHEMA_VERSION_WITH_VECTORS,
    WEIGHTS,
    Accuracy,
    Bundle,
    InputContract,
)
from ffn_edge.device import tensorrt_api
from ffn_edge.errors import BundleError, ExportError
from ffn_edge.export import bundle_files, bundle_update
from ffn_edge.export.bundle_update import update_bundle
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.export.fold import FoldedNetwork, fold
from ffn_edge.export.graph import graph_from_folded
from ffn_edge.files.atomic import write_text
from ffn_edge.media.video_writer import VideoWriter
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.checkpoint import Checkpoint, save_checkpoint, start_from
from ffn_edge.network.ffn import Layout
from ffn_edge.runtime.engines.engine import EngineOptions, open_engines
from tests.emulator import Emulator


@pytest.fixture(autouse=True, scope="module")
def graphs_made_once() -> Iterator[None]:
    """Make the graph of the same sub-network over the same weight files once: it takes a second."""
    made: dict[str, onnx.ModelProto] = {}

    def graph_once(
        sub: FoldedNetwork,
        contract: InputContract,
        layout: Layout,
        entries: Mapping[str, Any],
        *,
        step: bool,
    ) -> onnx.ModelProto:
        key = repr((sub.frames, contract, list(sub.tensors), entries, step))
        if key not in made:
            made[key] = graph_from_folded(sub, contract, layout, entries, step=step)
        result = onnx.ModelProto()
        result.CopyFrom(made[key])
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle_update, "graph_from_folded", graph_once)
        yield


@pytest.fixture(scope="module")
def adapted(checkpoint: Checkpoint) -> Checkpoint:
    """`checkpoint` with a sub-network for 3 frames."""
    larger = network.build("tsm_tiny", checkpoint.network.num_classes, (2, 3, 4)).eval()
    start_from(larger, checkpoint.network)
    change(larger, ".norms.3.", ".phi.3")
    accuracy = {**checkpoint.card.accuracy, 3: Accuracy(top1=0.6, top5=1.0, clips=5)}
    return Checkpoint(larger, dataclasses.replace(checkpoint.card, accuracy=accuracy), None)


@pytest.fixture(scope="module")
def recalibrated(checkpoint: Checkpoint) -> Checkpoint:
    """`checkpoint` with other statistics for 4 frames."""
    other = copy.deepcopy(checkpoint.network)
    change(other, ".norms.4.running_")
    return Checkpoint(other, checkpoint.card, None)


@pytest.fixture(scope="module")
def adapted_file(adapted: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapted") / "best-3.pt"
    save_checkpoint(path, adapted.network, adapted.card)
    return path


@pytest.fixture(scope="module")
def updated_once(
    exported: Bundle, adapted: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """The bundle for 2 and 4 frames with 3 added. Not to be changed; see `updated`."""
    folder = shutil.copytree(exported.path, tmp_path_factory.mktemp("updated") / "bundle")
    return update_bundle(adapted.network, adapted.card, folder, (3,)).bundle


@pytest.fixture
def updated(updated_once: Bundle, tmp_path: Path) -> Bundle:
    return Bundle.load(shutil.copytree(updated_once.path, tmp_path / "updated"))


def change(model: FrameFlexibleNetwork, *parts: str) -> None:
    """Scale the tensors whose names hold one of `parts`, each value by another factor."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if any(part in name for part in parts) and tensor.is_floating_point():
                tensor *= torch.empty(tensor.shape).uniform_(0.8, 1.2, generator=generator)


def states(folder: Path) -> dict[str, tuple[str, int]]:
    """The hash and the time of change of each file."""
    return {
        file.name: (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for file in folder.iterdir()
    }


def invoke(command: str, *arguments: object) -> Result:
    found = cli.cli.get_command(click.Context(cli.cli), command)
    assert found is not None
    return CliRunner().invoke(found, [str(each) for each in arguments], catch_exceptions=False)


# -------------------------------------------------------------------------------- what is written


@pytest.mark.slow
def test_a_frame_count_is_added_and_no_other_file_is_touched(
    bundle_copy: Path, adapted: Checkpoint
) -> None:
    before = states(bundle_copy)

    update = update_bundle(adapted.network, adapted.card, bundle_copy, (3,))

    after = states(bundle_copy)
    assert set(after) - set(before) == {"frames_3.safetensors", "graph_3.onnx"}
    assert {name for name in before if after[name] != before[name]} == {MANIFEST}
    assert list(update.files) == ["frames_3.safetensors", "graph_3.onnx", MANIFEST]
    for name, size in update.files.items():
        assert size == (bundle_copy / name).stat().st_size
    manifest = update.bundle.manifest
    assert manifest.frame_counts == (2, 3, 4)
    assert manifest.sub_networks[3].accuracy == Accuracy(top1=0.6, top5=1.0, clips=5)
    assert manifest.sub_networks[3].vectors == "frames_3.safetensors"


def test_the_files_that_are_named_make_the_old_bundle_the_new_one(
    bundle_copy: Path, updated: Bundle
) -> None:
    for name in ("frames_3.safetensors", "graph_3.onnx", MANIFEST):
        shutil.copy(updated.path / name, bundle_copy)

    assert Bundle.load(bundle_copy).identity == updated.identity


def test_the_vectors_lie_in_their_own_file_and_the_shared_weights_in_theirs(
    updated: Bundle,
) -> None:
    model = onnx.load(str(updated.graph_path(3)), load_external_data=False)

    places: dict[str, set[bool]] = {}
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                places.setdefault(entry.value, set()).add(tensor.name.startswith("frames/3/"))
    assert places == {WEIGHTS: {False}, "frames_3.safetensors": {True}}
    onnx.checker.check_model(str(updated.graph_path(3)), full_check=True)


def test_its_tensors_are_those_that_folding_gives_and_all_others_are_the_old_ones(
    updated: Bundle, exported: Bundle, adapted: Checkpoint
) -> None:
    folded = fold(adapted.network, 3).tensors
    tensors = updated.tensors()

    for name, tensor in folded.items():
        assert np.array_equal(tensors[name], tensor.numpy()), name
    for name, array in exported.tensors().items():
        assert np.array_equal(tensors[name], array), name
    assert set(tensors) == {*folded, *exported.tensors(), "frames/3/known_answer.logits"}


@pytest.mark.slow
def test_a_bundle_of_half_precision_for_batches_takes_a_frame_count(
    half_exported: Bundle, adapted: Checkpoint, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(half_exported.path, tmp_path / "bundle"))

    update_bundle(adapted.network, adapted.card, folder, (3,))

    bundle = Bundle.load(folder)
    assert bundle.manifest.frame_counts == (3, 4)
    shared = {name for name in bundle.tensors() if not name.startswith("frames/")}
    assert shared == {name for name in half_exported.tensors() if not name.startswith("frames/")}
    result = invoke("verify", folder, "--clips", 3, "--json")
    assert json.loads(result.stdout)["passed"]


@pytest.mark.slow
def test_a_bundle_of_int8_takes_a_frame_count_of_the_same_weights_alone(
    int8_exported: Bundle, adapted: Checkpoint, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(int8_exported.path, tmp_path / "bundle"))
    other = copy.deepcopy(adapted.network)
    with torch.no_grad():
        other.body.layer1[0].conv2.weight[0, 0, 0, 0] *= -1
    with pytest.raises(ExportError, match=r"1 tensors differ, such as layer1\.0\.conv2"):
        update_bundle(other, adapted.card, folder, (3,))

    update_bundle(adapted.network, adapted.card, folder, (3,))

    # As if the frame count had been exported with the others.
    whole = export_bundle(
        adapted.network, adapted.card, tmp_path / "whole", weights_dtype="int8"
    ).tensors()
    tensors = Bundle.load(folder).tensors()
    assert set(tensors) == set(whole)
    for name in whole:
        assert np.array_equal(tensors[name], whole[name]), name
    save_checkpoint(tmp_path / "new.pt", adapted.network, adapted.card)
    options = ("--checkpoint", tmp_path / "new.pt", "--clips", 2, "--json")
    assert json.loads(invoke("verify", folder, *options).stdout)["passed"]


# ------------------------------------------------------------------------------------- replacing


@pytest.mark.slow
def test_a_frame_count_that_is_served_is_replaced(
    bundle_copy: Path, exported: Bundle, recalibrated: Checkpoint, tmp_path: Path
) -> None:
    before = states(bundle_copy)

    update = update_bundle(recalibrated.network, recalibrated.card, bundle_copy, (4,))

    after = states(bundle_copy)
    # The old graph is not written over: until the new manifest is there, it is the bundle's.
    assert set(after) - set(before) == {"frames_4.safetensors", "graph_4-2.onnx"}
    assert set(before) - set(after) == {"graph_4.onnx"}
    assert {name for name in set(before) & set(after) if after[name] != before[name]} == {MANIFEST}
    assert update.bundle.manifest.frame_counts == (2, 4)
    # What the weight file still holds for 4 frames is not read any more.
    name = next(name for name in exported.tensors() if name.startswith("frames/4/"))
    assert not np.array_equal(update.bundle.tensors()[name], exported.tensors()[name])
    save_checkpoint(tmp_path / "new.pt", recalibrated.network, recalibrated.card)
    options = ("--checkpoint", tmp_path / "new.pt", "--clips", 2, "--json")
    assert json.loads(invoke("verify", bundle_copy, *options).stdout)["passed"]


@pytest.mark.slow
def test_replacing_again_and_again_leaves_no_file_behind(
    updated: Bundle, adapted: Checkpoint
) -> None:
    for _ in range(3):
        update_bundle(adapted.network, adapted.card, updated.path, (3,))

    names = {file.name for file in updated.path.iterdir()}
    assert names == {MANIFEST, *Bundle.load(updated.path).manifest.files}
    assert len(names) == 6


# ------------------------------------------------------------------------------------ the format


def test_only_a_bundle_with_vector_files_is_of_the_newer_schema(
    exported: Bundle, updated: Bundle
) -> None:
    # An older release reads the first and refuses the second, whose vectors it would not find.
    stated = [
        json.loads((bundle.path / MANIFEST).read_text())["schema_version"]
        for bundle in (exported, updated)
    ]
    assert stated == [SCHEMA_VERSION, SCHEMA_VERSION_WITH_VECTORS]


def test_a_damaged_vector_file_is_refused(updated: Bundle) -> None:
    file = updated.path / "frames_3.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")

    with pytest.raises(BundleError, match=r"frames_3\.safetensors was altered"):
        Bundle.load(updated.path)


# --------------------------------------------------------------------------------- interruptions


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("no space left on device")])
@pytest.mark.parametrize("moment", ["save_tensors", "save_graph", "replace_manifest"])
def test_an_interruption_at_any_moment_leaves_the_old_bundle(
    moment: str,
    error: BaseException,
    bundle_copy: Path,
    adapted: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> None:
        raise error

    before = states(bundle_copy)
    monkeypatch.setattr(bundle_update, moment, interrupted)

    with pytest.raises((KeyboardInterrupt, ExportError), match=r"no space|^$"):
        update_bundle(adapted.network, adapted.card, bundle_copy, (3,))

    assert states(bundle_copy) == before


def test_an_interruption_just_after_the_manifest_leaves_the_new_bundle(
    bundle_copy: Path, adapted: Checkpoint, updated: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, text: str) -> None:
        write_text(path, text)
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle_files, "write_text", interrupted)

    with pytest.raises(KeyboardInterrupt):
        update_bundle(adapted.network, adapted.card, bundle_copy, (3,))

    assert Bundle.load(bundle_copy).identity == updated.identity


def test_what_a_killed_update_left_is_written_over_or_removed(
    bundle_copy: Path, adapted: Checkpoint, updated: Bundle
) -> None:
    for name in ("frames_3.safetensors", "frames_4-2.safetensors", "graph_4-2.onnx", "notes.onnx"):
        (bundle_copy / name).write_bytes(b"half of it")

    update = update_bundle(adapted.network, adapted.card, bundle_copy, (3,))

    assert update.bundle.identity == updated.identity
    own = {MANIFEST, *update.bundle.manifest.files}
    assert {file.name for file in bundle_copy.iterdir()} - own == {"notes.onnx"}


def test_of_two_updates_at_a_time_none_is_lost(
    bundle_copy: Path, adapted: Checkpoint, recalibrated: Checkpoint
) -> None:
    def second() -> None:
        update_bundle(recalibrated.network, recalibrated.card, bundle_copy, (4,), progress=told)

    def told(message: str) -> None:
        if message.startswith("waiting"):
            waits.set()
        elif message.startswith("writing") and thread.ident is None:
            thread.start()
            waits.wait(30)

    waits, thread = threading.Event(), threading.Thread(target=second)
    update_bundle(adapted.network, adapted.card, bundle_copy, (3,), progress=told)
    thread.join(60)

    subs = Bundle.load(bundle_copy).manifest.sub_networks
    assert {t for t, sub in subs.items() if sub.vectors} == {3, 4}
    assert waits.is_set()


# -------------------------------------------------------------------------------------- refusals


def test_other_shared_weights_are_refused(bundle_copy: Path, adapted: Checkpoint) -> None:
    other = copy.deepcopy(adapted.network)
    with torch.no_grad():
        other.body.layer1[0].conv2.weight[0, 0, 0, 0] += 1e-3
    before = states(bundle_copy)

    with pytest.raises(ExportError, match=r"1 tensors differ, such as layer1\.0\.conv2") as caught:
        update_bundle(other, adapted.card, bundle_copy, (3,))

    assert "adapted from the one that was exported" in caught.value.hint
    assert states(bundle_copy) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"classes": ("left", "right", "top", "down", "nothing")},
            "class 2 is up, the checkpoint's top",
        ),
        ({"classes": ("left", "right")}, "number of class names is 5, the checkpoint's 2"),
        ({"size": 48, "short_side": 48}, "height is 32, the checkpoint's 48"),
        ({"short_side": 32}, "short_side is 40, the checkpoint's 32"),
        ({"mean": (0.0, 0.0, 0.0)}, "mean is"),
    ],
)
def test_another_input_or_other_classes_are_refused(
    changes: dict[str, Any], message: str, bundle_copy: Path, adapted: Checkpoint
) -> None:
    card = dataclasses.replace(adapted.card, **changes)

    with pytest.raises(ExportError, match=message) as caught:
        update_bundle(adapted.network, card, bundle_copy, (3,))

    assert "-o FOLDER" in caught.value.hint


def test_another_architecture_is_refused(bundle_copy: Path, adapted: Checkpoint) -> None:
    other = network.build("tsm_resnet18", 5, (3,))

    with pytest.raises(
        ExportError, match="architecture is tsm_tiny, the checkpoint's tsm_resnet18"
    ):
        update_bundle(other, adapted.card, bundle_copy, (3,))


def test_a_frame_count_that_the_checkpoint_lacks_is_refused(
    bundle_copy: Path, adapted: Checkpoint
) -> None:
    with pytest.raises(ExportError, match="no sub-network for 12 frames"):
        update_bundle(adapted.network, adapted.card, bundle_copy, (12,))


# ------------------------------------------------------------------------------------ the commands


def test_export_prints_what_to_copy(bundle_copy: Path, adapted_file: Path) -> None:
    text = invoke("export", adapted_file, "--only", "3", "--into", bundle_copy)
    fields = json.loads(
        invoke("export", adapted_file, "--only", "3", "--into", bundle_copy, "--json").stdout
    )

    printed = [line.split()[0] for line in text.stdout.splitlines() if line.startswith("  ")]
    assert printed == ["frames_3.safetensors", "graph_3.onnx", MANIFEST]
    assert (fields["frames"], fields["serves"]) == ([3], [2, 3, 4])
    assert list(fields["files"]) == ["frames_3-2.safetensors", "graph_3-2.onnx", MANIFEST]
    assert fields["identity"] == Bundle.load(bundle_copy).identity


@pytest.mark.parametrize(
    "arguments",
    [
        ["model.pt"],
        ["model.pt", "--only", "12"],
        ["model.pt", "--into", "bundle"],
        ["model.pt", "--only", "12", "--into", "bundle", "-o", "other"],
        ["model.pt", "--only", "12", "--into", "bundle", "--weights-dtype", "fp32"],
        ["model.pt", "-o", "bundle", "--only", "12"],
    ],
)
def test_a_destination_that_is_not_clear_is_wrong_usage(arguments: list[str]) -> None:
    assert CliRunner().invoke(cli.cli, ["export", *arguments]).exit_code == 2


def test_every_command_works_on_a_bundle_with_an_added_frame_count(
    bundle_copy: Path, adapted_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    video = tmp_path / "clip.mp4"
    rng = np.random.default_rng(0)
    with VideoWriter(video, 10, 48, 48) as writer:
        for _ in range(25):
            writer.write(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
    ort = ("--backend", "onnxruntime", "--threads", 1)
    invoke("profile", bundle_copy, "--runs", 2, *ort)

    invoke("export", adapted_file, "--only", "3", "--into", bundle_copy)

    verified = invoke("verify", bundle_copy, "--checkpoint", adapted_file, "--clips", 2, "--json")
    found = json.loads(verified.stdout)
    assert found["passed"] and found["frames"].keys() == {"2", "3", "4"}
    stale = invoke("run", bundle_copy, "--source", video, "--frames", 3, *ort)
    assert "the profile was made for bundle" in caplog.text
    assert "`ffn-edge profile` measures thoroughly" in caplog.text
    assert json.loads(stale.stdout.splitlines()[0])
    invoke("profile", bundle_copy, "--runs", 2, *ort)
    fresh = invoke("run", bundle_copy, "--source", video, *ort)
    assert "the profile was made for bundle" not in fresh.stderr
    report = json.loads(invoke("doctor", bundle_copy, "--json").stdout)
    assert "2, 3, 4" in json.dumps(report)


def test_the_real_rtx_builder_builds_an_added_frame_count(updated: Bundle, tmp_path: Path) -> None:
    result = invoke("build", updated.path, "--target", "rtx", "--cache", tmp_path / "cache")

    assert result.exit_code == 0
    assert len(list((tmp_path / "cache").glob("tsm_tiny-3-fp16-*.plan"))) == 1


@pytest.fixture
def device() -> Iterator[Emulator]:
    """A device with the TensorRT of JetPack 6; nothing may be left on it."""
    tensorrt_api.load.cache_clear()
    with Emulator("10.3.0") as device:
        yield device
        gc.collect()
        assert device.alive == []
    tensorrt_api.load.cache_clear()


def test_engines_of_the_other_frame_counts_are_used_again(
    device: Emulator,
    bundle_copy: Path,
    adapted: Checkpoint,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "ffn_edge")
    options = ("--precision", "fp32", "--cache", tmp_path / "cache", "--json")
    invoke("build", bundle_copy, *options)
    update_bundle(adapted.network, adapted.card, bundle_copy, (3,))

    caplog.clear()
    invoke("build", bundle_copy, *options)

    for frames, before in ((2, True), (3, False), (4, True)):
        assert (f"{frames} frames: built before" in caplog.text) is before
    bundle = Bundle.load(bundle_copy)
    chosen = EngineOptions(backend="tensorrt", cache=tmp_path / "cache")
    with open_engines(bundle, chosen) as engines:  # and each gives its known answers
        assert tuple(engines) == (2, 3, 4)
