"""Stream capture by ctypes: three copies and a fill as one CUDA graph, against one call each.

PyCUDA wraps no graphs, but the handle of its stream is CUDA's own. The functions of libcuda.so.1
that are called here have the same names in CUDA 12 and 13. A dry run has stand-ins for them, over
the emulator's streams, and shows the plumbing alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.gpu.driver import bench_for, opened
from benchmarks.gpu.report import Report, run_part

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may go on as they like
_TAIL = 4096


@dataclass(frozen=True)
class Work:
    """Copies on a stream: host to device, within the device, a fill of the tail, and back.

    Attributes:
        stream: CUDA's handle.
        enqueue: puts them on the stream.
        wait: waits for the stream.
        source: page-locked uint8, what is copied.
        result: page-locked uint8, where it ends up.
    """

    stream: int
    enqueue: Callable[[], None]
    wait: Callable[[], None]
    source: npt.NDArray[np.uint8]
    result: npt.NDArray[np.uint8]


class Graph:
    """What a stream was given while it was captured, to be launched again and again."""

    def __init__(self, cuda: Any, stream: int, enqueue: Callable[[], None]) -> None:
        self._cuda = cuda
        self._stream = ctypes.c_void_p(stream)
        graph, self._executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(_THREAD_LOCAL))
        try:
            enqueue()
        finally:
            self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        flags = ctypes.c_ulonglong(0)
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(self._executable), graph, flags)
        self._call("cuGraphDestroy", graph)

    def launch(self) -> None:
        """Put all of it on the stream."""
        self._call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Let go of it."""
        self._call("cuGraphExecDestroy", self._executable)

    def _call(self, name: str, *arguments: Any) -> None:
        error = getattr(self._cuda, name)(*arguments)
        if error:
            raise RuntimeError(f"{name} gave the CUDA error {error}")


def main(report: Report) -> None:
    """Capture, compare, time."""
    size = (1 << 14) if report.dry_run else 16 * 224 * 224 * 3  # of 16 frames
    rounds = 50 if report.dry_run else 1000
    with contextlib.ExitStack() as stack:
        bench = stack.enter_context(bench_for(report.dry_run))
        stack.enter_context(opened(bench))
        work = _work(bench.cuda, size)
        cuda = _EmulatedGraphs(bench.emulator) if bench.emulator else _libcuda()
        work.enqueue()  # once as usual, so that nothing is loaded within the capture
        work.wait()
        graphs: list[Graph] = []

        def capture() -> str:
            graphs.append(Graph(cuda, work.stream, work.enqueue))
            return f"{size} bytes, three copies and a fill"

        if not report.run("they are captured and instantiated", capture):
            return
        graph = graphs[0]
        report.run("direct calls give the right bytes", lambda: _compare(work, work.enqueue))
        report.run("replays give the right bytes", lambda: _compare(work, graph.launch))
        for name, start in (("direct calls", work.enqueue), ("replays", graph.launch)):
            figure = partial(_timed, work, start, rounds)
            report.run(f"{name}: µs to start / until done", figure)
        graph.close()


def _compare(work: Work, start: Callable[[], None]) -> str:
    rng = np.random.default_rng(0)
    for turn in range(5):
        values = rng.integers(0, 256, work.source.size, np.uint8)
        work.source[:] = values
        work.result.fill(0)
        start()
        work.wait()
        values[-_TAIL:] = 7
        assert np.array_equal(work.result, values), turn
    return "5 times, with other bytes each time"


def _timed(work: Work, start: Callable[[], None], rounds: int) -> str:
    """Return the median of `rounds`: microseconds of the host to start, and until it is done."""
    started, done = [], []
    for _ in range(rounds):
        begin = time.perf_counter()
        start()
        started.append(time.perf_counter() - begin)
        work.wait()
        done.append(time.perf_counter() - begin)
    return (
        f"{1e6 * statistics.median(started):.1f} / {1e6 * statistics.median(done):.1f}, "
        f"median of {rounds}"
    )


def _work(cuda: Any, size: int) -> Work:
    stream = cuda.Stream()
    first, second = cuda.mem_alloc(size), cuda.mem_alloc(size)
    source, result = (cuda.pagelocked_zeros(size, np.uint8) for _ in range(2))

    def enqueue() -> None:
        cuda.memcpy_htod_async(first, source, stream)
        cuda.memcpy_dtod_async(second, first, size, stream)
        cuda.memset_d8_async(int(second) + size - _TAIL, 7, _TAIL, stream)
        cuda.memcpy_dtoh_async(result, second, stream)

    return Work(stream.handle, enqueue, stream.synchronize, source, result)


def _libcuda() -> Any:
    return ctypes.CDLL("libcuda.so.1")


class _EmulatedGraphs:
    """The functions of libcuda.so.1 that `Graph` calls, for the emulator's streams."""

    def __init__(self, emulator: Any) -> None:
        self._streams = emulator.streams
        self._before: list[Any] = []
        self._graphs: list[list[Callable[[], None]]] = []

    def cuStreamBeginCapture_v2(self, stream: Any, mode: Any) -> int:  # noqa: N802
        self._before = list(self._streams.find(stream.value).pending)
        return 0

    def cuStreamEndCapture(self, stream: Any, graph: Any) -> int:  # noqa: N802
        pending = self._streams.find(stream.value).pending
        works = [work for work in pending if work not in self._before]
        self._graphs.append([work.run for work in works])
        for work in works:
            pending.remove(work)
        graph._obj.value = len(self._graphs)
        return 0

    def cuGraphInstantiateWithFlags(self, executable: Any, graph: Any, flags: Any) -> int:  # noqa: N802
        executable._obj.value = graph.value
        return 0

    def cuGraphLaunch(self, executable: Any, stream: Any) -> int:  # noqa: N802
        queue = self._streams.find(stream.value)
        for run in self._graphs[executable.value - 1]:
            self._streams.submit(queue, run)
        return 0

    def cuGraphDestroy(self, graph: Any) -> int:  # noqa: N802
        return 0

    def cuGraphExecDestroy(self, executable: Any) -> int:  # noqa: N802
        return 0


if __name__ == "__main__":
    run_part("stream capture", main)
