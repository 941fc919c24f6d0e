"""Classes with exactly the members of a recorded surface.

An implementation is a plain class: what it has in common with the surface is taken from it, its
private helpers too. A member that only the surface has raises NotImplementedError when it is
used; one that the surface lacks is no attribute, however well it is implemented.
"""

from __future__ import annotations

import enum
import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from .machine import Machine
from .signatures import MismatchError, Signature, Types, bind_any
from .surface import Member, Surface

_DEPRECATED_WITH = (
    "Context managers for TensorRT types are deprecated. "
    "Memory will be freed automatically when the reference count reaches 0."
)


class _Constructed(type):
    """As pybind11: an instance whose own constructor did not run cannot be used."""

    def __call__(cls, *args: object, **kwargs: object) -> Any:
        instance = super().__call__(*args, **kwargs)
        if not getattr(instance, "_constructed", False):
            base = next(c.__qualname__ for c in cls.__mro__ if "_constructed" in vars(c))
            raise TypeError(f"{base}.__init__() must be called when overriding __init__")
        return instance


def create(cls: type, **state: object) -> Any:
    """Make an instance from within, past the public constructor, with its private state."""
    instance: Any = object.__new__(cls)
    instance._constructed = True
    for name, value in state.items():
        setattr(instance, name, value)
    return instance


def emulated_class(
    name: str,
    surface: Surface,
    implementation: type,
    machine: Machine,
    types: Types,
    bases: tuple[type, ...] = (),
) -> type:
    """Make the class `name` of a surface.

    Args:
        name: a class of the surface.
        surface: of the version that is emulated.
        implementation: where its behaviour comes from; `object` for none.
        machine: the device, which instances reach as `self._machine`.
        types: the module's types; the class is added to them.
        bases: its bases, if it is not a class of its own.
    """
    own: dict[str, Any] = {}
    annotations: dict[str, Any] = {}
    for ancestor in reversed(implementation.__mro__[:-1]):  # without `object`
        own.update(vars(ancestor))
        annotations.update(vars(ancestor).get("__annotations__", {}))
    members = surface.classes[name]
    # What helpers need and nobody sees: private names, and operators that no surface records.
    hidden = ("__init__", "__dict__", "__weakref__", "__module__", "__doc__", "__annotations__")
    namespace: dict[str, Any] = {
        key: value
        for key, value in own.items()
        if key.startswith("_") and key not in hidden and key not in members
    }
    # Its state is what it annotates. As with pybind11, an instance has no other attributes.
    state = annotations.keys() - {"_machine", "_types", "_sets"}
    namespace["__slots__"] = (*state, *(() if bases else ("_constructed", "__weakref__")))
    namespace["_machine"] = machine
    namespace["_types"] = types
    namespace["__doc__"] = implementation.__doc__
    for member, recorded in members.items():
        namespace[member] = _member(name, member, recorded, own, machine, types)
    if "__init__" not in members:
        namespace["__init__"] = _no_constructor(name)
    cls = _Constructed(name, bases, namespace)
    types.classes[name] = cls
    return cls


def _member(
    cls: str,
    name: str,
    recorded: Member,
    own: Mapping[str, Any],
    machine: Machine,
    types: Types,
) -> object:
    if name == "__enter__":
        return _enter
    if name == "__exit__":
        return lambda self, *error: None
    if recorded == "property":
        return _property(cls, name, own, types)
    if isinstance(recorded, str):
        if name == "__init__":
            return _no_constructor(cls)
        return own.get(name)
    return _method(cls, name, recorded, own.get(name), machine, types)


def _method(
    cls: str,
    name: str,
    lines: tuple[str, ...],
    function: Any,
    machine: Machine,
    types: Types,
) -> object:
    if function is None and name != "__init__":
        return _absent(f"{cls}.{name}")
    signatures = Signature.parse(lines)
    machine.methods.add(name)
    if isinstance(function, staticmethod):
        function = function.__func__

    def call(self: object, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        positional, keywords = bind_any(name, signatures, args, kwargs, types)
        machine.count(f"{cls}.{name}")
        if name == "__init__":
            self._constructed = True  # type: ignore[attr-defined]
            if function is None:
                return None
        return function(self, *positional, **keywords)

    if signatures[0].is_static:
        # PyCUDA's static methods concern a device, so they are given the machine.
        return staticmethod(lambda *args, **kwargs: call(machine, args, kwargs))

    def method(self: object, *args: object, **kwargs: object) -> object:
        return call(self, args, kwargs)

    method.__name__ = method.__qualname__ = name
    return method


def _property(cls: str, name: str, own: Mapping[str, Any], types: Types) -> property:
    implemented = own.get(name)
    if not isinstance(implemented, property):
        absent = _absent(f"{cls}.{name}")
        return property(absent, absent)
    setter = implemented.fset
    if setter is None:
        return property(implemented.fget)
    # Types that only the emulated module has are no annotations here.
    annotation = own.get("_sets", {}).get(name) or setter.__annotations__["value"]

    def assign(self: object, value: object) -> None:
        try:
            converted = types.convert(annotation, value)
        except MismatchError:
            raise TypeError(
                f"(): incompatible function arguments: {cls}.{name} takes {annotation}, "
                f"got {value!r}"
            ) from None
        setter(self, converted)

    return property(implemented.fget, assign)


def _absent(name: str) -> Callable[..., NoReturn]:
    def absent(*args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(f"the emulator has no {name}")

    return absent


def _no_constructor(cls: str) -> Callable[..., None]:
    def constructor(self: object, *args: object, **kwargs: object) -> None:
        raise TypeError(f"{cls}: No constructor defined!")

    return constructor


def _enter(self: object) -> object:
    warnings.warn(_DEPRECATED_WITH, DeprecationWarning, stacklevel=2)
    return self


def emulated_function(
    name: str,
    lines: tuple[str, ...],
    function: Callable[..., object] | None,
    machine: Machine,
    types: Types,
) -> Callable[..., object]:
    """Make a function of a module; the implementation is given the machine first."""
    if function is None:
        return _absent(name)
    signatures = Signature.parse(lines)
    machine.methods.add(name)

    def call(*args: object, **kwargs: object) -> object:
        positional, keywords = bind_any(name, signatures, args, kwargs, types)
        machine.count(f"driver.{name}")
        return function(machine, *positional, **keywords)

    return functools.update_wrapper(call, function)


class _Number:
    """What makes a member of an enum an integer where one is asked for, and nowhere else."""

    value: int

    def __int__(self) -> int:
        return self.value

    __index__ = __int__


def emulated_enum(name: str, members: tuple[str, ...], first: int) -> type:
    """Make an enum whose integers start at `first`: they are no part of any surface."""
    values = {member: first + i for i, member in enumerate(sorted(members))}
    return enum.Enum(name, values, type=_Number)  # type: ignore[return-value]
