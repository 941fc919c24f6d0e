"""How far a long work is: a bar in a terminal, and elsewhere, as in a log, a line now and then."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

_EVERY_S = 30.0


def line_to(console: Console) -> Callable[[str], None]:
    """Return what prints a line as it is: never broken, and without markup or colours."""
    return functools.partial(console.print, markup=False, highlight=False, soft_wrap=True)


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
def progress(console: Console, what: str) -> Iterator[OnProgress]:
    """Yield a function that shows how far a work is, such as "reading", on a console of stderr."""
    if console.is_terminal:
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        say = NowAndThen(line_to(console))
        yield lambda done, total: say(lambda: f"{what}: {done} of {total}")
