"""What a run amounted to. Memory does not grow with the run."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from ffn_edge.bundle.bundle import Precision
from ffn_edge.errors import VideoError, counted, printable
from ffn_edge.runtime.classifier import Result
from ffn_edge.runtime.stream.window import Restart

_BIN = math.log(1.01)  # latencies are counted in bins of 1 %


@dataclass(slots=True)
class _AtFrames:
    """The inferences with one frame count."""

    precision: Precision
    inferences: int = 0
    seconds: float = 0.0
    misses: int = 0
    most_ms: float = 0.0
    bins: Counter[int] = field(default_factory=Counter)

    def quantile_ms(self, quantile: float) -> float:
        """Return an empirical quantile of the latency, to half a bin: 0.5 %."""
        rank = math.ceil(quantile * self.inferences)
        for number in sorted(self.bins):
            rank -= self.bins[number]
            if rank <= 0:
                return min(math.exp((number + 0.5) * _BIN), self.most_ms)
        return self.most_ms


class Summary:
    """Counts the results of a run as they come."""

    def __init__(self) -> None:
        self._deadline_ms: float | None = None  # the latest that there was
        self._by_frames: dict[int, _AtFrames] = {}
        self._last: Result | None = None
        self._switches = 0
        self._restarts: Counter[Restart] = Counter()  # of a stream's engines; none of clips
        self._interruptions = 0
        self._overhead_ms = 0.0
        self._burst = self._longest_burst = 0
        self._energy_j: float | None = None
        self._measured = 0  # results whose energy is known, with or by the next one
        self._over_current = 0
        self._escalated = 0
        self._skipped: list[str] = []

    @property
    def inferences(self) -> int:
        """How many results were counted."""
        return sum(at.inferences for at in self._by_frames.values())

    def write(self, result: Result) -> None:
        """Count a result. The time until the next one belongs to its frame count."""
        if self._last is not None:
            before = self._last.frames
            self._by_frames[before].seconds += result.elapsed_s - self._last.elapsed_s
            self._switches += self._last.decision.frames != result.decision.frames
            of_same = result.source == self._last.source
            self._interruptions += of_same and result.restart == "start"
        if result.restart is not None:
            self._restarts[result.restart] += 1
        self._deadline_ms = result.observation.limits.latency_ms or self._deadline_ms
        at = self._by_frames.setdefault(result.frames, _AtFrames(result.precision))
        at.inferences += 1
        at.misses += result.missed
        self._burst = self._burst + 1 if result.missed else 0
        self._longest_burst = max(self._longest_burst, self._burst)
        self._escalated += len(result.observation.ran) > 1
        sensed = result.observation.sensed
        self._over_current += sensed.over_current
        self._measured += sensed.fault is None
        if sensed.energy_j is not None:
            self._energy_j = (self._energy_j or 0.0) + sensed.energy_j
        at.most_ms = max(at.most_ms, result.latency_ms)
        at.bins[math.floor(math.log(result.latency_ms) / _BIN)] += 1
        self._overhead_ms += result.overhead_ms
        self._last = result

    def skip(self, name: str, error: VideoError) -> None:
        """Note a video that was skipped."""
        self._skipped.append(f"{printable(name)}: {error.message}")

    def fields(self) -> dict[str, Any]:
        """Return all figures, ready for JSON."""
        misses = sum(at.misses for at in self._by_frames.values())
        energy_j = self._energy_j
        return {
            "inferences": self.inferences,
            "switches": self._switches,
            "deadline_ms": self._deadline_ms,
            "misses": misses,
            "miss_rate": round(misses / max(1, self.inferences), 4),
            "longest_burst": self._longest_burst,
            "energy_j": None if energy_j is None else round(energy_j, 3),
            "energy_per_frame_j" if self._restarts else "energy_per_clip_j": None
            if energy_j is None
            else round(energy_j / max(1, self._measured), 4),
            "over_current": self._over_current,
            "escalated": self._escalated,
            "interruptions": self._interruptions,
            "not_finite": self._restarts["not finite"],
            "mean_overhead_ms": round(self._overhead_ms / max(1, self.inferences), 3),
            "skipped": self._skipped,
            "frames": {
                frames: {
                    "precision": at.precision,
                    "inferences": at.inferences,
                    "seconds": round(at.seconds, 3),
                    "p50_ms": round(at.quantile_ms(0.5), 3),
                    "p95_ms": round(at.quantile_ms(0.95), 3),
                    "max_ms": round(at.most_ms, 3),
                    "misses": at.misses,
                }
                for frames, at in sorted(self._by_frames.items())
            },
        }

    def table(self) -> Table:
        """Return the figures as a table for the terminal."""
        figures = self.fields()
        title = [
            counted(figures["inferences"], "frame" if self._restarts else "inference"),
            counted(figures["switches"], "switch", "switches"),
        ]
        if self._deadline_ms:
            title.append(f"deadline {self._deadline_ms:g} ms missed by {figures['miss_rate']:.1%}")
        elif figures["misses"]:
            title.append(f"later than the next frame: {figures['miss_rate']:.1%}")
        if figures["longest_burst"] > 1:
            title.append(f"at most {figures['longest_burst']} in a row")
        for each in ("clip", "frame"):
            if figures.get(f"energy_per_{each}_j") is not None:
                title.append(f"{figures[f'energy_per_{each}_j']:.3g} J a {each}")
        if figures["escalated"]:
            title.append(f"{figures['escalated']} escalated")
        if figures["interruptions"]:
            title.append(counted(figures["interruptions"], "interruption"))
        if figures["not_finite"]:
            title.append(f"{counted(figures['not_finite'], 'state')} not finite")
        if figures["over_current"]:
            title.append(counted(figures["over_current"], "over-current event"))
        table = Table(
            title=" · ".join(title),
            caption=f"around the engine: {figures['mean_overhead_ms']:.2f} ms on average"
            + "".join(f"\nskipped {line}" for line in self._skipped),
        )
        for heading in ("frames", "precision", "inferences", "time", "p50", "p95", "max", "missed"):
            table.add_column(heading, justify="right")
        for frames, at in figures["frames"].items():
            table.add_row(
                str(frames),
                at["precision"],
                str(at["inferences"]),
                f"{at['seconds']:.1f} s",
                *(f"{at[key]:.1f} ms" for key in ("p50_ms", "p95_ms", "max_ms")),
                str(at["misses"]) if self._deadline_ms or figures["misses"] else "–",
            )
        return table
