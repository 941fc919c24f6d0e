"""Record what an installed module of TensorRT has: classes, enums, functions and signatures.

    python tests/data/device_api/record.py tensorrt_rtx

The module is `tensorrt_rtx`, `tensorrt`, or `tensorrt_bindings`, which can be imported without
TensorRT's libraries (README.md). A file with the name of the module and its version is written
beside this one. The parser of TensorRT for RTX needs no GPU, so that `tensorrt_rtx` gives
`onnx_operators.json` as well.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

FOLDER = Path(__file__).parent

# What a program can meet that parses, builds, refits or runs.
CLASSES = (
    "Builder",
    "Dims",
    "EngineInspector",
    "IBuilderConfig",
    "ICudaEngine",
    "IErrorRecorder",
    "IExecutionContext",
    "IGpuAllocator",
    "IHostMemory",
    "ILayer",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProgressMonitor",
    "IRuntimeCache",
    "IRuntimeConfig",
    "ITensor",
    "ITimingCache",
    "Logger",
    "OnnxParser",
    "ParserError",
    "Refitter",
    "Runtime",
    "TimingCacheKey",
    "TimingCacheValue",
    "Weights",
)

# Enums that only plugins, calibrators, the attributes of single layers and loops use; `value` is
# what a loop in the module has left behind.
_OTHER_ENUMS = re.compile(
    "(Quick)?Plugin.*|Resize.*|APILanguage|AllocatorFlag|AttentionIOForm|BoundingBoxFormat|"
    "CalibrationAlgoType|DLAWorkspaceAllocationStrategy|DimensionOperation|"
    "EngineInvalidityDiagnostics|EngineValidity|InterpolationMode|LoopOutput|MoEActType|"
    "PaddingMode|SampleMode|SeekPosition|SerializationFlag|TensorRTPhase|TripLimit|value"
)
_SPECIAL = ("__init__", "__enter__", "__exit__")


def surface(module: ModuleType) -> dict[str, Any]:
    """Return the surface of a module, in the form of the files beside this one."""
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    enums = {name: value for name, value in public.items() if hasattr(value, "__members__")}
    return {
        "classes": {name: _members(public[name]) for name in CLASSES if name in public},
        "enums": {
            name: sorted(enums[name].__members__)
            for name in sorted(enums)
            if not _OTHER_ENUMS.fullmatch(name)
        },
        "functions": sorted(
            name
            for name, value in public.items()
            if callable(value) and not isinstance(value, type) and name not in enums
        ),
        "version": module.__version__,
    }


def _members(cls: type) -> dict[str, str | list[str]]:
    names = [name for name in dir(cls) if not name.startswith("_") or name in _SPECIAL]
    return {name: _member(cls, name) for name in sorted(names)}


def _member(cls: type, name: str) -> str | list[str]:
    """Return "property", a method's signatures, or "member" where its docstring has none."""
    if isinstance(inspect.getattr_static(cls, name), property):
        return "property"
    signature = re.compile(rf"(\d+\. )?{name}\(.*")
    lines = (getattr(cls, name).__doc__ or "").splitlines()
    return [line for line in lines if signature.fullmatch(line)] or "member"


def parsed_operators(module: ModuleType) -> list[str]:
    """Return the operators of the installed ONNX that the module's parser knows."""
    logger = module.Logger(module.Logger.INTERNAL_ERROR)
    parser = module.OnnxParser(module.Builder(logger).create_network(0), logger)
    names = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    return sorted(name for name in names if parser.supports_operator(name))


def main(name: str) -> None:
    """Record the module of this name."""
    module = importlib.import_module(name)
    recorded: dict[str, Any] = {
        f"{name.removesuffix('_bindings')}-{module.__version__}": surface(module)
    }
    if name == "tensorrt_rtx":
        recorded["onnx_operators"] = parsed_operators(module)
    for file, content in recorded.items():
        text = json.dumps(content, indent=1) + "\n"
        (FOLDER / f"{file}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
