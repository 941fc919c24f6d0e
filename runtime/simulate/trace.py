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
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffn_edge.errors import FfnEdgeError
from ffn_edge.runtime.line_file import LineFile
from ffn_edge.runtime.policy.interface import (
    Limits,
    Observation,
    OperatingPoint,
    Sensed,
    Setting,
)
from ffn_edge.versioned_json import read_versioned

SCHEMA_VERSION = 1
_RECORD_AGAIN = "record one with `ffn-edge run BUNDLE --source ... --record trace.jsonl`."


class TraceWriter(LineFile):
    """Writes what a policy saw, line by line, so that it is there when the run is cut off."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._limits: Limits | None = None

    def begin(self, setting: Setting, limits: Limits, conditions: Mapping[str, Any]) -> None:
        """Write the first line.

        Args:
            setting: what the policy was told.
            limits: at the beginning.
            conditions: the bundle and the machine; any JSON.

        Raises:
            FfnEdgeError: the disk is full.
        """
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
        """Write an inference.

        Raises:
            FfnEdgeError: the disk is full.
        """
        fields = {
            "now": observation.now,
            "frames": observation.frames,
            "latency_ms": round(observation.latency_ms, 3),
            **dataclasses.asdict(observation.sensed),
        }
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
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise FfnEdgeError(f"{path} cannot be read: {error.strerror}", _RECORD_AGAIN) from error
    setting, limits, conditions = _read_head(path, lines[0] if lines else "")
    served = {point.frames for point in setting.points}
    observations: list[Observation] = []
    broken = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            observation = _observation(json.loads(line), limits)
            for frames in (observation.frames, *(frames for frames, _ in observation.ran)):
                if frames not in served:
                    raise ValueError(f"there is no engine for {frames} frames")
            if observations and observation.now <= observations[-1].now:
                raise ValueError("time does not go forward")
        except FfnEdgeError as error:
            broken.append(f"line {number}: {error.message}")
        except KeyError as error:
            broken.append(f"line {number}: {error} is missing")
        except (ValueError, TypeError, OverflowError) as error:
            broken.append(f"line {number}: {error}")
        else:
            observations.append(observation)
            limits = observation.limits
    if not observations:
        reason = f": {broken[0]}" if broken else ""
        raise FfnEdgeError(f"{path} holds no inference{reason}", _RECORD_AGAIN)
    return Trace(
        name=path.stem,
        conditions=conditions,
        setting=setting,
        observations=tuple(observations),
        broken=tuple(broken),
    )


def _read_head(path: Path, line: str) -> tuple[Setting, Limits, Mapping[str, Any]]:
    raw = read_versioned(
        line,
        (SCHEMA_VERSION,),
        where=str(path),
        kind="a trace",
        hint=_RECORD_AGAIN,
    )
    try:
        return _setting(raw["setting"]), Limits(**raw["limits"]), dict(raw["conditions"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise FfnEdgeError(
            f"the first line of {path} is damaged: {type(error).__name__}: {error}", _RECORD_AGAIN
        ) from error


def _setting(raw: Mapping[str, Any]) -> Setting:
    points = [
        OperatingPoint(
            frames=_whole(point["frames"]),
            base_ms=_number(point, "base_ms", above=0.0),
            accuracy=_optional(point, "accuracy", above=-math.inf),
            clips=_clips(point),
            power_w=_optional(point, "power_w"),
        )
        for point in raw["points"]
    ]
    if not points or len({point.frames for point in points}) < len(points):
        raise ValueError("no engine, or two for the same frame count")
    return Setting(
        points=sorted(points, key=lambda point: point.frames),
        ratios=tuple(_number({"a ratio": ratio}, "a ratio", above=0.0) for ratio in raw["ratios"]),
        idle_w=_optional(raw, "idle_w"),
        period_s=_number(raw, "period_s", above=-1e-9),
        switch_ms=_number(raw, "switch_ms", above=-1e-9),
    )


def _observation(raw: Mapping[str, Any], limits: Limits) -> Observation:
    return Observation(
        frames=_whole(raw["frames"]),
        latency_ms=_number(raw, "latency_ms", above=0.0),
        now=_number(raw, "now", above=-math.inf),
        limits=Limits(**raw["limits"]) if "limits" in raw else limits,
        sensed=Sensed(
            power_w=_optional(raw, "power_w"),
            energy_j=_optional(raw, "energy_j"),
            temperature_c=_optional(raw, "temperature_c", above=-273.15),
            over_current=_whole(raw.get("over_current", 0)),
            fault=raw.get("fault"),
            throttled=raw.get("throttled"),
        ),
        ran=tuple(
            (_whole(frames), _number({"ran": ms}, "ran", above=0.0))
            for frames, ms in raw.get("ran", ())
        ),
    )


def _clips(point: Mapping[str, Any]) -> int | None:
    """Return how many clips a point's accuracy is a share of. Release 0.1 did not write it."""
    if point.get("clips") is None:
        return None
    clips = _whole(point["clips"])
    if clips < 0 or not 0 <= _number(point, "accuracy", above=-math.inf) <= 1:
        raise ValueError("an accuracy is a share of clips")
    return clips


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is no whole number")
    return value


def _number(raw: Mapping[str, Any], key: str, *, above: float) -> float:
    value = float(raw[key])
    if not above < value < math.inf:
        raise ValueError(f"{key} is {value:g}")
    return value


def _optional(raw: Mapping[str, Any], key: str, *, above: float = -1e-9) -> float | None:
    return None if raw.get(key) is None else _number(raw, key, above=above)
