"""How far a long work is: a bar in a terminal, and elsewhere, as in a log, a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import Progress

from ffn_edge.terminal import Terminal

_EVERY_S = 30.0


OnProgress = Callable[[int, int], None]  # is told how many are done, and of how many


class NowAndThen:
    """Says how far a work is, at most once in 30 s; what is done within them goes unsaid."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._said = time.monotonic()

    def __call__(self, text: Callable[[], str]) -> None:
        """Say `text()`, if it is time."""
        now = time.monotonic()
        if now - self._said >= _EVERY_S:
            self._said = now
            self._say(text())


@contextmanager
def progress(console: Terminal, what: str) -> Iterator[OnProgress]:
    """Yield a function that shows how far a work is, such as "reading", on a console of stderr."""
    if console.is_terminal:
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        say = NowAndThen(console.say)
        yield lambda done, total: say(lambda: f"{what}: {done} of {total}")
