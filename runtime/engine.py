"""Engines: uint8 frames in, logits out. One engine per frame count, opened side by side.

Legend: N clips of T frames, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ffn_edge.bundle import Bundle
from ffn_edge.errors import EngineError
from ffn_edge.runtime import onnxruntime_engine
from ffn_edge.runtime.machine import usable_cores

Frames = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]

BACKENDS = ("auto", "onnxruntime")


class Engine(Protocol):
    """One frame count's network on a device. `__init__` is cheap; `with` opens the device."""

    @property
    def frames(self) -> int:
        """T, the frames of a clip."""

    def __enter__(self) -> Engine:
        """Open the device.

        Raises:
            EngineError: the network cannot run here.
        """

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give back all that was opened."""

    def infer(self, frames: Frames) -> Logits:
        """Classify clips.

        Args:
            frames: uint8 (N, T, H, W, 3), RGB, contiguous.

        Returns:
            float32 (N, classes).

        Raises:
            EngineError: `frames` has another shape or type.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """What runs the engines, and why it was chosen."""

    name: str
    version: str
    threads: int
    reason: str


def choose_backend(name: str = "auto", threads: int | None = None) -> Backend:
    """Decide what runs the engines on this machine.

    Args:
        name: one of `BACKENDS`.
        threads: of the CPU; None is one for each physical core.

    Raises:
        EngineError: it is unknown or not installed.
    """
    threads = usable_cores() if threads is None else threads
    if threads < 1:
        raise EngineError(f"an engine needs at least one thread; got {threads}", "--threads 2")
    match name:
        case "auto":
            reason = "ONNX Runtime runs on every CPU"
        case "onnxruntime":
            reason = "asked for"
        case _:
            raise EngineError(
                f"there is no backend {name!r}", f"choose one of {', '.join(BACKENDS)}."
            )
    version = onnxruntime_engine.installed_version()
    return Backend(name="onnxruntime", version=version, threads=threads, reason=reason)


@contextmanager
def open_engines(
    bundle: Bundle,
    *,
    backend: str = "auto",
    threads: int | None = None,
    frame_counts: Iterable[int] | None = None,
) -> Iterator[dict[int, Engine]]:
    """Open the engines of a bundle, by ascending frame count; all close when the block ends.

    Args:
        bundle: what to run.
        backend: one of `BACKENDS`.
        threads: of the CPU; None is one for each physical core.
        frame_counts: which engines to open; None is all that the bundle serves.

    Raises:
        EngineError: the backend is not installed, or cannot run the bundle.
        BundleError: the bundle does not serve one of `frame_counts`.
    """
    chosen = choose_backend(backend, threads)
    wanted = bundle.manifest.frame_counts if frame_counts is None else sorted(set(frame_counts))
    graphs = {frames: bundle.graph_path(frames) for frames in wanted}
    with ExitStack() as stack:
        engines: dict[int, Engine] = {}
        for frames, graph in graphs.items():
            engine = onnxruntime_engine.OnnxRuntimeEngine(
                graph, frames=frames, manifest=bundle.manifest, threads=chosen.threads
            )
            engines[frames] = stack.enter_context(engine)
        yield engines
