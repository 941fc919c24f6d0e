"""The state of an emulated machine: device, streams, what was called, and what shall fail."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from .errors import ILLEGAL_ADDRESS, DeviceFailure
from .memory import DeviceMemory, PageLocked
from .streams import Streams

FAULTS = (
    "mem_alloc",
    "pagelocked_empty",
    "deserialize",
    "refit",
    "set_named_weights",
    "create_execution_context",
    "build",
    "parse",
    "execute",
    "execute_refused",
    "stale",
    "wrong",
)


class Machine:
    """What the emulated modules share.

    Attributes:
        version: of TensorRT.
        gpu: the GPU's name; None for a machine without one, and without a driver.
        sm: its compute capability.
        calls: how often "Class.method" and "driver.function" were called.
        uploaded_bytes: host to device.
        downloaded_bytes: device to host.
        copied_bytes: device to device.
        log: what TensorRT told its loggers: severity and message.
        undefined: what was done whose effect on a real device is undefined, in words.
        methods: names of the methods and functions that are emulated, without their classes.
        before: actions by the name of a call, as in `calls`; each is done before such a call.
        on_step: called at each completed step of a build; it may raise, as a signal does.
        pool_bytes: the most that TensorRT's own allocator gets; None is all there is.
        pooled: what it has.
        own_weights: names of constants that this TensorRT makes by itself, and wants back when all
            weights are refitted.
        narrows: whether this TensorRT makes int32 of integers that it wants back then.
    """

    def __init__(
        self, version: str, *, gpu: str | None, sm: tuple[int, int], memory_bytes: int
    ) -> None:
        self.version = version
        self.is_rtx = version.startswith("rtx-")
        self.gpu = gpu
        self.sm = sm
        self.calls: Counter[str] = Counter()
        self.uploaded_bytes = self.downloaded_bytes = self.copied_bytes = 0
        self.log: list[tuple[str, str]] = []
        self.undefined: list[str] = []
        self.methods: set[str] = set()
        self.before: dict[str, Callable[[], object]] = {}
        self.on_step: Callable[[], object] | None = None
        self.memory = DeviceMemory(memory_bytes)
        self.pool_bytes: int | None = None
        self.pooled = 0
        self.own_weights: tuple[str, ...] = ()
        self.narrows = False
        self.page_locked = PageLocked()
        self.streams = Streams()
        self.lock = threading.RLock()
        self.residents: WeakSet[Any] = WeakSet()  # objects that hold something of the device
        self.driver: Any = None  # the state of PyCUDA, where the machine has one
        self.outputs_are_stale = self.outputs_are_wrong = False
        self._faults: list[_Fault] = []

    def fail(self, what: str, nth: int = 1, error: BaseException | str | None = None) -> None:
        """Let the nth following call of `what` fail, in the way in which the real one does.

        Args:
            what: one of `FAULTS`.
            nth: 1 for the next call.
            error: an exception to raise instead, or another text for the failure; for "execute"
                the text is CUDA's: "unspecified launch failure" becomes a LaunchError.
        """
        if what not in FAULTS:
            raise ValueError(f"{what!r} cannot be made to fail; these can: {FAULTS}")
        self._faults.append(_Fault(what, nth, error))

    def count(self, call: str) -> None:
        """Count a call of "Class.method" or "driver.function" that is about to be done."""
        if call in self.before:
            self.before[call]()
        self.calls[call] += 1

    def failure_of(self, what: str) -> str | None:
        """Return the text of the failure that this call of `what` shall have, if any.

        Raises:
            BaseException: what the fault was set up to raise.
        """
        struck: _Fault | None = None
        for fault in [f for f in self._faults if f.what == what]:
            fault.countdown -= 1
            if fault.countdown == 0:
                self._faults.remove(fault)
                struck = fault
        if struck is None:
            return None
        if isinstance(struck.error, BaseException):
            raise struck.error
        return struck.error or ""

    def failure_of_execution(self) -> Callable[[], None] | None:
        """Return what an execution does instead of computing, if it shall fail."""
        text = self.failure_of("execute")
        if self.failure_of("stale") is not None:
            self.outputs_are_stale = True
        if self.failure_of("wrong") is not None:
            self.outputs_are_wrong = True
        if text is None:
            return None

        def fail() -> None:
            raise DeviceFailure(text or ILLEGAL_ADDRESS)

        return fail

    @property
    def calls_async(self) -> bool:
        """Whether TensorRT asks an allocator with a stream: RTX must, and others may do either."""
        return self.version != "10.3.0"

    @property
    def context(self) -> object:
        """The CUDA context of this thread, or None; without PyCUDA, TensorRT makes its own."""
        return self if self.driver is None else self.driver.top()

    def reset_counters(self) -> None:
        """Start counting anew: calls, copied bytes, and the peak of allocated memory."""
        self.calls.clear()
        self.uploaded_bytes = self.downloaded_bytes = self.copied_bytes = 0
        self.memory.peak_bytes = self.memory.live_bytes

    @property
    def live_bytes(self) -> int:
        """Device memory that is allocated now."""
        return self.memory.live_bytes

    @property
    def peak_bytes(self) -> int:
        """The most device memory that was allocated at once."""
        return self.memory.peak_bytes

    @property
    def allocations(self) -> list[tuple[int, int]]:
        """Address and bytes of what is allocated now, in order of allocation."""
        return self.memory.allocations

    @property
    def alive(self) -> list[str]:
        """What still holds something of the device; empty after a clean end."""
        names = sorted(
            type(resident).__name__ for resident in list(self.residents) if resident._is_resident()
        )
        return names + (self.driver.current_contexts() if self.driver else [])


class _Fault:
    def __init__(self, what: str, nth: int, error: BaseException | str | None) -> None:
        self.what = what
        self.countdown = nth
        self.error = error
