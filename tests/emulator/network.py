"""Networks and the ONNX parser that fills them."""

from __future__ import annotations

import os
from typing import Any

from .classes import create
from .graph import Graph, Port, read_graph
from .machine import Machine
from .onnx_rules import Refusal
from .signatures import Types
from .surface import onnx_operators
from .values import Reporter


class INetworkDefinition:
    """A network, empty until a parser fills it."""

    _builder: Any
    _flags: int
    _graph: Graph | None
    _marked: set[str]
    _name: str
    _machine: Machine
    _types: Types

    @property
    def builder(self) -> Any:
        """The builder that made it."""
        return self._builder

    @property
    def name(self) -> str:
        """Its name."""
        return str(self._name)

    @name.setter
    def name(self, value: str) -> None:
        self._name = value

    @property
    def flags(self) -> int:
        """The bits it was created with."""
        return int(self._flags)

    @property
    def num_inputs(self) -> int:
        """Number of inputs."""
        return len(self._graph.inputs) if self._graph else 0

    @property
    def num_outputs(self) -> int:
        """Number of outputs."""
        return len(self._graph.outputs) if self._graph else 0

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return len(self._graph.layers) if self._graph else 0

    @property
    def has_implicit_batch_dimension(self) -> bool:
        """Never, any more."""
        return False

    def get_flag(self, flag: Any) -> bool:
        """Whether a flag is set."""
        return bool(self._flags >> int(flag) & 1)

    def get_input(self, index: int) -> Any:
        """Return an input; None past the end."""
        return self._tensor(self._graph.inputs if self._graph else (), index)

    def get_output(self, index: int) -> Any:
        """Return an output; None past the end."""
        return self._tensor(self._graph.outputs if self._graph else (), index)

    def get_layer(self, index: int) -> Any:
        """Return a layer; None past the end."""
        if index >= self.num_layers:
            return None
        assert self._graph is not None
        return create(self._types.classes["ILayer"], _name=self._graph.layers[index])

    def mark_weights_refittable(self, name: str) -> bool:
        """Mark weights for REFIT_INDIVIDUAL."""
        if self._graph is None or name not in self._graph.weights:
            return False
        self._marked.add(name)
        return True

    def unmark_weights_refittable(self, name: str) -> bool:
        """Take a mark away."""
        known = name in self._marked
        self._marked.discard(name)
        return known

    def are_weights_marked_refittable(self, name: str) -> bool:
        """Whether weights are marked."""
        return name in self._marked

    def _tensor(self, ports: tuple[Port, ...], index: int) -> Any:
        if index >= len(ports):
            return None
        is_input = self._graph is not None and ports is self._graph.inputs
        return create(self._types.classes["ITensor"], _port=ports[index], _is_input=is_input)


class ITensor:
    """An input or output of a network."""

    _is_input: bool
    _port: Port
    _types: Types

    @property
    def name(self) -> str:
        """Its name."""
        return str(self._port.name)

    @property
    def shape(self) -> Any:
        """Its shape, -1 for what is not fixed."""
        return self._types.classes["Dims"](self._port.shape)

    @property
    def dtype(self) -> Any:
        """Its type."""
        kinds: Any = self._types.classes["DataType"]
        return kinds[self._port.dtype]

    @property
    def is_network_input(self) -> bool:
        """Whether it is an input."""
        return bool(self._is_input)

    @property
    def is_network_output(self) -> bool:
        """Whether it is an output."""
        return not self._is_input

    @property
    def is_execution_tensor(self) -> bool:
        """Whether its values matter when the network runs."""
        return True

    @property
    def is_shape_tensor(self) -> bool:
        """Whether its values matter to shapes."""
        return False


class ILayer:
    """A layer, of which only the name is known."""

    _name: str

    @property
    def name(self) -> str:
        """Its name."""
        return str(self._name)


class OnnxParser:
    """Reads ONNX models into a network."""

    _errors: list[Any]
    _flags: int
    _network: Any
    _report: Reporter
    _machine: Machine
    _types: Types

    def __init__(self, network: Any, logger: Any) -> None:
        self._network = network
        self._report = Reporter(self._machine, self._types, logger)
        self._errors = []
        self._flags = 0

    @property
    def flags(self) -> int:
        """The parser's flags."""
        return int(self._flags)

    @flags.setter
    def flags(self, value: int) -> None:
        self._flags = value

    def set_flag(self, flag: Any) -> None:
        """Set a flag."""
        self._flags |= 1 << int(flag)

    def clear_flag(self, flag: Any) -> None:
        """Clear a flag."""
        self._flags &= ~(1 << int(flag))

    def get_flag(self, flag: Any) -> bool:
        """Whether a flag is set."""
        return bool(self._flags >> int(flag) & 1)

    @property
    def num_errors(self) -> int:
        """Number of errors so far."""
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        """Return an error; None past the end."""
        return self._errors[index] if index < len(self._errors) else None

    def clear_errors(self) -> None:
        """Forget the errors."""
        self._errors.clear()

    def supports_operator(self, op_name: str) -> bool:
        """Whether the parser knows an operator."""
        return op_name in onnx_operators()

    def parse(self, model: Any, path: str | None = None) -> bool:
        """Read a model from memory; `path` says where it would lie."""
        return bool(self._read(bytes(model), os.path.dirname(path or "")))

    def parse_from_file(self, model: str) -> bool:
        """Read a model from a file."""
        if not os.path.isfile(model):
            self._fail(
                Refusal(
                    "INVALID_VALUE",
                    "Assertion failed: stat(onnxModelFile, &sb) == 0 && S_ISREG(sb.st_mode): "
                    f"Input file cannot be found, or is not a regular file: {model}",
                    function="parseFromFile",
                )
            )
            return False
        with open(model, "rb") as file:
            return bool(self._read(file.read(), os.path.dirname(model)))

    def _read(self, model: bytes, folder: str) -> bool:
        if self._network._graph is not None:
            self._report.error("Parse was called with a non-empty network definition")
            return False
        failure = self._machine.failure_of("parse")
        try:
            if failure is not None:
                text = failure or "Assertion failed: fault injected into the parser"
                raise Refusal("UNSUPPORTED_NODE", text, 0, operator="Conv")
            graph: Graph | None = read_graph(model, folder)
        except Refusal as refusal:
            self._fail(refusal)
            return False
        self._network._graph = graph
        return True

    def _fail(self, refusal: Refusal) -> None:
        self._report.error(
            f"While parsing node number {refusal.node} [{refusal.operator}]: {refusal.description}"
        )
        self._errors.append(create(self._types.classes["ParserError"], _refusal=refusal))


class ParserError:
    """Why a model was refused."""

    _refusal: Refusal
    _types: Types

    def code(self) -> Any:
        """Return the kind of error."""
        codes: Any = self._types.classes["ErrorCode"]
        return codes[self._refusal.code]

    def desc(self) -> str:
        """Return what happened."""
        return str(self._refusal.description)

    def file(self) -> str:
        """Return the parser's own file."""
        return str(self._refusal.file)

    def func(self) -> str:
        """Return the parser's own function."""
        return str(self._refusal.function)

    def line(self) -> int:
        """Return the line in the parser's own file."""
        return int(self._refusal.line)

    def node(self) -> int:
        """Return the node's place in the model; -1 if it is none of them."""
        return int(self._refusal.node)

    def node_name(self) -> str:
        """Return the node's name."""
        return str(self._refusal.node_name)

    def node_operator(self) -> str:
        """Return the node's operator."""
        return str(self._refusal.operator)

    def local_function_stack(self) -> list[str]:
        """Return the functions around the node."""
        return []

    def local_function_stack_size(self) -> int:
        """Return how many functions there are around the node."""
        return 0
