"""What a part prints: one Markdown table, row by row, so that one that is cut off shows its half.

| check                                          | result | figure                               |
"""

from __future__ import annotations

import sys
import textwrap
import traceback
from collections.abc import Callable
from itertools import zip_longest

_WIDTHS = (46, 6, 38)  # a line has 100 characters
SKIPPED = 77  # the exit code of a part of which nothing could be run, as automake has it


class Report:
    """The table of one part.

    Attributes:
        dry_run: whether this only shows that the part runs, without a GPU.
    """

    def __init__(self, title: str, *, dry_run: bool) -> None:
        self.dry_run = dry_run
        self._results: list[bool | None] = []
        print(f"\n### {title}{' (dry run)' if dry_run else ''}\n")
        self._line("check", "result", "figure")
        print("|" + "|".join("-" * (width + 2) for width in _WIDTHS) + "|", flush=True)

    def row(self, check: str, passed: bool | None, figure: str = "") -> None:
        """Print a row; None for what was skipped, with the reason as its figure."""
        self._results.append(passed)
        self._line(check, {True: "pass", False: "FAIL", None: "skip"}[passed], figure)

    def fact(self, what: str, figure: str) -> None:
        """Print a row of what was not checked."""
        self._line(what, "", figure)

    def run(self, check: str, action: Callable[[], str]) -> bool:
        """Run a check, which returns its figure and fails by raising; print its row."""
        try:
            figure = action()
        except Exception as error:
            traceback.print_exc()
            self.row(check, False, f"{type(error).__name__}: {error}")
            return False
        self.row(check, True, figure)
        return True

    @property
    def exit_code(self) -> int:
        """0 if nothing failed, 1 if something did, `SKIPPED` if nothing was run."""
        if False in self._results or not self._results:
            return 1
        return 0 if True in self._results else SKIPPED

    def _line(self, *cells: str) -> None:
        wrapped = [textwrap.wrap(cell, width) for cell, width in zip(cells, _WIDTHS, strict=True)]
        for parts in zip_longest(*wrapped, fillvalue=""):
            padded = (part.ljust(width) for part, width in zip(parts, _WIDTHS, strict=True))
            print(f"| {' | '.join(padded)} |", flush=True)


def run_part(title: str, body: Callable[[Report], None]) -> None:
    """Run a part as a program, with or without --dry-run; exit as its report says."""
    report = Report(title, dry_run="--dry-run" in sys.argv[1:])
    try:
        body(report)
    except Exception as error:
        traceback.print_exc()
        report.row("the part as a whole", False, f"{type(error).__name__}: {error}")
    sys.exit(report.exit_code)
