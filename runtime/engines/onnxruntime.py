"""The engine for every CPU: a bundle's graph in ONNX Runtime, which the runtime imports only here.

Several sessions live side by side and one runs at a time. What that asks for, as tried with ONNX
Runtime 1.32 on two cores (`benchmarks/runtime_overhead.py` measures the result):

- A session's threads never spin (`session.intra_op.allow_spinning` 0). Spinning is the default, and
  on an idle machine a network of 3 ms gains up to a fifth by it, one of 200 ms nothing; but beside
  one busy process the former takes 3.6 ms without and 12 to 16 with it (`benchmarks/busy.py`). It
  would also hold a core for milliseconds while the next session wants it, so that the first
  inference after a switch takes 1.1 to 2.5 times as long.
- All sessions take their scratch memory from one arena, so that it is the largest engine's and
  not the sum. The memory patterns of single sessions are off: each would reserve a block of its
  own in it. Together this halves the memory of three ResNet-50 sessions, at the same speed.
- `session.dynamic_block_base` and I/O binding gained nothing, and are left out. What `run` returns
  lies where ONNX Runtime has made it, and what it is given is read where it is: so the state of a
  stream is handed on as arrays, without a copy, with less work around a step than as OrtValues.
- Left to open the weight file itself, ONNX Runtime maps it, and a file that is cut short then ends
  the process (SIGBUS). So it opens no file: it gets the bytes of the graph, and every tensor from
  `HeldWeights`. That holds the shared weights once in memory, for all engines, and opens as fast.
- ONNX Runtime frees what it composed and quantised on the way, but the C library keeps such blocks:
  `give_back_freed` returns them. TSM-ResNet-50 at 4, 8 and 16 frames then takes 419 MB of memory
  when it is open and not 602, in INT8 287 and not 515 (PSS of the process; 49 before). Beside the
  shared float weights of 94 MB an INT8 engine has 37 to 54 MB, a float32 one 92. The most that is
  taken while engines open is 580 to 640 MB either way.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ffn_edge.bundle.bundle import Manifest
from ffn_edge.bundle.compose import Array
from ffn_edge.bundle.stream_state import NEXT, STATE, State, Stored, stored_states
from ffn_edge.device.int8_instructions import int8_instructions
from ffn_edge.errors import EngineError
from ffn_edge.runtime.stream.clip_buffer import Clip, check_clip

_INPUT, _OUTPUT = "frames", "logits"
_TYPES = {"tensor(float)": np.float32, "tensor(int8)": np.int8, "tensor(uint8)": np.uint8}
_ERRORS_ONLY = 3  # a warning of ONNX Runtime is for its developers


def installed_version() -> str:
    """Return the version of ONNX Runtime, or raise an EngineError."""
    return str(_onnxruntime().__version__)


def _onnxruntime() -> ModuleType:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise EngineError(
            f"ONNX Runtime cannot be imported ({error})", 'pip install "ffn-edge[cpu]"'
        ) from error


@functools.cache
def _share_scratch() -> None:
    """Give this process one arena for the scratch memory of all its engines.

    It stays with the process when they close, for those that are opened next.
    """
    ort = _onnxruntime()
    cpu = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    ort.create_and_register_allocator(cpu, ort.OrtArenaCfg({}))


def session_options(threads: int) -> Any:
    """Return ONNX Runtime's options for sessions that live side by side; see above."""
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.use_env_allocators", "1")
    if int8_instructions().overflow:  # then u8 by u8, which is right; with VNNI, half as fast
        options.add_session_config_entry("session.x64quantprecision", "1")
    _share_scratch()
    return options


def give_back_freed() -> None:
    """Return memory that was freed to the system, where the C library (glibc) would keep it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


class HeldWeights:
    """Tensors as ONNX Runtime takes them, each read once, for all engines of a bundle."""

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        self._tensors = tensors
        self._held: dict[str, Any] = {}

    def of(self, names: Iterable[str]) -> dict[str, Any]:
        """Return tensors by name. Raises as `WeightFile`."""
        values = {}
        for name in names:
            if name not in self._held:
                value = _onnxruntime().OrtValue.ortvalue_from_numpy(self._tensors[name])
                self._held[name] = value
            values[name] = self._held[name]
        return values


class OnnxRuntimeEngine:
    """One graph of a bundle on the CPU. See `engine.Engine`."""

    def __init__(
        self,
        graph: bytes,
        weights: Mapping[str, Any],
        *,
        frames: int,
        manifest: Manifest,
        threads: int,
        stream: bool = False,
    ) -> None:
        """Remember what to open; with `stream`, a graph for the next frame of a stream."""
        contract = manifest.input
        self.frames = frames
        self.device_ms: float | None = None  # the host's clock tells all
        clip = 1 if stream else frames
        self._input_shape = (contract.batch, clip, contract.height, contract.width, 3)
        self._graph = graph
        # ONNX Runtime reads them where they are, as long as the session lives.
        self._weights = weights
        self._threads = threads
        self._session: Any = None
        # By the names of the inputs; none of a graph for whole clips.
        self._stored: dict[str, Stored] = {}
        self._start: dict[str, Array] = {}
        self._states: dict[str, Array] = {}

    def __enter__(self) -> OnnxRuntimeEngine:
        """Load the graph and fold its weights, or raise an EngineError."""
        ort = _onnxruntime()
        options = session_options(self._threads)
        try:
            options.add_external_initializers(list(self._weights), list(self._weights.values()))
            self._session = ort.InferenceSession(
                self._graph,
                options,
                providers=["CPUExecutionProvider"],
                enable_fallback=0,  # it would say on stdout that it tries the same again
            )
        except Exception as error:  # its exceptions have no base class of their own
            raise EngineError(
                f"ONNX Runtime {ort.__version__} cannot open the graph for {self.frames} frames: "
                f"{error}",
                "check the bundle with `ffn-edge verify`; an older ONNX Runtime may lack an "
                "operator: pip install --upgrade onnxruntime.",
            ) from error
        self._stored = stored_states(self._graph)
        for port in self._session.get_inputs():
            if port.name in self._stored:
                zero = self._stored[port.name].zero_point
                self._start[port.name] = np.full(port.shape, zero, _TYPES[port.type])
        self.restart()
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None  # its threads and memory go with it
        self._graph, self._weights = b"", {}
        self._start, self._states = {}, {}

    def infer(self, frames: Clip) -> npt.NDArray[np.float32]:
        """Classify clips. See `engine.Engine`."""
        check_clip(frames, self._input_shape)
        if self._session is None:
            raise EngineError("the engine is not open", "use it inside `with`.")
        names = [_OUTPUT, *(name.replace(STATE, NEXT) for name in self._states)]
        try:
            found = self._session.run(names, {_INPUT: frames, **self._states})
        except Exception as error:
            raise EngineError(
                f"ONNX Runtime failed on {self.frames} frames: {error}",
                "check the bundle with `ffn-edge verify`.",
            ) from error
        logits: npt.NDArray[np.float32] = found[0]
        self._states = dict(zip(self._states, found[1:], strict=True))
        return logits

    def restart(self, state: State | None = None) -> None:
        """See `engine.Engine`."""
        self._states = self._start  # which no session writes to
        if state is not None:
            self._states = {
                name: self._stored[name].numbers(values, self._start[name])
                for name, values in zip(self._start, state, strict=True)
            }

    def state(self) -> State:
        """See `engine.Engine`."""
        return tuple(self._stored[name].values(each) for name, each in self._states.items())
