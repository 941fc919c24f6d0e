"""What a simulated board meets, on any board or on one of its own.

Deadlines are in base latencies of the most frames, budgets lie between what two frame counts draw
(see `board.Phase`), so that the same scenario fits any board.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, cycle, takewhile

from benchmarks.simulation.board import Board, BoardSpec, Phase
from ffn_edge.runtime.policy.interface import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Phases, and how often they come.

    Attributes:
        name: what people call it.
        about: what happens, and where its constants come from.
        phases: played over and over ...
        length_s: ... for so long.
        battery: a budget for the whole length instead of one at any time, on the scale of
            `Phase.power`; None is no battery.
        streams: the frame counts are rates of a stream; see `BoardSpec.streaming`.
        board: its own, for what a board is like; None takes the one that is simulated.
    """

    name: str
    about: str
    phases: tuple[Phase, ...]
    length_s: float = 600.0
    battery: float | None = None
    streams: bool = False
    board: BoardSpec | None = None

    def spec(self, spec: BoardSpec) -> BoardSpec:
        """Return what the board is like, where `spec` is the one that is simulated."""
        spec = self.board or spec
        return spec.streaming() if self.streams else spec

    def device(self, spec: BoardSpec, seed: int, miss_rate: float) -> Board:
        """Return a board at the scenario's beginning, with these limits."""
        spec = self.spec(spec)
        most_ms = spec.points[-1].base_ms
        battery_j = None if self.battery is None else spec.budget_w(self.battery) * self.length_s
        limits = [
            Limits(
                latency_ms=None if phase.deadline is None else phase.deadline * most_ms,
                miss_rate=miss_rate,
                power_w=None if phase.power is None else spec.budget_w(phase.power),
                battery_j=battery_j,
                until_s=None if battery_j is None else self.length_s,
            )
            for phase in self.phases
        ]
        return Board(spec, self.phases, limits, seed)

    def steps_s(self) -> list[float]:
        """Return when a phase begins, the first one left out."""
        ends = accumulate(phase.duration_s for phase in cycle(self.phases))
        return list(takewhile(lambda end: end < self.length_s, ends))
