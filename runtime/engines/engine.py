"""Engines: uint8 frames in, logits out. One engine per frame count, opened side by side.

Legend: N clips of T frames, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ffn_edge.bundle.bundle import Bundle, Precision
from ffn_edge.bundle.graph_check import external_tensors
from ffn_edge.device.cores import usable_cores
from ffn_edge.device.tensorrt_api import Target, is_installed
from ffn_edge.errors import EngineError, counted
from ffn_edge.runtime.engines.onnxruntime import (
    HeldWeights,
    OnnxRuntimeEngine,
    installed_version,
)
from ffn_edge.runtime.engines.tensorrt_group import TensorRTGroup, built_precisions
from ffn_edge.runtime.stream.clip_buffer import Clip, Ring

Logits = npt.NDArray[np.float32]
NewRing = Callable[[int], AbstractContextManager[Ring]]

BACKENDS = ("auto", "tensorrt", "rtx", "onnxruntime")


class Engine(Protocol):
    """One frame count's network on a device. It is open."""

    @property
    def frames(self) -> int:
        """T, the frames of a clip."""

    @property
    def device_ms(self) -> float | None:
        """How long the device took for the last inference, by its own clock, if it has one."""

    def infer(self, frames: Clip) -> Logits:
        """Classify clips.

        Args:
            frames: uint8 (N, T, H, W, 3), RGB, contiguous; or what a ring of these engines has
                gathered.

        Returns:
            float32 (N, classes).

        Raises:
            EngineError: `frames` has another shape or type, or the device failed.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What runs the engines, and how.

    Attributes:
        backend: one of `BACKENDS`; "auto" is TensorRT where it works, and else ONNX Runtime.
        threads: of the CPU, for ONNX Runtime; None is one for each physical core.
        precision: of TensorRT's plans; None is fp16 if it was built, else fp32.
        resident: "all" of TensorRT's engines stay on the device, or "one" at a time.
        cache: the folder of TensorRT's plans; None is the default one.

    Raises:
        EngineError: a value that cannot be.
    """

    backend: str = "auto"
    threads: int | None = None
    precision: Precision | None = None
    resident: str = "all"
    cache: Path | None = None

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise EngineError(
                f"there is no backend {self.backend!r}", f"choose one of {', '.join(BACKENDS)}."
            )
        if self.threads is not None and self.threads < 1:
            raise EngineError(
                f"an engine needs at least one thread; got {self.threads}", "--threads 2"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """What runs the engines, and why it was chosen.

    Attributes:
        name: "onnxruntime", "tensorrt" or "rtx".
        version: its own.
        device: where.
        precision: what the engines compute in.
        threads: of the CPU.
        reason: in words.
    """

    name: str
    version: str
    device: str
    precision: Precision
    threads: int
    reason: str

    @property
    def in_words(self) -> str:
        """What runs the engines, and why."""
        return (
            f"{self.name} {self.version} in {self.precision} on {self.device}, "
            f"{counted(self.threads, 'thread')}: {self.reason}"
        )


class OpenEngines(dict[int, Engine]):
    """Open engines by ascending frame count, and what they share.

    Attributes:
        backend: what runs them.
        new_ring: makes a ring of frames that they read clips from; None where host memory will do.
        switch_is_free: whether the first inference after a switch takes no longer than others.
        logit_errors: by frame count, the largest |Δlogit| seen against export's known answers;
            empty where the engines do not round.
        warnings: what was logged on their opening that a user may act on.
    """

    def __init__(
        self,
        engines: Mapping[int, Engine],
        backend: Backend,
        new_ring: NewRing | None = None,
        switch_is_free: bool = True,
        logit_errors: Mapping[int, float] | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        super().__init__(engines)
        self.backend = backend
        self.new_ring = new_ring
        self.switch_is_free = switch_is_free
        self.logit_errors = logit_errors or {}
        self.warnings = warnings


_DEFAULTS = EngineOptions()


@contextmanager
def open_engines(
    bundle: Bundle,
    options: EngineOptions = _DEFAULTS,
    *,
    frame_counts: Iterable[int] | None = None,
) -> Iterator[OpenEngines]:
    """Open the engines of a bundle; all close when the block ends.

    Args:
        bundle: what to run.
        options: what runs it.
        frame_counts: which engines to open; None is all that the bundle serves.

    Raises:
        EngineError: the backend is not installed, or cannot run the bundle.
        BundleError: the bundle does not serve one of `frame_counts`.
    """
    wanted = bundle.manifest.frame_counts if frame_counts is None else sorted(set(frame_counts))
    for frames in wanted:
        bundle.graph_path(frames)  # raises for one that it does not serve
    with ExitStack() as stack:
        match options.backend:
            case "tensorrt" | "rtx" as target:
                engines = _open_tensorrt(stack, bundle, target, wanted, options, "asked for")
            case "onnxruntime":
                engines = _open_onnxruntime(stack, bundle, wanted, options, "asked for")
            case _:
                engines = _open_best(stack, bundle, wanted, options)
        yield engines


def _open_best(
    stack: ExitStack, bundle: Bundle, wanted: Iterable[int], options: EngineOptions
) -> OpenEngines:
    """Open TensorRT's engines where they work, and else ONNX Runtime's."""
    reasons = []
    targets: tuple[Target, ...] = ("tensorrt", "rtx")
    for target in filter(is_installed, targets):
        try:
            reason = "the fastest that works here"
            return _open_tensorrt(stack, bundle, target, wanted, options, reason)
        except EngineError as error:
            reasons.append(f"{target}: {error.message}")
    reason = "not TensorRT, as " + ("; ".join(reasons) or "it is not installed")
    return _open_onnxruntime(stack, bundle, wanted, options, reason)


def _open_tensorrt(
    stack: ExitStack,
    bundle: Bundle,
    target: Target,
    wanted: Iterable[int],
    options: EngineOptions,
    reason: str,
) -> OpenEngines:
    if options.precision is not None:
        precision = options.precision
    else:
        built = built_precisions(bundle, target, wanted, options.cache).values()
        floats: tuple[Precision, ...] = ("fp16", "fp32")
        of_all = [each for each in floats if all(each in precisions for precisions in built)]
        precision = next(iter(of_all), "fp16")
    group = stack.enter_context(
        TensorRTGroup(
            bundle,
            target,
            dict.fromkeys(wanted, precision),
            resident=options.resident,
            cache=options.cache,
        )
    )
    backend = Backend(
        name=target,
        version=group.api.version,
        device=f"{group.gpu.name}, SM {group.gpu.sm}",
        precision=precision,
        threads=1,
        reason=reason,
    )
    return OpenEngines(
        group.engines,
        backend,
        group.ring,
        switch_is_free=group.resident == "all",
        logit_errors=group.logit_errors,
        warnings=group.warnings,
    )


def _open_onnxruntime(
    stack: ExitStack, bundle: Bundle, wanted: Iterable[int], options: EngineOptions, reason: str
) -> OpenEngines:
    backend = cpu_backend(options.threads, reason)
    weights = HeldWeights(bundle.tensors())
    engines = {}
    for frames in wanted:
        graph = bundle.read_graph(frames)
        engine = OnnxRuntimeEngine(
            graph,
            weights.of(external_tensors(graph)),
            frames=frames,
            manifest=bundle.manifest,
            threads=backend.threads,
        )
        engines[frames] = stack.enter_context(engine)
    return OpenEngines(engines, backend)


def cpu_backend(threads: int | None = None, reason: str = "asked for") -> Backend:
    """Describe ONNX Runtime on this machine.

    Raises:
        EngineError: it is not installed.
    """
    return Backend(
        name="onnxruntime",
        version=installed_version(),
        device="CPU",
        precision="fp32",
        threads=usable_cores() if threads is None else threads,
        reason=reason,
    )
