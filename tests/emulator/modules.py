"""Putting the modules together, and into Python's import system."""

from __future__ import annotations

import enum
import functools
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from . import builder, copies, devices, driver, engine, errors, execution, network, refitter, values
from .classes import emulated_class, emulated_enum, emulated_function
from .contexts import DriverState
from .graph import NUMPY_TYPES
from .machine import Machine
from .signatures import Types
from .surface import PYCUDA, VERSIONS, Surface, module_name, read_surface, tensorrt_surface

_TENSORRT = {
    implementation.__name__: implementation
    for implementation in (
        builder.Builder,
        builder.IBuilderConfig,
        builder.ITimingCache,
        engine.ICudaEngine,
        engine.IRuntimeCache,
        engine.IRuntimeConfig,
        execution.IExecutionContext,
        engine.Runtime,
        network.ILayer,
        network.INetworkDefinition,
        network.ITensor,
        network.OnnxParser,
        network.ParserError,
        refitter.Refitter,
        values.Dims,
        values.IErrorRecorder,
        values.IGpuAllocator,
        values.ILogger,
        values.IProgressMonitor,
        values.Logger,
        values.Weights,
    )
}
_PYCUDA = {
    implementation.__name__: implementation
    for implementation in (
        devices.Context,
        devices.Device,
        driver.DeviceAllocation,
        driver.Event,
        driver.HostPointer,
        driver.PagelockedHostAllocation,
        driver.Stream,
    )
}
# The aliases under which the package lists the members of DataType.
_ALIASES = {
    "float32": "FLOAT",
    "float16": "HALF",
    "bfloat16": "BF16",
    "int8": "INT8",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "bool": "BOOL",
    "fp8": "FP8",
    "fp4": "FP4",
    "int4": "INT4",
    "e8m0": "E8M0",
}


@functools.total_ordering
class Severity(enum.Enum):
    """How bad a message is. The one enum of which members can be compared."""

    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4

    def __int__(self) -> int:
        return self.value

    __index__ = __int__

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Severity):
            return NotImplemented
        return self.value < other.value


def tensorrt_module(machine: Machine) -> ModuleType:
    """Make `tensorrt` or `tensorrt_rtx`."""
    surface = tensorrt_surface(machine.version)
    module = ModuleType(module_name(machine.version))
    module.__version__ = surface.version  # type: ignore[attr-defined]
    types = Types()
    types.classes["ILogger.Severity"] = Severity
    first = 1 + VERSIONS.index(machine.version)
    for name, members in surface.enums.items():
        if name not in _ALIASES:
            types.classes[name] = emulated_enum(name, members, first)
    for name in sorted(surface.classes, key=lambda name: name != "ILogger"):
        if name == "IHostMemory":
            values.host_memory_class(types)
            continue
        bases = (types.classes["ILogger"],) if name == "Logger" else ()
        implementation = _TENSORRT.get(name, object)
        emulated_class(name, surface, implementation, machine, types, bases)
    for logger in ("ILogger", "Logger"):
        for severity in Severity:
            setattr(types.classes[logger], severity.name, severity)
        types.classes[logger].Severity = Severity  # type: ignore[attr-defined]
    vars(module).update({n: c for n, c in types.classes.items() if "." not in n})
    kinds: Any = types.classes["DataType"]
    for alias in surface.enums:
        if alias in _ALIASES:
            setattr(module, alias, kinds[_ALIASES[alias]])
    kinds.itemsize = property(lambda kind: NUMPY_TYPES[kind.name].itemsize)
    _add_functions(module, surface, machine)
    return module


def _add_functions(module: ModuleType, surface: Surface, machine: Machine) -> None:
    def nptype(trt_type: Any) -> type:
        """Return NumPy's type."""
        if trt_type.name not in NUMPY_TYPES:
            raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
        return NUMPY_TYPES[trt_type.name].type

    def init_libnvinfer_plugins(logger: object, namespace: str) -> bool:
        """Load the plugins, of which there are none."""
        return True

    implemented = {
        "volume": values.volume,
        "nptype": nptype,
        "init_libnvinfer_plugins": init_libnvinfer_plugins,
    }
    for name in surface.functions:

        def absent(*args: object, name: str = name, **kwargs: object) -> None:
            raise NotImplementedError(f"the emulator has no {name}")

        setattr(module, name, implemented.get(name, absent))


def pycuda_modules(machine: Machine) -> dict[str, ModuleType]:
    """Make `pycuda` and, where the machine has a driver, `pycuda.driver`."""
    pycuda = ModuleType("pycuda")
    pycuda.__path__ = []
    pycuda.VERSION, pycuda.VERSION_TEXT = (2026, 1), "2026.1"  # type: ignore[attr-defined]
    pycuda.VERSION_STATUS = ""  # type: ignore[attr-defined]
    if machine.gpu is None:
        return {"pycuda": pycuda}
    surface = read_surface(PYCUDA)
    module = ModuleType("pycuda.driver")
    types = Types(boost=True)
    machine.driver = DriverState(machine)
    machine.driver.types = types
    for name, members in surface.enums.items():
        types.classes[name] = emulated_enum(name, members, 1)
    _fix_flags(types)
    for name in surface.classes:
        if hasattr(errors, name):
            setattr(module, name, getattr(errors, name))
            continue
        bases = (types.classes["HostPointer"],) if name == "PagelockedHostAllocation" else ()
        emulated_class(name, surface, _PYCUDA[name], machine, types, bases)
    vars(module).update(types.classes)
    implemented = {function.__name__: function for function in copies.FUNCTIONS}
    for name, lines in surface.functions.items():
        function = emulated_function(name, lines, implemented.get(name), machine, types)
        setattr(module, name, function)
    machine.driver.device_class = types.classes["Device"]
    return {"pycuda": pycuda, "pycuda.driver": module}


def _fix_flags(types: Types) -> None:
    """Give flags the values of `cuda.h`: they are passed as integers."""
    values_of = {
        "ctx_flags": {"SCHED_AUTO": 0, "SCHED_SPIN": 1, "SCHED_YIELD": 2, "BLOCKING_SYNC": 4},
        "event_flags": {"DEFAULT": 0, "BLOCKING_SYNC": 1, "DISABLE_TIMING": 2, "INTERPROCESS": 4},
        "host_alloc_flags": {"PORTABLE": 1, "DEVICEMAP": 2, "WRITECOMBINED": 4},
    }
    for name, members in values_of.items():
        types.classes[name] = type(name, (), members)


class ImportHook(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the emulated modules, and hides the real ones.

    Args:
        modules: by name.
        failures: modules that are there, and find no CUDA driver when they are imported.
    """

    _HIDDEN = ("tensorrt", "tensorrt_rtx", "tensorrt_lean", "tensorrt_dispatch", "pycuda")

    def __init__(self, modules: dict[str, ModuleType], failures: frozenset[str]) -> None:
        self._modules = modules
        self._failures = failures
        self._before: dict[str, ModuleType] = {}

    @classmethod
    def hides(cls, name: str) -> bool:
        """Whether a name is one that the emulator answers for."""
        return name.split(".")[0] in cls._HIDDEN

    def install(self) -> None:
        """Start to answer imports."""
        self._before = self._take_out()
        sys.meta_path.insert(0, self)

    def uninstall(self) -> None:
        """Put back what was there."""
        sys.meta_path.remove(self)
        self._take_out()
        sys.modules.update(self._before)

    def _take_out(self) -> dict[str, ModuleType]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if self.hides(name)}

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Answer for the emulated names, whether the module is there or not."""
        if not self.hides(name):
            return None
        if name not in self._modules and name not in self._failures:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return importlib.machinery.ModuleSpec(name, self, is_package=name == "pycuda")

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return the emulated module."""
        if spec.name in self._failures:
            raise ImportError(
                "libcuda.so.1: cannot open shared object file: No such file or directory"
            )
        return self._modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to do."""
