"""From a bundle to TensorRT plans: one weight-stripped engine a frame count, built on the device.

    graph that TensorRT parses (`plan_graph`) ─ strongly typed network ─ plan ─ opened and proven

A plan holds no weights (where the target can leave them out): the runtime refits all of them from
the bundle's one weight file. One frame count is built at a time and its weights lie in a file,
not in this process: boards with 4 GB have no room for more.
"""

from __future__ import annotations

import dataclasses
import logging
import signal
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import ffn_edge
from ffn_edge.bundle.bundle import Bundle, FileRecord, Precision
from ffn_edge.bundle.known_answer import known_logits
from ffn_edge.device.gpu import Device, Gpu, find_gpu
from ffn_edge.device.host_memory import memory_sizes
from ffn_edge.device.jetson import power_mode
from ffn_edge.device.plan_cache import Plan, PlanCache, PlanKey, PlanWeight, Sidecar, plan_key
from ffn_edge.device.tensorrt_api import Api, Target, is_out_of_memory, load, remedy_for
from ffn_edge.errors import EngineError, ExportError, OutOfMemoryError, UnknownWeightsError
from ffn_edge.export.plan_graph import GRAPH, write_plan_graph
from ffn_edge.files.atomic import atomic_file
from ffn_edge.files.regular_file import read_bytes
from ffn_edge.signals import on_signals

_log = logging.getLogger(__name__)

_PLAN = "engine.plan"
_MOST_WORKSPACE = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """How to build.

    Attributes:
        target: "tensorrt", or "rtx" for TensorRT-RTX.
        precision: what they compute in; int8 needs a bundle that was quantised.
        refit: "identical" for the weights of this bundle at full speed; "any" for weights that
            will change, at some cost in speed.
        workspace_bytes: the most that a tactic may use; None is a quarter of the free memory, and
            at most 1 GiB.
        stream: engines for the next frame of a stream, in place of those for clips.
    """

    target: Target = "tensorrt"
    precision: Precision = "fp16"
    refit: str = "identical"
    workspace_bytes: int | None = None
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Built:
    """A plan, and whether it stood in the cache already."""

    plan: Plan
    reused: bool


# phase, steps done, steps in all
Progress = Callable[[str, int, int], None]
# Opens a plan as the runtime does and returns its deviation, as `Sidecar` has it.
Prove = Callable[[Plan], float]


def build_plans(
    bundle: Bundle,
    cache: PlanCache,
    options: BuildOptions,
    *,
    prove: Prove | None = None,
    progress: Progress = lambda phase, done, total: None,
) -> list[Built]:
    """Build the engines of a bundle, one after the other, into a cache.

    One frame count is built, proven and stored before the next begins.

    Args:
        bundle: what to build.
        cache: where to put the plans; one that fits and is whole is used again.
        options: how to build.
        prove: opens each plan that was built where there is a GPU; what it refuses is not stored.
        progress: is told how far TensorRT has come.

    Raises:
        EngineError: TensorRT or a GPU is missing, the cache cannot be written, or an engine that
            was built does not open or gives wrong answers.
        ExportError: TensorRT refuses a graph, or runs out of memory.
        BundleError: it was not quantised, for int8, or not exported from a causal network, for
            streams.
        KeyboardInterrupt: Ctrl-C; nothing half-built is left.
    """
    if options.refit == "any" and options.precision == "int8":
        raise ExportError(
            "an INT8 engine cannot take other weights: TensorRT may have merged scales that were "
            "equal when it was built",
            "leave out --refit any, and build again when the weights change.",
        )
    for frames in bundle.manifest.frame_counts:
        bundle.graph_path(frames, options.precision, step=options.stream)
    api = load(options.target)
    gpu = None if api.plan_fits_any_gpu and not _has_gpu() else find_gpu()
    tensors = bundle.tensors()
    for frames in bundle.manifest.frame_counts:
        known_logits(tensors, frames)  # without, no engine would be trusted
    if gpu is None and options.refit == "any":
        raise ExportError(
            "without a GPU, TensorRT-RTX builds engines that hold their weights for good",
            "leave out --refit any, or build where the GPU is.",
        )
    if options.refit == "any" and api.drops_biases:
        raise ExportError(
            f"{api.name} may drop a bias in engines whose weights can change",
            "leave out --refit any, or update TensorRT: NVIDIA names it a known issue of 11.3.",
        )
    builder = _BundleBuilder(
        api, gpu, bundle, cache, options, mode=power_mode(), prove=prove, progress=progress
    )
    built = []
    for frames in bundle.manifest.frame_counts:
        with cache.lock(lambda: _log.info("waiting for another build in this cache")):
            built.append(builder.build(frames))
    return built


def _has_gpu() -> bool:
    try:
        find_gpu()
    except EngineError:
        return False
    return True


class _BundleBuilder:
    """Builds the plans of a bundle, one frame count at a time."""

    def __init__(
        self,
        api: Api,
        gpu: Gpu | None,
        bundle: Bundle,
        cache: PlanCache,
        options: BuildOptions,
        *,
        mode: str | None,
        prove: Prove | None,
        progress: Progress,
    ) -> None:
        self._api = api
        self._gpu = gpu
        self._bundle = bundle
        self._cache = cache
        self._options = options
        self._mode = mode
        self._prove = prove
        self._progress = progress
        # Without a GPU, RTX can neither strip a plan nor refit it.
        self._refit = options.refit if gpu is not None else "none"
        self._flags = api.refit_flags(self._refit)

    def build(self, frames: int) -> Built:
        """Build one frame count, unless the cache has it. The cache is locked."""
        precision, step = self._options.precision, self._options.stream
        key = plan_key(
            self._api, self._gpu, self._bundle, frames, precision, self._refit, step=step
        )
        found = self._find(key)
        if found is not None:
            _log.info(f"{frames} frames: built before, {found.path}")
            return Built(found, reused=True)
        with self._cache.workplace() as folder:
            _log.info(f"{frames} frames: composing the weights")
            weights = write_plan_graph(self._bundle, frames, precision, folder, step=step)
            try:
                plan = self._build(key, weights, folder)
            except UnknownWeightsError as error:
                _log.info(f"{frames} frames: {error.message}; building so that it keeps its own")
                self._flags = self._api.refit_flags("individual")  # of the others, too
                plan = self._build(key, weights, folder)
            return Built(self._cache.store(plan.sidecar, plan.path), reused=False)

    def _find(self, key: PlanKey) -> Plan | None:
        """Return the plan that the cache has, unless it is damaged or of another power mode."""
        try:
            found = self._cache.find(key)
        except EngineError as error:
            _log.info(f"{key.frames} frames: {error.message}; building again")
            return None
        if found is not None and (other := found.sidecar.built_in_another_mode(self._mode)):
            _log.info(f"{key.frames} frames: {other}; building again")
            return None
        return found

    def _build(self, key: PlanKey, weights: tuple[PlanWeight, ...], folder: Path) -> Plan:
        """Build the graph in a folder into a plan beside it, and prove it where there is a GPU."""
        _log.info(f"{key.frames} frames: building with {self._api.name}")
        start = time.monotonic()
        refitted = [each.name for each in weights if each.source != "constant"]
        with (
            Device() if self._gpu is not None else nullcontext() as device,
            _TensorRTBuilder(self._api, device) as builder,
        ):
            builder.read(folder / GRAPH)
            builder.configure(self._flags, refitted, self._workspace(device))
            timings = self._cache.timings(key, self._mode) if self._api.keeps_timings else None
            builder.build(folder / _PLAN, timings, self._progress, self._options)
        sidecar = Sidecar(
            key=key,
            flags=self._flags,
            weights=weights,
            plan=FileRecord(bytes=0, sha256=""),
            power_mode=self._mode,
            deviation=None,
            build_seconds=round(time.monotonic() - start, 3),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            producer=f"ffn-edge {ffn_edge.__version__}",
        )
        plan = Plan(folder / _PLAN, sidecar)
        if self._gpu is None or self._prove is None:
            return plan
        _log.info(f"{key.frames} frames: opening the engine and running the known clips")
        try:
            deviation = self._prove(plan)
        except UnknownWeightsError:
            raise
        except OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"the engine for {key.frames} frames was built, but there is too little memory to "
                f"open it: {error.message}",
                "end other programs, and build again.",
            ) from error
        except EngineError as error:
            raise EngineError(
                f"the engine for {key.frames} frames was built and is of no use: {error.message}",
                remedy_for(
                    error.message,
                    "try --precision fp32, which rounds less, or run it elsewhere: "
                    "--backend onnxruntime.",
                ),
            ) from error
        return Plan(plan.path, dataclasses.replace(sidecar, deviation=deviation))

    def _workspace(self, device: Device | None) -> int:
        """Return the scratch memory of a tactic: a quarter of what is free, up to 1 GiB."""
        if self._options.workspace_bytes is not None:
            return self._options.workspace_bytes
        if device is None or device.gpu.is_integrated:
            free = memory_sizes().get("MemAvailable", 4 * _MOST_WORKSPACE)
        else:
            free = device.free_bytes
        return min(_MOST_WORKSPACE, free // 4)


class _TensorRTBuilder:
    """TensorRT's objects of one build. They are gone when the block ends, errors or not.

    So they are held here alone: an error's traceback would keep them until the device is closed.
    """

    def __init__(self, api: Api, device: Device | None) -> None:
        self._api = api
        self._device = device
        self._drop()

    def _drop(self) -> None:
        self._monitor: Any = None
        self._parser: Any = None
        self._network: Any = None
        self._config: Any = None
        self._builder: Any = None
        self._allocator: Any = None  # outlives the builder

    def __enter__(self) -> _TensorRTBuilder:
        trt = self._api.module
        self._builder = self._api.make("Builder", self._api.log)
        if self._device is not None and self._device.gpu.is_integrated:
            self._allocator = self._api.allocator(self._device)
            self._builder.gpu_allocator = self._allocator
        strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self._network = self._builder.create_network(strongly_typed)
        self._config = self._builder.create_builder_config()
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def read(self, graph: Path) -> None:
        """Read a graph into the network.

        Raises:
            ExportError: TensorRT does not take it.
        """
        self._parser = self._api.module.OnnxParser(self._network, self._api.log)
        if not self._parser.parse_from_file(str(graph)):
            raise ExportError(
                f"{self._api.name} cannot parse the graph: {_parser_errors(self._parser)}",
                "update JetPack or TensorRT, or run it elsewhere: --backend onnxruntime.",
            )

    def configure(self, flags: tuple[str, ...], refitted: list[str], workspace_bytes: int) -> None:
        """Set the flags by name, the weights that are refitted, and the scratch memory.

        Raises:
            ExportError: a weight cannot be refitted by itself, where the flags ask for each.
        """
        trt = self._api.module
        self._config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
        for flag in flags:
            self._config.set_flag(getattr(trt.BuilderFlag, flag))
        if "REFIT_INDIVIDUAL" in flags:
            for name in refitted:
                if not self._network.mark_weights_refittable(name):
                    raise ExportError(
                        f"{self._api.name} cannot refit {name}",
                        "run it elsewhere: --backend onnxruntime.",
                    )

    def build(
        self, path: Path, timings: Path | None, progress: Progress, options: BuildOptions
    ) -> None:
        """Build, and write the plan; use the timing cache, if there is one.

        Raises:
            ExportError: TensorRT builds nothing.
            KeyboardInterrupt: Ctrl-C.
        """
        self._api.errors()
        if timings is not None:
            _read_timings(self._config, timings)
        watch = _Watch(progress)
        self._monitor = _monitor(self._api.module, watch)
        self._config.progress_monitor = self._monitor
        # An exception could not pass through TensorRT's builder.
        with on_signals(watch.stop, signal.SIGINT):
            plan = self._builder.build_serialized_network(self._network, self._config)
        watch.end()
        if plan is None or plan.nbytes == 0:
            raise _build_error(self._api, options)
        with open(path, "wb") as file:
            file.write(memoryview(plan))
        if timings is not None:
            # A failure makes the next build slower, and no more.
            with suppress(OSError), atomic_file(timings) as temporary:
                temporary.write_bytes(memoryview(self._config.get_timing_cache().serialize()))


def _build_error(api: Api, options: BuildOptions) -> ExportError:
    said = api.errors()
    if is_out_of_memory(said):
        hint = "end other programs, or let it use less: --workspace 256MiB."
    elif options.workspace_bytes is not None:
        hint = "a layer may need more scratch memory: try a larger --workspace, or leave it out."
    else:
        hint = "see `ffn-edge doctor`; --backend onnxruntime runs without an engine."
    message = f"{api.name} built no engine: {said or 'it did not say why'}"
    return ExportError(message, remedy_for(said, hint))


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return "; ".join(
        f"node {error.node()} ({error.node_operator()}): {' '.join(error.desc().split())}"
        for error in errors
    )


def _read_timings(config: Any, path: Path) -> None:
    """Give the builder what earlier builds measured; a file that it refuses is not used."""
    with suppress(OSError):
        stored = config.create_timing_cache(read_bytes(path, 1 << 28))
        if stored is not None and config.set_timing_cache(stored, False):
            return
    config.set_timing_cache(config.create_timing_cache(b""), False)


class _Watch:
    """What a build is told to do, and what went wrong where it could not be raised."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stopped = threading.Event()
        self._error: Exception | None = None

    def stop(self) -> None:
        """Let the build end at its next step."""
        self._stopped.set()

    def report(self, phase: str, done: int, total: int) -> bool:
        """Say how far a phase has come; return whether to go on."""
        if not self._stopped.is_set():
            try:
                self._progress(phase, done, total)
            except Exception as error:  # TensorRT, which calls this, has no handler for it
                self._error = error
                self.stop()
        return not self._stopped.is_set()

    def end(self) -> None:
        """Raise what ended the build, also if it came too late to do so."""
        if self._error is not None:
            raise self._error
        if self._stopped.is_set():
            raise KeyboardInterrupt


def _monitor(trt: Any, watch: _Watch) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Reports the phases of a build, and cancels it when it is to stop."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            watch.report(phase_name, 0, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            steps = self.steps.pop(phase_name, 0)
            watch.report(phase_name, steps, steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return watch.report(phase_name, step + 1, self.steps.get(phase_name, 0))

    return Monitor()
