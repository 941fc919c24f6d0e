"""When to read a sensor, and how well that was kept. No clock."""

from __future__ import annotations

import math


class Schedule:
    """Times that are one period apart, and do not drift.

        schedule = Schedule(0.05)
        schedule.start(time.monotonic())
        while not must_end.wait(max(0.0, schedule.due_s - time.monotonic())):
            schedule.begin(time.monotonic())
            ...
            schedule.end(time.monotonic())

    Attributes:
        due_s: when the next round is to begin.
        rounds: how many were begun.
        missed: how many rounds were not begun, because another one took longer than a period.
        latest_s: by how much a round was late, at worst.
    """

    def __init__(self, period_s: float) -> None:
        """Remember the period. Nothing is due before `start`."""
        self._period_s = period_s
        self.due_s = math.inf
        self.missed = 0
        self.latest_s = 0.0
        self._late_s = 0.0
        self.rounds = 0

    def start(self, now: float) -> None:
        """Make the first round due now."""
        self.due_s = now

    @property
    def late_s(self) -> float:
        """By how much a round was late, on average."""
        return self._late_s / max(1, self.rounds)

    def begin(self, now: float) -> None:
        """Note that a round begins."""
        late_s = now - self.due_s
        self.rounds += 1
        self._late_s += late_s
        self.latest_s = max(self.latest_s, late_s)

    def end(self, now: float) -> None:
        """Note that it is over, and find when the next one is due."""
        passed = int((now - self.due_s) / self._period_s)  # due times, beside the next
        self.missed += passed
        self.due_s += (1 + passed) * self._period_s
