"""How long each engine takes on this machine: measured, kept beside the bundle, and checked."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from ffn_edge.atomic import write_text
from ffn_edge.bundle import Bundle, InputContract
from ffn_edge.errors import FfnEdgeError
from ffn_edge.runtime.engine import Backend, Engine, EngineOptions, open_engines
from ffn_edge.runtime.machine import Machine, this_machine

SCHEMA_VERSION = 1
PROFILE = "profile.json"

_DEFAULTS = EngineOptions()
_PROFILE_AGAIN = "measure again with `ffn-edge profile`."


@dataclass(frozen=True, slots=True)
class Latency:
    """The distribution of one engine's latency: every sample, in ascending milliseconds."""

    samples_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """The 0.5 quantile."""
        return self.quantile_ms(0.5)

    def quantile_ms(self, quantile: float) -> float:
        """Return an empirical quantile, interpolated."""
        return float(np.quantile(self.samples_ms, quantile))

    def summary(self) -> dict[str, float]:
        """Return the figures that people read, in milliseconds."""
        return {
            "p50": self.median_ms,
            "p90": self.quantile_ms(0.90),
            "p95": self.quantile_ms(0.95),
            "p99": self.quantile_ms(0.99),
            "mean": float(np.mean(self.samples_ms)),
            "min": self.samples_ms[0],
            "max": self.samples_ms[-1],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a profile belongs to. Under other conditions its latencies are not to be trusted."""

    bundle: str
    machine: Machine
    backend: str
    backend_version: str
    device: str
    precision: str
    threads: int

    def differences(self, other: Conditions) -> list[str]:
        """Say what differs from `other`, as far as it moves latency."""
        pairs = {
            "bundle": (self.bundle[:12], other.bundle[:12]),
            "processor": (self.machine.cpu, other.machine.cpu),
            "cores": (self.machine.cores, other.machine.cores),
            "backend": (
                f"{self.backend} {self.backend_version}",
                f"{other.backend} {other.backend_version}",
            ),
            "device": (self.device, other.device),
            "precision": (self.precision, other.precision),
            "threads": (self.threads, other.threads),
        }
        return [
            f"{what} {mine}, not {theirs}"
            for what, (mine, theirs) in pairs.items()
            if mine != theirs
        ]


def conditions_now(bundle: Bundle, backend: Backend) -> Conditions:
    """Return the conditions under which a bundle runs here and now."""
    return Conditions(
        bundle=bundle.identity,
        machine=this_machine(),
        backend=backend.name,
        backend_version=backend.version,
        device=backend.device,
        precision=backend.precision,
        threads=backend.threads,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The latency of each engine, by frame count, and what it belongs to."""

    conditions: Conditions
    latencies: dict[int, Latency]
    created: str

    def to_json(self) -> str:
        """Return the text of `profile.json`."""
        fields = {
            "schema_version": SCHEMA_VERSION,
            "created": self.created,
            "conditions": dataclasses.asdict(self.conditions),
            "latency_ms": {
                frames: {**latency.summary(), "samples": latency.samples_ms}
                for frames, latency in self.latencies.items()
            },
        }
        # Whole microseconds: a clock tells no more.
        return json.dumps(_rounded(fields), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = PROFILE) -> Profile:
        """Read the text of a `profile.json`.

        Raises:
            FfnEdgeError: it is damaged, or has a schema version that this release does not know.
        """
        try:
            raw = json.loads(text)
            version = raw["schema_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise FfnEdgeError(f"{where} is not a profile", _PROFILE_AGAIN) from error
        if version != SCHEMA_VERSION:
            raise FfnEdgeError(
                f"{where} has schema version {version!r}; this release reads {SCHEMA_VERSION}",
                _PROFILE_AGAIN,
            )
        try:
            conditions = raw["conditions"]
            return cls(
                conditions=Conditions(
                    **{**conditions, "machine": Machine(**conditions["machine"])}
                ),
                latencies={
                    int(frames): Latency(_samples(latency["samples"]))
                    for frames, latency in raw["latency_ms"].items()
                },
                created=str(raw["created"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FfnEdgeError(
                f"{where} is damaged: {type(error).__name__}: {error}", _PROFILE_AGAIN
            ) from error


def profile_engines(
    engines: Mapping[int, Engine],
    contract: InputContract,
    *,
    runs: int = 50,
    warm_up: int = 3,
    by_turns: bool = True,
    on_round: Callable[[int], None] | None = None,
) -> dict[int, Latency]:
    """Measure the latency of each engine.

    The engines take turns, so that a clock that drifts or a program that comes and goes hits
    all alike; unless a switch costs something that is not an engine's latency.

    Args:
        engines: open, by frame count.
        contract: the bundle's input.
        runs: how many inferences to measure, of each engine.
        warm_up: how many to run before, unmeasured.
        by_turns: whether the engines take turns, or come one after the other.
        on_round: is called, for a progress bar, with how many times `len(engines)` inferences
            were measured; `runs` is all.
    """
    if runs < 1:
        raise FfnEdgeError(f"a profile needs at least one run; got {runs}", "--runs 50")
    rng = np.random.default_rng(0)
    shape = (contract.batch, max(engines), contract.height, contract.width, 3)
    clip = rng.integers(0, 256, shape, np.uint8)
    samples: dict[int, list[float]] = {frames: [] for frames in engines}
    numbers = range(-warm_up, runs)
    if by_turns:
        schedule = [(number, frames) for number in numbers for frames in engines]
    else:
        schedule = [(number, frames) for frames in engines for number in numbers]
    measured = 0
    for number, frames in schedule:
        frames_only = np.ascontiguousarray(clip[:, :frames])
        start = time.perf_counter()
        engines[frames].infer(frames_only)
        elapsed_ms = (time.perf_counter() - start) * 1e3
        if number >= 0:
            samples[frames].append(elapsed_ms)
            measured += 1
            if on_round is not None and measured % len(engines) == 0:
                on_round(measured // len(engines))
    return {frames: Latency(tuple(sorted(taken))) for frames, taken in samples.items()}


def profile_bundle(
    bundle: Bundle,
    options: EngineOptions = _DEFAULTS,
    *,
    runs: int = 50,
    on_round: Callable[[int], None] | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Profile:
    """Measure the engines of a bundle and write `profile.json` into its folder, atomically.

    Args:
        bundle: what to measure.
        options: what runs the engines.
        runs: how many inferences of each engine.
        on_round: see `profile_engines`.
        say: is told what to be warned of.

    Raises:
        EngineError: the backend is not installed, or cannot run the bundle.
        FfnEdgeError: the folder cannot be written.
    """
    with open_engines(bundle, options, say=say) as engines:
        latencies = profile_engines(
            engines,
            bundle.manifest.input,
            runs=runs,
            by_turns=engines.switch_is_free,
            on_round=on_round,
        )
    return save_profile(bundle, engines.backend, latencies)


def save_profile(bundle: Bundle, backend: Backend, latencies: dict[int, Latency]) -> Profile:
    """Write `profile.json` into the bundle's folder, atomically, and return what was written.

    Raises:
        FfnEdgeError: the folder cannot be written.
    """
    profile = Profile(
        conditions=conditions_now(bundle, backend),
        latencies=latencies,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    try:
        write_text(bundle.path / PROFILE, profile.to_json())
    except OSError as error:
        raise FfnEdgeError(
            f"{bundle.path / PROFILE} cannot be written: {error.strerror}",
            "copy the bundle to a folder that you may write.",
        ) from error
    return profile


def load_profile(folder: Path) -> Profile | None:
    """Read the profile in a bundle's folder; None if there is none.

    Raises:
        FfnEdgeError: it cannot be read.
    """
    path = folder / PROFILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise FfnEdgeError(f"{path} cannot be read: {error}", _PROFILE_AGAIN) from error
    return Profile.from_json(text, str(path))


def _samples(raw: Any) -> tuple[float, ...]:
    samples = tuple(sorted(map(float, raw)))
    if not samples or not 0 < samples[0] <= samples[-1] < float("inf"):
        raise ValueError("a latency is a positive number of milliseconds")
    return samples


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return round(value, 3)
        case dict():
            return {key: _rounded(item) for key, item in value.items()}
        case tuple():
            return [_rounded(item) for item in value]
    return value
