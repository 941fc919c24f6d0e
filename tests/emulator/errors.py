"""PyCUDA's exceptions, and which of them a CUDA error becomes (`translate_cuda_error`)."""

from __future__ import annotations

INVALID_VALUE = "invalid argument"
OUT_OF_MEMORY = "out of memory"
NOT_INITIALIZED = "initialization error"
INVALID_DEVICE = "invalid device ordinal"
INVALID_CONTEXT = "invalid device context"
CONTEXT_IS_DESTROYED = "context is destroyed"
INVALID_HANDLE = "invalid resource handle"
NOT_READY = "device not ready"
ILLEGAL_ADDRESS = "an illegal memory access was encountered"
LAUNCH_FAILED = "unspecified launch failure"


class Error(Exception):
    """Base of PyCUDA's errors."""


class MemoryError(Error):
    """Out of memory."""


class LogicError(Error):
    """Every CUDA error that has no class of its own; an illegal address among them."""


class LaunchError(Error):
    """A kernel failed."""


class RuntimeError(Error):
    """No device, or not ready."""


for _error in (Error, MemoryError, LogicError, LaunchError, RuntimeError):
    _error.__module__ = "pycuda._driver"

_CLASSES = {OUT_OF_MEMORY: MemoryError, LAUNCH_FAILED: LaunchError, NOT_READY: RuntimeError}


def cuda_error(function: str, text: str, note: str = "") -> Error:
    """Return what PyCUDA raises when a function of CUDA's driver fails."""
    message = f"{function} failed: {text}" + (f" - {note}" if note else "")
    return _CLASSES.get(text, LogicError)(message)


class DeviceFailure(Exception):  # noqa: N818
    """Queued work failed: the device is lost from here on. Within the emulator only."""
