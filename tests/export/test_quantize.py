"""Quantising a bundle: no byte of the rest changes, and what cannot be used is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ffn_edge import network
from ffn_edge.bundle import bundle as bundle_module
from ffn_edge.bundle.bundle import MANIFEST, Accuracy, Bundle, Quantized, SubNetwork
from ffn_edge.cli import cli
from ffn_edge.errors import BundleError, DataError, ExportError
from ffn_edge.export import bundle_files, int8_graph, quantize
from ffn_edge.export.bundle_files import add_int8
from ffn_edge.export.bundle_update import update_bundle
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.export.int8_graph import Placement
from ffn_edge.export.quantize import QuantizeOptions, compare_int8, quantize_bundle
from ffn_edge.files.atomic import write_text
from ffn_edge.media.video_list import read_list
from ffn_edge.media.video_writer import VideoWriter
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.checkpoint import ModelCard, load_checkpoint
from ffn_edge.runtime.engines.engine import EngineOptions, open_engines
from tests.conftest import Randomise

CLIPS = 12
LABELLED = QuantizeOptions(clips=CLIPS, labels=True)


def write_clips(folder: Path, draw: Callable[[int, int], np.ndarray]) -> list[str]:
    """Write videos of 8 frames; `draw` makes frame t of clip i, uint8 (40, 40, 3)."""
    names = [f"{i}.mp4" for i in range(CLIPS)]
    for i, name in enumerate(names):
        with VideoWriter(folder / name, fps=10, width=40, height=40) as writer:
            for t in range(8):
                writer.write(draw(i, t))
    return names


def waves(i: int, t: int) -> np.ndarray:
    y, x, c = np.ogrid[:40, :40, :3]
    wave = (1 + i % 5) * x + (2 + i) * y + 29 * t * (i % 3 - 1) + 60 * c + 17 * i
    return np.abs(wave % 510 - 255).astype(np.uint8)


@pytest.fixture(scope="session")
def clips(exported: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of clips; their labels are what the network answers with most frames."""
    folder = tmp_path_factory.mktemp("clips")
    names = write_clips(folder, waves)
    unlabelled = folder / "unlabelled.txt"
    unlabelled.write_text("".join(f"{name}\n" for name in names))
    videos = read_list(unlabelled, classes=None)
    with open_engines(exported, EngineOptions(backend="onnxruntime", threads=1)) as engines:
        clips = quantize._clips(exported, videos, (4,), "", lambda *_: None)
        answers = [int(engines[4].infer(each[4][None]).argmax()) for _, each in clips]
    labelled = folder / "labelled.txt"
    lines = zip(names, answers, strict=True)
    labelled.write_text("".join(f"{name} {answer}\n" for name, answer in lines))
    return labelled


@pytest.fixture(scope="session")
def quantized(exported: Bundle, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle `exported` with INT8 graphs. Not to be changed."""
    folder = tmp_path_factory.mktemp("quantized") / "bundle"
    shutil.copytree(exported.path, folder)
    return quantize_bundle(folder, clips, LABELLED)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_only_graphs_are_added_and_the_manifest_changes(
    exported: Bundle, quantized: Bundle
) -> None:
    before, after = contents(exported.path), contents(quantized.path)
    assert after.keys() - before.keys() == {"graph_2.int8.onnx", "graph_4.int8.onnx"}
    assert {name for name in before if before[name] != after[name]} == {MANIFEST}
    assert all(len(after[name]) < 40_000 for name in after.keys() - before.keys())


def test_the_manifest_says_what_was_found(quantized: Bundle) -> None:
    for frames, found in quantized.manifest.quantized.items():
        assert found.compared_on == found.calibrated_on == CLIPS
        assert found.accuracy is not None and found.accuracy_float32 is not None
        assert found.loss == found.accuracy_float32.top1 - found.accuracy.top1
        assert not found.is_accurate  # 12 clips say too little
        assert 0 < found.deviation < 0.2
        assert {"conv1", "fc.linear"} <= found.in_float32.keys()
        if frames == 4:  # from whose answers the labels are
            assert found.accuracy_float32.top1 == 1
            assert found.accuracy.top1 == found.agreement


def test_without_labels_the_loss_is_not_known(bundle_copy: Path, clips: Path) -> None:
    found = quantize_bundle(bundle_copy, clips, QuantizeOptions(clips=CLIPS, method="max"))
    for each in found.manifest.quantized.values():
        assert each.accuracy is None and each.method == "max"
        assert each.loss is None and not each.is_accurate


def test_the_accuracy_in_int8_is_the_validations_less_what_was_lost() -> None:
    def sub(top1: float) -> Accuracy:
        return Accuracy(top1=top1, top5=1, clips=100)

    int8 = Quantized(
        graph="g",
        method="max",
        calibrated_on=9,
        agreement=0.9,
        compared_on=9,
        accuracy=sub(0.7),
        accuracy_float32=sub(0.75),
        deviation=0.1,
        in_float32={},
    )
    found = SubNetwork(graph="f", composed_sha256="", macs=1, accuracy=sub(0.6), int8=int8)
    accuracy = found.accuracy_in("int8")
    assert accuracy is not None and accuracy.top1 == pytest.approx(0.55)
    assert found.accuracy_in("fp32") == found.accuracy_in("fp16") == found.accuracy


def test_a_bundle_can_be_quantised_again(quantized: Bundle, clips: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(quantized.path, tmp_path / "bundle")
    again = quantize_bundle(folder, clips, QuantizeOptions(clips=CLIPS, method="max"))
    assert set(contents(folder)) == {MANIFEST, *again.manifest.files}
    assert {each.graph for each in again.manifest.quantized.values()} == {
        "graph_2.int8-2.onnx",
        "graph_4.int8-2.onnx",
    }


def test_what_disturbs_most_stays_float32(
    bundle_copy: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harmful = "layer1.0.conv1.conv"
    weight_only = quantize.quantized_graph

    def harm(model: Any, placement: Placement, scales: Mapping[str, float]) -> Any:
        """Round one layer's input to nothing, as a bad range would."""
        makes = {output: node for node in model.graph.node for output in node.output}
        chosen = {
            name: 1e3 if harmful in placement.layers and name == first_input(makes) else scale
            for name, scale in scales.items()
        }
        return weight_only(model, placement, chosen)

    def first_input(makes: Mapping[str, Any]) -> str:
        return next(name for name, node in makes.items() if node.op_type == "Relu")

    monkeypatch.setattr(quantize, "quantized_graph", harm)
    tried: list[str] = []
    found = quantize_bundle(
        bundle_copy, clips, LABELLED, on_step=lambda what, done, total: tried.append(what)
    )
    assert "trying the layers of 4 frames" in tried
    four = found.manifest.quantized[4]
    assert "logits" in four.in_float32[harmful]
    assert four.agreement >= quantize.LEAST_AGREEMENT


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("no space left on device")])
@pytest.mark.parametrize("moment", ["atomic_file", "write_text"])
def test_a_failure_while_it_writes_leaves_the_old_bundle(
    moment: str,
    error: BaseException,
    bundle_copy: Path,
    quantized: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise error

    before = contents(bundle_copy)
    graphs = {t: [quantized.read_graph(t, "int8")] for t in (2, 4)}
    monkeypatch.setattr(bundle_files, moment, fail)
    with pytest.raises((KeyboardInterrupt, ExportError), match=r"no space|^$"):
        add_int8(Bundle.load(bundle_copy), quantized.manifest.quantized, graphs)
    assert contents(bundle_copy) == before


def test_an_interruption_just_after_the_manifest_leaves_the_new_bundle(
    bundle_copy: Path, quantized: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, text: str) -> None:
        write_text(path, text)
        raise KeyboardInterrupt

    graphs = {t: [quantized.read_graph(t, "int8")] for t in (2, 4)}
    monkeypatch.setattr(bundle_files, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        add_int8(Bundle.load(bundle_copy), quantized.manifest.quantized, graphs)
    assert Bundle.load(bundle_copy).identity == quantized.identity


@pytest.mark.parametrize(("dtype", "batch"), [("fp16", 1), ("int8", 1), ("fp32", 2)])
def test_a_bundle_is_quantised_however_it_is_stored(
    dtype: str, batch: int, checkpoint_file: Path, clips: Path, tmp_path: Path
) -> None:
    loaded = load_checkpoint(checkpoint_file)
    bundle = export_bundle(
        loaded.network, loaded.card, tmp_path / "bundle", weights_dtype=dtype, batch=batch
    )
    found = quantize_bundle(bundle.path, clips, QuantizeOptions(clips=CLIPS))
    assert all(each.deviation < 0.2 for each in found.manifest.quantized.values())


def test_clips_that_go_away_are_told_of(
    bundle_copy: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [*(f"{i}.mp4" for i in range(CLIPS)), "labelled.txt"]:
        shutil.copy(clips.parent / name, tmp_path / name)

    def remove(what: str, done: int, total: int) -> None:
        (tmp_path / "11.mp4").unlink(missing_ok=what == "comparing")

    with pytest.raises(DataError, match="once more"):
        quantize_bundle(
            bundle_copy,
            tmp_path / "labelled.txt",
            LABELLED,
            on_step=lambda what, done, total: remove(what, done, total) if done == total else None,
        )


def test_an_interruption_changes_nothing(bundle_copy: Path, clips: Path) -> None:
    before = contents(bundle_copy)

    def interrupt(what: str, done: int, total: int) -> None:
        if (what, done) == ("comparing", total):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_bundle(bundle_copy, clips, LABELLED, on_step=interrupt)
    assert contents(bundle_copy) == before


def test_a_bundle_that_changes_meanwhile_is_left_alone(
    bundle_copy: Path, checkpoint_file: Path, clips: Path
) -> None:
    def export_again(what: str, done: int, total: int) -> None:
        if (what, done) == ("comparing", 1):
            loaded = load_checkpoint(checkpoint_file)
            export_bundle(loaded.network, loaded.card, bundle_copy, frame_counts=(2,), replace=True)

    with pytest.raises(BundleError, match="changed"):
        quantize_bundle(bundle_copy, clips, LABELLED, on_step=export_again)
    assert not Bundle.load(bundle_copy).manifest.quantized


def test_a_frame_count_that_is_replaced_is_no_longer_quantised(
    quantized: Bundle, tiny: FrameFlexibleNetwork, checkpoint_file: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(quantized.path, tmp_path / "bundle")
    card = load_checkpoint(checkpoint_file).card
    updated = update_bundle(tiny, card, folder, (2,)).bundle
    assert set(updated.manifest.quantized) == {4}
    assert not (folder / "graph_2.int8.onnx").exists()
    with pytest.raises(BundleError, match="INT8"):
        updated.read_graph(2, "int8")


@pytest.mark.parametrize(
    ("draw", "options", "noun"),
    [
        (lambda i, t: np.full((40, 40, 3), 90, np.uint8), QuantizeOptions(clips=CLIPS), "alike"),
        (waves, QuantizeOptions(clips=7), "few"),
    ],
)
def test_clips_that_show_nothing_are_refused(
    draw: Callable[[int, int], np.ndarray],
    options: QuantizeOptions,
    noun: str,
    bundle_copy: Path,
    tmp_path: Path,
) -> None:
    names = write_clips(tmp_path, draw)
    (tmp_path / "list.txt").write_text("".join(f"{name}\n" for name in names))
    before = contents(bundle_copy)
    with pytest.raises(DataError, match=noun):
        quantize_bundle(bundle_copy, tmp_path / "list.txt", options)
    assert contents(bundle_copy) == before


def test_labels_of_another_data_set_are_refused(bundle_copy: Path, clips: Path) -> None:
    lines = [line.rsplit(" ", 1) for line in clips.read_text().splitlines()]
    wrong = clips.parent / "wrong.txt"
    wrong.write_text("".join(f"{name} {(int(label) + 1) % 5}\n" for name, label in lines))
    with pytest.raises(DataError, match="chance"):
        quantize_bundle(bundle_copy, wrong, LABELLED)


def test_clips_that_cannot_be_read_are_left_out(
    bundle_copy: Path, clips: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = clips.parent / "broken.mp4"
    broken.write_bytes(b"no video")
    some = clips.parent / "some.txt"
    some.write_text("".join(f"{clips.parent / f'{i}.mp4'}\n" for i in range(9)) + f"{broken}\n")
    found = quantize_bundle(bundle_copy, some)
    assert {each.calibrated_on for each in found.manifest.quantized.values()} == {9}
    assert "broken.mp4" in caplog.text


def test_a_network_without_such_layers_is_refused(
    bundle_copy: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_graph._Flow, "why_in_float32", lambda *_: "no convolution")
    with pytest.raises(ExportError, match="convolution"):
        quantize_bundle(bundle_copy, clips)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["slowfast_resnet50", "uniformer_small"])
def test_three_dimensional_convolutions_are_quantised(
    architecture: str, tmp_path: Path, clips: Path, randomise: Randomise
) -> None:
    frames = 8 if architecture.startswith("slowfast") else 2
    model = randomise(network.build(architecture, 5, (frames,)))
    card = ModelCard(classes=tuple("abcde"), size=64, short_side=64)
    bundle = export_bundle(model, card, tmp_path / "bundle")
    found = quantize_bundle(bundle.path, clips, QuantizeOptions(clips=8))
    assert found.manifest.quantized[frames].deviation < 0.2


def test_it_is_compared_with_float32_as_it_runs(quantized: Bundle, clips: Path) -> None:
    videos = read_list(clips, classes="abcde")
    infer = {
        frames: lambda batch, frames=frames: np.eye(5, dtype=np.float32)[[frames]]
        for frames in (2, 4)
    }
    found = compare_int8(quantized, infer, videos, labels=True)  # always answers 2, or 4
    labels = [video.label for video in videos]
    for frames, each in found.items():
        assert each.accuracy is not None and each.accuracy_float32 is not None
        assert each.accuracy.top1 == labels.count(frames) / len(labels)
        assert each.graph == quantized.manifest.quantized[frames].graph
    assert found[4].accuracy_float32 is not None and found[4].accuracy_float32.top1 == 1
    assert found[4].agreement == labels.count(4) / len(labels)


@pytest.mark.parametrize("enough", [False, True])
def test_verify_keeps_what_enough_clips_say(
    enough: bool,
    quantized: Bundle,
    clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bundle_module, "ENOUGH_CLIPS", 10 if enough else 128)
    folder = shutil.copytree(quantized.path, tmp_path / "bundle")
    before = contents(folder)
    arguments = ["verify", str(folder), "--precision", "int8", "--source", str(clips), "--labels"]
    result = CliRunner().invoke(cli, [*arguments, "--clips", "11", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["frames"]["4"]["compared_on"] == 11
    kept = Bundle.load(folder).manifest.quantized[4].compared_on
    assert kept == (11 if enough else CLIPS)
    assert (contents(folder) == before) is not enough


@pytest.mark.parametrize(
    "arguments",
    [
        ["--precision", "int8"],
        ["--labels"],
        ["--precision", "int8", "--source", "x.mp4", "--tolerance", "0.1"],
    ],
)
def test_options_of_verify_that_do_not_belong_together(
    arguments: list[str], bundle_copy: Path
) -> None:
    assert CliRunner().invoke(cli, ["verify", str(bundle_copy), *arguments]).exit_code == 2


def test_the_command_says_what_to_copy(bundle_copy: Path, clips: Path) -> None:
    arguments = ["quantize", str(bundle_copy), "--list", str(clips), "--labels", "--clips", "12"]
    shown = CliRunner().invoke(cli, arguments)
    assert shown.exit_code == 0, shown.output
    assert "graph_4.int8.onnx, manifest.json" in shown.stdout
    fields = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)
    assert fields["frames"]["4"]["compared_on"] == CLIPS
