"""Plans by the real TensorRT-RTX parser and builder, which need no GPU."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from click.testing import CliRunner

from ffn_edge import network
from ffn_edge.bundle.bundle import Bundle
from ffn_edge.commands.build import build as build_command
from ffn_edge.device.plan_cache import PlanCache
from ffn_edge.errors import EngineError, ExportError
from ffn_edge.export.bundle_writer import export_bundle
from ffn_edge.export.tensorrt_plan import BuildOptions, build_plans
from ffn_edge.network import FrameFlexibleNetwork
from ffn_edge.network.checkpoint import ModelCard

Randomise = Callable[[FrameFlexibleNetwork], FrameFlexibleNetwork]
RTX = {precision: BuildOptions(target="rtx", precision=precision) for precision in ("fp16", "fp32")}


@pytest.fixture
def cache(tmp_path: Path) -> PlanCache:
    return PlanCache(tmp_path / "cache")


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_every_frame_count_of_a_bundle_builds(
    precision: str, exported: Bundle, cache: PlanCache
) -> None:
    phases: dict[str, list[tuple[int, int]]] = {}

    built = build_plans(
        exported,
        cache,
        RTX[precision],
        progress=lambda phase, done, total: phases.setdefault(phase, []).append((done, total)),
    )

    assert [each.plan.sidecar.key.frames for each in built] == [2, 4]
    for each in built:
        key = each.plan.sidecar.key
        assert not each.reused
        assert (key.target, key.precision, key.sm, key.refit) == ("rtx", precision, "any", "none")
        assert each.plan.path.stat().st_size > 100_000
        assert cache.find(key) == each.plan
    assert phases
    for steps in phases.values():
        assert steps[0][0] == 0
        assert all(0 <= done <= total for done, total in steps)


@pytest.mark.slow
@pytest.mark.parametrize("weights_dtype", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_resnet50_builds(
    weights_dtype: str,
    precision: str,
    randomise: Randomise,
    tmp_path: Path,
    cache: PlanCache,
) -> None:
    torch.manual_seed(0)
    model = randomise(network.build("tsm_resnet50", 5, (4, 8, 16)))
    card = ModelCard(classes=tuple("abcde"), size=64, short_side=64)
    bundle = export_bundle(model, card, tmp_path / "bundle", weights_dtype=weights_dtype)

    built = build_plans(bundle, cache, RTX[precision])

    sizes = [each.plan.sidecar.plan.bytes for each in built]
    assert len(sizes) == 3
    # 23.5 million weights, of 2 or 4 bytes
    assert all(size > (47e6 if precision == "fp16" else 94e6) for size in sizes)


def test_what_was_built_is_used_again_and_a_damaged_plan_is_not(
    exported: Bundle, cache: PlanCache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ffn_edge")
    first = build_plans(exported, cache, RTX["fp16"])
    again = build_plans(exported, cache, RTX["fp16"])
    assert [each.reused for each in again] == [True, True]
    assert [each.plan for each in again] == [each.plan for each in first]

    first[0].plan.path.write_bytes(b"")
    caplog.clear()
    mended = build_plans(exported, cache, RTX["fp16"])
    assert [each.reused for each in mended] == [False, True]
    assert "has 0 bytes" in caplog.messages[0]
    assert cache.find(mended[0].plan.sidecar.key) == mended[0].plan


def test_what_the_parser_refuses_is_shown_as_it_says(
    exported: Bundle, cache: PlanCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = onnx.load_model_from_string

    def with_an_unknown_operation(*arguments: object, **options: object) -> onnx.ModelProto:
        model = real(*arguments, **options)
        next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Frobnicate"
        return model

    monkeypatch.setattr(onnx, "load_model_from_string", with_an_unknown_operation)

    with pytest.raises(ExportError, match=r"cannot parse the graph: node \d+ .*Frobnicate"):
        build_plans(exported, cache, RTX["fp32"])

    assert [path.name for path in cache.folder.iterdir()] == ["lock"]


def test_without_a_gpu_tensorrt_itself_is_one_clear_error(exported: Bundle) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ffn_edge", "build", str(exported.path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: tensorrt cannot be imported")
    assert "\nHint: on a Jetson it comes with JetPack" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_prints_what_it_built(
    exported: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ffn_edge")
    arguments = [str(exported.path), "--target", "rtx", "--cache", str(tmp_path)]

    table = CliRunner().invoke(build_command, arguments, catch_exceptions=False)
    as_json = CliRunner().invoke(build_command, [*arguments, "--json"], catch_exceptions=False)

    assert "tsm_tiny in fp16 for RTX GPUs" in table.stdout
    assert "new" in table.stdout
    rows = json.loads(as_json.stdout)
    assert [row["frames"] for row in rows] == [2, 4]
    assert all(row["reused"] for row in rows)
    assert "built before" in caplog.text


@pytest.mark.parametrize(
    ("size", "enough"), [("1KiB", False), ("64 KiB", False), ("64MiB", True), ("1GiB", True)]
)
def test_the_workspace_is_given_in_binary_units(
    size: str, enough: bool, exported: Bundle, tmp_path: Path
) -> None:
    arguments = [str(exported.path), "--target", "rtx", "--cache", str(tmp_path)]
    done = CliRunner().invoke(build_command, [*arguments, "--workspace", size])
    assert (done.exit_code == 0) == enough, done.output
    if not enough:  # the real builder finds no way to run a layer in so little
        assert isinstance(done.exception, ExportError)
        assert "built no engine" in done.exception.message
        assert "larger --workspace" in done.exception.hint


@pytest.mark.parametrize("size", ["0", "256", "1GB", "-1", "much", "1.5GiB"])
def test_what_is_no_size_is_refused(size: str) -> None:
    done = CliRunner().invoke(build_command, ["bundle", "--workspace", size])
    assert done.exit_code == 2
    assert "is not a size; write 256MiB or 1GiB" in done.stderr


def _build(bundle: Path, folder: Path, queue: multiprocessing.Queue[list[bool]]) -> None:
    built = build_plans(Bundle.load(bundle), PlanCache(folder), RTX["fp16"])
    queue.put([each.reused for each in built])


@pytest.mark.slow
def test_two_processes_build_into_one_cache_and_each_plan_once(
    exported: Bundle, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [
        context.Process(target=_build, args=(exported.path, tmp_path, queue)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    reused = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(timeout=60)

    assert [process.exitcode for process in processes] == [0, 0]
    assert [sum(each) for each in zip(*reused, strict=True)] == [1, 1]


def test_an_interruption_that_comes_too_late_to_cancel_a_build_ends_it_all_the_same(
    exported: Bundle, cache: PlanCache
) -> None:
    def progress(phase: str, done: int, total: int) -> None:
        # The last that TensorRT reports: nothing asks any more whether to go on.
        if phase == "Building engine" and done == total:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build_plans(exported, cache, RTX["fp16"], progress=progress)
    assert [path.name for path in cache.folder.iterdir()] == ["lock"]


_INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from ffn_edge.bundle.bundle import Bundle
from ffn_edge.export.tensorrt_plan import BuildOptions, build_plans
from ffn_edge.device.plan_cache import PlanCache

def progress(phase, done, total):
    if done:
        os.kill(os.getpid(), int(sys.argv[3]))

build_plans(Bundle.load(sys.argv[1]), PlanCache(Path(sys.argv[2])),
            BuildOptions(target="rtx"), progress=progress)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_build_that_is_interrupted_leaves_no_half_plan(
    number: int, exported: Bundle, cache: PlanCache
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, exported.path, cache.folder, str(int(number))],
        capture_output=True,
        text=True,
    )

    assert done.returncode == (-signal.SIGINT if number == signal.SIGINT else -signal.SIGKILL)
    if number == signal.SIGINT:
        assert done.stderr.rstrip().endswith("KeyboardInterrupt")
        assert [path.name for path in cache.folder.iterdir()] == ["lock"]
    assert not list(cache.folder.glob("*.plan"))
    assert [each.reused for each in build_plans(exported, cache, RTX["fp16"])] == [False, False]
    assert not list(cache.folder.glob(".build-*"))


def test_a_full_disk_is_one_error_and_leaves_nothing(
    exported: Bundle, cache: PlanCache, on_a_full_disk: Callable[..., subprocess.CompletedProcess]
) -> None:
    program = (
        "import sys\n"
        "from ffn_edge.cli import main\n"
        "sys.argv = ['ffn-edge', 'build', sys.argv[1], '--target', 'rtx', '--cache', sys.argv[2]]\n"
        "main()\n"
    )
    done = on_a_full_disk(program, exported.path, cache.folder, room=2_000_000)

    assert done.returncode == 1, done.stderr
    assert "cannot be written" in done.stderr
    assert "--cache" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in cache.folder.iterdir()] == ["lock"]


def test_without_a_gpu_engines_for_any_weights_are_refused(
    exported: Bundle, cache: PlanCache
) -> None:
    with pytest.raises(ExportError, match="hold their weights for good"):
        build_plans(exported, cache, BuildOptions(target="rtx", refit="any"))


def test_a_cache_that_cannot_be_written_is_named(exported: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="cannot be written"):
        build_plans(exported, PlanCache(tmp_path / "file"), RTX["fp16"])


def test_weights_that_are_not_the_manifests_are_refused(exported: Bundle, cache: PlanCache) -> None:
    import dataclasses

    subs = {
        frames: dataclasses.replace(sub, composed_sha256="0" * 64)
        for frames, sub in exported.manifest.sub_networks.items()
    }
    other = dataclasses.replace(
        exported, manifest=dataclasses.replace(exported.manifest, sub_networks=subs)
    )
    with pytest.raises(ExportError, match="not those of the manifest"):
        build_plans(other, cache, RTX["fp16"])
    assert os.listdir(cache.folder) == ["lock"]
