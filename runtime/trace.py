"""Recorded traces: what a policy saw on a device, as JSON lines.

The first line says what was run, every other line is an inference:

    {"schema_version": 1, "conditions": {...}, "limits": {...}, "setting": {"points": [...], ...}}
    {"now": 12.31, "frames": 8, "latency_ms": 41.2, "power_w": 6.4, "energy_j": 1.6,
     "temperature_c": 51.5, "over_current": 0, "fault": null, "throttled": null}

Time is in seconds on the recorder's clock. A line whose limits differ from those before has
"limits" too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from ffn_edge.bundle.bundle import Precision
from ffn_edge.errors import FfnEdgeError, reason_of
from ffn_edge.files import schema
from ffn_edge.files.regular_file import read_bytes
from ffn_edge.files.schema import Above0, Format, NotNegative, Positive
from ffn_edge.runtime.line_file import LineFile
from ffn_edge.runtime.policy.interface import (
    Limits,
    Observation,
    Sensed,
    Setting,
)

SCHEMA_VERSION = 1
_MOST_BYTES = 1 << 29  # a day at twenty inferences a second
_RECORD_AGAIN = "record one with `ffn-edge run BUNDLE --source ... --record trace.jsonl`."


class TraceWriter(LineFile):
    """Writes what a policy saw, line by line, so that it is there when the run is cut off."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._limits: Limits | None = None

    def begin(self, setting: Setting, limits: Limits, conditions: Mapping[str, Any]) -> None:
        """Write the first line: what the policy was told, and under which conditions, any JSON."""
        self._limits = limits
        self.write_line(
            {
                "schema_version": SCHEMA_VERSION,
                "conditions": dict(conditions),
                "limits": dataclasses.asdict(limits),
                "setting": dataclasses.asdict(setting),
            }
        )

    def write(self, observation: Observation) -> None:
        """Write an inference."""
        fields = {
            "now": observation.now,
            "frames": observation.frames,
            "latency_ms": round(observation.latency_ms, 3),
            **dataclasses.asdict(observation.sensed),
        }
        if observation.source_frames is not None:
            fields["source_frames"] = observation.source_frames
        if observation.ran:
            fields["ran"] = [[frames, round(ms, 3)] for frames, ms in observation.ran]
        if observation.limits != self._limits:
            self._limits = observation.limits
            fields["limits"] = dataclasses.asdict(observation.limits)
        self.write_line(fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A recorded run.

    Attributes:
        name: of its file.
        conditions: the bundle and the machine.
        setting: what the policy was told.
        observations: at least one, by ascending time.
        broken: for each line that was left out, its number and why.
    """

    name: str
    conditions: Mapping[str, Any]
    setting: Setting
    observations: tuple[Observation, ...]
    broken: tuple[str, ...]


def read_trace(path: Path) -> Trace:
    """Read a trace. Broken lines are left out and named: the last one is often cut in half.

    Raises:
        FfnEdgeError: it cannot be read, its first line is broken or of another version, or no
            inference is left.
    """
    try:
        lines = read_bytes(path, _MOST_BYTES).decode(errors="replace").splitlines()
    except OSError as error:
        raise FfnEdgeError(f"{path} cannot be read: {reason_of(error)}", _RECORD_AGAIN) from error
    head = _FORMAT.from_text(lines[0] if lines else "", str(path))
    points = sorted(head.setting.points, key=lambda point: point.frames)
    of_all: Any = head.conditions.get("precision")  # so earlier releases told it
    if of_all in get_args(Precision):
        points = [dataclasses.replace(point, precision=of_all) for point in points]
    setting, limits = dataclasses.replace(head.setting, points=points), head.limits
    paces_s = {point.frames: point.pace_s for point in setting.points}
    observations: list[Observation] = []
    broken = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            observation = schema.parse(_Line, schema.load(line)).observation(limits)
            for frames in (observation.frames, *(frames for frames, _ in observation.ran)):
                if frames not in paces_s:
                    raise ValueError(f"there is no engine for {frames} frames")
            pace_s = paces_s[observation.frames]
            observation = dataclasses.replace(observation, pace_s=pace_s)
            if observations and observation.now <= observations[-1].now:
                raise ValueError("time does not go forward")
        except (ValueError, FfnEdgeError) as error:
            broken.append(f"line {number}: {getattr(error, 'message', error)}")
        else:
            observations.append(observation)
            limits = observation.limits
    if not observations:
        reason = f": {broken[0]}" if broken else ""
        raise FfnEdgeError(f"{path} holds no inference{reason}", _RECORD_AGAIN)
    return Trace(
        name=path.stem,
        conditions=head.conditions,
        setting=setting,
        observations=tuple(observations),
        broken=tuple(broken),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """The first line."""

    conditions: Mapping[str, Any]
    limits: Limits
    setting: Setting

    def __post_init__(self) -> None:
        points = self.setting.points
        if not points or len({point.frames for point in points}) < len(points):
            raise ValueError("no engine, or two for the same frame count")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line(Sensed):
    """Every other line."""

    now: float
    frames: Positive
    latency_ms: Above0
    limits: Limits | None = None
    ran: tuple[tuple[Positive, Above0], ...] = ()
    source_frames: NotNegative | None = None

    def observation(self, limits: Limits) -> Observation:
        """Return what the policy saw; `limits` are those before."""
        sensed = {field.name: getattr(self, field.name) for field in dataclasses.fields(Sensed)}
        return Observation(
            frames=self.frames,
            latency_ms=self.latency_ms,
            now=self.now,
            limits=self.limits or limits,
            sensed=Sensed(**sensed),
            ran=self.ran,
            source_frames=self.source_frames,
        )


_FORMAT = Format(cls=_Head, versions=(SCHEMA_VERSION,), kind="a trace", hint=_RECORD_AGAIN)
