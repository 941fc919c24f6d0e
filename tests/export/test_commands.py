"""`ffn-edge export` and `ffn-edge verify`, as a user calls them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.commands.export import export
from ffn_edge.commands.verify import verify
from ffn_edge.errors import BundleError, CheckpointError, ExportError
from ffn_edge.export.report import export_table
from ffn_edge.export.verify import NETWORK_TOLERANCE
from ffn_edge.media.video_writer import VideoWriter
from ffn_edge.network.checkpoint import load_checkpoint, save_checkpoint
from ffn_edge.terminal import Terminal


@pytest.mark.slow
def test_export_writes_a_bundle_and_reports_it(
    checkpoint_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ffn_edge")
    classes = tmp_path / "classes.txt"
    classes.write_text("one\ntwo\nthree\nfour\nfive\n")
    output = tmp_path / "bundle"

    options = ["--frames", "2", "--batch", "2", "--weights-dtype", "fp16", "--json"]
    result = CliRunner().invoke(
        export,
        [str(checkpoint_file), "-o", str(output), "--classes", str(classes), *options],
        catch_exceptions=False,
    )

    assert result.exit_code == 0
    bundle = Bundle.load(output)
    assert bundle.manifest.classes == ("one", "two", "three", "four", "five")
    assert bundle.manifest.input.batch == 2
    report = json.loads(result.stdout)
    assert report["identity"] == bundle.identity
    assert report["weights_dtype"] == "float16"
    assert report["bundle_bytes"] == sum(file.stat().st_size for file in output.iterdir())
    assert report["frames"]["2"]["macs"] == bundle.manifest.sub_networks[2].macs
    assert report["frames"]["2"]["accuracy"] == {"top1": 0.5, "top5": 1.0, "clips": 8}
    assert "graph for 2 frames" in caplog.text  # progress does not mix with the result


def test_the_exports_report_is_a_table(exported: Bundle) -> None:
    text = io.StringIO()

    Terminal(file=text, width=100).print(export_table(exported))

    assert "GMACs" in text.getvalue()
    assert "50.0%" in text.getvalue()  # the accuracy that the checkpoint knows
    assert "tsm_tiny, 5 classes" in text.getvalue()


def test_export_of_what_is_no_checkpoint_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_text("not a torch file")
    with pytest.raises(CheckpointError, match="damaged"):
        CliRunner().invoke(
            export,
            [str(tmp_path / "model.pt"), "-o", str(tmp_path / "bundle")],
            catch_exceptions=False,
        )


def test_verify_on_real_frames_reports_every_comparison(
    exported: Bundle, checkpoint_file: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    with VideoWriter(tmp_path / "clip.mp4", 24, 64, 48) as writer:
        for _ in range(12):
            writer.write(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    (tmp_path / "list.txt").write_text("clip.mp4 3\n")

    options = ["--source", str(tmp_path / "list.txt"), "--clips", "2", "--json"]
    result = CliRunner().invoke(
        verify,
        [str(exported.path), "--checkpoint", str(checkpoint_file), *options],
        catch_exceptions=False,
    )

    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert (report["passed"], report["source"]) == (True, "1 video")
    for frames in ("2", "4"):
        found = report["frames"][frames]
        assert (found["clips"], found["composed_matches"]) == (2, True)
        pairs = {pair["pair"]: pair for pair in found["comparisons"]}
        assert pairs["PyTorch = graph"]["relative"] < pairs["PyTorch = graph"]["tolerance"]
        assert pairs["graph = composed"]["max_difference"] == 0


def test_verify_without_a_source_says_that_its_clips_are_synthetic(exported: Bundle) -> None:
    result = CliRunner().invoke(
        verify, [str(exported.path), "--clips", "1"], catch_exceptions=False
    )

    assert "synthetic" in result.stdout
    assert "1/1" in result.stdout
    assert result.stdout.count("composed sha256") == 2


def test_verify_prints_what_differs_before_it_fails(
    exported: Bundle, checkpoint_file: Path, tmp_path: Path
) -> None:
    other = load_checkpoint(checkpoint_file)
    with torch.no_grad():
        other.network.body.fc.linear.bias += 1
    save_checkpoint(tmp_path / "other.pt", other.network, other.card)
    runner = CliRunner()

    result = runner.invoke(
        verify, [str(exported.path), "--checkpoint", str(tmp_path / "other.pt"), "--clips", "1"]
    )

    assert isinstance(result.exception, ExportError)
    assert "differs beyond the tolerance at 2, 4 frames" in result.exception.message
    assert result.stdout.count("differs") == 2


def test_verify_of_a_damaged_bundle_is_refused(bundle_copy: Path) -> None:
    (bundle_copy / "graph_2.onnx").unlink()

    with pytest.raises(BundleError, match=r"graph_2\.onnx is missing"):
        CliRunner().invoke(verify, [str(bundle_copy)], catch_exceptions=False)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (export, ["model.pt"]),
        (export, ["model.pt", "-o", "bundle", "--weights-dtype", "int4"]),
        (export, ["model.pt", "-o", "bundle", "--batch", "0"]),
        (verify, ["bundle", "--tolerance", "0"]),
        (verify, ["bundle", "--clips", "0"]),
    ],
)
def test_wrong_usage_exits_with_2(command: object, arguments: list[str]) -> None:
    assert CliRunner().invoke(command, arguments).exit_code == 2  # type: ignore[arg-type]


def test_the_help_names_the_tolerances_that_apply() -> None:
    assert NETWORK_TOLERANCE == {"float32": 1e-4, "float16": 1e-2, "int8": 0.2}
    assert "1e-4, or by the weights: fp16 1e-2, int8 0.2" in " ".join(
        CliRunner().invoke(verify, ["--help"]).stdout.split()
    )
