"""The runtime and its engines."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from . import plan
from .classes import create
from .graph import NUMPY_TYPES, Port
from .machine import Machine
from .plan import BadPlanError, Plan
from .signatures import Types
from .streams import Work
from .values import Allocating, Reporter, host_memory

_SCRATCH_STEP = 512
_KERNELS = b"EMULATED KERNELS\n"
_OUT_OF_MEMORY = "Requested amount of GPU memory (1024 bytes) could not be allocated."


class Runtime(Allocating):
    """Deserialises plans."""

    def __init__(self, logger: Any) -> None:
        self._log_to(logger)
        self._allocator = None
        self._refuse_without_gpu()

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        """Return the engine of a plan; None if that fails."""
        machine = self._machine
        data = memoryview(serialized_engine).cast("B")
        failure = machine.failure_of("deserialize")
        try:
            if failure is not None:
                raise BadPlanError(failure or "Error Code 1: Serialization")
            if not data and not machine.is_rtx:
                raise AssertionError("the real runtime would crash on an empty plan")
            if not data:
                raise BadPlanError("Cannot deserialize with an empty memory buffer.")
            if machine.gpu is None:
                raise BadPlanError("CUDA driver version is insufficient for CUDA runtime version")
            if machine.context is None:
                raise BadPlanError("Cuda Runtime (invalid device context)")
            if machine.streams.failure is not None:
                raise BadPlanError(f"Cuda Runtime ({machine.streams.failure})")
            read = plan.deserialize(data, version=machine.version, sm=machine.sm)
            addresses = _allocate(self, [entry.nbytes for entry in read.weights.values()])
            if addresses is None:
                raise BadPlanError(_OUT_OF_MEMORY)
        except BadPlanError as error:
            self._report.error(f"IRuntime::deserializeCudaEngine: {error}")
            return None
        engine = create(
            self._types.classes["ICudaEngine"],
            _owner=machine.context,
            _runtime=self,
            _report=self._report,
            _plan=read,
            _addresses=dict(zip(read.weights, addresses, strict=True)),
            _present=set(read.values),
            _pending=[],
            _session=None,
            _strange=set(),
        )
        for name, values in read.values.items():
            engine._weight(name)[:] = values.reshape(-1)
        read.values.clear()
        machine.residents.add(engine)
        self._report.info(f"Loaded engine size: {len(data)} bytes")
        return engine


def _allocate(runtime: Runtime, sizes: list[int]) -> list[int] | None:
    addresses: list[int] = []
    for nbytes in sizes:
        address = runtime._take(nbytes)
        if address is None:
            for taken, size in zip(addresses, sizes, strict=False):
                runtime._give(taken, size)
            return None
        addresses.append(address)
    return addresses


class ICudaEngine:
    """A network on the device."""

    _addresses: dict[str, int]
    _owner: object
    _pending: list[Work]
    _plan: Plan
    _present: set[str]
    _report: Reporter
    _runtime: Runtime
    _session: Any
    _strange: set[str]
    _machine: Machine
    _types: Types

    def __del__(self) -> None:
        for name, address in getattr(self, "_addresses", {}).items():
            if not self._runtime._give(address, self._plan.weights[name].nbytes):
                self._machine.undefined.append("an engine was freed after its CUDA context")
                break

    def _is_resident(self) -> bool:
        return True

    @property
    def name(self) -> str:
        """The network's name."""
        return "Unnamed Network 0"

    @property
    def num_io_tensors(self) -> int:
        """Number of inputs and outputs."""
        return len(self._ports)

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return int(self._plan.layers)

    @property
    def num_optimization_profiles(self) -> int:
        """Number of optimisation profiles."""
        return 1

    @property
    def refittable(self) -> bool:
        """Whether its weights can be replaced."""
        return bool(self._plan.is_refittable)

    @property
    def device_memory_size_v2(self) -> int:
        """Bytes of scratch that a context needs."""
        needed = 4 * int(self._plan.activation_bytes)
        return -(-needed // _SCRATCH_STEP) * _SCRATCH_STEP

    @property
    def device_memory_size(self) -> int:
        """Bytes of scratch that a context needs."""
        return int(self.device_memory_size_v2)

    @property
    def _ports(self) -> tuple[Port, ...]:
        read: Plan = self._plan
        return (*read.inputs, *read.outputs)

    def _port(self, name: str) -> Port | None:
        port = next((port for port in self._ports if port.name == name), None)
        if port is None:
            self._report.error(f"Given invalid tensor name: {name}.")
        return port

    def get_tensor_name(self, index: int) -> str:
        """Return the name of an input or output."""
        if index >= len(self._ports):
            self._report.error(f"ICudaEngine::getIOTensorName: index {index} is out of range")
            return ""
        return self._ports[index].name

    def get_tensor_shape(self, name: str) -> Any:
        """Return the shape of an input or output."""
        port = self._port(name)
        return self._types.classes["Dims"](port.shape if port else ())

    def get_tensor_dtype(self, name: str) -> Any:
        """Return the type of an input or output."""
        port = self._port(name)
        kinds: Any = self._types.classes["DataType"]
        return kinds[port.dtype if port else "FLOAT"]

    def get_tensor_mode(self, name: str) -> Any:
        """Return whether a tensor is an input or an output."""
        port = self._port(name)
        modes: Any = self._types.classes["TensorIOMode"]
        if port is None:
            return modes["NONE"]
        return modes["INPUT" if port in self._plan.inputs else "OUTPUT"]

    def get_tensor_location(self, name: str) -> Any:
        """Return where a tensor must be."""
        places: Any = self._types.classes["TensorLocation"]
        return places["DEVICE"]

    def create_runtime_config(self) -> Any:
        """Return how a context shall run."""
        return create(
            self._types.classes["IRuntimeConfig"],
            _strategy=self._types.classes["ExecutionContextAllocationStrategy"]["STATIC"],  # type: ignore[index]
            _cache=None,
            _report=self._report,
        )

    def create_execution_context(self, strategy: Any = None, runtime_config: Any = None) -> Any:
        """Return a context to run in; None if that fails."""
        kernels = None
        if runtime_config is not None:
            strategy, kernels = runtime_config._strategy, runtime_config._cache
        failure = self._machine.failure_of("create_execution_context")
        scratch = 0
        if failure is None and (strategy is None or strategy.name != "USER_MANAGED"):
            taken = _allocate(self._runtime, [self.device_memory_size_v2])
            if taken is None:
                failure = _OUT_OF_MEMORY
            else:
                (scratch,) = taken
        if failure is not None:
            self._report.error(f"ICudaEngine::createExecutionContext: {failure or 'OutOfMemory'}")
            return None
        context = create(
            self._types.classes["IExecutionContext"],
            _engine=self,
            _report=self._report,
            _own_scratch=scratch,
            _owner=self._machine.context,
            _scratch=scratch,
            _bound={},
            _pending=[],
            _name="",
            _kernels=kernels,
        )
        self._machine.residents.add(context)
        return context

    def _weight(self, name: str) -> npt.NDArray[Any]:
        """Return a weight's elements in device memory."""
        entry = self._plan.weights[name]
        memory = self._machine.memory.array(self._addresses[name], entry.nbytes)
        return memory.view(NUMPY_TYPES[entry.dtype])

    def _run(self, inputs: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Compute the outputs on the CPU, from the weights as they are now."""
        if self._session is None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 3
            options.enable_cpu_mem_arena = False
            self._session = onnxruntime.InferenceSession(
                self._plan.graph, options, providers=["CPUExecutionProvider"]
            )
        feeds = dict(inputs)
        taken = {each.name for each in self._session.get_inputs()}  # shapes' constants are inside
        for name, entry in self._plan.weights.items():
            if name in taken:
                feeds[name] = self._weight(name).reshape(entry.shape)
        results: list[npt.NDArray[Any]] = self._session.run(
            [port.name for port in self._plan.outputs], feeds
        )
        if self._strange:  # weights that the plan was not optimised for
            noise = np.random.default_rng(0)
            return [noise.standard_normal(r.shape).astype(r.dtype) for r in results]
        return results


class IRuntimeConfig:
    """How a context of RTX runs."""

    _cache: Any
    _report: Reporter
    _strategy: Any
    _machine: Machine
    _types: Types

    def get_execution_context_allocation_strategy(self) -> Any:
        """Return whose scratch memory it uses."""
        return self._strategy

    def set_execution_context_allocation_strategy(self, strategy: Any = None) -> None:
        """Say whose scratch memory it uses."""
        self._strategy = strategy

    def create_runtime_cache(self) -> Any:
        """Return an empty cache of kernels."""
        return create(self._types.classes["IRuntimeCache"], _kernels=set(), _report=self._report)

    def get_runtime_cache(self) -> Any:
        """Return the cache that was set."""
        return self._cache

    def set_runtime_cache(self, cache: Any = None) -> bool:
        """Compile kernels into a cache, and take them from it."""
        self._cache = cache
        return True


class IRuntimeCache:
    """Kernels that RTX compiled."""

    _kernels: set[str]
    _report: Reporter
    _machine: Machine
    _types: Types

    def serialize(self) -> Any:
        """Return it as bytes."""
        text = json.dumps([list(self._machine.sm), sorted(self._kernels)])
        return host_memory(self._types, _KERNELS + text.encode())

    def deserialize(self, blob: Any) -> bool:
        """Read it; False if it is rubbish, or of another GPU."""
        data = bytes(blob)
        try:
            if not data.startswith(_KERNELS):
                raise ValueError
            sm, kernels = json.loads(data[len(_KERNELS) :])
        except ValueError:
            self._report.error("IRuntimeCache::deserialize: the cache cannot be read")
            return False
        if tuple(sm) != self._machine.sm:
            return False
        self._kernels.update(kernels)
        return True

    def reset(self) -> bool:
        """Forget all kernels."""
        self._kernels.clear()
        return True
