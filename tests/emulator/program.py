"""A small program for an emulated machine, for the emulator's own tests."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from tests.emulator import Emulator
from tests.emulator.surface import module_name

SHAPE = (1, 8, 8, 3)
Floats = npt.NDArray[np.float32]


def _weights() -> dict[str, Floats]:
    random = np.random.default_rng(0)
    return {
        "kernel": random.standard_normal((4, 3, 3, 3), np.float32),
        "bias": random.standard_normal(4, np.float32),
    }


WEIGHTS = _weights()
CLIP = np.random.default_rng(1).integers(0, 256, SHAPE, np.uint8)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[tuple[str, int, Sequence[int | str]]],
    outputs: Sequence[tuple[str, int, Sequence[int | str]]],
    weights: dict[str, Any] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "a graph",
        [helper.make_tensor_value_info(*port) for port in inputs],
        [helper.make_tensor_value_info(*port) for port in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def convolution() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["frames"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel", "bias"], ["features"]),
        helper.make_node("Reshape", ["features", "shape"], ["logits"]),
    ]
    return model_of(
        nodes,
        [("frames", TensorProto.UINT8, SHAPE)],
        [("logits", TensorProto.FLOAT, [1, 144])],
        {**WEIGHTS, "shape": np.array([1, 144])},
    )


MODEL = convolution().SerializeToString()
EXPECTED = onnxruntime.InferenceSession(MODEL).run(None, {"frames": CLIP})[0]
STRIPPED = ("STRIP_PLAN", "REFIT_IDENTICAL")

# What the parser refuses.
UINT8_TRANSPOSE = model_of(
    [
        helper.make_node("Transpose", ["frames"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["logits"], to=TensorProto.FLOAT),
    ],
    [("frames", TensorProto.UINT8, SHAPE)],
    [("logits", TensorProto.FLOAT, [1, 3, 8, 8])],
).SerializeToString()
MIXED_TYPES = model_of(
    [helper.make_node("MatMul", ["x", "matrix"], ["y"])],
    [("x", TensorProto.FLOAT, [1, 4])],
    [("y", TensorProto.FLOAT, [1, 4])],
    {"matrix": np.ones((4, 4), np.float16)},
).SerializeToString()
UNKNOWN_OPERATOR = model_of(
    [helper.make_node("Fold", ["x"], ["y"], name="paper")],
    [("x", TensorProto.FLOAT, [1, 4])],
    [("y", TensorProto.FLOAT, [1, 4])],
).SerializeToString()


class Machine:
    """An emulated machine with a context, and the steps of a program on it."""

    def __init__(self, device: Emulator) -> None:
        self.device = device
        self.trt = importlib.import_module(module_name(device.version))
        self.messages: list[str] = []
        messages = self.messages

        class Listener(self.trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()

            def log(self, severity: object, msg: str) -> None:
                messages.append(msg)

        self.logger = Listener()
        if device.gpu is not None:
            self.cuda = importlib.import_module("pycuda.driver")
            self.cuda.init()

    def parse(self, model: bytes, path: str | None = None) -> tuple[Any, Any, bool]:
        """Return network, parser, and whether the parser takes the model."""
        self.builder = self.trt.Builder(self.logger)
        strongly_typed = self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        network = self.builder.create_network(1 << int(strongly_typed))
        parser = self.trt.OnnxParser(network, self.logger)
        return network, parser, parser.parse(model, path)

    def config(self, *flags: str) -> Any:
        """Return a configuration with these flags."""
        config = self.trt.Builder(self.logger).create_builder_config()
        for flag in flags:
            config.set_flag(self.trt.BuilderFlag.__members__[flag])
        return config

    def build(self, *flags: str, model: bytes = MODEL, config: Any = None) -> bytes | None:
        """Return a plan."""
        network, _, parsed = self.parse(model)
        assert parsed
        plan = self.builder.build_serialized_network(network, config or self.config(*flags))
        return None if plan is None else bytes(plan)

    def load(self, plan: bytes | None) -> Any:
        """Return the engine of a plan."""
        return self.trt.Runtime(self.logger).deserialize_cuda_engine(plan)

    def refitted(self, weights: dict[str, Floats] = WEIGHTS) -> Any:
        """Return an engine from a stripped plan, with its weights."""
        engine = self.load(self.build(*STRIPPED))
        refitter = self.trt.Refitter(engine, self.logger)
        for name, array in weights.items():
            assert refitter.set_named_weights(name, self.trt.Weights(array))
        assert refitter.refit_cuda_engine()
        return engine

    def run(self, engine: Any) -> Floats:
        """Run an engine on CLIP, all in one stream, and wait."""
        context = engine.create_execution_context()
        stream = self.cuda.Stream()
        frames, logits = self.cuda.mem_alloc(CLIP.nbytes), self.cuda.mem_alloc(EXPECTED.nbytes)
        self.cuda.memcpy_htod(frames, CLIP)
        assert context.set_tensor_address("frames", int(frames))
        assert context.set_tensor_address("logits", int(logits))
        result = np.zeros_like(EXPECTED)
        assert context.execute_async_v3(stream.handle)
        stream.synchronize()
        self.cuda.memcpy_dtoh(result, logits)
        return result


@contextlib.contextmanager
def started(version: str = "10.3.0", **options: Any) -> Iterator[Machine]:
    with Emulator(version, **options) as device:
        machine = Machine(device)
        if device.gpu is not None:
            context = machine.cuda.Device(0).retain_primary_context()
            context.push()
        try:
            yield machine
        finally:
            if device.gpu is not None:
                machine.cuda.Context.pop()
                context.detach()
