"""Damage to files, drawn from a `random.Random`: bytes, JSON, safetensors headers, graphs, kinds.

Each function says in words what it did, so that a fault can be told without its file.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper

_RAW = "\x01raw{}\x01"  # stands in a tree for text that `json.dumps` would not write


class Raw:
    """A JSON value as text: what no Python value is written as."""

    def __init__(self, text: str, name: str = "") -> None:
        self.text = text
        self.name = name or text

    def __repr__(self) -> str:
        return self.name


def _hostile_values() -> tuple[Any, ...]:
    return (
        0, 1, -1, 2, 3, 7, 255, 256, 65535, 2**31 - 1, 2**31, 2**32, -(2**31), 2**53 + 1, 2**63 - 1,
        2**63, 2**64, -(2**63) - 1, 10**9, 10**12, 10**18,
        Raw("1" + "0" * 400, "1e400 in digits"), Raw("9" * 5000, "5000 digits"),
        Raw("-" + "9" * 5000, "minus 5000 digits"), Raw("1e999"), Raw("-1e999"), Raw("NaN"),
        Raw("Infinity"), Raw("-Infinity"), Raw("1E400"), Raw("0." + "1" * 5000, "5000 decimals"),
        0.0, -0.0, 0.5, 1.5, -3.25, 1e-320, 1e-30, 1e30, 1e300, 16777217.0, 4.0,
        True, False, None, "", " ", "0", "4", "nan", "-1", "1e999", "true", "null",
        "\x1b[2J\x1b]0;owned\x07", "[/bold red]", "[link=http://127.0.0.1]x[/link]", "%s%n{0}{x}",
        "../../escape", "/etc/passwd", "/dev/zero", "..", ".", "a/b", "a\\b", "C:x", "~", "$HOME",
        "x" * 300, "x" * 100_000, "é" * 120, "\u202e\u2066", "\U0001f600", "a\nb", "\r", "a\tb",
        "\0", "a\0b", Raw('"\\ud800"', "a lone surrogate"), Raw('"\\udfff\\ud800"', "surrogates"),
        "rtsp://me:secret@127.0.0.1/x", "manifest.json", "weights.safetensors", "graph_4.onnx",
        [], {}, [[]], [None], [0], ["a", "a"], {"": ""}, {"a": {"a": {}}}, {"0": 0},
        Raw("[" * 100_000 + "]" * 100_000, "lists 100,000 deep"),
        Raw('{"a":' * 50_000 + "1" + "}" * 50_000, "objects 50,000 deep"),
        Raw("[" * 900 + "]" * 900, "lists 900 deep"), list(range(5000)),
    )  # fmt: skip


HOSTILE = _hostile_values()


def spots(tree: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) of a JSON tree."""
    found: list[tuple[Any, Any]] = []
    open_ = [tree]
    while open_:
        node = open_.pop()
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in list(pairs):
            found.append((node, key))
            if isinstance(value, dict | list | tuple) and value:
                open_.append(value)
    return found


def to_text(tree: Any) -> str:
    """Write a tree as JSON, `Raw` values as their text; keys may be `Raw` names, too."""
    raws: list[str] = []

    def stand_in(value: object) -> str:
        assert isinstance(value, Raw), value
        raws.append(value.text)
        return _RAW.format(len(raws) - 1)

    text = json.dumps(tree, default=stand_in)
    for number, raw in enumerate(raws):
        text = text.replace(json.dumps(_RAW.format(number)), raw, 1)
    return text


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:50]}… ({len(text)} characters)"


def mutate_json(text: str, rng: Random, special: Callable[[Any], None] | None = None) -> str:
    """Return the text with one hostile change, after `special` was told of it."""
    tree = json.loads(text)
    say = special or (lambda what: None)
    places = spots(tree)
    if not places or rng.random() < 0.03:
        value = rng.choice(HOSTILE)
        say(f"the whole = {_short(value)}")
        return to_text(value)
    # As often by depth as by number: a thousand samples must not hide ten fields.
    by_name: dict[str, list[tuple[Any, Any]]] = {}
    for node, key in places:
        by_name.setdefault(key if isinstance(key, str) else "[]", []).append((node, key))
    node, key = rng.choice(by_name[rng.choice(sorted(by_name))])
    match rng.randrange(10):
        case 0:
            say(f"without {key!r}")
            del node[key]
        case 1 if isinstance(node, dict):
            other = rng.choice([str(each) for each in HOSTILE if isinstance(each, str | int)])
            say(f"key {key!r} renamed {_short(other)}")
            node[other] = node.pop(key)
        case 2 if isinstance(node, dict):
            name = rng.choice(("extra", "schema_version", "", key, "__class__", "\x1b[31m"))
            value = rng.choice(HOSTILE)
            say(f"{name!r} a second time or new, {_short(value)}")
            whole, twin = to_text(tree), to_text({name: value})[1:-1]
            at = whole.find(to_text(node))
            return whole[: at + 1] + twin + ", " + whole[at + 1 :]
        case 3 if isinstance(node, list):
            value = rng.choice((node[key], rng.choice(HOSTILE)))
            times = rng.choice((1, 1, 100))
            say(f"{_short(value)} inserted {times} times")
            node[key:key] = [copy.deepcopy(value)] * times
        case 4:
            other_node, other_key = rng.choice(places)
            say(f"{key!r} = what {other_key!r} is")
            node[key] = copy.deepcopy(other_node[other_key])
        case 5 if isinstance(node[key], int | float) and not isinstance(node[key], bool):
            node[key] = rng.choice(
                (-node[key], node[key] + 1, node[key] - 1, node[key] * 2, str(node[key]),
                 float(node[key]), [node[key]], node[key] * 10**6)
            )  # fmt: skip
            say(f"{key!r} = {_short(node[key])}")
        case _:
            value = rng.choice(HOSTILE)
            say(f"{key!r} = {_short(value)}")
            node[key] = copy.deepcopy(value)
    return to_text(tree)


def mutate_bytes(data: bytes, rng: Random) -> tuple[bytes, str]:
    """Flip, cut, insert, double or overwrite bytes."""
    at = rng.randrange(len(data)) if data else 0
    length = min(rng.choice((1, 2, 4, 8, 64, 1024)), len(data) - at)
    match rng.randrange(8):
        case 0 | 1:
            changed = bytearray(data)
            count = rng.choice((1, 1, 3, 20))
            for _ in range(count if data else 0):
                changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            return bytes(changed), f"{count} bits flipped, the first draw near {at}"
        case 2:
            return data[:at], f"cut at {at}"
        case 3:
            return data[:at] + data[at + length :], f"{length} bytes left out at {at}"
        case 4:
            new = rng.randbytes(rng.choice((1, 4, 1000)))
            return data[:at] + new + data[at:], f"{len(new)} bytes inserted at {at}"
        case 5:
            return data[:at] + data[at : at + length] * 2 + data[at + length :], f"doubled at {at}"
        case 6:
            fill = rng.choice((b"\0", b"\xff", b"\x7f", b"[", b"9"))
            return data[:at] + fill * length + data[at + length :], f"{fill!r} x {length} at {at}"
        case _:
            return data + rng.randbytes(rng.choice((1, 100, 100_000))), "bytes appended"


def mutate_header(data: bytes, rng: Random) -> tuple[bytes, str]:
    """Change the header of a safetensors file; the header's length is right but for some."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + length], data[8 + length :]
    said: list[str] = []
    tree = json.loads(header)
    name = rng.choice([each for each in tree if each != "__metadata__"])
    entry = tree[name]
    begin, end = entry["data_offsets"]
    shift = rng.choice((-8, -4, -1, 1, 4, 8, 10**6, 2**40, 2**63))
    match rng.randrange(9):
        case 0:
            lie = rng.choice((0, 1, length - 1, length + 1, len(data), 2**31, 2**63, 2**64 - 1))
            return struct.pack("<Q", lie) + header + body, f"header of {lie} bytes"
        case 1:
            entry["dtype"] = rng.choice(
                ("F16", "F64", "BF16", "I8", "U8", "I64", "BOOL", "F8_E4M3", "F128", "", None, 4)
            )
            said.append(f"{name} is {entry['dtype']}")
        case 2:
            shape = entry["shape"]
            entry["shape"] = rng.choice(
                ([], [0], [-1, *shape], [1, *shape], shape[::-1], [2**62, 4], [2**32, 2**32, 0],
                 [*shape, 10**9], [1] * 1000, [True, *shape], [-1 * each for each in shape],
                 [float(each) for each in shape], [str(each) for each in shape], None)
            )  # fmt: skip
            said.append(f"{name} has shape {_short(entry['shape'])}")
        case 3:
            entry["data_offsets"] = rng.choice(
                ([begin + shift, end + shift], [begin, end + shift], [begin + shift, end],
                 [end, begin], [begin], [begin, end, end], [float(begin), float(end)], None)
            )  # fmt: skip
            said.append(f"{name} lies at {_short(entry['data_offsets'])}")
        case 4:  # one on the other
            other = rng.choice([each for each in tree if each != "__metadata__"])
            entry["data_offsets"] = tree[other]["data_offsets"]
            entry["shape"] = tree[other]["shape"]
            said.append(f"{name} lies on {other}")
        case 5:
            new = rng.choice(("", "../x", "frames/4/", "\x1b[2J", "x" * 5000, name.upper()))
            tree[new] = tree.pop(name)
            said.append(f"{name} is named {_short(new)}")
        case 6:
            del tree[name]
            said.append(f"without {name}")
        case 7:
            other = rng.choice([each for each in tree if each != "__metadata__"])
            tree[name], tree[other] = tree[other], tree[name]
            said.append(f"{name} and {other} exchanged")
        case _:
            text = mutate_json(header.decode(), rng, said.append).encode("utf-8", "surrogatepass")
            return struct.pack("<Q", len(text)) + text + body, f"header: {said[0]}"
    text = json.dumps(tree).encode()
    return struct.pack("<Q", len(text)) + text + body, said[0]


_OPERATORS = (
    "Loop", "If", "Scan", "RandomNormal", "RandomUniform", "ConstantOfShape", "Expand", "Tile",
    "Resize", "Pad", "Conv", "ConvTranspose", "MaxPool", "AveragePool", "LRN", "RoiAlign", "DFT",
    "TfIdfVectorizer", "StringNormalizer", "RegexFullMatch", "SequenceMap", "Range", "OneHot",
    "EyeLike", "Einsum", "Gemm", "MatMul", "LSTM", "NonZero", "Compress", "Unique", "TopK",
    "Reshape", "Transpose", "Concat", "Split", "Gather", "GatherND", "ScatterND", "Upsample",
    "Relu", "Div", "Log", "Pow", "Cast", "Bernoulli", "Softmax", "NonMaxSuppression", "Identity",
    "Col2Im", "DeformConv", "GridSample", "CumSum", "QLinearConv", "BlackmanWindow", "Shape",
    "NotAnOperator", "", "x" * 1000, "\x1b[2J", "a\nb",
)  # fmt: skip
_NUMBERS = (
    0, 1, -1, 2, 3, 7, 16, 100, 2**15, 2**20, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1,
    -(2**63),
)  # fmt: skip


def _attribute(rng: Random, name: str) -> AttributeProto:
    return helper.make_attribute(
        name,
        rng.choice(
            (
                rng.choice(_NUMBERS), float("nan"), float("inf"), 1e30, "x", b"\xff\xfe",
                [rng.choice(_NUMBERS) for _ in range(rng.choice((1, 2, 4, 8)))],
                [rng.choice(_NUMBERS)] * 1000, [0.5, float("nan")], ["a", "b"],
                helper.make_tensor("t", TensorProto.FLOAT, [2], [1.0, float("inf")]),
                helper.make_tensor("t", TensorProto.INT64, [1], [rng.choice(_NUMBERS)]),
            )
        ),
    )  # fmt: skip


def _node(rng: Random, model: ModelProto) -> NodeProto:
    node: NodeProto = rng.choice(list(model.graph.node))
    return node


def mutate_graph(data: bytes, rng: Random, files: list[str]) -> tuple[bytes, str]:
    """Change a graph as ONNX lets one; `files` are names that external data may claim."""
    model = ModelProto.FromString(data)
    graph = model.graph
    node = _node(rng, model)
    externals = [each for each in graph.initializer if each.external_data]
    values = [name for each in graph.node for name in (*each.input, *each.output) if name]
    match rng.randrange(17):
        case 0 | 1:
            was, node.op_type = node.op_type, rng.choice(_OPERATORS)
            said = f"{was} is {_short(node.op_type)}"
        case 2:
            node.domain = rng.choice(("ai.onnx.ml", "com.microsoft", "x", "a/b", "\x1b[2J"))
            if rng.random() < 0.5:
                model.opset_import.append(helper.make_opsetid(node.domain, 1))
            said = f"{node.op_type} of domain {node.domain!r}"
        case 3 | 4:
            names = [each.name for each in node.attribute] or ["axis"]
            names += ["axis", "axes", "to", "pads", "strides", "kernel_shape", "perm", "dilations"]
            attribute = _attribute(rng, rng.choice([*names, "group", "mode", "body", "value"]))
            kept = [each for each in node.attribute if each.name != attribute.name]
            del node.attribute[:]
            node.attribute.extend([*kept, attribute])
            said = f"{node.op_type}.{attribute.name} is {_short(str(attribute))}"
        case 5:
            del node.attribute[:]
            said = f"{node.op_type} without attributes"
        case 6:
            value = rng.choice((*graph.input, *graph.output))
            shape = value.type.tensor_type.shape.dim
            if shape and rng.random() < 0.8:
                dim = rng.choice(list(shape))
                if rng.random() < 0.3:
                    dim.dim_param = rng.choice(("N", "", "\x1b[2J"))
                else:
                    dim.dim_value = rng.choice(_NUMBERS)
                said = f"{value.name} has dims {[d.dim_value or d.dim_param for d in shape]}"
            else:
                value.type.tensor_type.elem_type = rng.randrange(25)
                said = f"{value.name} is of type {value.type.tensor_type.elem_type}"
        case 7 if externals:
            tensor = rng.choice(externals)
            entry = rng.choice(list(tensor.external_data))
            entry.value = rng.choice(
                (*files, "/etc/passwd", "../outside", "/dev/zero", "", "x" * 300, "-1", "4",
                 str(2**40), str(2**63), "9" * 5000, "1e3", "\0")
            )  # fmt: skip
            said = f"{tensor.name} external {entry.key} is {_short(entry.value)}"
        case 8 if externals:
            tensor = rng.choice(externals)
            entry = tensor.external_data.add()
            entry.key = rng.choice(("location", "offset", "length", "checksum", "basepath", "x"))
            entry.value = rng.choice(("/etc/passwd", "0", "-4", str(2**62), "../outside"))
            said = f"{tensor.name} has another external {entry.key} {entry.value!r}"
        case 9 if graph.initializer:
            tensor = rng.choice(list(graph.initializer))
            match rng.randrange(4):
                case 0:
                    tensor.dims.append(rng.choice(_NUMBERS))
                case 1 if tensor.dims:
                    tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(_NUMBERS)
                case 2:
                    tensor.data_type = rng.randrange(25)
                case _:
                    tensor.name = rng.choice((tensor.name + "x", "", rng.choice(values)))
            said = f"initializer {tensor.name!r} is {list(tensor.dims)} of type {tensor.data_type}"
        case 10:
            if node.input:
                node.input[rng.randrange(len(node.input))] = rng.choice((*values, "", "nothing"))
            said = f"{node.op_type} takes {list(node.input)}"
        case 11:
            if node.output:
                node.output[rng.randrange(len(node.output))] = rng.choice((*values, "", "logits"))
            said = f"{node.op_type} gives {list(node.output)}"
        case 12:
            size = rng.choice((1, 100, 10**5, 2**31, 2**40, 2**62))
            shape = helper.make_tensor("hs", TensorProto.INT64, [1], [size])
            graph.initializer.append(shape)
            at = rng.randrange(len(graph.node) + 1)
            added = helper.make_node("ConstantOfShape", ["hs"], ["huge"])
            following = list(graph.node)
            del graph.node[:]
            graph.node.extend([*following[:at], added, *following[at:]])
            said = f"a constant of {size}"
        case 13:
            subgraph = helper.make_graph(list(graph.node)[:3], "sub", [], [])
            for _ in range(rng.choice((1, 2, 25))):
                inner = helper.make_node("If", ["c"], ["o"])
                inner.attribute.append(helper.make_attribute("then_branch", subgraph))
                subgraph = helper.make_graph([inner], "sub", [], [])
            node.attribute.append(helper.make_attribute("body", subgraph))
            if rng.random() < 0.5:
                node.op_type = rng.choice(("Loop", "If", "Scan"))
            said = f"{node.op_type} with a subgraph"
        case 14:
            function = model.functions.add()
            function.name, function.domain = node.op_type, node.domain
            function.node.append(copy.deepcopy(node))
            said = f"a function named {node.op_type} that calls itself"
        case 15:
            chain = rng.choice((10, 30, 300))
            source = rng.choice(values)
            for number in range(chain):  # each twice as large as the one before
                graph.node.append(
                    helper.make_node("Concat", [source, source], [f"bomb{number}"], axis=0)
                )
                source = f"bomb{number}"
            said = f"a chain of {chain} that doubles"
        case _:
            match rng.randrange(5):
                case 0:
                    model.ir_version = rng.choice((0, 1, 99, 2**62))
                case 1:
                    del model.opset_import[:]
                case 2:
                    model.opset_import[0].version = rng.choice((0, 1, 7, 99, 2**62))
                case 3:
                    del graph.node[rng.randrange(len(graph.node))]
                case _:
                    graph.sparse_initializer.add()
            said = "versions, a node gone, or a sparse initializer"
    return model.SerializeToString(), said


ODD_FILES = (
    "missing", "empty", "folder", "fifo", "dangling link", "link to itself", "link to /dev/zero",
    "link to /dev/random", "link to a folder", "unreadable", "link to itself as a file", "socket",
    "sparse of 1 TiB",
)  # fmt: skip


def odd_file(path: Path, rng: Random) -> str:
    """Replace a file by one of another kind."""
    kind = rng.choice(ODD_FILES)
    if kind == "link to itself as a file":  # an indirection that is no fault
        path.rename(path.with_name("elsewhere"))
        path.symlink_to("elsewhere")
        return kind
    if kind == "unreadable":
        if not path.is_symlink():  # of a mutation before this one, to a device
            path.chmod(0)
        return kind
    if path.is_dir() and not path.is_symlink():  # of a mutation before this one
        return kind
    path.unlink(missing_ok=True)
    match kind:
        case "empty":
            path.touch()
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "dangling link":
            path.symlink_to("nothing")
        case "link to itself":
            path.symlink_to(path.name)
        case "link to /dev/zero" | "link to /dev/random":
            path.symlink_to(kind.removeprefix("link to "))
        case "link to a folder":
            path.symlink_to(".")
        case "socket":
            os.mknod(path, 0o140644)
        case "sparse of 1 TiB":
            path.touch()
            os.truncate(path, 1 << 40)
    return kind


def content_of(path: Path) -> bytes:
    """Return a file's bytes; none of what is no file, of what is closed, and of a huge one."""
    try:
        return path.read_bytes() if path.is_file() and path.stat().st_size < 1 << 27 else b""
    except OSError:
        return b""


def seal(folder: Path) -> None:
    """Write sizes and hashes into the manifest anew, of the files that can be read."""
    manifest = folder / "manifest.json"
    fields = json.loads(content_of(manifest))
    for name, record in fields["files"].items():
        if data := content_of(folder / name):
            record.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    manifest.write_text(json.dumps(fields, indent=1), encoding="utf-8")
