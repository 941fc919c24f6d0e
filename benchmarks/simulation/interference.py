"""Recorded interference: what every engine took at (almost) the same moment, and its replay.

`ffn-edge run --record` knows the engine that ran alone. Here each line is a round, in which every
engine ran once, so that whatever a policy chooses, it is judged by a latency that was measured.
`benchmarks/interference.py` and `benchmarks/gpu/traces.py` record it. JSON lines in a gzip file:

    {"schema_version": 1, "machine": "...", "load": "...", "period_s": 0.25, "idle_w": 71.3,
     "engines": [{"frames": 4, "profiled_ms": [1.91, 1.93], "power_w": 180.2}, {"frames": 8, ...}]}
    {"time_s": 0.0, "level": 0.6, "latency_ms": [1.93, 3.7], "power_w": 91.2, "clocks_mhz": [1980]}
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.simulation.board import BoardSpec
from ffn_edge.errors import FfnEdgeError, reason_of
from ffn_edge.files import schema
from ffn_edge.files.atomic import atomic_file
from ffn_edge.files.regular_file import read_bytes
from ffn_edge.files.schema import Above0, Format, NotNegative, Positive, Share
from ffn_edge.runtime.policy.interface import Limits, OperatingPoint, Sensed, Setting
from ffn_edge.runtime.profile.profile import Latency

SCHEMA_VERSION = 1
TRACES = Path(__file__).with_name("traces")  # that are stored
_MOST_BYTES = 16 << 20  # packed; and of the text ...
_MOST_TEXT = 256 << 20
_HINT = "record it again with `python -m benchmarks.interference`."

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEngine:
    """An engine, without load.

    Attributes:
        frames: its frame count.
        profiled_ms: its latencies.
        accuracy: in 0..1; None if it is not known, as of a network that was not trained.
        power_w: what it draws while it works, above the idle machine; None if not measured.
    """

    frames: Positive
    profiled_ms: tuple[Above0, ...]
    accuracy: Share | None = None
    power_w: NotNegative | None = None

    def __post_init__(self) -> None:
        if not self.profiled_ms:
            raise ValueError(f"{self.frames} frames have no profiled latency")

    @property
    def latency(self) -> Latency:
        """Its profile."""
        return Latency(tuple(sorted(self.profiled_ms)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What was recorded, and where.

    Attributes:
        machine: in words, with what else ran on it.
        load: what competed, and what its levels are, in words.
        period_s: from the start of a round to that of the next.
        engines: by ascending frame count.
        idle_w: what the machine draws when no engine works; None if not measured.
    """

    machine: str
    load: str
    period_s: Above0
    engines: tuple[RecordedEngine, ...]
    idle_w: NotNegative | None = None

    def __post_init__(self) -> None:
        frames = [engine.frames for engine in self.engines]
        if not frames or frames != sorted(set(frames)):
            raise ValueError("no engine, or their frame counts do not ascend")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Every engine, once.

    Attributes:
        time_s: when it began, from the start of the first round.
        level: of the load, in 0..1.
        latency_ms: of each engine.
        power_w: what the meter says at its end; None if there is none.
        clocks_mhz: of the GPU and the memory, where they are known.
    """

    time_s: NotNegative
    level: Share
    latency_ms: tuple[Above0, ...]
    power_w: NotNegative | None = None
    clocks_mhz: tuple[Above0, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Interference:
    """A recording of N rounds of E engines.

    Attributes:
        name: of its file.
        conditions: what was recorded, and where.
        time_s: float64 (N,), ascending from 0.
        level: float64 (N,), in 0..1.
        latency_ms: float64 (N, E).
        power_w: float64 (N,); None if there was no meter.
        clocks_mhz: float64 (N, C), C clocks; as many as are known.
    """

    name: str
    conditions: Conditions
    time_s: Values
    level: Values
    latency_ms: Values
    power_w: Values | None
    clocks_mhz: Values


def write_interference(path: Path, conditions: Conditions, rounds: Sequence[Round]) -> None:
    """Write a recording, atomically.

    Raises:
        WriteError: the folder cannot be written, or the disk is full.
    """
    head = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(conditions)}
    write_lines(path, [head, *map(dataclasses.asdict, rounds)])


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write packed JSON lines, atomically. Raises a `WriteError`."""
    text = "\n".join(map(json.dumps, lines))
    with atomic_file(path) as temporary:
        # Without a time the same lines are the same bytes.
        temporary.write_bytes(gzip.compress(text.encode(), mtime=0))


def read_interference(path: Path) -> Interference:
    """Read a recording.

    Raises:
        FfnEdgeError: it cannot be read, is damaged, or holds no round; a broken line is not
            passed over.
    """
    head, *lines = _lines(path)
    conditions = _FORMAT.from_text(head, str(path))
    rounds: list[Round] = []
    for number, line in enumerate(lines, start=2):
        try:
            this = schema.parse(Round, schema.load(line))
            if len(this.latency_ms) != len(conditions.engines):
                raise ValueError(f"there are {len(conditions.engines)} engines")
            if this.time_s <= rounds[-1].time_s if rounds else this.time_s > 0:
                raise ValueError("time does not go forward from 0")
            if rounds and _sensors(this) != _sensors(rounds[0]):
                raise ValueError("the sensors are not those of the first round")
        except ValueError as error:
            raise FfnEdgeError(f"{path} is damaged in line {number}: {error}", _HINT) from error
        rounds.append(this)
    if not rounds:
        raise FfnEdgeError(f"{path} holds no round", _HINT)
    has_power, _ = _sensors(rounds[0])
    return Interference(
        name=path.name.partition(".")[0],
        conditions=conditions,
        time_s=np.array([each.time_s for each in rounds]),
        level=np.array([each.level for each in rounds]),
        latency_ms=np.array([each.latency_ms for each in rounds]),
        power_w=np.array([each.power_w for each in rounds]) if has_power else None,
        clocks_mhz=np.array([each.clocks_mhz for each in rounds]),
    )


def _lines(path: Path) -> list[str]:
    try:
        decompressor = zlib.decompressobj(wbits=31)  # of gzip
        data = decompressor.decompress(read_bytes(path, _MOST_BYTES), _MOST_TEXT)
        if not decompressor.eof:
            raise ValueError("it is cut off, or too long")
        return data.decode().splitlines() or [""]
    except OSError as error:
        raise FfnEdgeError(f"{path} cannot be read: {reason_of(error)}", _HINT) from error
    except (zlib.error, ValueError) as error:
        raise FfnEdgeError(f"{path} is damaged: {error}", _HINT) from error


def _sensors(each: Round) -> tuple[bool, int]:
    return each.power_w is not None, len(each.clocks_mhz)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A recording as a `run.Workload`.

    Attributes:
        recorded: what was recorded.
        deadline: in profiled 95 % latencies of the most frames; None is no deadline.
        accuracy: by frame count, in place of what was recorded: of an untrained network none is.
    """

    recorded: Interference
    deadline: float | None
    accuracy: Mapping[int, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its file."""
        return self.recorded.name

    @property
    def length_s(self) -> float:
        """To the end of the last round's period."""
        return float(self.recorded.time_s[-1]) + self.recorded.conditions.period_s

    def device(self, spec: BoardSpec, seed: int, miss_rate: float) -> MeasuredDevice:
        """Return the device at the recording's beginning; nothing is random, no board simulated."""
        most = self.recorded.conditions.engines[-1].latency
        latency_ms = None if self.deadline is None else self.deadline * most.quantile_ms(0.95)
        limits = Limits(latency_ms=latency_ms, miss_rate=miss_rate)
        return MeasuredDevice(self.recorded, self._setting(), limits)

    def steps_s(self) -> list[float]:
        """Return when the load's level changed."""
        changed = np.flatnonzero(np.diff(self.recorded.level)) + 1
        return [float(each) for each in self.recorded.time_s[changed]]

    def _setting(self) -> Setting:
        conditions = self.recorded.conditions
        latencies = {engine.frames: engine.latency for engine in conditions.engines}
        return Setting(
            points=[
                OperatingPoint(
                    frames=engine.frames,
                    base_ms=engine.latency.base_ms,
                    accuracy=self.accuracy.get(engine.frames, engine.accuracy),
                    power_w=engine.power_w,
                )
                for engine in conditions.engines
            ],
            ratios=sorted(
                sample_ms / latency.base_ms
                for latency in latencies.values()
                for sample_ms in latency.samples_ms
            ),
            idle_w=conditions.idle_w,
            period_s=conditions.period_s,
        )


class MeasuredDevice:
    """A `KnownDevice` whose engines take what each of them took in the round nearest in time.

    The power that was measured is of all engines' turns together, so it says little of one choice:
    here it is the idle machine's and the engine's own while it works, where both were measured.

    Attributes:
        latencies_ms: how long each frame count would take now.
    """

    source_frames = None
    next_s = None  # at the setting's pace
    temperature_c = None

    def __init__(self, recorded: Interference, setting: Setting, limits: Limits) -> None:
        """Start at the beginning of a recording."""
        self.setting = setting
        self.limits = limits
        self.energy_j = 0.0
        self._recorded = recorded
        powers_w = [point.power_w for point in setting.points]
        self._has_power = setting.idle_w is not None and None not in powers_w
        self._idle_w = (setting.idle_w or 0.0) if self._has_power else 0.0
        self._engine_w = [(power_w or 0.0) * self._has_power for power_w in powers_w]
        self._now = self._sensed_s = self._sensed_j = 0.0
        self.latencies_ms: list[float] = []
        self.begin(0.0)

    def begin(self, now: float) -> list[float]:
        """Return how long each frame count would take, in ms, were it started now."""
        time_s = self._recorded.time_s
        after = min(int(np.searchsorted(time_s, now)), len(time_s) - 1)
        before = max(0, after - 1)
        self._number = before if now - time_s[before] < time_s[after] - now else after
        self.latencies_ms = self._recorded.latency_ms[self._number].tolist()
        return self.latencies_ms

    def sustained_w(self) -> list[float]:
        """Return what each frame count draws on average, were these conditions to last."""
        periods_ms = [self.setting.period_of(point) * 1e3 for point in self.setting.points]
        return [
            self._idle_w + engine_w * min(1.0, ms / period_ms)
            for engine_w, ms, period_ms in zip(
                self._engine_w, self.latencies_ms, periods_ms, strict=True
            )
        ]

    def work(self, index: int, until: float) -> None:
        """Run the engine of `setting.points[index]` to a time."""
        self._draw(self._idle_w + self._engine_w[index], until)

    def rest(self, until: float) -> None:
        """Run no engine to a time."""
        self._draw(self._idle_w, until)

    def sense(self, now: float) -> Sensed:
        """Return the clocks of the round, and the power where it is known."""
        energy_j, elapsed_s = self.energy_j - self._sensed_j, now - self._sensed_s
        self._sensed_j, self._sensed_s = self.energy_j, now
        clocks_mhz = tuple(self._recorded.clocks_mhz[self._number].tolist())
        if not self._has_power:
            return Sensed(clocks_mhz=clocks_mhz)
        return Sensed(power_w=energy_j / elapsed_s, energy_j=energy_j, clocks_mhz=clocks_mhz)

    def _draw(self, power_w: float, until: float) -> None:
        self.energy_j += power_w * (until - self._now)
        self._now = until


_FORMAT = Format(
    cls=Conditions, versions=(SCHEMA_VERSION,), kind="a recorded interference", hint=_HINT
)
