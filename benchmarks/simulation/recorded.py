"""A recorded trace as a workload, so that other policies and the oracle can be run on it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from benchmarks.simulation.board import BoardSpec
from ffn_edge.runtime.simulate.replay import Replay
from ffn_edge.runtime.trace import Trace


class KnownReplay(Replay):
    """A `Replay` that tells the oracle what it needs."""

    @property
    def temperature_c(self) -> float | None:
        """As it was recorded."""
        return self._observations[self._number].sensed.temperature_c

    def sustained_w(self) -> list[float]:
        """Return what each frame count draws on average, were these conditions to last."""
        periods_ms = [self.setting.period_of(point) * 1e3 for point in self.setting.points]
        return [
            self._factor * (self._idle_w + engine_w * min(1.0, ms / period_ms if period_ms else 1))
            for engine_w, ms, period_ms in zip(
                self._engine_w, self.latencies_ms, periods_ms, strict=True
            )
        ]


@dataclass(frozen=True, slots=True)
class Recording:
    """A trace as a `run.Workload`."""

    trace: Trace

    @property
    def name(self) -> str:
        """Of its file."""
        return self.trace.name

    @property
    def length_s(self) -> float:
        """From the start of the first inference to the end of the last."""
        return Replay(self.trace, {}).length_s

    def device(self, spec: BoardSpec, seed: int, miss_rate: float) -> KnownReplay:
        """Return the device at the trace's beginning. The trace says all but the miss rate."""
        return KnownReplay(self.trace, {"miss_rate": miss_rate})

    def steps_s(self) -> list[float]:
        """Return when the limits changed."""
        seen = self.trace.observations
        begin_s = seen[0].now - seen[0].latency_ms / 1e3
        return [
            after.now - after.latency_ms / 1e3 - begin_s
            for before, after in pairwise(seen)
            if after.limits != before.limits
        ]
