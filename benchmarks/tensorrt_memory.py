"""What building and refitting TensorRT engines takes of the host's memory, without a GPU.

    python -m benchmarks.tensorrt_memory --arch tsm_resnet50

Building is measured with the real TensorRT-RTX builder: what this project holds (by tracemalloc,
which sees every NumPy array) and the growth of the whole process (RssAnon), with the builder's own
memory in it. Refitting is measured on the emulator of `tests/emulator`, whose device memory counts
neither for tracemalloc nor as anonymous memory. A layer is read from the weight file into the
array that it is then composed in.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.example import example_bundle, example_network
from benchmarks.machine import describe_machine
from ffn_edge.bundle.bundle import Bundle
from ffn_edge.bundle.compose import compose
from ffn_edge.device.plan_cache import PlanCache
from ffn_edge.device.tensorrt_api import load
from ffn_edge.export.plan_graph import write_plan_graph
from ffn_edge.export.tensorrt_plan import BuildOptions, build_plans
from ffn_edge.runtime.engines.engine import EngineOptions, open_engines

sys.path.insert(0, str(Path(__file__).parents[1]))
LAYER_TARGET, MODEL_TARGET = 1.2, 1.0


@contextmanager
def traced() -> Iterator[list[int]]:
    """Yield a list that holds, after the block, the most bytes that Python held in it."""
    peak: list[int] = []
    tracemalloc.start()
    try:
        yield peak
    finally:
        peak.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()


def anonymous_bytes() -> int:
    """Return the process's memory that belongs to no file."""
    text = Path("/proc/self/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) * 1024


def build_in_this_process(bundle: str, precision: str, folder: str) -> int:
    """Build a bundle's engines; return how far the process's anonymous memory grew."""
    loaded, cache = Bundle.load(bundle), PlanCache(Path(folder))
    options = BuildOptions(target="rtx", precision=precision)
    stop, peak = threading.Event(), [0]

    def watch() -> None:
        while not stop.wait(0.002):
            peak[0] = max(peak[0], anonymous_bytes())

    before = anonymous_bytes()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        build_plans(loaded, cache, options)
    finally:
        stop.set()
        watcher.join()
    return peak[0] - before


def refit(bundle: Bundle, precision: str, folder: Path) -> int:
    """Return the most that Python held while the engines were opened on the emulator."""
    from tests.emulator import Emulator

    load.cache_clear()  # of another emulator
    with Emulator("10.3.0") as device:
        build_plans(bundle, PlanCache(folder), BuildOptions(precision=precision))
        peaks: list[int] = []

        def begin() -> None:
            tracemalloc.start()

        def end() -> None:
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()

        device.before["Refitter.get_all_weights"] = begin
        device.before["Refitter.refit_cuda_engine"] = end
        options = EngineOptions(backend="tensorrt", cache=folder, precision=precision)
        with open_engines(bundle, options):
            pass
    return max(peaks)


@click.command()
@click.option("--arch", default="tsm_resnet50", show_default=True)
@click.option("--build-only", nargs=3, hidden=True, help="For the child process.")
def main(arch: str, build_only: tuple[str, str, str] | None) -> None:
    """Print the memory."""
    if build_only:
        print(build_in_this_process(*build_only))
        return
    model = example_network(arch)
    table = Table(title=f"host memory, {arch}", caption=describe_machine())
    for heading in ("what", "precision", "MB", "against", "ratio", "target"):
        table.add_column(heading, justify="left" if heading in ("what", "against") else "right")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = example_bundle(model, 112, folder / "bundle")
        frames = max(bundle.manifest.frame_counts)
        weights = compose(bundle.tensors(), bundle.manifest.layers, frames)
        sizes = [array.nbytes for _, array in weights]
        largest, whole = max(sizes), sum(sizes)
        for precision in ("fp16", "fp32"):
            write_plan_graph(bundle, frames, precision, folder)  # imports are paid here
            with traced() as peak:
                write_plan_graph(bundle, frames, precision, folder)
            child = [sys.executable, __file__, "--build-only", str(bundle.path), precision]
            grown = int(subprocess.check_output([*child, str(folder / f"rtx-{precision}")]))
            plans = (folder / f"rtx-{precision}").glob("*.plan")
            megabytes = sorted(plan.stat().st_size / 1e6 for plan in plans)
            print(
                f"RTX engines in {precision} with their weights: "
                f"{megabytes[0]:.1f} to {megabytes[-1]:.1f} MB"
            )
            refitted = refit(bundle, precision, folder / precision)
            one = "one frame count, float32"
            rows = (
                ("build: what ffn-edge itself holds", peak[0], one, whole, f"{MODEL_TARGET}×"),
                ("build: growth of the process, the builder in it", grown, one, whole, ""),
                ("refit, emulated", refitted, "the largest layer", largest, f"{LAYER_TARGET}×"),
            )
            for what, size, against, reference, target in rows:
                ratio = f"{size / reference:.2f}×"
                table.add_row(what, precision, f"{size / 1e6:.1f}", against, ratio, target)
            table.add_section()
    Console(width=130).print(table)
    print(f"largest layer {largest / 1e6:.1f} MB, one frame count {whole / 1e6:.1f} MB, in float32")


if __name__ == "__main__":
    main()
