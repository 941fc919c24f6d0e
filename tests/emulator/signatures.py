"""Binding a call to recorded signatures, with the types that the bindings take.

TensorRT's bindings are pybind11, PyCUDA's are Boost.Python. They differ in what passes for an
integer: pybind11 takes whatever has `__index__` (a PyCUDA allocation, a NumPy integer, an enum
member), Boost.Python only Python's own int.
"""

from __future__ import annotations

import ast
import functools
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_PREFIX = re.compile(r"\b(tensorrt(_rtx)?_bindings\.tensorrt(_rtx)?|nvinfer1|nvonnxparser)\.")
_ENUM_DEFAULT = re.compile(r"<(\w+\.\w+): -?\d+>")
_SEQUENCE = re.compile(r"(?:List|list|collections\.abc\.Sequence)\[(.+)\]")
_INTEGERS = ("int", "typing.SupportsInt")
_FLOATS = ("float", "typing.SupportsFloat")
_BUFFERS = ("buffer", "typing_extensions.Buffer")


class MismatchError(Exception):
    """A call, or one of its arguments, does not fit a signature."""


@dataclass(frozen=True)
class Parameter:
    """One argument of a signature."""

    name: str
    annotation: str
    required: bool
    may_be_none: bool
    named: bool  # can be given by keyword


@dataclass(frozen=True)
class Signature:
    """One overload of a method or function; `self` is not among its parameters."""

    text: str
    parameters: tuple[Parameter, ...]
    is_static: bool

    @classmethod
    def parse(cls, lines: Sequence[str]) -> list[Signature]:
        """Parse the lines of a method: each an overload, or the head of a list of them."""
        return [cls._parse(line) for line in lines if "(*args, **kwargs)" not in line]

    @classmethod
    @functools.cache
    def _parse(cls, line: str) -> Signature:
        text = re.sub(r"^\d+\. ", "", line).replace("::", ".")
        text = _PREFIX.sub("", text)
        text = _ENUM_DEFAULT.sub(r"'\1'", text)
        (function,) = ast.parse(f"def {text}: ...").body
        assert isinstance(function, ast.FunctionDef)
        nameless, named = function.args.posonlyargs, function.args.args
        arguments = [*nameless, *named]
        defaults = [None] * (len(arguments) - len(function.args.defaults))
        parameters = tuple(
            Parameter(
                name=argument.arg,
                annotation=ast.unparse(argument.annotation) if argument.annotation else "object",
                required=default is None,
                may_be_none=isinstance(default, ast.Constant) and default.value is None,
                named=argument in named and not re.fullmatch(r"arg\d+", argument.arg),
            )
            for argument, default in zip(
                arguments, [*defaults, *function.args.defaults], strict=True
            )
        )
        is_static = not parameters or parameters[0].name != "self"
        return cls(line, parameters if is_static else parameters[1:], is_static)

    def bind(
        self, args: Sequence[object], kwargs: Mapping[str, object], types: Types
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return what to call the implementation with.

        Raises:
            MismatchError: the call does not fit.
        """
        if len(args) > len(self.parameters):
            raise MismatchError
        positional: list[Any] = []
        keywords: dict[str, Any] = {}
        unused = dict(kwargs)
        for i, parameter in enumerate(self.parameters):
            if i < len(args):
                value = args[i]
                if parameter.name in unused and parameter.named:
                    raise MismatchError
            elif parameter.named and parameter.name in unused:
                value = unused.pop(parameter.name)
            elif parameter.required:
                raise MismatchError
            else:
                continue
            if value is not None or not parameter.may_be_none:
                value = types.convert(parameter.annotation, value)
            if parameter.named:
                keywords[parameter.name] = value
            else:
                positional.append(value)
        if unused:
            raise MismatchError
        return positional, keywords


def bind_any(
    name: str,
    signatures: Sequence[Signature],
    args: Sequence[object],
    kwargs: Mapping[str, object],
    types: Types,
) -> tuple[list[Any], dict[str, Any]]:
    """Bind a call to the first overload that fits.

    Raises:
        TypeError: none fits.
    """
    for signature in signatures:
        try:
            return signature.bind(args, kwargs, types)
        except MismatchError:
            continue
    invoked = ", ".join(map(repr, args))
    if kwargs:
        invoked += "; kwargs: " + ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
    supported = "\n".join(f"    {i}. {s.text}" for i, s in enumerate(signatures, 1))
    raise TypeError(
        f"{name}(): incompatible function arguments. The following argument types are "
        f"supported:\n{supported}\n\nInvoked with: {invoked}"
    )


class Types:
    """The types of one module, and how its bindings convert arguments to them."""

    def __init__(self, *, boost: bool = False) -> None:
        """Start without classes; `boost` for Boost.Python's idea of an integer."""
        self.classes: dict[str, type] = {}
        self._boost = boost

    def convert(self, annotation: str, value: object) -> Any:
        """Return the argument as the implementation takes it.

        Raises:
            MismatchError: it has another type.
        """
        if annotation.endswith(" | None"):
            return None if value is None else self.convert(annotation[: -len(" | None")], value)
        if annotation in _INTEGERS:
            return self._integer(value)
        if annotation in _FLOATS:
            return float(_check(value, (int, float, np.number)))
        if annotation == "object":
            return value
        if annotation in _BUFFERS or annotation == "writable_buffer":
            return _buffer(value, writable=annotation == "writable_buffer")
        if annotation == "DevicePointer":
            if isinstance(value, self.classes["DeviceAllocation"]):
                return int(value)  # type: ignore[call-overload]
            return self._integer(value)
        if annotation == "Dims" and isinstance(value, tuple | list):
            return self.classes["Dims"]([self._integer(element) for element in value])
        if match := _SEQUENCE.fullmatch(annotation):
            return [self.convert(match[1], element) for element in _check(value, (list, tuple))]
        simple = {"bool": (bool, np.bool_), "str": str, "tuple": tuple, "list": list}
        simple["numpy.ndarray"] = np.ndarray
        return _check(value, simple.get(annotation) or self.classes.get(annotation, ()))

    def _integer(self, value: object) -> int:
        """Convert an integer; none of the emulated calls takes a negative one."""
        if self._boost:
            number = _check(value, int)
        elif isinstance(value, float | str | bytes) or not hasattr(value, "__int__"):
            raise MismatchError
        elif hasattr(value, "__index__"):
            number = operator.index(value)
        else:
            number = int(value)
        if not 0 <= number < 1 << 64:
            raise MismatchError
        return int(number)


def _check(value: object, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise MismatchError
    return value


def _buffer(value: object, *, writable: bool) -> object:
    try:
        view = memoryview(value)  # type: ignore[arg-type]
    except TypeError:
        raise MismatchError from None
    if writable and view.readonly:
        raise MismatchError
    return value
