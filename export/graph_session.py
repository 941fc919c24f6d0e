"""A bundle's graph in ONNX Runtime, to look into: any of its tensors can be an output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime  # type: ignore[import-untyped]

from ffn_edge.bundle.compose import Array
from ffn_edge.bundle.graph_check import external_tensors
from ffn_edge.bundle.known_answer import mean_of_steps
from ffn_edge.device.cores import usable_cores
from ffn_edge.device.cpu_threads import fixed_threads
from ffn_edge.errors import ExportError
from ffn_edge.export.composed_graph import INPUT

Floats = npt.NDArray[np.float32]

_STATES = {"tensor(float)": np.float32, "tensor(int8)": np.int8}


class GraphSession:
    """An ONNX model, open until it is dropped.

    Args:
        model: its bytes.
        tensors: where its tensors in other files are found, by name.
        watched: tensors of the graph that are outputs behind the logits.

    Raises:
        ExportError: ONNX Runtime refuses the graph, or its weights.
    """

    def __init__(
        self, model: bytes, tensors: Mapping[str, Array], watched: Sequence[str] = ()
    ) -> None:
        if watched:
            graph = onnx.load_model_from_string(model)
            graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in watched)
            model = graph.SerializeToString()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # warnings are for ONNX Runtime's developers
        options.intra_op_num_threads = fixed_threads() or usable_cores()
        # Others compute too.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # As it is written, in float32: integer kernels differ from processor to processor.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
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

    def run(self, frames: npt.NDArray[np.uint8], **state: npt.NDArray[Any]) -> list[Floats]:
        """Return the logits (N, classes) for uint8 (N, T, H, W, 3), and what is watched.

        Of a step in a stream, of one frame: the logits, and the state after it.
        """
        try:
            found: list[Floats] = self._session.run(None, {INPUT: frames, **state})
        except Exception as error:
            raise _refusal(error) from error
        return found

    def run_steps(self, clips: npt.NDArray[np.uint8]) -> Floats:
        """Return the logits (N, classes) for uint8 (N, T, H, W, 3), step by step from the start."""
        _, *ports = self._session.get_inputs()
        state: dict[str, npt.NDArray[Any]] = {
            port.name: np.zeros(port.shape, _STATES[port.type]) for port in ports
        }

        def step(frame: npt.NDArray[np.uint8]) -> Floats:
            logits, *after = self.run(frame, **state)
            state.update(zip(state, after, strict=True))
            return logits

        return mean_of_steps(step, clips)


def _refusal(error: Exception) -> ExportError:
    return ExportError(
        f"ONNX Runtime {onnxruntime.__version__} cannot run the graph: {error}",
        "export the bundle again, or pip install --upgrade onnxruntime.",
    )
