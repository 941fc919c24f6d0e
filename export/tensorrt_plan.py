"""From a bundle to TensorRT plans: one weight-stripped engine a frame count, built on the device.

    graph ─ composed weights in place of W, s_in, s_out ─ fp16 ─ strongly typed network ─ plan

A plan holds no weights (where the target can leave them out): the runtime refits all of them from
the bundle's one weight file. One frame count is built at a time and its weights lie in a file,
not in this process: boards with 4 GB have no room for more.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import ffn_edge
from ffn_edge.atomic import atomic_file
from ffn_edge.bundle import Bundle, FileRecord
from ffn_edge.errors import EngineError, ExportError
from ffn_edge.export.plan_graph import GRAPH, write_plan_graph
from ffn_edge.gpu import Gpu, find_gpu
from ffn_edge.host_memory import memory_sizes
from ffn_edge.known_answer import known_logits
from ffn_edge.plan_cache import Plan, PlanCache, Sidecar, plan_key
from ffn_edge.signals import on_signals
from ffn_edge.tensorrt_api import Api, Target, is_out_of_memory, load

_PLAN = "engine.plan"
_MOST_WORKSPACE = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """How to build.

    Attributes:
        target: "tensorrt", or "rtx" for TensorRT-RTX.
        precision: "fp16" or "fp32".
        refit: "identical" for the weights of this bundle at full speed; "any" for weights that
            will change, at some cost in speed.
        workspace_bytes: the most that a tactic may use; None is a quarter of the free memory, and
            at most 1 GiB.
    """

    target: Target = "tensorrt"
    precision: str = "fp16"
    refit: str = "identical"
    workspace_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Built:
    """A plan, and whether it stood in the cache already."""

    plan: Plan
    reused: bool


# phase, steps done, steps in all
Progress = Callable[[str, int, int], None]


def build_plans(
    bundle: Bundle,
    cache: PlanCache,
    options: BuildOptions,
    *,
    say: Callable[[str], None] = lambda message: None,
    progress: Progress = lambda phase, done, total: None,
) -> list[Built]:
    """Build the engines of a bundle, one after the other, into a cache.

    Args:
        bundle: what to build.
        cache: where to put the plans; one that fits and is whole is used again.
        options: how to build.
        say: is told each step.
        progress: is told how far TensorRT has come.

    Raises:
        EngineError: TensorRT or a GPU is missing, or the cache cannot be written.
        ExportError: TensorRT refuses a graph, or runs out of memory.
        KeyboardInterrupt: Ctrl-C; nothing half-built is left.
    """
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
    built = []
    for frames in bundle.manifest.frame_counts:
        with cache.lock(lambda: say("waiting for another build in this cache")):
            built.append(_build(api, gpu, bundle, frames, cache, options, say, progress))
    return built


def _has_gpu() -> bool:
    try:
        find_gpu()
    except EngineError:
        return False
    return True


def _build(
    api: Api,
    gpu: Gpu | None,
    bundle: Bundle,
    frames: int,
    cache: PlanCache,
    options: BuildOptions,
    say: Callable[[str], None],
    progress: Progress,
) -> Built:
    """Build one frame count, unless the cache has it. The cache is locked."""
    # Without a GPU, RTX can neither strip a plan nor refit it.
    refit = options.refit if gpu is not None else "none"
    key = plan_key(api, gpu, bundle, frames, options.precision, refit)
    try:
        found = cache.find(key)
    except EngineError as error:
        say(f"{frames} frames: {error.message}; building again")
        found = None
    if found is not None:
        say(f"{frames} frames: built before, {found.path}")
        return Built(found, reused=True)
    start = time.monotonic()
    with cache.workplace() as folder:
        say(f"{frames} frames: composing the weights")
        weights = write_plan_graph(bundle, frames, options.precision, folder)
        say(f"{frames} frames: building with TensorRT {api.version}")
        flags = _build_plan(api, gpu, folder, options, refit, cache, progress)
        sidecar = Sidecar(
            key=key,
            flags=flags,
            weights=weights,
            plan=FileRecord(bytes=0, sha256=""),
            build_seconds=round(time.monotonic() - start, 3),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            producer=f"ffn-edge {ffn_edge.__version__}",
        )
        return Built(cache.store(sidecar, folder / _PLAN), reused=False)


def _build_plan(
    api: Api,
    gpu: Gpu | None,
    folder: Path,
    options: BuildOptions,
    refit: str,
    cache: PlanCache,
    progress: Progress,
) -> tuple[str, ...]:
    """Build the graph in `folder` into a plan beside it; return the builder's flags by name."""
    trt = api.module
    api.errors()
    builder = api.make("Builder", api.log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, api.log)
    if not parser.parse_from_file(str(folder / GRAPH)):
        raise ExportError(
            f"TensorRT {api.version} cannot parse the graph: {_parser_errors(parser)}",
            "update JetPack or TensorRT, or run it elsewhere: --backend onnxruntime.",
        )
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _workspace(options.workspace_bytes))
    flags = {"identical": ("STRIP_PLAN", "REFIT_IDENTICAL"), "any": ("STRIP_PLAN", "REFIT")}
    names = flags.get(refit, ())
    for name in names:
        config.set_flag(getattr(trt.BuilderFlag, name))
    timings = cache.timings(api.version, gpu.sm) if api.keeps_timings and gpu else None
    if timings is not None:
        _read_timings(config, timings)
    stopped = threading.Event()
    monitor = _monitor(trt, progress, stopped)
    config.progress_monitor = monitor
    # An exception could not pass through TensorRT's builder.
    with on_signals(stopped.set, signal.SIGINT):
        plan = builder.build_serialized_network(network, config)
    if stopped.is_set():  # also if it came too late to cancel this one
        raise KeyboardInterrupt
    if plan is None or plan.nbytes == 0:
        raise _build_error(api, options)
    with open(folder / _PLAN, "wb") as file:
        file.write(memoryview(plan))
    if timings is not None:
        # A failure makes the next build slower, and no more.
        with suppress(OSError), atomic_file(timings) as temporary:
            temporary.write_bytes(memoryview(config.get_timing_cache().serialize()))
    return names


def _build_error(api: Api, options: BuildOptions) -> ExportError:
    said = api.errors()
    if is_out_of_memory(said):
        hint = "end other programs, or let it use less: --workspace 256MiB."
    elif options.workspace_bytes is not None:
        hint = "a layer may need more scratch memory: try a larger --workspace, or leave it out."
    else:
        hint = "see `ffn-edge doctor`; --backend onnxruntime runs without an engine."
    return ExportError(
        f"TensorRT {api.version} built no engine: {said or 'it did not say why'}", hint
    )


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return "; ".join(
        f"node {error.node()} ({error.node_operator()}): {' '.join(error.desc().split())}"
        for error in errors
    )


def _workspace(asked: int | None) -> int:
    """Return the limit of a tactic's scratch memory in bytes."""
    if asked is not None:
        return asked
    return min(_MOST_WORKSPACE, memory_sizes().get("MemAvailable", 4 * _MOST_WORKSPACE) // 4)


def _read_timings(config: Any, path: Path) -> None:
    """Give the builder what earlier builds measured; a file that it refuses is not used."""
    if path.exists():
        stored = config.create_timing_cache(path.read_bytes())
        if stored is not None and config.set_timing_cache(stored, False):
            return
    config.set_timing_cache(config.create_timing_cache(b""), False)


def _monitor(trt: Any, progress: Progress, stopped: threading.Event) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Reports the phases of a build, and cancels it after Ctrl-C."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            progress(phase_name, 0, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            steps = self.steps.pop(phase_name, 0)
            progress(phase_name, steps, steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress(phase_name, step + 1, self.steps.get(phase_name, 0))
            return not stopped.is_set()

    return Monitor()
