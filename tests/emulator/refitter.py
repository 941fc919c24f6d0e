"""The refitter."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DeviceFailure
from .graph import NUMPY_TYPES
from .memory import host_array, is_mapped
from .plan import digest
from .streams import Queue
from .values import Logging


class Refitter(Logging):
    """Replaces an engine's weights."""

    _engine: Any
    _set: dict[str, tuple[Any, str]]
    _validation: bool

    def __init__(self, engine: Any, logger: Any) -> None:
        self._engine = engine
        self._log_to(logger)
        self._set = {}
        self._validation = True
        if not engine.refittable:
            self._report.error("Cannot create a refitter for an engine that is not refittable")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    @property
    def weights_validation(self) -> bool:
        """Whether values are checked."""
        return bool(self._validation)

    @weights_validation.setter
    def weights_validation(self, value: bool) -> None:
        self._validation = value

    def _names(self) -> list[str]:
        weights = self._engine._plan.weights
        return [name for name, entry in weights.items() if entry.refittable]

    def get_all_weights(self) -> list[str]:
        """Return the names of all weights that can be set."""
        return list(self._names())

    def get_missing_weights(self) -> list[str]:
        """Return the names of all weights that must still be set."""
        return list(self._missing())

    def _missing(self) -> list[str]:
        present = self._engine._present | set(self._set)
        return [name for name in self._names() if name not in present]

    def get_weights_prototype(self, weights_name: str) -> Any:
        """Return type and count that a weight must have; nothing for an unknown name."""
        kinds: Any = self._types.classes["DataType"]
        weights = self._types.classes["Weights"]
        if weights_name not in self._names():
            return weights(kinds["FLOAT"], 0, 0)
        entry = self._engine._plan.weights[weights_name]
        return weights(kinds[entry.dtype], 0, entry.count)

    def get_named_weights(self, weights_name: str) -> Any:
        """Return what was set under a name."""
        kinds: Any = self._types.classes["DataType"]
        if weights_name in self._set:
            return self._set[weights_name][0]
        return self._types.classes["Weights"](kinds["FLOAT"], 0, 0)

    def get_weights_location(self, weights_name: str) -> Any:
        """Return where the weights lie that were set under a name."""
        places: Any = self._types.classes["TensorLocation"]
        return places[self._set[weights_name][1] if weights_name in self._set else "HOST"]

    def unset_named_weights(self, weights_name: str) -> bool:
        """Take weights back; False if none were set."""
        return self._set.pop(weights_name, None) is not None

    def set_named_weights(self, name: str, weights: Any, location: Any = None) -> bool:
        """Set weights, which must live until the refit; False if they do not fit."""
        failure = self._machine.failure_of("set_named_weights")
        if failure is not None:
            self._report.error(f"IRefitter::setNamedWeights: {failure or 'Internal Error'}")
            return False
        if name not in self._names():
            self._report.error(f"IRefitter::setNamedWeights: no refittable weights named {name}")
            return False
        entry = self._engine._plan.weights[name]
        if (weights.dtype.name, weights.size) != (entry.dtype, entry.count):
            self._report.error(
                f"IRefitter::setNamedWeights: {name} takes {entry.count} x {entry.dtype}, "
                f"got {weights.size} x {weights.dtype.name}"
            )
            return False
        self._set[name] = weights, location.name if location is not None else "HOST"
        return True

    def refit_cuda_engine(self) -> bool:
        """Put the weights into the engine, now; False if that fails."""
        if not self._may_refit("refitCudaEngine"):
            return False
        try:
            self._transfer()
        except DeviceFailure as failure:
            self._machine.streams.failure = str(failure)
            self._report.error(f"IRefitter::refitCudaEngine: Cuda Runtime ({failure})")
            return False
        return True

    def refit_cuda_engine_async(self, stream_handle: int) -> bool:
        """Put the weights into the engine when the stream comes to it."""
        if not self._may_refit("refitCudaEngineAsync"):
            return False
        queue: Queue | None = self._machine.streams.find(stream_handle)
        if queue is None:
            raise AssertionError("the real refitter would crash on a handle that is no stream")
        self._engine._present |= set(self._set)
        with self._machine.lock:
            self._machine.streams.submit(queue, self._transfer)
        return True

    def release_refit_resources(self) -> bool:
        """Free what a refit keeps for the next one."""
        return True

    def _may_refit(self, function: str) -> bool:
        failure = self._machine.failure_of("refit")
        problem: str | None = None
        if failure is not None:
            problem = failure or "Internal Error"
        elif missing := self._missing():
            problem = f"{len(missing)} weights are missing, the first is {missing[0]}"
        elif any(not work.is_done for work in self._engine._pending):
            problem = "work is pending on the engine"
        elif self._machine.streams.failure is not None:
            problem = f"Cuda Runtime ({self._machine.streams.failure})"
        elif self._machine.context is None:
            problem = "Cuda Runtime (invalid device context)"
        if problem is not None:
            self._report.error(f"IRefitter::{function}: {problem}")
        return problem is None

    def _transfer(self) -> None:
        engine = self._engine
        for name, (weights, location) in self._set.items():
            entry = engine._plan.weights[name]
            kind = NUMPY_TYPES[entry.dtype]
            source = self._bytes(weights._pointer, entry.nbytes, location)
            target: npt.NDArray[np.generic] = engine._weight(name)
            target[:] = source.view(kind)
            engine._strange.discard(name)
            if engine._plan.identical_only and digest(target) != entry.sha256:
                engine._strange.add(name)
                self._machine.undefined.append(
                    f"{name} was refitted with other weights than the plan was built with"
                )
        engine._present |= set(self._set)

    def _bytes(self, pointer: int, nbytes: int, location: str) -> npt.NDArray[np.uint8]:
        if location == "DEVICE":
            return self._machine.memory.array(pointer, nbytes)
        if nbytes and not is_mapped(pointer, nbytes):
            raise AssertionError("the real refitter would crash: the weights were freed")
        return host_array(pointer, nbytes)
