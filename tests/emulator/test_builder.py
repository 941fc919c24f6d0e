"""The emulated parser and builder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.emulator.program import (
    EXPECTED,
    MIXED_TYPES,
    MODEL,
    STRIPPED,
    UINT8_TRANSPOSE,
    UNKNOWN_OPERATOR,
    WEIGHTS,
    Machine,
    model_of,
    started,
)


@pytest.fixture
def machine() -> Iterator[Machine]:
    with started() as machine:
        yield machine


# The parser


def _refusal(machine: Machine, model: bytes, path: str | None = None) -> Any:
    _, parser, parsed = machine.parse(model, path)
    assert not parsed
    assert parser.num_errors == 1
    return parser.get_error(0)


def test_bytes_can_only_be_cast(machine: Machine) -> None:
    error = _refusal(machine, UINT8_TRANSPOSE)
    assert error.desc().find("first input has type UInt8 but must have type Float, Half") > 0
    assert (error.node(), error.node_operator(), error.code().name) == (
        0,
        "Transpose",
        "INVALID_NODE",
    )


def test_operands_of_two_types_are_refused(machine: Machine) -> None:
    error = _refusal(machine, MIXED_TYPES)
    assert "`A` is of type Float and `B` is of type Half" in error.desc()


def test_an_unknown_operator_is_refused_by_name(machine: Machine) -> None:
    error = _refusal(machine, UNKNOWN_OPERATOR)
    assert "Plugin not found" in error.desc()
    assert (error.node_name(), error.node_operator()) == ("paper", "Fold")


def test_what_is_no_model_is_refused(machine: Machine) -> None:
    _, parser, parsed = machine.parse(b"rubbish")
    assert not parsed
    assert parser.get_error(0).code().name == "MODEL_DESERIALIZE_FAILED"
    assert parser.get_error(0).node() == -1


def _external(folder: Path, location: str = "weights.bin") -> onnx.ModelProto:
    model = onnx.ModelProto.FromString(MODEL)
    kernel = next(i for i in model.graph.initializer if i.name == "kernel")
    (folder / "weights.bin").write_bytes(bytes(8) + kernel.raw_data)
    length = len(kernel.raw_data)
    kernel.ClearField("raw_data")
    kernel.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "8"), ("length", str(length))):
        kernel.external_data.add(key=key, value=value)
    return model


def test_external_data_is_found_beside_themodel_of(machine: Machine, tmp_path: Path) -> None:
    model = _external(tmp_path).SerializeToString()
    network, _, parsed = machine.parse(model, str(tmp_path / "model.onnx"))
    assert parsed
    plan = machine.builder.build_serialized_network(network, machine.config())
    assert WEIGHTS["kernel"].tobytes() in bytes(plan)


@pytest.mark.parametrize("damage", ["missing", "short", "elsewhere"])
def test_external_data_that_is_not_beside_the_model_is_refused(
    machine: Machine, tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    file = folder / "weights.bin"
    model = _external(folder, "../weights.bin" if damage == "elsewhere" else "weights.bin")
    if damage == "short":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "missing":
        file.unlink()
    else:
        (tmp_path / "weights.bin").write_bytes(file.read_bytes())
    error = _refusal(machine, model.SerializeToString(), str(folder / "model.onnx"))
    assert "Failed to import initializer: kernel" in error.desc()


def test_only_float_weights_that_a_layer_holds_can_be_refitted(machine: Machine) -> None:
    nodes = [
        helper.make_node("Constant", [], ["half"], value=helper.make_tensor("", 1, [], [0.5])),
        helper.make_node("Mul", ["x", "half"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "low"], ["clipped"]),
        helper.make_node("MatMul", ["clipped", "matrix"], ["product"]),
        helper.make_node("Reshape", ["product", "shape"], ["y"]),
    ]
    weights = {
        "low": np.float32(0),
        "matrix": np.ones((4, 4), np.float32),
        "shape": np.array([4]),
        "unread": np.ones(3, np.float32),
    }
    x, y = [("x", TensorProto.FLOAT, [1, 4])], [("y", TensorProto.FLOAT, [4])]
    weights["low"] = np.asarray(weights["low"])
    plan = machine.build(*STRIPPED, model=model_of(nodes, x, y, weights).SerializeToString())
    refitter = machine.trt.Refitter(machine.load(plan), machine.logger)
    assert sorted(refitter.get_all_weights()) == ["half", "matrix"]


# The builder


@pytest.mark.parametrize("problem", ["empty", "dynamic", "workspace"])
def test_a_network_that_cannot_be_built_gives_none_and_a_message(
    machine: Machine, problem: str
) -> None:
    config = machine.config()
    model, message = MODEL, "workspace limit"
    if problem == "empty":
        model, message = b"", "at least one output"
    elif problem == "dynamic":
        ports = [("x", TensorProto.FLOAT, ["N", 4])], [("y", TensorProto.FLOAT, ["N", 4])]
        nodes = [helper.make_node("Relu", ["x"], ["y"])]
        model, message = model_of(nodes, *ports).SerializeToString(), "optimization profile"
    else:
        config.set_memory_pool_limit(machine.trt.MemoryPoolType.WORKSPACE, 1 << 20)
    assert machine.build(model=model, config=config) is None
    assert message in machine.messages[-1]


def test_no_two_plans_are_alike(machine: Machine) -> None:
    assert machine.build() != machine.build()


def test_refit_flags_exclude_each_other(machine: Machine) -> None:
    config = machine.config("REFIT", "REFIT_IDENTICAL")
    flags = machine.trt.BuilderFlag
    assert not config.get_flag(flags.REFIT)
    assert config.get_flag(flags.REFIT_IDENTICAL)
    assert "mutually exclusive" in machine.messages[-1]


def _monitor(machine: Machine, goes_on: Any) -> Any:
    class Monitor(machine.trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.steps = 0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            assert parent_phase == (self.open[-1] if self.open else None)
            self.open.append(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            assert phase_name == self.open[-1]
            self.steps += 1
            return bool(goes_on())

        def phase_finish(self, phase_name: str) -> None:
            assert self.open.pop() == phase_name

    return Monitor()


def test_progress_comes_in_nested_phases(machine: Machine) -> None:
    config = machine.config()
    config.progress_monitor = monitor = _monitor(machine, lambda: True)
    assert machine.build(config=config) is not None
    assert monitor.steps > 10
    assert monitor.open == []


def _interrupt() -> bool:
    raise KeyboardInterrupt


@pytest.mark.parametrize("goes_on", [lambda: False, _interrupt], ids=["False", "Ctrl-C"])
def test_a_monitor_ends_a_build_and_its_exception_goes_no_further(
    machine: Machine, goes_on: Any
) -> None:
    config = machine.config()
    config.progress_monitor = monitor = _monitor(machine, goes_on)
    assert machine.build(config=config) is None
    assert monitor.steps == 1
    assert monitor.open == []
    assert "Build canceled by user" in machine.messages[-1]


def test_the_test_is_called_at_each_step(machine: Machine) -> None:
    config = machine.config()
    config.progress_monitor = _monitor(machine, lambda: True)
    machine.device.on_step = _interrupt
    assert machine.build(config=config) is None


def test_a_timing_cache_serves_its_own_version_only() -> None:
    with started("10.3.0") as machine:
        config = machine.config()
        cache = config.create_timing_cache(b"")
        assert config.set_timing_cache(cache, ignore_mismatch=False)
        empty = bytes(cache.serialize())
        assert machine.build(config=config) is not None
        filled = bytes(config.get_timing_cache().serialize())
        assert len(filled) > len(empty)
    with started("10.13.3.9") as machine:
        config = machine.config()
        foreign = config.create_timing_cache(filled)
        assert not config.set_timing_cache(foreign, ignore_mismatch=False)
        assert not config.create_timing_cache(b"").combine(foreign, ignore_mismatch=False)
        assert config.set_timing_cache(config.create_timing_cache(b"rubbish"), False)
        assert "Failed to deserialize timing cache" in machine.messages[-1]


def test_rtx_without_a_gpu_builds_full_plans_only() -> None:
    with started("rtx-1.7.1.116", gpu=None) as machine:
        plan = machine.build()
        assert plan is not None
        assert machine.build(*STRIPPED) is None
        assert machine.build("REFIT") is None
        assert machine.load(plan) is None
        config = machine.config()
        with pytest.warns(DeprecationWarning, match="no-ops"):
            config.set_timing_cache(config.create_timing_cache(b""), False)
    with started("rtx-1.7.1.116", sm=(12, 0)) as machine:  # bound to no architecture
        np.testing.assert_allclose(machine.run(machine.load(plan)), EXPECTED, rtol=1e-4, atol=1e-3)
