"""One TensorRT engine: a plan without weights, refitted from the bundle's weight file, and run.

    plan ─ deserialise ─ refit: compose layer by layer, upload, hand over ─ context ─ infer

The composed weights go to the device one layer at a time and are handed to the refitter there,
so host memory never holds a second model. Device memory does, until the refit ends; on a Jetson
both are the same chips. Engines that run one at a time share their scratch
memory, their input and their output; `tensorrt_group` owns those. The state of a stream lies on
the device twice: a step reads the one and writes the other. At a change of rate alone it goes by
way of the host, since the next engine may keep it in another type.

Legend: N clips of T frames, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ffn_edge.bundle.bundle import Manifest
from ffn_edge.bundle.compose import Array, ComposedHash, blocks, compose
from ffn_edge.bundle.stream_state import NEXT, STATE, State, Stored
from ffn_edge.bundle.weight_file import WeightFile
from ffn_edge.device.gpu import Device, aligned, out_of_memory_hint
from ffn_edge.device.plan_cache import Plan, PlanWeight
from ffn_edge.device.tensorrt_api import Api, is_out_of_memory, remedy_for
from ffn_edge.errors import EngineError, OutOfMemoryError, UnknownWeightsError
from ffn_edge.runtime.stream.clip_buffer import Clip, PlacedClip, check_clip

_INPUT, _OUTPUT = "frames", "logits"
_DTYPES = {
    "float32": "FLOAT",
    "float16": "HALF",
    "int32": "INT32",
    "int64": "INT64",
    "bool": "BOOL",
}
_STATE_TYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8}
_REBUILD = "build it again with `ffn-edge build`."


class EngineMemory:
    """Where engines that run one at a time read a clip and write logits.

    Attributes:
        input: device address of uint8 (N, T, H, W, 3), room for the largest T.
        output: device address of float32 (N, classes).
        staging: page-locked uint8, as large as `input`; free whenever the stream is idle.
        logits: page-locked float32 (N, classes).
    """

    def __init__(self, device: Device, manifest: Manifest, most_frames: int) -> None:
        """Allocate, or raise an OutOfMemoryError."""
        contract = manifest.input
        size = contract.batch * most_frames * contract.height * contract.width * 3
        shape = (contract.batch, len(manifest.classes))
        self.input = int(device.allocate(size))
        self.output = int(device.allocate(4 * math.prod(shape)))
        self.staging: npt.NDArray[np.uint8] = device.pinned((size,), np.uint8)
        self.logits: npt.NDArray[np.float32] = device.pinned(shape, np.float32)


class TensorRTEngine:
    """One frame count's engine. See `engine.Engine`."""

    def __init__(
        self,
        plan: Plan,
        *,
        frames: int,
        manifest: Manifest,
        tensors: WeightFile,
        api: Api,
        device: Device,
        memory: EngineMemory,
        make_ready: Callable[[TensorRTEngine], None],
        stored: Mapping[str, Stored],
    ) -> None:
        """Remember what to open.

        `make_ready` is called before each inference, and sees to it that the engine is open and has
        scratch memory. `stored` says how the plan's graph keeps a stream's states.
        """
        contract = manifest.input
        self.frames = frames
        self.device_ms: float | None = None
        self._is_step = plan.sidecar.key.step
        clip = 1 if self._is_step else frames
        self._shape = (contract.batch, clip, contract.height, contract.width, 3)
        self._plan = plan
        self._manifest = manifest
        self._tensors = tensors
        self._api = api
        self._device = device
        self._memory = memory
        self._make_ready = make_ready
        # The only references to TensorRT's objects: an error's traceback must not keep them alive
        # until after the device is closed.
        self._allocator: Any = None
        self._runtime: Any = None
        self._engine: Any = None
        self._refitter: Any = None
        self._context: Any = None
        self._kernels: Any = None
        self._compiled = b""
        self._states: Any = None  # device memory, two halves, for an open engine of steps
        self._stored = stored
        self._places: dict[str, tuple[int, Array]] = {}  # of each state in a half; its like
        self._asked: State | None = None  # where the next frame goes on; None at the start
        self._half = 0  # its bytes
        self._is_swapped = False  # whether the next step reads the second half

    @property
    def is_open(self) -> bool:
        """Whether the engine is on the device."""
        return self._context is not None

    def __enter__(self) -> TensorRTEngine:
        """Bring the engine to the device, with its weights.

        Raises:
            EngineError: TensorRT refuses the plan, or the weights are not what it was built for.
            OutOfMemoryError: there is too little memory.
        """
        self._api.errors()
        try:
            self._runtime = self._api.make("Runtime", self._api.log)
            if self._device.gpu.is_integrated:
                self._allocator = self._api.allocator(self._device)
                self._runtime.gpu_allocator = self._allocator
            self._engine = self._runtime.deserialize_cuda_engine(self._plan.read())
            if self._engine is None:
                raise self._failure("cannot load the plan")
            self._check_ports()
            if self._plan.sidecar.key.refit != "none":
                self._refit()
            self._compiled = self._plan.read_kernels()
            self._context, self._kernels = self._api.context(self._engine, self._compiled)
            if self._context is None:
                raise self._failure("cannot make an execution context")
            self._bind(_INPUT, self._memory.input)
            self._bind(_OUTPUT, self._memory.output)
            if self._places:
                self._states = self._device.allocate(2 * self._half)
                self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._context = None
        self._kernels = None
        self._refitter = None
        self._engine = None
        self._runtime = None
        self._allocator = None
        if self._states is not None:
            self._device.free(self._states)
            self._states = None

    @property
    def scratch_bytes(self) -> int:
        """The scratch memory that the open engine needs."""
        return int(self._engine.device_memory_size_v2)

    def use_scratch(self, address: int, size: int) -> None:
        """Give the open engine its scratch memory, which others may use when it does not run."""
        self._context.set_device_memory(address, size)

    def keep_kernels(self) -> None:
        """Keep what RTX has compiled in this start for the next one."""
        if self._kernels is not None:
            compiled = bytes(memoryview(self._kernels.serialize()))
            if compiled != self._compiled:
                self._plan.write_kernels(compiled)
                self._compiled = compiled

    def infer(self, frames: Clip) -> npt.NDArray[np.float32]:
        """Classify clips. See `engine.Engine`.

        `device_ms` is then how long the device took, copies included, and the loading of the
        engine if that was necessary.
        """
        check_clip(frames, self._shape)
        self._make_ready(self)
        if not isinstance(frames, PlacedClip):
            staging = self._memory.staging[: frames.size]
            np.copyto(staging, frames.reshape(-1))
            self._device.start_clock()
            self._device.upload_async(self._memory.input, staging)
        before, after = self._halves()
        for name, (place, _) in self._places.items():
            self._bind(name, before + place)
            self._bind(_next_of(name), after + place)
        if not self._context.execute_async_v3(self._device.stream_handle):
            raise self._failure("did not run")
        self._device.download_async(self._memory.logits, self._memory.output)
        self.device_ms = self._device.stop_clock()
        self._is_swapped = not self._is_swapped
        return self._memory.logits.copy()

    def restart(self, state: State | None = None) -> None:
        """See `engine.Engine`. One that is not open does so when it is."""
        self._asked = state
        if self._states is not None:
            self._begin()

    def _begin(self) -> None:
        """Put the state in place that was asked for."""
        before, _ = self._halves()
        if self._asked is None:
            self._device.zero_async(before, self._half)
        else:
            self._device.synchronize()
            for (name, (place, like)), values in zip(
                self._places.items(), self._asked, strict=True
            ):
                self._device.upload(before + place, self._stored[name].numbers(values, like))
            self._device.wait_for_all()
        self._asked = None

    def state(self) -> State:
        """See `engine.Engine`."""
        before, _ = self._halves()
        found = []
        for name, (place, like) in self._places.items():
            numbers = np.empty_like(like)
            self._device.download(numbers, before + place)
            found.append(self._stored[name].values(numbers))
        return tuple(found)

    def _halves(self) -> tuple[int, int]:
        """Return where the states lie that the next step reads, and those that it writes."""
        first = 0 if self._states is None else int(self._states)
        halves = (first, first + self._half)
        return halves[::-1] if self._is_swapped else halves

    def _bind(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise self._failure(f"refuses the address of {name}")

    def _check_ports(self) -> None:
        """Hold the engine's own inputs and outputs against the manifest's, and place its states.

        The sizes and types of states are the engine's own: each must come back as it goes in.
        """
        found: dict[str, tuple[str, tuple[int, ...]]] = {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            shape = tuple(self._engine.get_tensor_shape(name))
            found[name] = (self._engine.get_tensor_dtype(name).name, shape)
        outputs = (self._manifest.input.batch, len(self._manifest.classes))
        states = {
            name: port
            for name, port in found.items()
            if name in self._stored and port[0] in _STATE_TYPES
        }
        expected = {
            _INPUT: ("UINT8", self._shape),
            _OUTPUT: ("FLOAT", outputs),
            **states,
            **{_next_of(name): port for name, port in states.items()},
        }
        if found != expected:
            raise EngineError(
                f"{self._plan.path} has the inputs and outputs {found}; its bundle says {expected}",
                _REBUILD,
            )
        self._half = 0
        for name in sorted(states, key=lambda name: int(name.removeprefix(STATE))):
            dtype, shape = states[name]
            like = np.empty(shape, _STATE_TYPES[dtype])
            self._places[name] = self._half, like
            self._half += aligned(like.nbytes)

    def _refit(self) -> None:
        """Give the engine all its weights, by way of the device."""
        key = self._plan.sidecar.key
        self._refitter = self._api.make("Refitter", self._engine, self._api.log)
        # Identical weights were valid when the plan was built, and the hash tells identity.
        self._refitter.weights_validation = key.refit == "any"
        wanted = set(self._refitter.get_all_weights())
        listed = {weight.name: weight for weight in self._plan.sidecar.weights}
        misfits = [name for name in wanted if not self._is_as_listed(name, listed.get(name))]
        if misfits:
            raise UnknownWeightsError(
                f"the engine {self._plan.path} wants weights that the bundle does not have: "
                f"{_listed(misfits)}",
                _REBUILD,
            )
        # Handed-over weights must outlive the refit: one allocation for all of them.
        sizes = {name: _bytes(listed[name]) for name in wanted}
        arena = self._device.allocate(sum(aligned(size) for size in sizes.values()))
        try:
            offset = 0
            for weight, values in self._weights():
                if weight.name in wanted:
                    self._hand_over(weight, values, int(arena) + offset)
                    offset += aligned(sizes[weight.name])
                    wanted.discard(weight.name)
                del values  # before the next is composed
            missing = wanted | set(self._refitter.get_missing_weights())
            if missing:
                raise EngineError(
                    f"the bundle has no weights for {_listed(missing)} of {self._plan.path}",
                    _REBUILD,
                )
            self._device.wait_for_all()  # TensorRT reads the weights on a stream of its own
            if not self._refitter.refit_cuda_engine():
                raise self._failure("did not take the weights")
        finally:
            self._refitter = None
            self._device.free(arena)

    def _weights(self) -> Iterator[tuple[PlanWeight, Array]]:
        """Yield what the plan's sidecar names, one at a time, float32 where it was composed."""
        sidecar = self._plan.sidecar
        composed = {each.name: each for each in sidecar.weights if each.source == "composed"}
        digest = ComposedHash()
        for name, array in compose(self._tensors, self._manifest.layers, self.frames):
            digest.update(name, array)
            if name in composed:
                yield composed[name], array
            del array  # before the next is composed
        # For "identical" the plan's key has the same hash, or it would not have been found.
        if digest.hexdigest() != self._manifest.sub_networks[self.frames].composed_sha256:
            raise EngineError(
                f"the weights for {self.frames} frames are not those of the bundle's manifest",
                "was the weight file altered while in use? Start again.",
            )
        for weight in sidecar.weights:
            if weight.source == "stored":
                yield weight, self._tensors[weight.name]
            elif weight.source == "constant":
                yield weight, np.asarray(weight.values, weight.dtype)

    def _hand_over(self, weight: PlanWeight, values: Array, address: int) -> None:
        """Upload one weight, rounded to the engine's type, and name it to the refitter."""
        if values.size != weight.count:
            raise EngineError(
                f"{weight.name} of {self._plan.path} is {weight.count} values; the bundle has "
                f"{values.size}",
                _REBUILD,
            )
        target = address
        for block in blocks(values):
            rounded = np.ascontiguousarray(block, weight.dtype)
            self._device.upload(target, rounded)
            target += rounded.nbytes
        trt = self._api.module
        handed = trt.Weights(self._type_of(weight), address, weight.count)
        if not self._refitter.set_named_weights(weight.name, handed, trt.TensorLocation.DEVICE):
            raise self._failure(f"refuses the weights of {weight.name}")

    def _is_as_listed(self, name: str, weight: PlanWeight | None) -> bool:
        """Return whether the engine wants a weight as the sidecar has it."""
        if weight is None:
            return False
        prototype = self._refitter.get_weights_prototype(name)
        is_same_type = prototype.dtype == self._type_of(weight)
        return bool(is_same_type and prototype.size == weight.count)

    def _type_of(self, weight: PlanWeight) -> Any:
        return getattr(self._api.module.DataType, _DTYPES[weight.dtype])

    def _failure(self, what: str) -> EngineError:
        """Return the error for what TensorRT just did not do."""
        said = self._api.errors()
        message = f"{self._api.name} {what} ({self._plan.path}): {said or 'no reason'}"
        if is_out_of_memory(said):
            return OutOfMemoryError(message, out_of_memory_hint(self._device.gpu))
        return EngineError(message, remedy_for(said, _REBUILD))


def _next_of(state: str) -> str:
    return state.replace(STATE, NEXT)


def _listed(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return f"{first} and {len(others)} others" if others else first


def _bytes(weight: PlanWeight) -> int:
    return int(weight.count * np.dtype(weight.dtype).itemsize)
