"""INT8 engines against float16 and float32, of clips and of steps: build, refit, answers, latency.

For TensorRT and TensorRT-RTX, whichever is installed and takes the card. In a dry run, on the
tests' emulator. None of this has run on a GPU.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.example import example_bundle, example_network, quantized
from benchmarks.gpu.report import Report, run_part
from ffn_edge.bundle.bundle import Bundle, Precision
from ffn_edge.device.plan_cache import PlanCache
from ffn_edge.device.tensorrt_api import Target, is_installed
from ffn_edge.errors import EngineError, ExportError
from ffn_edge.export.tensorrt_plan import BuildOptions, build_plans
from ffn_edge.runtime.engines.tensorrt_group import TensorRTGroup, prove
from tests.emulator import Emulator

_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
_TARGETS: tuple[Target, ...] = ("tensorrt", "rtx")
_RUNS = 50


def main(report: Report) -> None:
    """Build and time every frame count in every precision."""
    with ExitStack() as stack:
        if report.dry_run:
            stack.enter_context(Emulator("10.3.0"))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        targets = list(filter(is_installed, _TARGETS[:1] if report.dry_run else _TARGETS))
        if not targets:
            report.row("TensorRT", None, "is not installed, and no wheels were carried along")
        name, size = ("tsm_tiny", 32) if report.dry_run else ("tsm_resnet50", 224)
        plain = example_bundle(example_network(name, causal=True), size, folder / name)
        bundle = quantized(plain, folder / "int8")
        for target in targets:
            for stream in (False, True):
                _target(report, name, bundle, target, folder / "cache", stream=stream)


def _target(
    report: Report, name: str, bundle: Bundle, target: Target, cache: Path, *, stream: bool
) -> None:
    title = f"{target}, {name}: {'a step at ' if stream else ''}"
    for precision in _PRECISIONS:
        try:
            for frames, figure in _engines(bundle, target, precision, cache, stream=stream):
                report.row(f"{title}{frames} frames, {precision}", True, figure)
        except (EngineError, ExportError) as error:
            # A card that is not supported is not, with the first engine.
            said = r"compute capability|not support|run on this GPU"
            refused = precision == _PRECISIONS[0] and re.search(said, error.message)
            report.row(title + precision, None if refused else False, error.message[-200:])
            if refused:
                return


def _engines(
    bundle: Bundle, target: Target, precision: Precision, cache: Path, *, stream: bool
) -> Iterator[tuple[int, str]]:
    """Build, prove and time; yield each frame count, and what to say of it."""
    options = BuildOptions(target=target, precision=precision, stream=stream)
    built = build_plans(bundle, PlanCache(cache), options, prove=partial(prove, bundle=bundle))
    sizes = {each.plan.sidecar.key.frames: each.plan.sidecar.plan.bytes for each in built}
    precisions = dict.fromkeys(bundle.manifest.frame_counts, precision)
    with TensorRTGroup(bundle, target, precisions, cache=cache, stream=stream) as group:
        for frames, engine in group.engines.items():
            side = bundle.manifest.input.height
            clip = np.zeros((1, 1 if stream else frames, side, side, 3), np.uint8)
            times = []
            for _ in range(_RUNS):
                engine.infer(clip)
                times.append(engine.device_ms or 0.0)
            yield (
                frames,
                f"{median(times):.2f} ms, plan {sizes[frames] / 1e6:.2f} MB, "
                f"off by {group.deviations[frames]:.0e}",
            )


if __name__ == "__main__":
    run_part("INT8", main)
