"""Execution contexts, and what the device does when it comes to a run."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from .graph import NUMPY_TYPES, Port
from .machine import Machine
from .signatures import Types
from .streams import Work
from .values import Reporter

_SCRATCH_ALIGNMENT = 256


class IExecutionContext:
    """What one run of an engine needs."""

    _bound: dict[str, int]
    _engine: Any
    _kernels: Any
    _name: str
    _own_scratch: int
    _owner: object
    _pending: list[Work]
    _report: Reporter
    _scratch: int
    _machine: Machine
    _types: Types

    def __del__(self) -> None:
        if not hasattr(self, "_own_scratch"):
            return
        if any(not work.is_done for work in self._pending):
            self._machine.undefined.append("an execution context was freed while it ran")
        if self._own_scratch:
            engine = self._engine
            engine._runtime._give(self._own_scratch, engine.device_memory_size_v2)

    def _is_resident(self) -> bool:
        return True

    @property
    def engine(self) -> Any:
        """The engine."""
        return self._engine

    @property
    def name(self) -> str:
        """Its name."""
        return str(self._name)

    @name.setter
    def name(self, value: str) -> None:
        self._name = value

    def get_tensor_shape(self, name: str) -> Any:
        """Return the shape of an input or output."""
        port = self._engine._port(name)
        return self._types.classes["Dims"](port.shape if port else ())

    def set_device_memory(self, memory: int, size: int) -> None:
        """Use this scratch; too little of it is refused in the log only."""
        needed = self._engine.device_memory_size_v2
        if size < needed:
            self._report.error(
                f"IExecutionContext::setDeviceMemoryV2: {size} bytes given, {needed} needed"
            )
            return
        if memory % _SCRATCH_ALIGNMENT:
            self._report.error("IExecutionContext::setDeviceMemoryV2: memory is not aligned")
            return
        self._scratch = memory

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Say where a tensor lies; False for an unknown name."""
        if self._engine._port(name) is None:
            return False
        self._bound[name] = memory
        return True

    def get_tensor_address(self, name: str) -> int:
        """Return where a tensor lies."""
        return int(self._bound.get(name, 0))

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Queue a run; False if it cannot start."""
        problem = self._problem(stream_handle)
        if problem is not None:
            self._report.error(f"IExecutionContext::enqueueV3: {problem}")
            return False
        machine, engine = self._machine, self._engine
        if stream_handle == 0:
            self._report.warning(
                "Using default stream in enqueueV3() may lead to performance issues due to "
                "additional calls to cudaStreamSynchronize() by TensorRT."
            )
        bound, scratch = dict(self._bound), self._scratch
        self._compile()
        fault = machine.failure_of_execution()
        with machine.lock:
            queue = machine.streams.find(stream_handle)
            assert queue is not None
            work = machine.streams.submit(
                queue, fault or (lambda: _execute(machine, engine, bound, scratch))
            )
            self._check_shared_scratch(work)
        for pending in (self._pending, engine._pending):
            pending[:] = [earlier for earlier in pending if not earlier.is_done]
            pending.append(work)
        return True

    def _problem(self, stream_handle: int) -> str | None:
        """Return why a run cannot start."""
        engine = self._engine
        refused = self._machine.failure_of("execute_refused")
        if refused is not None:
            return refused or "Error Code 1: Cuda Runtime"
        if self._machine.streams.failure is not None:
            return f"Error Code 1: Cuda Runtime ({self._machine.streams.failure})"
        if self._machine.context is None:
            return "Error Code 1: Cuda Runtime (invalid device context)"
        if self._machine.streams.find(stream_handle) is None:
            raise AssertionError("the real runtime would crash on a handle that is no stream")
        missing = [port.name for port in engine._ports if not self._bound.get(port.name)]
        if missing:
            return f"Tensor {missing[0]!r} is bound to nullptr, which is not allowed"
        absent = set(engine._plan.weights) - engine._present
        if absent:
            return f"the engine has no weights yet: {len(absent)} must be refitted"
        if not self._scratch and engine.device_memory_size_v2:
            return "device memory was not set, and the context has none of its own"
        return None

    def _compile(self) -> None:
        """Compile what RTX has not compiled yet."""
        kernel = f"of {self._engine._plan.build}"
        if self._machine.is_rtx and (self._kernels is None or kernel not in self._kernels._kernels):
            self._machine.calls["compile"] += 1
            if self._kernels is not None:
                self._kernels._kernels.add(kernel)

    def _check_shared_scratch(self, work: Work) -> None:
        """Remember runs in one scratch of which neither waits for the other."""
        for other in list(self._machine.residents):
            if type(other) is not type(self) or other._scratch != self._scratch:
                continue
            if any(not w.is_done and not work.waits_for(w) for w in other._pending):
                self._machine.undefined.append("two contexts run at once in one scratch memory")


def _execute(machine: Machine, engine: Any, bound: dict[str, int], scratch: int) -> None:
    """What the device does when it comes to a run."""
    memory = machine.memory

    def tensor(port: Port) -> npt.NDArray[Any]:
        flat = memory.array(bound[port.name], port.nbytes).view(NUMPY_TYPES[port.dtype])
        return flat.reshape(port.shape)

    inputs = {port.name: tensor(port) for port in engine._plan.inputs}
    outputs = [tensor(port) for port in engine._plan.outputs]
    memory.array(scratch, engine.device_memory_size_v2)  # fails where it is not there
    if machine.outputs_are_stale:
        return
    results = engine._run(inputs)
    memory.poison(scratch, engine.device_memory_size_v2)
    places = sorted((bound[port.name], port.nbytes) for port in engine._ports)
    if any(start + nbytes > after for (start, nbytes), (after, _) in itertools.pairwise(places)):
        # Kernels write an output before others have read what lies in its place.
        for port in engine._plan.outputs:
            memory.poison(bound[port.name], port.nbytes)
        return
    for output, result in zip(outputs, results, strict=True):
        if machine.outputs_are_wrong:
            result = result + np.linspace(1, 2, result.size).reshape(result.shape)
        output[...] = result
