"""What `ffn-edge build` shows: a bar while TensorRT works, then a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from rich.progress import Progress, TaskID
from rich.table import Table

from ffn_edge.device.tensorrt_api import PRODUCTS
from ffn_edge.export.tensorrt_plan import Built
from ffn_edge.progress import NowAndThen


class BuildProgress:
    """A bar for each phase of a build that is under way; TensorRT nests them.

    Where there is no terminal for bars, it says now and then how far the phase at hand is.
    """

    def __init__(self, bar: Progress, say: Callable[[str], None]) -> None:
        self._bar = bar
        self._say = NowAndThen(say)
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of a phase are done."""
        if self._bar.disable:
            self._say(lambda: f"{phase}: {done} of {total}")
            return
        if phase not in self._tasks:
            self._tasks[phase] = self._bar.add_task(phase, total=total)
        self._bar.update(self._tasks[phase], completed=done)
        if done >= total:
            self._bar.remove_task(self._tasks.pop(phase))


def build_summary(built: Sequence[Built]) -> str:
    """Return what all engines have in common, in one line."""
    plan = built[0].plan
    weights = "their weights" if plan.sidecar.key.refit == "none" else "no weights"
    product = PRODUCTS[plan.sidecar.key.target]
    tried = "" if plan.sidecar.deviation is not None else "; not tried here, without a GPU"
    return (
        f"{product} {plan.sidecar.key.tensorrt_version}; the engines hold {weights}, "
        f"in {plan.path.parent}{tried}"
    )


def build_fields(built: Sequence[Built]) -> list[dict[str, Any]]:
    """Return what was built, ready for JSON."""
    return [
        {
            "frames": each.plan.sidecar.key.frames,
            "path": str(each.plan.path),
            "bytes": each.plan.sidecar.plan.bytes,
            "reused": each.reused,
            "build_seconds": each.plan.sidecar.build_seconds,
            "deviation": each.plan.sidecar.deviation,
            "flags": list(each.plan.sidecar.flags),
            **dataclasses.asdict(each.plan.sidecar.key),
        }
        for each in built
    ]


def build_table(built: Sequence[Built]) -> Table:
    """Return what was built as a table for the terminal."""
    key = built[0].plan.sidecar.key
    where = "RTX GPUs" if key.sm == "any" else f"{key.gpu}, SM {key.sm}"
    table = Table(title=f"{key.architecture} in {key.precision} for {where}", min_width=60)
    for heading in ("frames", "engine", "built in", "", "off by, of the largest logit"):
        table.add_column(heading, justify="right")
    for each in built:
        table.add_row(
            str(each.plan.sidecar.key.frames),
            f"{each.plan.sidecar.plan.bytes / 1e6:.2f} MB",
            f"{each.plan.sidecar.build_seconds:.1f} s",
            "from the cache" if each.reused else "new",
            "–" if (off := each.plan.sidecar.deviation) is None else f"{off:.1e}",
        )
    return table
