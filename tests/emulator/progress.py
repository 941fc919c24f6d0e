"""The progress that a build reports.

As seen of TensorRT for RTX 1.7.1: phases in phases, some of which end before their last step; a
monitor's exception never reaches the caller, it is printed and ends the build as False does.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from .machine import Machine


class BuildCancelledError(Exception):
    """A build ends without a plan; the text is for the log."""


class Progress:
    """Goes through the phases of one build."""

    def __init__(self, machine: Machine, monitor: Any) -> None:
        self._machine = machine
        self._monitor = monitor

    def run(self, layers: Sequence[str]) -> None:
        """Report a build of these layers.

        Raises:
            BuildCancelledError: the monitor ended it.
        """
        root = "Building engine" if self._machine.is_rtx else "Building Engine"

        def root_steps() -> None:
            self._phase("Cloning network graph", root, 5)
            self._step(root, 0)
            self._phase("Preparing graph for optimization", root, 4)
            self._step(root, 1)
            self._phase("Building engine from subgraph", root, 1, subgraph)

        def subgraph() -> None:
            self._phase("Optimizing graph", "Building engine from subgraph", 30)
            self._phase("Computing profile costs", "Building engine from subgraph", 1, costs)

        def costs() -> None:
            self._phase("Timing graph nodes", "Computing profile costs", len(layers))

        self._phase(root, None, 6, root_steps)

    def _phase(
        self, name: str, parent: str | None, steps: int, body: Callable[[], None] | None = None
    ) -> None:
        self._tell("phase_start", name, parent, steps)
        try:
            if body is not None:
                body()
            else:
                for step in range(steps):
                    self._step(name, step)
        finally:
            self._tell("phase_finish", name)

    def _step(self, phase: str, step: int) -> None:
        goes_on: Any = True
        if self._monitor is None:
            if self._machine.on_step is not None:
                self._machine.on_step()
        else:
            goes_on = self._tell("step_complete", phase, step)
        if not goes_on:
            raise BuildCancelledError("7: BuildCanceled (Build canceled by user)")

    def _tell(self, method: str, *arguments: object) -> Any:
        if self._monitor is None:
            return None
        try:
            if method == "step_complete" and self._machine.on_step is not None:
                self._machine.on_step()
            self._machine.count(f"IProgressMonitor.{method}")
            return getattr(self._monitor, method)(*arguments)
        except BaseException as error:  # KeyboardInterrupt too
            print(f"[ERROR] Exception caught in {method}(): {error!r}", file=sys.stderr)
            traceback.print_tb(error.__traceback__)
            return False
