"""The builder, its configuration and its timing cache."""

from __future__ import annotations

import dataclasses
import json
import threading
import warnings
from typing import Any, ClassVar

import numpy as np

from . import plan, values
from .classes import create
from .machine import Machine
from .progress import BuildCancelledError, Progress
from .signatures import Types
from .values import Allocating, Reporter

_REFITS = ("REFIT", "REFIT_IDENTICAL", "REFIT_INDIVIDUAL")
# TensorRT for RTX 1.7.1 finds no tactic for a single convolution in 1 MiB.
_LEAST_WORKSPACE = 2 << 20
_CACHE_MAGIC = b"EMULATED TIMING CACHE\n"


class Builder(Allocating):
    """Builds plans from networks."""

    _kept: list[tuple[int, int]]

    def __init__(self, logger: Any) -> None:
        self._log_to(logger)
        self._allocator = None
        self._kept = []
        self._refuse_without_gpu()

    @property
    def platform_has_fast_fp16(self) -> bool:
        """Whether half precision is fast."""
        return True

    @property
    def num_DLA_cores(self) -> int:  # noqa: N802
        """Number of deep learning accelerators."""
        return 0

    def reset(self) -> None:
        """Forget everything but the logger."""

    def create_network(self, flags: int = 0) -> Any:
        """Create an empty network."""
        kinds: Any = self._types.classes["NetworkDefinitionCreationFlag"]
        if self._machine.is_rtx:  # there it is the default, and there is nothing else
            flags |= 1 << int(kinds["STRONGLY_TYPED"])
        return create(
            self._types.classes["INetworkDefinition"],
            _builder=self,
            _flags=flags,
            _graph=None,
            _marked=set(),
            _name="Unnamed Network 0",
        )

    def create_builder_config(self) -> Any:
        """Create a configuration."""
        config = create(self._types.classes["IBuilderConfig"], _report=self._report)
        config._restore()
        return config

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        """Build a plan; None if that fails."""
        failure = self._machine.failure_of("build")
        try:
            self._check(network, config)
            graph = network._graph
            self._time_tactics(graph.activation_bytes)
            if failure is not None:
                self._report.error(failure or "build: out of memory")
                return None
            Progress(self._machine, config._monitor).run(graph.layers)
            self._check_tactics(network, config)
        except BuildCancelledError as error:
            self._report.error(f"IBuilder::buildSerializedNetwork: Error Code {error}")
            return None
        self._report.info(f"Engine generation completed: {len(graph.layers)} layers.")
        if config._cache is not None:
            config._cache._entries.update(dict.fromkeys(graph.layers, "timed"))
        flags = config._flag_names
        refittable: frozenset[str] = frozenset()
        if "REFIT_INDIVIDUAL" in flags:
            refittable = frozenset(network._marked)
        elif flags & {"REFIT", "REFIT_IDENTICAL", "STRIP_PLAN"}:
            weights = dict(graph.weights)
            weights |= {name: np.zeros(1, np.float32) for name in self._machine.own_weights}
            if self._machine.narrows:
                weights |= {
                    name: array.astype(np.int32)
                    for name, array in weights.items()
                    if array.dtype == np.int64
                }
            graph = dataclasses.replace(graph, weights=weights)
            refittable = frozenset(graph.weights)
        serialized = plan.serialize(
            graph,
            version=self._machine.version,
            sm=None if self._machine.is_rtx else self._machine.sm,
            refittable=refittable,
            stripped=refittable if "STRIP_PLAN" in flags else frozenset(),
            identical_only="REFIT_IDENTICAL" in flags
            or ("STRIP_PLAN" in flags and not flags & set(_REFITS)),
        )
        return values.host_memory(self._types, serialized)

    def _check(self, network: Any, config: Any) -> None:
        graph = network._graph
        if graph is None:
            raise BuildCancelledError("4: API Usage Error (Network must have at least one output.)")
        kinds: Any = self._types.classes["NetworkDefinitionCreationFlag"]
        if not network._flags >> int(kinds["STRONGLY_TYPED"]) & 1:
            raise NotImplementedError("the emulator builds strongly typed networks only")
        if any(-1 in port.shape for port in graph.inputs):
            raise BuildCancelledError(
                "4: API Usage Error (Network has dynamic or shape inputs, but no optimization "
                "profile has been defined.)"
            )

    def _check_tactics(self, network: Any, config: Any) -> None:
        """Find what ends a build when most of it is done."""
        if config._limits.get("WORKSPACE", _LEAST_WORKSPACE) < _LEAST_WORKSPACE:
            raise BuildCancelledError(
                "1: Myelin (Tactic Selection: no tactics to implement the operation within "
                "workspace limit. Consider increase the allowed workspace size if applicable.)"
            )
        refit = config._flag_names & {"REFIT", "REFIT_IDENTICAL"}
        individually = "REFIT_INDIVIDUAL" in config._flag_names
        if individually and (shapes := network._marked & network._graph.shapes):
            raise BuildCancelledError(
                "4: API Usage Error (Individually refittable weights for IConstantLayer cannot be "
                f"used to compute a shape tensor: {min(shapes)})"
            )
        strip = "STRIP_PLAN" in config._flag_names and not individually
        if self._machine.gpu is None and (refit or strip or (individually and network._marked)):
            raise BuildCancelledError(
                "1: Myelin ([myelin_graph.h:1295: attachExceptionMsgToGraph] "
                "MyelinCheckException: graph_jit.cpp:278: CHECK(status == CUDA_SUCCESS) failed.)"
            )

    def _time_tactics(self, nbytes: int) -> None:
        """Take memory as timing a tactic does, on a thread of the builder's own."""
        if self._machine.gpu is None:
            return
        taken: list[int | None] = []
        thread = threading.Thread(target=lambda: taken.append(self._take(nbytes)))
        thread.start()
        thread.join()
        if taken == [None]:
            raise BuildCancelledError(
                f"2: OutOfMemory (Requested amount of GPU memory ({nbytes} bytes) could not be "
                "allocated.)"
            )
        kept = [(address, nbytes) for address in taken if address is not None]
        if self._allocator is not None:
            self._kept += kept  # until the builder goes
        else:
            self._give(*kept[0])

    def __del__(self) -> None:
        for address, nbytes in getattr(self, "_kept", ()):
            if not self._give(address, nbytes):
                self._machine.undefined.append("a builder was freed after its CUDA context")


class IBuilderConfig:
    """How to build."""

    _cache: Any
    _capabilities: list[Any]
    _flag_names: set[str]
    _level: int
    _limits: dict[str, int]
    _monitor: Any
    _report: Reporter
    _verbosity: Any
    _sets: ClassVar = {
        "profiling_verbosity": "ProfilingVerbosity",
        "progress_monitor": "IProgressMonitor | None",
    }
    _machine: Machine
    _types: Types

    def reset(self) -> None:
        """Go back to the defaults."""
        self._restore()

    def _restore(self) -> None:
        self._flag_names = {"TF32"}
        self._limits = {}
        self._monitor = None
        self._cache = None
        self._level = 3
        self._capabilities = []
        self._verbosity = self._types.classes["ProfilingVerbosity"]["LAYER_NAMES_ONLY"]  # type: ignore[index]

    @property
    def flags(self) -> int:
        """The flags as bits."""
        kinds: Any = self._types.classes["BuilderFlag"]
        return sum(1 << int(kinds[name]) for name in self._flag_names)

    def set_flag(self, flag: Any) -> None:
        """Set a flag."""
        if flag.name in _REFITS and self._flag_names & set(_REFITS) - {flag.name}:
            self._report.warning(
                "Unset previous flag because kREFIT, kREFIT_INDIVIDUAL and kREFIT_IDENTICAL are "
                "mutually exclusive."
            )
            self._flag_names -= set(_REFITS)
        self._flag_names.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        """Clear a flag."""
        self._flag_names.discard(flag.name)

    def get_flag(self, flag: Any) -> bool:
        """Whether a flag is set."""
        return flag.name in self._flag_names

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        """Limit what a build may use."""
        self._limits[pool.name] = pool_size

    def get_memory_pool_limit(self, pool: Any) -> int:
        """Return the limit."""
        default = 64 << 30 if self._machine.is_rtx else self._machine.memory.capacity
        return int(self._limits.get(pool.name, default))

    @property
    def builder_optimization_level(self) -> int:
        """How long a build may take for how fast a plan, 0 to 5."""
        return int(self._level)

    @builder_optimization_level.setter
    def builder_optimization_level(self, value: int) -> None:
        self._level = value

    @property
    def profiling_verbosity(self) -> Any:
        """What a plan tells about its layers."""
        return self._verbosity

    @profiling_verbosity.setter
    def profiling_verbosity(self, value: Any) -> None:
        self._verbosity = value

    @property
    def progress_monitor(self) -> Any:
        """Who is told about progress."""
        return self._monitor

    @progress_monitor.setter
    def progress_monitor(self, value: Any) -> None:
        self._monitor = value

    @property
    def num_compute_capabilities(self) -> int:
        """Number of GPUs to build for (RTX)."""
        return len(self._capabilities)

    @num_compute_capabilities.setter
    def num_compute_capabilities(self, value: int) -> None:
        none: Any = self._types.classes["ComputeCapability"]["NONE"]  # type: ignore[index]
        self._capabilities = (self._capabilities + [none] * value)[:value]

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        """Say which GPU to build for (RTX)."""
        if index >= len(self._capabilities):
            return False
        self._capabilities[index] = compute_capability
        return True

    def get_compute_capability(self, index: int) -> Any:
        """Return which GPU to build for (RTX)."""
        return self._capabilities[index]

    def create_timing_cache(self, serialized_timing_cache: Any) -> Any:
        """Read a timing cache; from nothing, or from rubbish, an empty one."""
        made_for, entries = _identity(self._machine), {}
        data = bytes(serialized_timing_cache)
        if data:
            try:
                if not data.startswith(_CACHE_MAGIC):
                    raise ValueError
                made_for, entries = json.loads(data[len(_CACHE_MAGIC) :])
            except ValueError:
                self._report.warning(
                    "Failed to deserialize timing cache. Returning an empty timing cache."
                )
        return create(
            self._types.classes["ITimingCache"], _made_for=list(made_for), _entries=dict(entries)
        )

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        """Use a timing cache; False if it comes from another TensorRT or another GPU."""
        _warn_on_rtx(self._machine)
        if cache._made_for != _identity(self._machine) and not ignore_mismatch:
            self._report.error("Timing cache was made by another version or for another device.")
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        """Return the timing cache that was set."""
        _warn_on_rtx(self._machine)
        return self._cache


class ITimingCache:
    """What a builder measured."""

    _entries: dict[str, str]
    _made_for: list[Any]
    _machine: Machine
    _types: Types

    def serialize(self) -> Any:
        """Return it as bytes."""
        _warn_on_rtx(self._machine)
        text = json.dumps([self._made_for, self._entries]).encode()
        return values.host_memory(self._types, _CACHE_MAGIC + text)

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        """Take over another one's entries."""
        _warn_on_rtx(self._machine)
        if input_cache is self:
            raise AssertionError("the real cache never returns from being combined with itself")
        if input_cache._made_for != self._made_for and not ignore_mismatch:
            return False
        self._entries |= input_cache._entries
        return True

    def reset(self) -> bool:
        """Forget all entries."""
        _warn_on_rtx(self._machine)
        self._entries.clear()
        return True


def _identity(machine: Machine) -> list[Any]:
    return [machine.version, list(machine.sm)]


def _warn_on_rtx(machine: Machine) -> None:
    if machine.is_rtx:
        warnings.warn(
            "Use Deprecated in TensorRT-RTX 1.2. Timing cache operations are no-ops in "
            "TensorRT-RTX. instead.",
            DeprecationWarning,
            stacklevel=4,
        )
