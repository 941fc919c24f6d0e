"""What TensorRT's ONNX parser refuses, as TensorRT for RTX 1.7.1 was seen to do it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from .surface import onnx_operators

TYPE_NAMES: dict[int, str] = {
    TensorProto.FLOAT: "Float",
    TensorProto.FLOAT16: "Half",
    TensorProto.BFLOAT16: "BFloat16",
    TensorProto.INT8: "Int8",
    TensorProto.UINT8: "UInt8",
    TensorProto.INT32: "Int32",
    TensorProto.INT64: "Int64",
    TensorProto.BOOL: "Bool",
}
_SHUFFLES = {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "DepthToSpace"}
_ELEMENTWISE = {"Add": "SUM", "Sub": "SUB", "Mul": "PROD", "Div": "DIV", "Pow": "POW"}
_ELEMENTWISE |= {"Max": "MAX", "Min": "MIN", "Sum": "SUM"}


@dataclass(eq=False)
class Refusal(Exception):  # noqa: N818
    """Why a model is refused; becomes a ParserError."""

    code: str  # a member of ErrorCode
    description: str
    node: int = -1
    node_name: str = ""
    operator: str = ""
    file: str = "ModelImporter.cpp"
    function: str = "parseNode"
    line: int = 0


def check_node(
    index: int,
    node: onnx.NodeProto,
    types: Mapping[str, int],
    outputs: frozenset[str],
    opset: int,
) -> None:
    """Check one node, all before it having passed.

    Args:
        index: its place in the graph.
        node: the node.
        types: ONNX's element type of each tensor so far, its own outputs included.
        outputs: the graph's outputs.
        opset: of the model.

    Raises:
        Refusal: the parser does not take it.
    """

    def refuse(code: str, description: str, function: str = "parseNode") -> Refusal:
        return Refusal(code, description, index, node.name, node.op_type, function=function)

    for name in filter(None, node.input):
        if name not in types:
            message = "(ctx->tensors().count(inputName)): Node input was not registered."
            raise refuse("INVALID_GRAPH", f"Assertion failed: {message}")
    if node.op_type not in onnx_operators() or node.domain not in ("", "ai.onnx"):
        if not onnx.defs.has(node.op_type, node.domain):
            plugin = "Plugin not found, are the plugin name, version, and namespace correct?"
            raise refuse("INVALID_NODE", f'creator && "{plugin}"', "checkFallbackPluginImporter")
        raise refuse("UNSUPPORTED_NODE", "false", f"check{node.op_type}")
    layer = node.name or f"node_of_{node.output[0]}"

    def misuse(text: str) -> Refusal:
        usage = f"ITensor::getDimensions: Error Code 4: API Usage Error ({layer}: {text})"
        return refuse("INVALID_NODE", f"Invalid Node - {layer}\n{usage}")

    takes_bytes = node.op_type in ("Cast", "Identity")
    if any(types[name] == TensorProto.UINT8 for name in node.input if name) and not takes_bytes:
        if node.op_type in _SHUFFLES:
            raise misuse(
                "first input has type UInt8 but must have type Float, Half, BFloat16, FP8, E8M0, "
                "FP4, Int4, Int8, Int64, Int32, or Bool."
            )
        unsupported = "Assertion failed: status.is_success(): Found unsupported input type of UINT8"
        raise refuse("UNSUPPORTED_NODE", unsupported, "checkNotInvalidType")
    for name in node.output:
        if types.get(name) == TensorProto.UINT8 and name not in outputs:
            raise refuse(
                "UNSUPPORTED_NODE",
                "Assertion failed: legalUINT8: TensorRT does not support UINT8 types for "
                "intermediate tensors.",
            )
    if (pair := _differing(node, types, opset)) is not None:
        first, second = (TYPE_NAMES.get(kind, str(kind)) for kind in pair)
        if node.op_type in _ELEMENTWISE:
            operation = _ELEMENTWISE[node.op_type]
            raise misuse(
                f"ElementWiseOperation {operation} must have same input types. "
                f"But they are of types {first} and {second}."
            )
        if node.op_type in ("MatMul", "Gemm"):
            raise misuse(
                "IMatrixMultiplyLayer must have same input types. "
                f"`A` is of type {first} and `B` is of type {second}."
            )
        raise misuse(
            f"{node.op_type}: `input` and `kernel` must be of same type. "
            f"`input` type is {first} but `kernel` is of type {second}."
        )


def _differing(
    node: onnx.NodeProto, types: Mapping[str, int], opset: int
) -> tuple[int, int] | None:
    """Return two types where ONNX asks for one; a strongly typed network converts nothing."""
    schema = onnx.defs.get_schema(node.op_type, opset)
    bound: dict[str, int] = {}
    for i, name in enumerate(node.input):
        if name and schema.inputs:
            variable = schema.inputs[min(i, len(schema.inputs) - 1)].type_str
            if bound.setdefault(variable, types[name]) != types[name]:
                return bound[variable], types[name]
    return None
