"""TensorRT-RTX: does it take this card? If so, engines of every network: names, refit, answers.

Its plans are for compute capabilities 7.5 to 8.9 and 12.0, so of an H100 (9.0) a refusal is
expected, which has to be an error of the product's with TensorRT's reason. In a dry run an engine
that holds its weights is built, as RTX does without a GPU.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.example import example_bundle, example_network
from benchmarks.gpu.report import Report, run_part
from ffn_edge.bundle.bundle import Bundle
from ffn_edge.device.gpu import Gpu, find_gpu
from ffn_edge.device.plan_cache import PlanCache
from ffn_edge.device.tensorrt_api import is_installed
from ffn_edge.errors import EngineError
from ffn_edge.export.tensorrt_plan import BuildOptions, build_plans
from ffn_edge.network import ARCHITECTURES
from ffn_edge.runtime.engines.engine import EngineOptions, open_engines
from ffn_edge.runtime.engines.tensorrt_group import prove

_SIZE = 64
_FOR = ("75", "80", "86", "89", "120", "121")  # the capabilities that it can build for


def main(report: Report) -> None:
    """Try the smallest network; if the card takes it, the tests and all networks."""
    if not is_installed("rtx"):
        report.row("TensorRT-RTX", None, "is not installed, and no wheels of it were carried along")
        return
    gpu = None
    if not report.dry_run:
        try:
            gpu = find_gpu()
        except EngineError as error:
            report.row("the card", False, error.message)
            return
        report.fact("the card", f"{gpu.name}, SM {gpu.sm}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = _bundle("tsm_tiny", folder)
        if not _takes(report, bundle, folder / "cache", gpu):
            return
        report.run("pytest -m gpu tests/runtime/test_gpu.py", lambda: _tests(bundle))
        for architecture in ARCHITECTURES:
            report.run(
                f"{architecture}: names, refit, known answers",
                partial(_engines, architecture, folder),
            )


def _takes(report: Report, bundle: Bundle, cache: Path, gpu: Gpu | None) -> bool:
    """Build with the command line, and open; print a row; return whether it works."""
    command = [sys.executable, "-m", "ffn_edge", "build", str(bundle.path), "--target", "rtx"]
    command += ["--cache", str(cache), "--json"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    print(process.stderr, file=sys.stderr)
    said = process.stderr.strip()
    opened = False
    if gpu is None:
        built = json.loads(process.stdout) if process.returncode == 0 else []
        report.row("ffn-edge build, weights included", bool(built), f"{len(built)} engines")
        return False
    if process.returncode == 0:
        try:
            with open_engines(bundle, EngineOptions(backend="rtx", cache=cache)):
                opened = True
        except EngineError as error:
            said = error.message
    expected = gpu.sm in _FOR
    # Any other reason, such as a library that does not load, is no answer.
    refused = re.search(r"compute capability|not support", said, re.I) is not None
    report.row(
        f"it takes this card (expected: {'yes' if expected else 'no'})",
        opened or (refused and not expected),
        "yes" if opened else f"no: {said[-300:]}",
    )
    return opened


def _bundle(architecture: str, folder: Path) -> Bundle:
    path = folder / architecture
    if not path.exists():
        example_bundle(example_network(architecture), _SIZE, path)
    return Bundle.load(path)


def _tests(bundle: Bundle) -> str:
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/runtime/test_gpu.py"],
        env={**os.environ, "FFN_EDGE_TEST_BUNDLE": str(bundle.path)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    print(process.stdout)
    assert process.returncode == 0, process.stdout.strip().split("\n")[-1]
    return process.stdout.strip().split("\n")[-1]


def _engines(architecture: str, folder: Path) -> str:
    """Build, refit and try; no engine may want weights that the list beside it lacks."""
    bundle = _bundle(architecture, folder)
    built = build_plans(
        bundle,
        PlanCache(folder / "cache"),
        BuildOptions(target="rtx"),
        prove=partial(prove, bundle=bundle),
    )
    for each in built:
        assert "REFIT_INDIVIDUAL" not in each.plan.sidecar.flags, "it wanted unknown weights"
    deviations = [each.plan.sidecar.deviation or 0.0 for each in built]
    return f"{len(built)} engines, off by {max(deviations):.0e}"


if __name__ == "__main__":
    run_part("TensorRT-RTX", main)
