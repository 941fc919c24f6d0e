"""What the runtime costs around its engines: time per inference, a switch, memory.

    python -m benchmarks.runtime_overhead [--bundle bundle] [--threads 2] [--rounds 10]

Without a bundle it exports a TSM-ResNet-50 with random weights, 174 classes, 224x224, 4/8/16
frames: latency does not depend on the weights' values. Targets: around the engine at most 1 ms
at the most frames; the first inference after a switch at most 1.05x the steady median; peak
memory of a run at most 1.2x that of the bare ONNX Runtime sessions.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from ffn_edge.bundle.bundle import Bundle
from ffn_edge.device.cores import usable_cores
from ffn_edge.media.video_writer import VideoWriter
from ffn_edge.runtime.classifier import Classifier, class_probabilities, top_classes
from ffn_edge.runtime.engines.engine import EngineOptions, OpenEngines, cpu_backend, open_engines
from ffn_edge.runtime.policy.adaptive import Adaptive
from ffn_edge.runtime.policy.interface import Controller, Limits, Observation
from ffn_edge.runtime.profile.profile import profile_engines
from ffn_edge.runtime.profile.setting import setting_from_latencies
from ffn_edge.runtime.session import Session
from ffn_edge.runtime.sinks import JsonLines
from ffn_edge.runtime.stream.clip_buffer import ClipBuffer, HostRing, window_capacity
from ffn_edge.runtime.stream.sources import Frame, Source
from ffn_edge.runtime.stream.window import Timing

FPS = 30.0
WINDOW_S = 2.0

# Both children end with the same line: peak resident memory and, with the sessions still open,
# the proportional share, in MiB.
_REPORT = """
import json
def mebibytes(file, label):
    return next(int(line.split()[1]) / 1024 for line in open(file) if line.startswith(label))
# Not getrusage: its peak is inherited from the process that started this one.
peak, pss = mebibytes("/proc/self/status", "VmHWM:"), mebibytes("/proc/self/smaps_rollup", "Pss:")
print(json.dumps({"peak": peak, "pss": pss}))
"""
_BARE = """
import sys
import numpy as np, onnxruntime
sessions = []
for path in sys.argv[2:]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(sys.argv[1])
    sessions.append(onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"]))
for session in sessions * 3:
    session.run(None, {"frames": np.zeros(session.get_inputs()[0].shape, np.uint8)})
"""
_RUN = """
import sys
import ffn_edge.commands.run
from ffn_edge.runtime.engines.engine import EngineOptions
from ffn_edge.runtime.run import open_session
threads, bundle, video = sys.argv[1:]
engines = EngineOptions(threads=int(threads))
with open_session(bundle, video, engines=engines, hop_s=1.0) as session:
    assert len(list(session)) >= 2
"""


class MemoryStream:
    """A file-like stream of 1280x720 noise, so that no decoder is measured."""

    name = "memory"
    live = False
    fps = FPS

    def __init__(self, seconds: float) -> None:
        self._count = round(seconds * FPS)

    def __enter__(self) -> MemoryStream:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[Frame]:
        image = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), np.uint8)
        for index in range(self._count):
            yield Frame(image, index / FPS)


class NoEngine:
    """Answers at once, so that a thousand inferences around it can be measured."""

    device_ms = None

    def __init__(self, frames: int, classes: int) -> None:
        self.frames = frames
        self._logits = np.random.default_rng(0).normal(size=(1, classes)).astype(np.float32)

    def infer(self, frames: np.ndarray) -> np.ndarray:
        """Return the same logits, whatever the frames."""
        return self._logits


def main() -> None:
    """Measure, and print three tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="default: a TSM-ResNet-50 is exported")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=10, help="of the switch measurement")
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = Bundle.load(arguments.bundle or resnet50(folder / "bundle"))
        console.print(f"{describe_machine()}; {arguments.threads} threads")
        console.print(f"{bundle.manifest.architecture}, {bundle.manifest.input.width} pixels\n")
        console.print(around_the_engine(bundle, folder))
        with open_engines(bundle, EngineOptions(threads=arguments.threads)) as engines:
            console.print(after_a_switch(bundle, engines, arguments.rounds))
        console.print(memory(bundle, arguments.threads, folder))


def resnet50(folder: Path) -> Path:
    """Export a TSM-ResNet-50 with random weights."""
    from benchmarks.example import (  # needs PyTorch; a device has none
        example_bundle,
        example_network,
    )

    return example_bundle(example_network("tsm_resnet50"), 224, folder).path


def around_the_engine(bundle: Bundle, folder: Path) -> Table:
    """Run the real loop around engines that cost nothing, then each of its parts alone."""
    manifest = bundle.manifest
    frames = max(manifest.frame_counts)
    engines = OpenEngines(
        {count: NoEngine(count, len(manifest.classes)) for count in manifest.frame_counts},
        cpu_backend(),
    )
    setting = setting_from_latencies(bundle, profile_engines(engines, manifest.input, runs=5))
    limits = Limits(latency_ms=1e6)
    session = Session(
        Source(streams=(MemoryStream(60.0),)),
        Classifier(engines, manifest, Adaptive(), setting),
        lambda: limits,
        Timing(hop_s=1 / FPS),
    )
    overhead_ms, output_ms = [], []
    with JsonLines(folder / "lines.jsonl") as lines:
        for result in session:
            assert result.decision.frames == frames
            start = time.perf_counter()
            lines.write(result)
            output_ms.append((time.perf_counter() - start) * 1e3)
            overhead_ms.append(result.overhead_ms)
    total_ms = [a + b for a, b in zip(overhead_ms, output_ms, strict=True)]

    size = manifest.input.height
    ring = HostRing(window_capacity(WINDOW_S, FPS), frames, size, size)
    buffer = ClipBuffer(ring, window_s=WINDOW_S, fps=FPS)
    for index in range(100):
        buffer.append(np.full((size, size, 3), index, np.uint8), index / FPS)
    controller = Controller(Adaptive(), setting)

    def observe(number: int = 0) -> None:
        controller.observe(
            Observation(
                frames=frames, latency_ms=1.0 + number / 1000, now=number * 0.25, limits=limits
            )
        )

    for number in range(1000):
        observe(number)
    logits = engines[frames].infer(np.empty(0, np.uint8))[0]

    table = Table(title=f"around the engine at {frames} frames, per inference")
    table.add_column("part")
    table.add_column("median", justify="right")
    table.add_column("95 %", justify="right")
    rows: dict[str, list[float]] = {
        "gather the clip": timed(lambda: buffer.gather(frames)),
        "decide": timed(lambda: controller.decide(limits, 250.0)),
        "observe": timed(observe),
        "read the logits": timed(
            lambda: top_classes(logits, class_probabilities(logits), manifest.classes)
        ),
        "write a JSON line": output_ms,
        "all, in the loop (target <= 1 ms)": total_ms,
    }
    for part, milliseconds in rows.items():
        table.add_row(
            part,
            f"{statistics.median(milliseconds):.3f} ms",
            f"{np.quantile(milliseconds, 0.95):.3f} ms",
        )
    return table


def timed(action: Callable[[], object], times: int = 1000) -> list[float]:
    """Return the milliseconds of each call."""
    milliseconds = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        milliseconds.append((time.perf_counter() - start) * 1e3)
    return milliseconds


def after_a_switch(bundle: Bundle, engines: OpenEngines, rounds: int) -> Table:
    """Compare the first inference after a switch with those that follow."""
    contract = bundle.manifest.input
    rng = np.random.default_rng(0)
    clips = {
        frames: rng.integers(0, 256, (1, frames, contract.height, contract.width, 3), np.uint8)
        for frames in engines
    }
    profile_engines(engines, contract, runs=2)  # warm
    first: dict[int, list[float]] = {frames: [] for frames in engines}
    steady: dict[int, list[float]] = {frames: [] for frames in engines}
    # Each engine follows each other one.
    order = [*engines, *reversed(list(engines))]
    order = [frames for i, frames in enumerate(order) if frames != order[i - 1]]
    for _ in range(rounds):
        for frames in order:
            for number in range(4):
                start = time.perf_counter()
                engines[frames].infer(clips[frames])
                elapsed_ms = (time.perf_counter() - start) * 1e3
                (steady if number else first)[frames].append(elapsed_ms)
    table = Table(title="first inference after a switch (target <= 1.05)")
    for heading in ("frames", "steady", "first", "ratio"):
        table.add_column(heading, justify="right")
    for frames in engines:
        usual, switched = statistics.median(steady[frames]), statistics.median(first[frames])
        table.add_row(
            str(frames), f"{usual:.2f} ms", f"{switched:.2f} ms", f"{switched / usual:.3f}"
        )
    return table


def memory(bundle: Bundle, threads: int, folder: Path) -> Table:
    """Compare a run's memory with that of the same sessions in plain ONNX Runtime."""
    video = folder / "noise.mp4"
    rng = np.random.default_rng(0)
    with VideoWriter(video, fps=FPS, width=1280, height=720) as writer:
        for _ in range(round(4 * FPS)):
            block = rng.integers(0, 256, (45, 80, 3), np.uint8)
            writer.write(block.repeat(16, axis=0).repeat(16, axis=1))
    graphs = [str(bundle.graph_path(frames)) for frames in bundle.manifest.frame_counts]
    bare = child(_BARE, str(threads), *graphs)
    run = child(_RUN, str(threads), str(bundle.path), str(video))
    table = Table(title="memory, 1280x720 video (target: peak <= 1.2x)")
    for heading in ("", "peak", "at the end (PSS)"):
        table.add_column(heading, justify="right" if heading else "left")
    for label, figures in (("bare sessions", bare), ("ffn-edge run", run)):
        table.add_row(label, f"{figures['peak']:.0f} MiB", f"{figures['pss']:.0f} MiB")
    table.add_row("ratio", f"{run['peak'] / bare['peak']:.2f}", f"{run['pss'] / bare['pss']:.2f}")
    return table


def child(script: str, *arguments: str) -> dict[str, float]:
    """Run a script in a fresh interpreter and return what it reports."""
    # The report runs inside the script's last `with`, so that nothing is closed yet.
    indent = "    " if script is _RUN else ""
    report = "".join(f"{indent}{line}\n" for line in _REPORT.splitlines())
    done = subprocess.run(
        [sys.executable, "-c", script + report, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    main()
