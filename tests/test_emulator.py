"""The emulator of TensorRT and PyCUDA, on which the tests of the device path stand.

Its parts are tested in `tests/emulator/`; here are the whole path, the recorded surfaces, and how
far it agrees with the real TensorRT for RTX.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.data.device_api import record
from tests.emulator import VERSIONS, Emulator
from tests.emulator.graph import read_graph
from tests.emulator.program import (
    EXPECTED,
    MIXED_TYPES,
    MODEL,
    STRIPPED,
    UINT8_TRANSPOSE,
    UNKNOWN_OPERATOR,
    WEIGHTS,
    Machine,
    started,
)
from tests.emulator.surface import onnx_operators, tensorrt_surface
from tests.rtx_parser import parse


@pytest.fixture
def machine() -> Iterator[Machine]:
    with started() as machine:
        yield machine


# The whole path


@pytest.mark.parametrize("version", VERSIONS)
def test_a_stripped_plan_that_is_refitted_computes_what_onnx_runtime_computes(version: str) -> None:
    with started(version) as machine:
        result = machine.run(machine.refitted())
    np.testing.assert_allclose(result, EXPECTED, rtol=1e-4, atol=1e-3)  # float rounding


@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_is_left_after_a_clean_end(version: str) -> None:
    with started(version) as machine:
        machine.run(machine.refitted())
        gc.collect()
        assert machine.device.live_bytes == 0
    assert machine.device.alive == []
    assert machine.device.undefined == []


def test_a_stripped_plan_holds_no_weights(machine: Machine) -> None:
    kernel = WEIGHTS["kernel"].tobytes()
    stripped, full = machine.build(*STRIPPED), machine.build()
    assert stripped is not None and kernel not in stripped
    assert full is not None and kernel in full


def test_weights_on_the_device_refit_as_those_on_the_host(machine: Machine) -> None:
    engine = machine.load(machine.build(*STRIPPED))
    refitter = machine.trt.Refitter(engine, machine.logger)
    held = []
    for name, array in WEIGHTS.items():
        held.append(machine.cuda.mem_alloc(array.nbytes))
        machine.cuda.memcpy_htod(held[-1], array)
        weights = machine.trt.Weights(machine.trt.float32, int(held[-1]), array.size)
        location = machine.trt.TensorLocation.DEVICE
        assert refitter.set_named_weights(name, weights, location)
    assert refitter.refit_cuda_engine()
    np.testing.assert_allclose(machine.run(engine), EXPECTED, rtol=1e-4, atol=1e-3)


# Surface and signatures


def test_a_member_that_a_version_lacks_cannot_be_read_or_set() -> None:
    with started("11.4.0.106") as machine:
        config = machine.config()
        with pytest.raises(AttributeError):
            config.int8_calibrator  # noqa: B018
        with pytest.raises(AttributeError):
            config.int8_calibrator = None
        with pytest.raises(AttributeError):
            machine.trt.BuilderFlag.FP16  # noqa: B018
    with started("10.3.0") as machine:
        with pytest.raises(NotImplementedError, match="int8_calibrator"):
            machine.config().int8_calibrator  # noqa: B018
        machine.trt.BuilderFlag.FP16  # noqa: B018


def test_integers_of_enums_differ_between_versions() -> None:
    integers = set()
    for version in VERSIONS:
        with started(version) as machine:
            integers.add(int(machine.trt.BuilderFlag.STRIP_PLAN))
    assert len(integers) == len(VERSIONS)


@pytest.mark.parametrize(
    "arguments", [(), (1, 2), ("1",), (1.0,), (-1,), (None,)], ids=lambda a: repr(a)
)
def test_a_call_that_fits_no_signature_is_a_type_error(
    machine: Machine, arguments: tuple[object, ...]
) -> None:
    context = machine.refitted().create_execution_context()
    with pytest.raises(TypeError, match="incompatible function arguments"):
        context.execute_async_v3(*arguments)


def test_keywords_have_the_recorded_names(machine: Machine) -> None:
    context = machine.refitted().create_execution_context()
    assert context.set_tensor_address(name="frames", memory=512)
    with pytest.raises(TypeError, match="incompatible"):
        context.set_tensor_address(name="frames", address=512)


def test_an_allocation_is_an_integer_to_tensorrt_but_not_a_numpy_one_to_pycuda(
    machine: Machine,
) -> None:
    allocation = machine.cuda.mem_alloc(512)
    context = machine.refitted().create_execution_context()
    assert context.set_tensor_address("frames", allocation)  # it has __index__
    assert context.get_tensor_address("frames") == int(allocation)
    with pytest.raises(TypeError):
        machine.cuda.mem_alloc(np.int64(512))
    with pytest.raises(TypeError):
        machine.cuda.mem_alloc(bytes=512)  # the argument has no name


def test_a_subclass_must_call_the_constructor(machine: Machine) -> None:
    class Forgetful(machine.trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            pass

    with pytest.raises(TypeError, match="must be called"):
        Forgetful()


def test_a_plan_is_a_buffer_without_a_length(machine: Machine) -> None:
    network, _, _ = machine.parse(MODEL)
    plan = machine.builder.build_serialized_network(network, machine.config())
    assert plan.nbytes == len(bytes(plan)) == memoryview(plan).nbytes
    with pytest.raises(TypeError):
        len(plan)
    with pytest.raises(AttributeError):
        plan.hex()


# What is installed


def test_the_modules_are_there_only_inside_the_block() -> None:
    before = {name: sys.modules.get(name) for name in ("tensorrt", "tensorrt_rtx", "pycuda")}
    with Emulator("10.3.0"):
        assert importlib.import_module("tensorrt").__version__ == "10.3.0"
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("tensorrt_rtx")
    assert {name: sys.modules.get(name) for name in before} == before


def test_a_machine_without_a_driver_has_a_pycuda_that_cannot_be_imported() -> None:
    with Emulator("10.3.0", gpu=None):
        importlib.import_module("pycuda")
        with pytest.raises(ImportError, match="libcuda"):
            importlib.import_module("pycuda.driver")
        trt = importlib.import_module("tensorrt")
        with pytest.raises(TypeError, match="factory function returned nullptr"):
            trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))


def test_packages_can_be_missing() -> None:
    with Emulator("10.3.0", pycuda=False), pytest.raises(ModuleNotFoundError, match="pycuda"):
        importlib.import_module("pycuda.driver")
    with Emulator("10.3.0", tensorrt=False), pytest.raises(ModuleNotFoundError, match="tensorrt"):
        importlib.import_module("tensorrt")


# The real TensorRT for RTX, which parses and builds without a GPU


def _real() -> Any:
    return pytest.importorskip("tensorrt_rtx")


def _public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


def test_the_surface_of_the_installed_rtx_is_recorded_again_as_it_was() -> None:
    real = _real()
    recorded = (record.FOLDER / f"tensorrt_rtx-{real.__version__}.json").read_text()
    assert record.surface(real) == json.loads(recorded)


def test_the_emulated_classes_have_what_the_real_ones_have() -> None:
    real = _real()
    with started("rtx-" + real.__version__) as machine:
        # IHostMemory cannot but be a subclass of bytes; it hides that from its instances.
        for name in tensorrt_surface("rtx-" + real.__version__).classes.keys() - {"IHostMemory"}:
            assert _public(getattr(machine.trt, name)) == _public(getattr(real, name)), name


def test_the_operators_of_the_installed_rtx_are_recorded_again_as_they_were() -> None:
    assert set(record.parsed_operators(_real())) == onnx_operators()


def _program(trt: Any, model: bytes, flags: Sequence[str], goes_on: bool) -> dict[str, Any]:
    """Parse and build, and return all that a program can see of it."""

    class Quiet(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: object, msg: str) -> None:
            pass

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            seen.setdefault("first phase", (phase_name, parent_phase))

        def step_complete(self, phase_name: str, step: int) -> bool:
            return goes_on

        def phase_finish(self, phase_name: str) -> None:
            seen["last phase"] = phase_name

    seen: dict[str, Any] = {}
    logger = Quiet()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    seen["parsed"] = parser.parse(model)
    seen["errors"] = [
        (error.code().name, error.node(), error.node_name(), error.node_operator())
        for error in map(parser.get_error, range(parser.num_errors))
    ]
    if not seen["parsed"]:
        return seen
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    tensors += [network.get_output(i) for i in range(network.num_outputs)]
    seen["ports"] = [(t.name, tuple(t.shape), t.dtype.name) for t in tensors]
    seen["layers"] = [network.get_layer(i).name for i in range(network.num_layers)]
    seen["parsed again"] = parser.parse(model)
    config = builder.create_builder_config()
    config.progress_monitor = Monitor()
    for flag in flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    plan = builder.build_serialized_network(network, config)
    seen["built"] = plan is not None
    if plan is not None:
        assert len(bytes(plan)) == plan.nbytes
        engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
        seen["loaded"] = engine is not None
    return seen


@pytest.mark.parametrize(
    ("model", "flags", "goes_on"),
    [
        (MODEL, (), True),
        (MODEL, (), False),
        (MODEL, STRIPPED, True),
        (MODEL, ("STRIP_PLAN",), True),
        (MODEL, ("REFIT",), True),
        (MODEL, ("STRIP_PLAN", "REFIT_INDIVIDUAL"), True),
        (UINT8_TRANSPOSE, (), True),
        (MIXED_TYPES, (), True),
        (UNKNOWN_OPERATOR, (), True),
        (b"rubbish", (), True),
        (b"", (), True),
    ],
    ids=lambda value: None if isinstance(value, bytes) else str(value),
)
def test_the_real_rtx_and_the_emulated_one_agree(
    model: bytes, flags: Sequence[str], goes_on: bool
) -> None:
    real = _real()
    expected = _program(real, model, flags, goes_on)
    with started("rtx-" + real.__version__, gpu=None) as machine:
        found = _program(machine.trt, model, flags, goes_on)
    assert found == expected


_KINDS = {float: np.float32, int: np.int64, bool: np.int8}


def _node(operator: str, *inputs: str, **attributes: int) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, ["logits"], **attributes)


@pytest.mark.parametrize(
    ("node", "constants"),
    [
        (_node("Gather", "frames", "a", axis=0), {"a": [0, 2]}),
        (_node("Slice", "frames", "a", "b", "c"), {"a": [1], "b": [3], "c": [0]}),
        (_node("Unsqueeze", "frames", "a"), {"a": [0]}),
        (_node("Reshape", "frames", "a"), {"a": [4, 48]}),
        (_node("Pad", "frames", "a"), {"a": [0, 0, 1, 0, 0, 1]}),
        (_node("ReduceMean", "frames", "a"), {"a": [1]}),
        (_node("TopK", "frames", "a"), {"a": [2]}),
        (_node("LayerNormalization", "frames", "a"), {"a": [1.0] * 8}),
        (_node("LayerNormalization", "frames", "a", "b"), {"a": [1.0] * 8, "b": [0.0] * 8}),
        (_node("Add", "frames", "a"), {"a": [1.0] * 8}),
        (_node("QuantizeLinear", "frames", "a"), {"a": [0.5]}),
        (_node("QuantizeLinear", "frames", "a", "b"), {"a": [0.5], "b": [False]}),
        (_node("QuantizeLinear", "frames", "a", "b", axis=1), {"a": [0.5] * 6, "b": [False] * 6}),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else None,
)
def test_a_refit_may_ask_for_what_the_real_parser_names(
    node: onnx.NodeProto, constants: dict[str, list[Any]], tmp_path: Path
) -> None:
    made = onnx.NodeProto()
    made.CopyFrom(node)
    if node.op_type == "TopK":
        made.output.append("indices")
    tensors = [
        numpy_helper.from_array(np.array(values, _KINDS[type(values[0])]), name)
        for name, values in constants.items()
    ]
    graph = helper.make_graph(
        [made],
        "test",
        [helper.make_tensor_value_info("frames", onnx.TensorProto.FLOAT, (4, 6, 8))],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)],
        tensors,
    )
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)])
    (tmp_path / "test.onnx").write_bytes(model.SerializeToString())
    emulated = read_graph(model.SerializeToString(), "")
    assert emulated is not None
    assert emulated.weights.keys() == parse(tmp_path / "test.onnx").refittable
