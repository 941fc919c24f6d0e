"""How long each engine takes on this machine, and what power: measured, kept, and checked."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import combinations
from pathlib import Path

import numpy as np

from ffn_edge.bundle.bundle import Bundle, InputContract, Manifest, Precision, SubNetwork
from ffn_edge.errors import EngineError, FfnEdgeError
from ffn_edge.files.atomic import write_text
from ffn_edge.files.schema import Above0, Format
from ffn_edge.progress import OnProgress
from ffn_edge.runtime.engines.engine import (
    Backend,
    Engine,
    EngineOptions,
    Existing,
    OpenEngines,
    open_engines,
)
from ffn_edge.runtime.machine.health import Health
from ffn_edge.runtime.machine.machine import cpu_time
from ffn_edge.runtime.power.meter import Averaging, Meter
from ffn_edge.runtime.profile.conditions import (
    Conditions,
    Moment,
    conditions_now,
    this_moment,
)
from ffn_edge.runtime.profile.power import PowerProfile, joined_power, measure_power, meter_for
from ffn_edge.runtime.profile.precision import Choice, choose_precision
from ffn_edge.runtime.stream.clip_buffer import Frames

_log = logging.getLogger(__name__)

SCHEMA_VERSION = 3
PROFILE, STREAM_PROFILE = "profile.json", "profile_stream.json"

# More work takes more time, or something interfered: so much less is not noise.
_OUT_OF_ORDER = 1.25
# Of an idle machine's inferences, half take no longer than this times the fastest tenth.
_USUAL_SPREAD = 1.5
# Others may take this share of the processors: a desktop at rest, or a camera's driver.
_SHARE_OF_OTHERS = 0.1
# A disturbed measurement is repeated: so often, and by `ffn-edge profile` after so long.
_ATTEMPTS, _PAUSE_S = 3, 2.0

_DEFAULTS = EngineOptions()
_ROOT = Path("/")
_PROFILE_AGAIN = "measure again with `ffn-edge profile`."
_NO_POWER = PowerProfile(meter="none", scope="nothing", fault="only latency was measured")


@dataclass(frozen=True, slots=True)
class Latency:
    """The distribution of one engine's latency: every sample, in ascending milliseconds."""

    samples_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """The 0.5 quantile."""
        return self.quantile_ms(0.5)

    @property
    def base_ms(self) -> float:
        """A low quantile: other programs can only add to a latency, so this is the engine's own."""
        return self.quantile_ms(0.1)

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


Latencies = dict[Precision, dict[int, Latency]]


def bases_ms(latencies: Latencies, frames: int) -> dict[Precision, float]:
    """Return the latency of a frame count's own in each precision that was measured."""
    return {
        precision: by_frames[frames].base_ms
        for precision, by_frames in latencies.items()
        if frames in by_frames
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The operating points: latency and power of each engine, and what they belong to.

    Attributes:
        conditions: what they belong to.
        latencies: by precision and frame count.
        power: of the same engines, or why it was not measured.
        begin: when the measurement began ...
        end: ... and ended.
        created: date and time.
        disturbance: by what it shows that others used the machine meanwhile; None is by nothing.
    """

    conditions: Conditions
    latencies: Latencies
    power: PowerProfile
    begin: Moment
    end: Moment
    created: str
    disturbance: str | None = None

    def energy_j(self, precision: Precision, frames: int) -> float | None:
        """Return what one inference takes, above the idle machine; None if it is not known.

        Whole microjoules.
        """
        power_w = self.power.engine_w(precision, frames)
        if power_w is None:
            return None
        return round(power_w * self.latencies[precision][frames].median_ms / 1e3, 6)

    def choose(self, frames: int, sub_network: SubNetwork) -> Choice:
        """Choose the precision of a frame count from those that were measured."""
        measured = bases_ms(self.latencies, frames)
        return choose_precision(frames, sub_network, measured, measured)

    def to_json(self) -> str:
        """Return the text of its file."""
        fields = {
            "schema_version": SCHEMA_VERSION,
            "created": self.created,
            "conditions": dataclasses.asdict(self.conditions),
            "begin": dataclasses.asdict(self.begin),
            "end": dataclasses.asdict(self.end),
            "disturbance": self.disturbance,
            "meter": {
                "name": self.power.meter,
                "scope": self.power.scope,
                **dataclasses.asdict(self.power.averaging),
                "fault": self.power.fault,
            },
            "idle_w": self.power.idle_w,
            "power_w": self._of_each(lambda p, t, _: self.power.engine_w(p, t)),
            "energy_j": self._of_each(lambda p, t, _: self.energy_j(p, t)),
            # Whole microseconds: a clock tells no more.
            "latency_ms": self._of_each(
                lambda _, __, latency: {
                    **{name: round(ms, 3) for name, ms in latency.summary().items()},
                    "samples": [round(ms, 3) for ms in latency.samples_ms],
                }
            ),
        }
        return json.dumps(fields, indent=1) + "\n"

    def _of_each(
        self, figure: Callable[[Precision, int, Latency], object]
    ) -> dict[Precision, dict[int, object]]:
        """Return a figure of each engine, by precision and frame count."""
        return {
            precision: {frames: figure(precision, frames, each) for frames, each in found.items()}
            for precision, found in self.latencies.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Samples:
    samples: tuple[Above0, ...]

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError("an engine has no latency")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Meter(Averaging):
    name: str
    scope: str
    fault: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """What is read of a profile; the rest follows from it."""

    created: str
    conditions: Conditions
    begin: Moment
    end: Moment
    disturbance: str | None = None
    meter: _Meter
    idle_w: float | None
    power_w: dict[Precision, dict[int, float | None]]
    latency_ms: dict[Precision, dict[int, _Samples]]

    def __post_init__(self) -> None:
        engines, measured = (
            {(precision, frames) for precision, each in table.items() for frames in each}
            for table in (self.latency_ms, self.power_w)
        )
        if not engines or engines != measured:
            raise ValueError("it has no engine, or a power without a latency")
        self.profile()

    def profile(self) -> Profile:
        powers = {
            precision: {t: power_w for t, power_w in each.items() if power_w is not None}
            for precision, each in self.power_w.items()
        }
        if not any(powers.values()):
            powers = {}
        elif powers != self.power_w:
            raise ValueError("the power of some engines is missing")
        return Profile(
            conditions=self.conditions,
            latencies={
                precision: {t: Latency(tuple(sorted(found.samples))) for t, found in each.items()}
                for precision, each in self.latency_ms.items()
            },
            power=PowerProfile(
                meter=self.meter.name,
                scope=self.meter.scope,
                averaging=Averaging(
                    samples=self.meter.samples, update_interval_ms=self.meter.update_interval_ms
                ),
                idle_w=self.idle_w,
                above_idle_w=powers,
                fault=self.meter.fault,
            ),
            begin=self.begin,
            end=self.end,
            created=self.created,
            disturbance=self.disturbance,
        )


_FORMAT = Format(cls=_File, versions=(SCHEMA_VERSION,), kind="a profile", hint=_PROFILE_AGAIN)


def profile_engines(
    engines: Mapping[int, Engine],
    contract: InputContract,
    *,
    runs: int = 50,
    warm_up: int = 3,
    by_turns: bool = True,
    stream: bool = False,
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
        stream: the engines are for the next frame of a stream.
        on_round: is called, for a progress bar, with how many times `len(engines)` inferences
            were measured; `runs` is all.
    """
    if runs < 1:
        raise FfnEdgeError(f"a profile needs at least one run; got {runs}", "--runs 50")
    clips = _noise(engines, contract, stream=stream)
    samples: dict[int, list[float]] = {frames: [] for frames in engines}
    numbers = range(-warm_up, runs)
    if by_turns:
        schedule = [(number, frames) for number in numbers for frames in engines]
    else:
        schedule = [(number, frames) for frames in engines for number in numbers]
    measured = 0
    for number, frames in schedule:
        start = time.perf_counter()
        engines[frames].infer(clips[frames])
        elapsed_ms = (time.perf_counter() - start) * 1e3
        if number >= 0:
            samples[frames].append(elapsed_ms)
            measured += 1
            if on_round is not None and measured % len(engines) == 0:
                on_round(measured // len(engines))
    return {frames: Latency(tuple(sorted(taken))) for frames, taken in samples.items()}


def profile_undisturbed(
    engines: OpenEngines,
    manifest: Manifest,
    *,
    runs: int,
    warm_up: int = 3,
    pause_s: float = 0.0,
    root: Path = _ROOT,
    stream: bool = False,
    on_round: Callable[[int], None] | None = None,
) -> tuple[dict[int, Latency], str | None]:
    """Measure the latency of each engine, and again, at most twice, where something disturbs.

    Returns the fastest of the measurements, since others can only add to a latency, and what
    disturbed it. `pause_s` is waited before a repetition. See `profile_engines`.
    """
    macs = {
        frames: manifest.sub_networks[frames].macs // (frames if stream else 1)
        for frames in engines
    }
    found: list[tuple[float, dict[int, Latency], str | None]] = []
    for attempt in range(_ATTEMPTS):
        if attempt:
            _log.info("%s; measuring again", found[-1][2])
            time.sleep(pause_s)
        before = cpu_time(root)
        latencies = profile_engines(
            engines,
            manifest.input,
            runs=runs,
            warm_up=warm_up,
            by_turns=engines.switch_is_free,
            stream=stream,
            on_round=on_round,
        )
        why = disturbance(latencies, macs, cpu_time(root).share_of_others(before))
        found.append((sum(each.median_ms for each in latencies.values()), latencies, why))
        if why is None:
            return latencies, None
    _, latencies, why = min(found, key=lambda each: each[0])
    _log.warning("these are not the latencies of an idle machine: %s", why)
    return latencies, why


def disturbance(
    latencies: Mapping[int, Latency], macs: Mapping[int, int], share_of_others: float
) -> str | None:
    """Say by what it shows that others used the machine meanwhile; None if nothing shows.

    Latencies and MACs are by frame count, the share of the processors' time in 0..1.
    """
    signs = []
    if share_of_others > _SHARE_OF_OTHERS:
        signs.append(f"other programs took {share_of_others:.0%} of the processor")
    counts = sorted(latencies, key=lambda frames: macs[frames])
    for less, more in combinations(counts, 2):
        less_ms, more_ms = latencies[less].median_ms, latencies[more].median_ms
        if macs[less] < macs[more] and less_ms > _OUT_OF_ORDER * more_ms:
            signs.append(f"{less} frames took longer than {more} ({less_ms:.3g}, {more_ms:.3g} ms)")
            break
    for frames, latency in latencies.items():
        fast_ms = latency.quantile_ms(0.1)
        if latency.median_ms > _USUAL_SPREAD * fast_ms:
            signs.append(
                f"{frames} frames took {fast_ms:.3g} ms at times, and usually "
                f"{latency.median_ms:.3g}"
            )
            break
    return "; ".join(signs) or None


def profile_power(
    engines: OpenEngines,
    contract: InputContract,
    meter: Meter,
    root: Path,
    *,
    stream: bool = False,
) -> PowerProfile:
    """Measure the machine's power at rest and with each engine. See `measure_power`."""
    clips = _noise(engines, contract, stream=stream)
    work: dict[Precision, dict[int, Callable[[], object]]] = {}
    for frames, engine in engines.items():
        by_frames = work.setdefault(engines.precisions[frames], {})
        by_frames[frames] = functools.partial(engine.infer, clips[frames])
    return measure_power(work, meter, Health(root))


def _noise(
    engines: Mapping[int, Engine], contract: InputContract, *, stream: bool
) -> dict[int, Frames]:
    """Return a clip for each frame count. What it shows does not matter to an engine's speed."""
    rng = np.random.default_rng(0)
    size = (contract.height, contract.width, 3)
    return {
        t: rng.integers(0, 256, (contract.batch, 1 if stream else t, *size), np.uint8)
        for t in engines
    }


def profile_bundle(
    bundle: Bundle,
    options: EngineOptions = _DEFAULTS,
    *,
    runs: int = 50,
    root: Path = _ROOT,
    on_round: OnProgress = lambda done, total: None,
) -> Profile:
    """Measure the engines of a bundle and write their profile into its folder, atomically.

    Args:
        bundle: what to measure.
        options: what runs the engines; precision "auto" is each that there is. Those for streams
            have a profile of their own.
        runs: how many inferences of each engine.
        root: where the machine's file system begins, for its sensors.
        on_round: is told of the rounds of `profile_engines`, over all precisions.

    Raises:
        EngineError: the backend is not installed, or cannot run the bundle.
        FfnEdgeError: the folder cannot be written.
    """
    begin = this_moment(root)
    powers: list[PowerProfile] = []
    latencies: Latencies = {}
    disturbances: list[str] = []

    def measure(engines: OpenEngines) -> None:
        with closing(meter_for(engines.backend, root)) as meter:
            # First, while nothing has warmed the machine: it should be at rest for this.
            power = profile_power(
                engines, bundle.manifest.input, meter, root, stream=options.stream
            )
        found, why = profile_undisturbed(
            engines,
            bundle.manifest,
            runs=runs,
            pause_s=_PAUSE_S,
            root=root,
            stream=options.stream,
            on_round=lambda done: on_round(len(powers) * runs + done, passes * runs),
        )
        powers.append(power)
        add_latencies(latencies, found, engines.precisions)
        disturbances.extend([] if why is None else [why])

    with open_engines(bundle, options) as engines:
        backend, first = engines.backend, engines.precisions
        others = {
            frames: tuple(each for each in found if each != first[frames])
            for frames, found in engines.existing.items()
        }
        passes = 1 + len(by_precision(others))
        measure(engines)
    measure_each(bundle, options, backend, others, measure)
    return save_profile(
        bundle,
        backend,
        latencies,
        power=joined_power(powers),
        begin=begin,
        disturbance=next(iter(disturbances), None),
        root=root,
        stream=options.stream,
    )


def measure_each(
    bundle: Bundle,
    options: EngineOptions,
    backend: Backend,
    existing: Existing,
    measure: Callable[[OpenEngines], None],
) -> EngineError | None:
    """Open the engines of each precision, one after the other, for a function to measure.

    So a board needs memory for one. A precision whose engines fail is left out, with a warning; the
    last such error is returned.
    """
    failed = None
    for precision, counts in by_precision(existing).items():
        chosen = dataclasses.replace(options, backend=backend.name, precision=precision)
        try:
            with open_engines(bundle, chosen, frame_counts=counts) as engines:
                measure(engines)
        except EngineError as error:
            _log.warning("%s is left out: %s; %s", precision, error.message, error.hint)
            failed = error
    return failed


def by_precision(existing: Existing) -> dict[Precision, list[int]]:
    """Return the frame counts of each precision."""
    counts: dict[Precision, list[int]] = {}
    for frames, precisions in existing.items():
        for precision in precisions:
            counts.setdefault(precision, []).append(frames)
    return counts


def add_latencies(
    latencies: Latencies, found: Mapping[int, Latency], precisions: Mapping[int, Precision]
) -> None:
    """Add what was found of engines to what is known, by their precisions."""
    for frames, latency in found.items():
        latencies.setdefault(precisions[frames], {})[frames] = latency


def save_profile(
    bundle: Bundle,
    backend: Backend,
    latencies: Latencies,
    *,
    power: PowerProfile = _NO_POWER,
    begin: Moment | None = None,
    disturbance: str | None = None,
    root: Path = _ROOT,
    stream: bool = False,
) -> Profile:
    """Write a profile into the bundle's folder, atomically, and return what was written.

    `begin` is when the measurement began; None is now. `stream` says which one; see `profile_path`.
    """
    end = this_moment(root)
    profile = Profile(
        conditions=conditions_now(bundle.identity, backend, root),
        latencies=latencies,
        power=power,
        begin=begin or end,
        end=end,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        disturbance=disturbance,
    )
    write_text(profile_path(bundle.path, stream=stream), profile.to_json())
    return profile


def profile_path(folder: Path, *, stream: bool = False) -> Path:
    """Return where a bundle's folder has the profile of its engines for clips, or for streams."""
    return folder / (STREAM_PROFILE if stream else PROFILE)


def profile_command(*, stream: bool = False) -> str:
    """Return what measures that profile."""
    return "ffn-edge profile --stream" if stream else "ffn-edge profile"


def load_profile(folder: Path, *, stream: bool = False) -> Profile | None:
    """Read a profile in a bundle's folder; None if there is none. See `profile_path`."""
    path = profile_path(folder, stream=stream)
    if not os.path.lexists(path):
        return None
    return _FORMAT.read(path).profile()
