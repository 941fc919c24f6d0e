"""How long it takes to start: `ffn-edge --help` as a process, `import ffn_edge` inside one.

    python -m benchmarks.startup

The longest time is the more telling one: a first start reads from the disk.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import click
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine

IMPORT = "import time; t = time.perf_counter(); import ffn_edge; print(time.perf_counter() - t)"


def help_seconds() -> float:
    """Seconds from starting `ffn-edge --help` to its end."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "ffn_edge", "--help"], stdout=subprocess.DEVNULL, check=True
    )
    return time.perf_counter() - start


def import_seconds() -> float:
    """Seconds of `import ffn_edge` in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


@click.command()
@click.option("--runs", default=11, show_default=True)
def main(runs: int) -> None:
    """Print a table of start-up times."""
    table = Table(title="starting", caption=f"{describe_machine()}; {runs} runs after one")
    for heading in ("what", "median, s", "most, s", "target, s"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for name, measure, target in (
        ("ffn-edge --help", help_seconds, 0.3),
        ("import ffn_edge", import_seconds, 0.1),
    ):
        measure()
        seconds = [measure() for _ in range(runs)]
        table.add_row(name, f"{statistics.median(seconds):.3f}", f"{max(seconds):.3f}", f"{target}")
    Console().print(table)


if __name__ == "__main__":
    main()
