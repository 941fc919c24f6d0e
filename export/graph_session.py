"""A bundle's graph in ONNX Runtime, to look into: any of its tensors can be its output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime  # type: ignore[import-untyped]

from ffn_edge.bundle.compose import Array
from ffn_edge.bundle.graph_check import external_tensors
from ffn_edge.device.cores import usable_cores
from ffn_edge.device.cpu_threads import fixed_threads
from ffn_edge.errors import ExportError
from ffn_edge.export.composed_graph import INPUT, OUTPUT

Floats = npt.NDArray[np.float32]


class GraphSession:
    """An ONNX model, open until it is dropped.

    Args:
        model: its bytes.
        tensors: where its tensors in other files are found, by name.

    Raises:
        ExportError: ONNX Runtime refuses the graph, or its weights.
    """

    def __init__(self, model: bytes, tensors: Mapping[str, Array]) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # warnings are for ONNX Runtime's developers
        options.intra_op_num_threads = fixed_threads() or usable_cores()
        # Others compute too.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        names = external_tensors(model)
        # ONNX Runtime reads them where they are, as long as the session lives.
        self._values = [onnxruntime.OrtValue.ortvalue_from_numpy(tensors[name]) for name in names]
        try:
            options.add_external_initializers(list(names), self._values)
            self._session: Any = onnxruntime.InferenceSession(
                model,
                options,
                providers=["CPUExecutionProvider"],
                enable_fallback=0,  # it would say on stdout that it tries the same again
            )
        except Exception as error:  # its exceptions have no base class of their own
            raise _refusal(error) from error

    def run(
        self, frames: npt.NDArray[np.uint8], outputs: Sequence[str] = (OUTPUT,)
    ) -> list[Floats]:
        """Return float32 tensors for uint8 (N, T, H, W, 3): the logits (N, classes) if not said."""
        try:
            found: list[Floats] = self._session.run(list(outputs), {INPUT: frames})
        except Exception as error:
            raise _refusal(error) from error
        return found


def _refusal(error: Exception) -> ExportError:
    return ExportError(
        f"ONNX Runtime {onnxruntime.__version__} cannot run the graph: {error}",
        "export the bundle again, or pip install --upgrade onnxruntime.",
    )
