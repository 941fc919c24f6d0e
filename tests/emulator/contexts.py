"""CUDA contexts as PyCUDA keeps them: a stack for each thread (`cuda.hpp`).

Two stacks, in fact: PyCUDA's, and that of CUDA's driver below it. They differ where a primary
context is detached: PyCUDA believes that this pops it, and CUDA does not.
"""

from __future__ import annotations

import itertools
import threading
import warnings
from collections import defaultdict
from typing import Any

from . import errors
from .classes import create
from .errors import cuda_error
from .machine import Machine


class CudaContext:
    """What CUDA itself knows of a context."""

    def __init__(self, *, primary: bool) -> None:
        self.primary = primary
        self.retained = 1
        self.handle = next(_handles)

    @property
    def is_alive(self) -> bool:
        """Whether it was not destroyed yet."""
        return self.retained > 0


_handles = itertools.count(0x5EED_0000, 0x10)


class DriverState:
    """What PyCUDA and CUDA's driver know about threads and their contexts."""

    def __init__(self, machine: Machine) -> None:
        self.is_initialized = False
        self._machine = machine
        self._primary: CudaContext | None = None
        self._cuda: defaultdict[int, list[CudaContext]] = defaultdict(list)
        self._pycuda: defaultdict[int, list[Any]] = defaultdict(list)

    def current_contexts(self) -> list[str]:
        """Return a line for each thread that still has a context."""
        return [
            f"a context on the stack of thread {thread}"
            for thread, stack in sorted(self._pycuda.items())
            if any(context._valid for context in stack)
        ]

    def check(self, function: str) -> None:
        """Check what every call of the driver needs that does not free something.

        Raises:
            Error: CUDA is not initialised, no context is current, or the device is lost.
        """
        if not self.is_initialized:
            raise cuda_error(function, errors.NOT_INITIALIZED)
        stack = self._cuda[threading.get_ident()]
        if not stack:
            raise cuda_error(function, errors.INVALID_CONTEXT)
        if not stack[-1].is_alive:
            raise cuda_error(function, errors.CONTEXT_IS_DESTROYED)
        self.check_device(function)

    def check_device(self, function: str) -> None:
        """Check that no queued work has failed.

        Raises:
            Error: it has. Nothing but the end of the process mends that.
        """
        if self._machine.streams.failure is not None:
            raise cuda_error(function, self._machine.streams.failure)

    def top(self) -> CudaContext | None:
        """Return what CUDA itself has on this thread, if it is alive."""
        stack = self._cuda[threading.get_ident()]
        return stack[-1] if stack and stack[-1].is_alive else None

    def current(self) -> Any:
        """Return PyCUDA's current Context, or None."""
        stack = self._pycuda[threading.get_ident()]
        while stack and not stack[-1]._valid:
            stack.pop()
        return stack[-1] if stack else None

    def acquire(self) -> Any:
        """Return the current Context for an object that will belong to it.

        Raises:
            Error: there is none.
        """
        context = self.current()
        if context is None:
            raise cuda_error(
                "explicit_context_dependent",
                errors.INVALID_CONTEXT,
                "no currently active context?",
            )
        return context

    def activate(self, context: Any, kind: str) -> Any:
        """Make an object's context current while the object is freed.

        Returns:
            How to go back; None if the object cannot be freed: its context is gone, or belongs
            to another thread and is not current here. PyCUDA then leaks it.
        """
        if not context._valid:
            return None
        if self.current() is context:
            return lambda: None
        if context._thread != threading.get_ident():
            message = f"{kind} in out-of-thread context could not be cleaned up"
            warnings.warn(message, UserWarning, stacklevel=4)
            return None
        self.push(context)
        return self.pop

    def push(self, context: Any) -> None:
        """`Context.push`."""
        thread = threading.get_ident()
        if self._pycuda[thread]:
            self._pop_cuda()
        if not context._cuda.is_alive:
            raise cuda_error("cuCtxPushCurrent", errors.CONTEXT_IS_DESTROYED)
        self._cuda[thread].append(context._cuda)
        self._pycuda[thread].append(context)

    def pop(self) -> None:
        """`Context.pop`."""
        thread = threading.get_ident()
        stack = self._pycuda[thread]
        if stack:
            self._pop_cuda()
        if not stack:
            raise cuda_error(
                "context::pop", errors.INVALID_CONTEXT, "cannot pop non-current context"
            )
        self.current()
        if not stack:
            raise cuda_error(
                "m_stack::pop", errors.INVALID_CONTEXT, "cannot pop context from empty stack"
            )
        stack.pop()
        if (below := self.current()) is not None:
            self._cuda[thread].append(below._cuda)

    def _pop_cuda(self) -> None:
        stack = self._cuda[threading.get_ident()]
        if not stack:
            raise cuda_error("cuCtxPopCurrent", errors.INVALID_CONTEXT)
        stack.pop()

    def make(self, context_class: type, *, primary: bool) -> Any:
        """Create a context, or retain the device's primary one."""
        if primary:
            if self._primary is None or not self._primary.is_alive:
                self._primary = CudaContext(primary=True)
            else:
                self._primary.retained += 1
            cuda = self._primary
        else:
            cuda = CudaContext(primary=False)
        context = create(context_class, _cuda=cuda, _valid=True, _thread=threading.get_ident())
        self._machine.residents.add(context)
        if not primary:
            thread = threading.get_ident()
            if self._pycuda[thread]:
                self._pop_cuda()
            self._cuda[thread].append(cuda)
            self._pycuda[thread].append(context)
        return context

    def detach(self, context: Any) -> None:
        """`Context.detach`."""
        if not context._valid:
            raise cuda_error(
                "context::detach", errors.INVALID_CONTEXT, "cannot detach from invalid context"
            )
        thread = threading.get_ident()
        was_current = self.current() is context
        cuda = context._cuda
        if was_current or context._thread == thread:
            if not was_current:
                self._cuda[thread].append(cuda)
            self._release(context)
            if not cuda.primary:
                self._cuda[thread].remove(cuda)
        context._valid = False
        if was_current and (below := self.current()) is not None:
            self._cuda[thread].append(below._cuda)

    def _release(self, context: Any) -> None:
        cuda = context._cuda
        cuda.retained -= 1
        if cuda.is_alive:
            return
        left = [
            type(resident).__name__
            for resident in list(self._machine.residents)
            if resident is not context and resident._owner is cuda and resident._is_resident()
        ]
        if left:
            self._machine.undefined.append(
                f"a CUDA context was destroyed under {', '.join(sorted(left))}"
            )
        self._machine.streams.drain_all()
        self._machine.memory.free_all_of(cuda)
