"""The TensorRT engines of a bundle, side by side on one device.

They run one at a time, so they share one scratch memory (the largest that any of them needs, not
the sum), one input and one output. All are resident, unless memory is short: then one is, and a
switch loads and refits the next.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ffn_edge.bundle.bundle import Bundle, Precision
from ffn_edge.bundle.known_answer import (
    deviation,
    fault,
    known_clips,
    known_logits,
    mean_of_steps,
    tolerance,
)
from ffn_edge.bundle.stream_state import Stored, stored_states
from ffn_edge.device.gpu import Device, Gpu, find_gpu
from ffn_edge.device.jetson import power_mode
from ffn_edge.device.plan_cache import (
    REFITS,
    Plan,
    PlanCache,
    PlanKey,
    buildable,
    default_folder,
    plan_key,
)
from ffn_edge.device.tensorrt_api import Api, Target, load
from ffn_edge.errors import EngineError, OutOfMemoryError
from ffn_edge.runtime.engines.device_ring import DeviceRing
from ffn_edge.runtime.engines.tensorrt import EngineMemory, TensorRTEngine
from ffn_edge.runtime.stream.clip_buffer import Ring

_log = logging.getLogger(__name__)

RESIDENT = ("all", "one")


class TensorRTGroup:
    """The engines of a bundle, opened by a context manager.

    Attributes:
        engines: by ascending frame count.
        api: the TensorRT that runs them.
        gpu: the device.
        precisions: by frame count, what its engine computes in.
        resident: "all", or "one" if that was asked for or memory is short.
        deviations: by frame count, how far an engine's known answers are off: the largest
            |Δlogit|, relative to the largest logit of the clip.
        logit_errors: the same, not relative.
        warnings: what was logged that a user may act on.
    """

    def __init__(
        self,
        bundle: Bundle,
        target: Target,
        precisions: Mapping[int, Precision],
        *,
        resident: str = "all",
        cache: Path | None = None,
        plans: Mapping[int, Plan] | None = None,
        stream: bool = False,
    ) -> None:
        """Remember what to open: the cache's plans, or, in their place, those given.

        Args:
            bundle: what to run.
            target: what runs it.
            precisions: of each frame count's engine.
            resident: see above.
            cache: the folder of the plans; None is the default one.
            plans: by frame count.
            stream: engines for the next frame of a stream, in place of those for clips.
        """
        self.engines: dict[int, TensorRTEngine] = {}
        self._bundle = bundle
        self._target = target
        self.precisions = dict(precisions)
        self.resident = resident
        self._cache = PlanCache(cache)
        self._given = plans
        self._stream = stream
        self.deviations: dict[int, float] = {}
        self.logit_errors: dict[int, float] = {}
        self.warnings: list[str] = []
        self._device = Device()
        self._memory: EngineMemory | None = None
        self._scratch: Any = None
        self._scratch_bytes = 0

    def __enter__(self) -> TensorRTGroup:
        """Bring the engines to the device, and see that each gives its known answers.

        Raises:
            EngineError: TensorRT, PyCUDA, a GPU or a plan is missing, a plan does not fit, or an
                engine gives wrong answers.
            OutOfMemoryError: one engine alone is too large.
        """
        try:
            self._open_all_or_one()
        except BaseException:
            self._close()
            raise
        return self

    def _open_all_or_one(self) -> None:
        try:
            self._open()
            return
        except OutOfMemoryError as error:
            if self.resident == "one":
                raise
            self._warn(
                f"{error.message}; keeping one engine at a time, so that switching takes longer"
            )
        # Here, where no error's traceback holds an engine any more.
        self.resident = "one"
        self._close()
        self._open()

    def __exit__(self, *_: object) -> None:
        self._close()

    @contextmanager
    def ring(self, capacity: int) -> Iterator[Ring]:
        """Yield a ring of so many frames on the device, for clips of any of the engines."""
        contract = self._bundle.manifest.input
        assert self._memory is not None
        ring = DeviceRing(self._device, self._memory, capacity, contract.height, contract.width)
        try:
            yield ring
        finally:
            ring.close()

    def _open(self) -> None:
        self._device.__enter__()  # first: without a GPU there is no need to load TensorRT
        self.gpu: Gpu = self._device.gpu
        self.api: Api = load(self._target)
        plans = self._find_plans() if self._given is None else self._given
        manifest = self._bundle.manifest
        self._memory = EngineMemory(self._device, manifest, 1 if self._stream else max(plans))
        tensors = self._bundle.tensors()
        self.engines = {
            frames: TensorRTEngine(
                plan,
                frames=frames,
                manifest=manifest,
                tensors=tensors,
                api=self.api,
                device=self._device,
                memory=self._memory,
                make_ready=self._make_ready,
                stored=self._stored_states(frames),
            )
            for frames, plan in plans.items()
        }
        if self.resident == "all":
            for engine in self.engines.values():
                engine.__enter__()
            self._share_scratch()
        for engine in self.engines.values():
            self._check_answers(engine, known_logits(tensors, engine.frames))
            engine.keep_kernels()

    def _stored_states(self, frames: int) -> Mapping[str, Stored]:
        if not self._stream:
            return {}
        precision = self.precisions[frames]
        return stored_states(self._bundle.read_graph(frames, precision, step=True))

    def _close(self) -> None:
        """Release in order: engines, memory, the device."""
        self._device.settle()  # to destroy what still runs is undefined
        for engine in self.engines.values():
            engine.__exit__()
        self._memory = None
        self._scratch, self._scratch_bytes = None, 0
        self._device.__exit__(None, None, None)

    def _find_plans(self) -> dict[int, Plan]:
        """Find a plan for each frame count."""
        plans = {frames: self._find_plan(frames) for frames in self.precisions}
        sidecars = (plan.sidecar for plan in plans.values())
        mode = power_mode()
        other = next(filter(None, (each.built_in_another_mode(mode) for each in sidecars)), "")
        if other:
            self._warn(f"the engines were {other}: `ffn-edge build` tunes them for it")
        return plans

    def _find_plan(self, frames: int) -> Plan:
        precision = self.precisions[frames]
        keys = _keys(self.api, self.gpu, self._bundle, frames, precision, self._stream)
        for key in keys:
            plan = self._cache.find(key)
            if plan is not None:
                return plan
        choices = "" if self._target == "tensorrt" else f" --target {self._target}"
        choices += f" --precision {precision}"
        if self._stream:
            choices += " --stream"
        if self._cache.folder != default_folder():
            choices += f" --cache {self._cache.folder}"
        raise EngineError(
            self._cache.nearest(keys),
            f"build on this machine: ffn-edge build {self._bundle.path}{choices}",
        )

    def _make_ready(self, engine: TensorRTEngine) -> None:
        """See that an engine is open and has scratch memory."""
        if engine.is_open:
            return
        self._device.synchronize()  # a clip may be on its way to the shared input
        for other in self.engines.values():
            other.__exit__()
        engine.__enter__()
        try:
            self._share_scratch()
        except BaseException:  # without scratch memory it must not count as open
            engine.__exit__()
            raise

    def _share_scratch(self) -> None:
        """Give every open engine the same scratch memory, as large as any of them needs."""
        loaded = [engine for engine in self.engines.values() if engine.is_open]
        needed = max(engine.scratch_bytes for engine in loaded)
        if self._scratch is None or needed > self._scratch_bytes:
            if self._scratch is not None:
                self._device.free(self._scratch)
                self._scratch, self._scratch_bytes = None, 0
            self._scratch = self._device.allocate(needed)
            self._scratch_bytes = needed
        for engine in loaded:
            engine.use_scratch(int(self._scratch), self._scratch_bytes)

    def _check_answers(self, engine: TensorRTEngine, expected: npt.NDArray[np.float32]) -> None:
        """Raise an EngineError unless an engine gives the logits that export stored."""
        manifest, frames = self._bundle.manifest, engine.frames
        found = []
        for clip in known_clips(manifest.input, frames):
            found.append(mean_of_steps(engine.infer, clip) if self._stream else engine.infer(clip))
            engine.restart()
        logits = np.stack(found)
        wrong = fault(logits, expected, tolerance(manifest, frames, self.precisions[frames]))
        self.deviations[frames] = deviation(logits, expected)
        self.logit_errors[frames] = float(np.abs(logits - expected).max())
        if wrong is not None:
            raise EngineError(
                f"the engine for {frames} frames is not to be trusted: {wrong}",
                "delete the cache of plans and build again with `ffn-edge build`; if "
                f"{self.precisions[frames]} is the cause, --precision fp32.",
            )

    def _warn(self, message: str) -> None:
        if message in self.warnings:  # plans are looked for again where one engine has to do
            return
        self.warnings.append(message)
        _log.warning("%s", message)


def prove(plan: Plan, bundle: Bundle) -> float:
    """Open a plan as `ffn-edge run` does, refit it, run the known clips; return its deviation.

    Raises an EngineError where it does not open, or gives wrong answers.
    """
    key = plan.sidecar.key
    frames = key.frames
    target: Target = "rtx" if key.target == "rtx" else "tensorrt"
    with TensorRTGroup(
        bundle,
        target,
        {frames: key.precision},
        resident="one",
        plans={frames: plan},
        stream=key.step,
    ) as group:
        return group.deviations[frames]


def built_precisions(
    bundle: Bundle,
    target: Target,
    frame_counts: Iterable[int],
    cache: Path | None = None,
    *,
    stream: bool = False,
) -> dict[int, tuple[Precision, ...]]:
    """Return the precisions that engines were built in for this machine.

    A plan that is damaged is left out, with a warning.

    Args:
        bundle: what to run.
        target: what runs it.
        frame_counts: of which engines.
        cache: the folder of the plans; None is the default one.
        stream: of engines for the next frame of a stream, in place of those for clips.

    Raises:
        EngineError: TensorRT or a GPU is missing.
    """
    gpu = find_gpu()  # first: without a GPU there is no need to load TensorRT
    api, plans = load(target), PlanCache(cache)

    def is_there(key: PlanKey) -> bool:
        try:
            return plans.find(key) is not None
        except EngineError as error:
            _log.warning("%s; %s", error.message, error.hint)
            return False

    return {
        frames: tuple(
            precision
            for precision in buildable(bundle, frames, step=stream)
            if any(map(is_there, _keys(api, gpu, bundle, frames, precision, stream)))
        )
        for frames in frame_counts
    }


def _keys(
    api: Api, gpu: Gpu, bundle: Bundle, frames: int, precision: Precision, stream: bool
) -> list[PlanKey]:
    """Return the keys of the plans that serve a frame count here."""
    return [plan_key(api, gpu, bundle, frames, precision, refit, step=stream) for refit in REFITS]
