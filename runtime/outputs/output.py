"""What every output is given, and what it tells of itself."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

from ffn_edge.runtime.classifier import Result
from ffn_edge.runtime.events.event import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How an output does.

    Attributes:
        name: such as "mqtt".
        sent: what arrived, since the start.
        dropped: what never will, since the start.
        waiting: what is still to be sent.
        fault: why nothing arrives now; None where all is well.
    """

    name: str
    sent: int = 0
    dropped: int = 0
    waiting: int = 0
    fault: str | None = None


class Output:
    """Takes events and results: `with output: output.event(event)`.

    `result` and `event` return at once, whatever the other end does: what takes time belongs to a
    thread of the output's own, behind a queue with an end.
    """

    def __enter__(self) -> Output:
        """Begin. An other end that is away is no error: it may come."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End within some seconds; what must arrive and did not is on the disk."""

    def result(self, result: Result) -> None:
        """Take a result, in the thread that infers."""

    def event(self, event: Event) -> None:
        """Take an event that began (`end_s` is None) or ended, in the thread that infers."""

    def status(self) -> Status | None:
        """Tell how it does; None of one that cannot fail. From any thread."""
        return None
