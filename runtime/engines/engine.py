"""Engines: uint8 frames in, logits out. One engine per frame count, opened side by side.

Legend: N clips of T frames, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from ffn_edge.bundle.bundle import Bundle, Precision
from ffn_edge.bundle.graph_check import external_tensors
from ffn_edge.bundle.known_answer import (
    fault,
    known_clips,
    known_logits,
    mean_of_steps,
    tolerance,
)
from ffn_edge.bundle.onnxruntime_graph import for_onnxruntime
from ffn_edge.bundle.stream_state import State
from ffn_edge.device.cores import usable_cores
from ffn_edge.device.gpu import Device, find_gpu
from ffn_edge.device.tensorrt_api import Target, is_installed, load
from ffn_edge.errors import EngineError, counted
from ffn_edge.runtime.engines.onnxruntime import (
    HeldWeights,
    OnnxRuntimeEngine,
    give_back_freed,
    installed_version,
)
from ffn_edge.runtime.engines.tensorrt_group import TensorRTGroup, built_precisions
from ffn_edge.runtime.stream.clip_buffer import Clip, Ring

Logits = npt.NDArray[np.float32]
NewRing = Callable[[int], AbstractContextManager[Ring]]

BACKENDS = ("auto", "tensorrt", "rtx", "onnxruntime")
PrecisionOption = Literal["auto", Precision]
PRECISIONS: tuple[PrecisionOption, ...] = ("auto", *get_args(Precision))


class Engine(Protocol):
    """One frame count's network on a device. It is open.

    One for streams (`EngineOptions.stream`) takes clips of one frame, each after the one before.
    """

    @property
    def frames(self) -> int:
        """T, the frames of a clip, or of a stream in the time of a clip."""

    @property
    def device_ms(self) -> float | None:
        """How long the device took for the last inference, by its own clock, if it has one."""

    def infer(self, frames: Clip) -> Logits:
        """Classify clips.

        Args:
            frames: uint8 (N, T, H, W, 3), RGB, contiguous; or what a ring of these engines has
                gathered. For streams (N, 1, H, W, 3).

        Returns:
            float32 (N, classes).

        Raises:
            EngineError: `frames` has another shape or type, or the device failed.
        """

    def restart(self, state: State | None = None) -> None:
        """Let the next frame be the first of a stream, as it is when an engine was just opened.

        With `state`, it is the next one of a stream that another engine has seen until now.
        """

    def state(self) -> State:
        """Return what a stream's frames so far have left; of the engine that ran last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What runs the engines, and how.

    Attributes:
        backend: one of `BACKENDS`; "auto" is TensorRT where it works, and else ONNX Runtime.
        threads: of the CPU, for ONNX Runtime; None is one for each physical core.
        precision: one of `PRECISIONS`, for every frame count; "auto" is left to what opens them.
        resident: "all" of TensorRT's engines stay on the device, or "one" at a time.
        cache: the folder of TensorRT's plans; None is the default one.
        stream: open engines that take a stream frame by frame, in place of those for clips.

    Raises:
        EngineError: a value that cannot be.
    """

    backend: str = "auto"
    threads: int | None = None
    precision: PrecisionOption = "auto"
    resident: str = "all"
    cache: Path | None = None
    stream: bool = False

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise EngineError(
                f"there is no backend {self.backend!r}", f"choose one of {', '.join(BACKENDS)}."
            )
        if self.precision not in PRECISIONS:
            raise EngineError(
                f"there is no precision {self.precision!r}",
                f"choose one of {', '.join(PRECISIONS)}.",
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
        threads: of the CPU.
        reason: in words.
    """

    name: str
    version: str
    device: str
    threads: int
    reason: str


# In which precisions each frame count could be opened.
Existing = Mapping[int, tuple[Precision, ...]]
# Chooses one for each, once the backend is known.
Choose = Callable[[Backend, Existing], Mapping[int, Precision]]


class OpenEngines(dict[int, Engine]):
    """Open engines by ascending frame count, and what they share.

    Attributes:
        backend: what runs them.
        precisions: of each.
        existing: in which others each could be opened here, too; empty where one was asked for.
        new_ring: makes a ring of frames that they read clips from; None where host memory will do.
        switch_is_free: whether the first inference after a switch takes no longer than others.
        logit_errors: by frame count, the largest |Δlogit| seen against export's known answers;
            empty where the engines do not round.
        warnings: what was logged on their opening that a user may act on.
        on_this_thread: lets another thread use them than the one that opened them, and others of
            the same backend that are opened later.
    """

    def __init__(
        self,
        engines: Mapping[int, Engine],
        backend: Backend,
        precisions: Mapping[int, Precision] | None = None,
        existing: Existing | None = None,
        new_ring: NewRing | None = None,
        switch_is_free: bool = True,
        logit_errors: Mapping[int, float] | None = None,
        warnings: Sequence[str] = (),
        on_this_thread: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Keep open engines; they are in fp32 unless `precisions` says otherwise."""
        super().__init__(engines)
        self.backend = backend
        self.precisions: dict[int, Precision] = dict.fromkeys(engines, "fp32")
        self.precisions.update(precisions or {})
        self.existing = existing or {}
        self.new_ring = new_ring
        self.switch_is_free = switch_is_free
        self.logit_errors = logit_errors or {}
        self.warnings = warnings
        self.on_this_thread = on_this_thread

    @property
    def in_words(self) -> str:
        """What runs the engines, and why."""
        backend = self.backend
        return (
            f"{backend.name} {backend.version} in {precisions_in_words(self.precisions)} on "
            f"{backend.device}, {counted(backend.threads, 'thread')}: {backend.reason}"
        )


def precisions_in_words(precisions: Mapping[int, Precision]) -> str:
    """Say in what each frame count computes: "int8", or "fp32 at 4 and int8 at 8, 16 frames"."""
    counts: dict[Precision, list[str]] = {}
    for frames, precision in precisions.items():
        counts.setdefault(precision, []).append(str(frames))
    if len(counts) == 1:
        return next(iter(counts))
    each = [f"{precision} at {', '.join(listed)}" for precision, listed in counts.items()]
    return f"{' and '.join(each)} frames"


_DEFAULTS = EngineOptions()


@contextmanager
def open_engines(
    bundle: Bundle,
    options: EngineOptions = _DEFAULTS,
    *,
    frame_counts: Iterable[int] | None = None,
    precisions: Choose | None = None,
) -> Iterator[OpenEngines]:
    """Open the engines of a bundle; all close when the block ends.

    Args:
        bundle: what to run.
        options: what runs it.
        frame_counts: which engines to open; None is all that the bundle serves.
        precisions: chooses that of each frame count where the options leave it open. None takes
            fp16, fp32 or int8, the first of them that is there.

    Raises:
        EngineError: the backend is not installed, or cannot run the bundle.
        BundleError: the bundle does not serve one of `frame_counts`, was not quantised, or is not
            for streams.
    """
    wanted = bundle.manifest.frame_counts if frame_counts is None else sorted(set(frame_counts))
    for frames in wanted:
        bundle.graph_path(frames, step=options.stream)  # raises for one that it does not serve
    request = _Request(bundle, tuple(wanted), options, precisions)
    with ExitStack() as stack:
        match options.backend:
            case "tensorrt" | "rtx" as target:
                engines = _open_tensorrt(stack, request, target, "asked for")
            case "onnxruntime":
                engines = _open_onnxruntime(stack, request, "asked for")
            case _:
                engines = _open_best(stack, request)
        yield engines


@dataclass(frozen=True, slots=True)
class _Request:
    """What `open_engines` was asked for."""

    bundle: Bundle
    frame_counts: tuple[int, ...]
    options: EngineOptions
    choose: Choose | None

    def precisions_on(self, backend: Backend) -> tuple[dict[int, Precision], Existing]:
        """Return the precision of each frame count, and those that it was chosen from."""
        if self.options.precision != "auto":
            return dict.fromkeys(self.frame_counts, self.options.precision), {}
        existing = self._existing(backend)
        if self.choose is not None and all(existing.values()):
            return dict(self.choose(backend, existing)), existing
        ranked: tuple[Precision, ...] = ("fp16", "fp32", "int8")
        return {
            # Of those that were not built, TensorRT says so of the first.
            frames: next((each for each in ranked if each in existing[frames]), ranked[0])
            for frames in self.frame_counts
        }, existing

    def _existing(self, backend: Backend) -> Existing:
        match backend.name:
            case "tensorrt" | "rtx" as target:
                return built_precisions(
                    self.bundle,
                    target,
                    self.frame_counts,
                    self.options.cache,
                    stream=self.options.stream,
                )
        subs = ((t, self.bundle.manifest.sub_networks[t]) for t in self.frame_counts)
        return {t: tuple(sub.steps if self.options.stream else sub.graphs) for t, sub in subs}


def _open_best(stack: ExitStack, request: _Request) -> OpenEngines:
    """Open TensorRT's engines where they work, and else ONNX Runtime's."""
    reasons = []
    targets: tuple[Target, ...] = ("tensorrt", "rtx")
    for target in filter(is_installed, targets):
        try:
            return _open_tensorrt(stack, request, target, "the fastest that works here")
        except EngineError as error:
            reasons.append(f"{target}: {error.message}")
    reason = "not TensorRT, as " + ("; ".join(reasons) or "it is not installed")
    return _open_onnxruntime(stack, request, reason)


def _open_tensorrt(stack: ExitStack, request: _Request, target: Target, reason: str) -> OpenEngines:
    gpu = find_gpu()  # first: without one there is no need to load TensorRT
    backend = Backend(
        name=target,
        version=load(target).version,
        device=f"{gpu.name}, SM {gpu.sm}",
        threads=1,
        reason=reason,
    )
    options = request.options
    precisions, existing = request.precisions_on(backend)
    group = stack.enter_context(
        TensorRTGroup(
            request.bundle,
            target,
            precisions,
            resident=options.resident,
            cache=options.cache,
            stream=options.stream,
        )
    )
    return OpenEngines(
        group.engines,
        backend,
        precisions,
        existing,
        group.ring,
        switch_is_free=group.resident == "all",
        logit_errors=group.logit_errors,
        warnings=group.warnings,
        on_this_thread=Device,  # with the same context, which lives as long as any of them is open
    )


def _open_onnxruntime(stack: ExitStack, request: _Request, reason: str) -> OpenEngines:
    bundle, stream = request.bundle, request.options.stream
    backend = cpu_backend(request.options.threads, reason)
    precisions, existing = request.precisions_on(backend)
    weights = HeldWeights(bundle.tensors())
    engines = {}
    for frames, precision in precisions.items():
        if precision == "fp16":
            raise EngineError(
                "fp16 is TensorRT's alone, and ONNX Runtime runs here"
                + ("" if reason == "asked for" else f": {reason}"),
                "--precision fp32, or int8 of a bundle that was quantised.",
            )
        graph = bundle.read_graph(frames, precision, step=stream)
        if precision == "int8":
            graph = for_onnxruntime(graph)
        engine = OnnxRuntimeEngine(
            graph,
            weights.of(external_tensors(graph)),
            frames=frames,
            manifest=bundle.manifest,
            threads=backend.threads,
            stream=stream,
        )
        engines[frames] = stack.enter_context(engine)
    give_back_freed()
    return OpenEngines(engines, backend, precisions, existing)


def cpu_backend(threads: int | None = None, reason: str = "asked for") -> Backend:
    """Describe ONNX Runtime on this machine.

    Raises:
        EngineError: it is not installed.
    """
    return Backend(
        name="onnxruntime",
        version=installed_version(),
        device="CPU",
        threads=usable_cores() if threads is None else threads,
        reason=reason,
    )


def check_answers(engines: OpenEngines, bundle: Bundle, *, stream: bool = False) -> None:
    """Raise an EngineError unless engines give the logits that export stored with their bundle.

    Args:
        engines: open. Those of a stream are at its start afterwards.
        bundle: of them.
        stream: they are for the next frame of a stream.
    """
    manifest, tensors = bundle.manifest, bundle.tensors()
    for frames, engine in engines.items():
        found = []
        for clip in known_clips(manifest.input, frames):
            engine.restart()
            found.append(mean_of_steps(engine.infer, clip) if stream else engine.infer(clip))
        engine.restart()
        allowed = tolerance(manifest, frames, engines.precisions[frames])
        wrong = fault(np.stack(found), known_logits(tensors, frames), allowed)
        if wrong is not None:
            raise EngineError(
                f"the engine for {frames} frames is not to be trusted: {wrong}",
                "compare it with the export's answers: ffn-edge verify.",
            )
