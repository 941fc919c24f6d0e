"""How a step of the power budget moves the frame count of a real run, and why.

    python -m benchmarks.budget_step --bundle demo/bundle --stream demo/stream.mp4

The bundle, its engines, the stream and `run_session` are real, and so are the files that the
sensor is read from; what they show is *emulated*: a processor's energy counter (RAPL) in a folder
of its own, which counts 4 W at rest and 40 J for each second of this process's CPU time, so that
more work does draw more. The budget steps down and up again by way of `--limits`.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine
from ffn_edge.bundle.bundle import Bundle
from ffn_edge.runtime.classifier import Result
from ffn_edge.runtime.engines.engine import EngineOptions
from ffn_edge.runtime.policy.interface import Limits
from ffn_edge.runtime.profile.profile import profile_bundle
from ffn_edge.runtime.run import RunOptions, run_session
from ffn_edge.runtime.summary import Summary

IDLE_W, JOULES_A_CPU_SECOND = 4.0, 40.0
FPS = 30.0


class EmulatedCounter:
    """A RAPL tree whose counter follows this process's CPU time."""

    def __init__(self, root: Path) -> None:
        zone = root / "sys/class/powercap/intel-rapl:0"
        zone.mkdir(parents=True)
        (zone / "name").write_text("package-0\n")
        (zone / "max_energy_range_uj").write_text("262143328850\n")
        self._file = zone / "energy_uj"
        self._file.write_text("0\n")
        self._must_end = threading.Event()
        self._thread = threading.Thread(target=self._count, daemon=True)

    def __enter__(self) -> EmulatedCounter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._must_end.set()
        self._thread.join()

    def _count(self) -> None:
        start, cpu = time.monotonic(), time.process_time()
        with open(self._file, "r+") as file:
            while not self._must_end.wait(0.01):
                seconds, cpu_seconds = time.monotonic() - start, time.process_time() - cpu
                joules = IDLE_W * seconds + JOULES_A_CPU_SECOND * cpu_seconds
                os.pwrite(file.fileno(), f"{int(joules * 1e6):015d}\n".encode(), 0)


class Steps:
    """A sink that keeps the results, and steps the budget at its times."""

    def __init__(self, file: Path, budgets_w: list[float], seconds: float) -> None:
        self.results: list[list[Result]] = [[] for _ in budgets_w]
        self._file = file
        self._budgets_w = budgets_w
        self._seconds = seconds
        self._phase = -1
        self._step()

    def write(self, result: Result) -> None:
        """Keep a result; perhaps step."""
        self.results[self._phase].append(result)
        last = self._phase == len(self._budgets_w) - 1
        if not last and result.elapsed_s >= (self._phase + 1) * self._seconds:
            self._step()

    def _step(self) -> None:
        self._phase += 1
        new = self._file.with_suffix(".new")
        new.write_text(f'{{"power_w": {self._budgets_w[self._phase]}}}')
        os.replace(new, self._file)


def main() -> None:
    """Profile, run, and print what each phase of the budget did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("demo/bundle"))
    parser.add_argument("--stream", type=Path, default=Path("demo/stream.mp4"))
    parser.add_argument("--seconds", type=float, default=20.0, help="of each budget")
    arguments = parser.parse_args()
    console = Console()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    console.print(describe_machine(), soft_wrap=True)
    bundle = Bundle.load(arguments.bundle)
    engines = EngineOptions(backend="onnxruntime", threads=1)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "root"
        with EmulatedCounter(root):
            measured = profile_bundle(bundle, engines, root=root)
            power = measured.power
            latencies, above_w = measured.latencies["fp32"], power.above_idle_w["fp32"]
            engine_w = {t: above_w[t] * latencies[t].median_ms / 1e3 * FPS for t in latencies}
            assert power.idle_w is not None
            console.print(
                f"emulated sensor: {power.idle_w:.1f} W at rest; engines, {FPS:g} times a second: "
                + ", ".join(f"{t} frames {watts:.2f} W" for t, watts in engine_w.items())
            )
            fewest, *_, most = engine_w.values()
            # Reading and preparing frames draws, too: it is found by a run without a limit.
            rest_w = run(bundle, arguments, engines, root, [1e3])[0] - most
            budgets_w = [
                rest_w + 1.3 * most, rest_w + fewest + 0.4 * (most - fewest), rest_w + 1.3 * most,
            ]  # fmt: skip
            run(bundle, arguments, engines, root, budgets_w, console)


def run(
    bundle: Bundle,
    arguments: argparse.Namespace,
    engines: EngineOptions,
    root: Path,
    budgets_w: list[float],
    console: Console | None = None,
) -> list[float]:
    """Run the stream through the budgets; return the mean power in each."""
    file = root.parent / "limits.json"
    steps = Steps(file, budgets_w, arguments.seconds)
    run_session(
        bundle,
        arguments.stream,
        Limits(),
        RunOptions(
            engines=engines,
            realtime=True,
            hop_s=1 / FPS,
            max_seconds=arguments.seconds * len(budgets_w),
            limits_file=file,
            root=root,
        ),
        summary=Summary(),
        sinks=[steps],
    )
    table = Table(title="a power budget that steps (emulated sensor, real run)")
    for heading in ("budget", "mean power", "time at each frame count", "why, in the middle"):
        table.add_column(heading)
    means_w = []
    for budget_w, results in zip(budgets_w, steps.results, strict=True):
        frames = [result.decision.frames for result in results]
        powers_w = [
            result.observation.sensed.power_w or 0.0 for result in results[len(results) // 4 :]
        ]
        means_w.append(statistics.fmean(powers_w))
        middle = results[len(results) // 2].decision
        table.add_row(
            f"{budget_w:.2f} W",
            f"{means_w[-1]:.2f} W",
            ", ".join(f"{t}: {frames.count(t) / len(frames):.0%}" for t in sorted(set(frames))),
            f"{middle.frames}: {middle.reason}\n"
            + "\n".join(f"not {t}: {reason}" for t, reason in middle.rejected.items()),
        )
    if console is not None:
        console.print(table)
    return means_w


if __name__ == "__main__":
    main()
