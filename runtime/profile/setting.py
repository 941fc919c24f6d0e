"""What is known of the engines before the first inference: their profile, or a quick measurement.

By it each frame count's precision is chosen, and the policy is told of the engines.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from ffn_edge.bundle.bundle import Bundle, Precision
from ffn_edge.errors import FfnEdgeError
from ffn_edge.runtime.engines.engine import (
    Backend,
    EngineOptions,
    Existing,
    OpenEngines,
)
from ffn_edge.runtime.policy.interface import OperatingPoint, Setting
from ffn_edge.runtime.power.meter import Meter, NullMeter
from ffn_edge.runtime.profile.conditions import conditions_now
from ffn_edge.runtime.profile.power import PowerProfile
from ffn_edge.runtime.profile.precision import candidates, choose_precision
from ffn_edge.runtime.profile.profile import (
    Latencies,
    Latency,
    Profile,
    add_latencies,
    bases_ms,
    by_precision,
    load_profile,
    measure_each,
    profile_command,
    profile_engines,
    profile_power,
    profile_undisturbed,
)

_log = logging.getLogger(__name__)

# Enough to start with; the policy learns the rest from the run itself.
_QUICK_RUNS = 5

_DEFAULTS = EngineOptions()


class PrecisionChooser:
    """Chooses the precision of each frame count for `open_engines`, and says which and why.

    By the profile, or without one that holds by a quick measurement of what is accurate enough, one
    precision after the other; nothing stays open.

    Attributes:
        latencies: that it went by; empty where there was nothing to choose.
        profile: whose they are; None if they were measured.
    """

    def __init__(
        self, bundle: Bundle, options: EngineOptions = _DEFAULTS, root: Path = Path("/")
    ) -> None:
        self._bundle, self._options, self._root = bundle, options, root
        self.profile: Profile | None = None
        self.latencies: Latencies = {}

    def __call__(self, backend: Backend, existing: Existing) -> dict[int, Precision]:
        """Choose; see `engine.Choose`.

        Raises:
            EngineError: a frame count has nothing that works and is accurate enough.
        """
        sub_networks = self._bundle.manifest.sub_networks
        eligible = {t: candidates(sub_networks[t], found) for t, found in existing.items()}
        self.profile, self.latencies = None, {}
        if any(len(found) > 1 for found in eligible.values()):
            self.profile = _trusted_profile(
                self._bundle, backend, eligible, self._root, stream=self._options.stream
            )
            if self.profile is None:
                self._measure(backend, eligible)
            else:
                self.latencies = self.profile.latencies
        choices = {
            frames: choose_precision(
                frames, sub_networks[frames], found, bases_ms(self.latencies, frames)
            )
            for frames, found in existing.items()
        }
        if any(len(found) > 1 for found in existing.values()):
            for choice in choices.values():
                _log.info("%s", choice.reason)
        return {frames: choice.precision for frames, choice in choices.items()}

    def _measure(self, backend: Backend, eligible: Existing) -> None:
        def measure(engines: OpenEngines) -> None:
            found, _ = profile_undisturbed(
                engines,
                self._bundle.manifest,
                runs=_QUICK_RUNS,
                warm_up=1,
                root=self._root,
                stream=self._options.stream,
            )
            add_latencies(self.latencies, found, engines.precisions)

        failed = measure_each(self._bundle, self._options, backend, eligible, measure)
        if failed is not None and not all(bases_ms(self.latencies, each) for each in eligible):
            raise failed


def learn_setting(
    bundle: Bundle,
    engines: OpenEngines,
    meter: Meter,
    *,
    chooser: PrecisionChooser | None = None,
    needs_power: bool = True,
    root: Path = Path("/"),
    period_s: float = 0.0,
    stream: bool = False,
) -> Setting:
    """Return what is known of the engines: from the profile, or measured quickly.

    Either way every engine has run when this returns, so that the first inference of the run is
    as fast as the others.

    Args:
        bundle: what runs.
        engines: open.
        chooser: of their precisions; what it has learnt is not measured again.
        meter: tells the power during the run. What the profile's meter told is used only where
            that covers the same ...
        needs_power: ... and else this one measures the engines' power, if it is needed.
        root: where the machine's file system begins, for its sensors.
        period_s: see `Setting`.
        stream: the engines take a stream frame by frame.
    """
    if chooser is not None and chooser.latencies:
        profile, known = chooser.profile, chooser.latencies
    else:
        alone = {frames: (precision,) for frames, precision in engines.precisions.items()}
        profile = _trusted_profile(bundle, engines.backend, alone, root, stream=stream)
        known = {} if profile is None else profile.latencies
    if known:
        latencies = {frames: known[engines.precisions[frames]][frames] for frames in engines}
        profile_engines(engines, bundle.manifest.input, runs=1, warm_up=0, stream=stream)
    else:
        latencies, _ = profile_undisturbed(
            engines, bundle.manifest, runs=_QUICK_RUNS, warm_up=1, root=root, stream=stream
        )
    power = _power_by(meter, profile, needs_power, profile_command(stream=stream))
    if needs_power and power is None:
        power = profile_power(engines, bundle.manifest.input, meter, root, stream=stream)
    switch_ms = 0.0
    if not engines.switch_is_free and len(engines) > 1:
        switched = profile_engines(engines, bundle.manifest.input, runs=1, warm_up=0, stream=stream)
        switch_ms = max(switched[t].median_ms - latencies[t].median_ms for t in engines)
    return setting_from_latencies(
        bundle,
        latencies,
        engines.precisions,
        power=power,
        period_s=period_s,
        switch_ms=max(0.0, switch_ms),
    )


def setting_from_latencies(
    bundle: Bundle,
    latencies: Mapping[int, Latency],
    precisions: Mapping[int, Precision] | None = None,
    *,
    power: PowerProfile | None = None,
    period_s: float = 0.0,
    switch_ms: float = 0.0,
) -> Setting:
    """Return the policy's setting: what was measured, and the manifest's accuracies.

    The engines are in fp32 unless `precisions` says otherwise.
    """
    points = []
    ratios: list[float] = []
    for frames, latency in latencies.items():
        base_ms = latency.base_ms
        precision: Precision = "fp32" if precisions is None else precisions[frames]
        accuracy = bundle.manifest.sub_networks[frames].accuracy_in(precision)
        points.append(
            OperatingPoint(
                frames=frames,
                precision=precision,
                base_ms=base_ms,
                accuracy=None if accuracy is None else accuracy.top1,
                clips=None if accuracy is None else accuracy.clips,
                power_w=None if power is None else power.engine_w(precision, frames),
            )
        )
        ratios += [sample_ms / base_ms for sample_ms in latency.samples_ms]
    return Setting(
        points=points,
        ratios=ratios,
        idle_w=None if power is None else power.idle_w,
        period_s=period_s,
        switch_ms=switch_ms,
    )


def _trusted_profile(
    bundle: Bundle, backend: Backend, wanted: Existing, root: Path, *, stream: bool
) -> Profile | None:
    """Return the bundle's profile, unless there is none that holds here, for what is wanted."""
    try:
        profile = load_profile(bundle.path, stream=stream)
        doubt = _doubt(profile, bundle, backend, wanted, root)
    except FfnEdgeError as error:
        profile, doubt = None, error.message
    if doubt:
        command = profile_command(stream=stream)
        _log.info("%s; measuring quickly. `%s` measures thoroughly.", doubt, command)
        return None
    return profile


def _doubt(
    profile: Profile | None, bundle: Bundle, backend: Backend, wanted: Existing, root: Path
) -> str:
    """Say why a profile cannot be trusted here; nothing if it can."""
    if profile is None:
        return "there is no profile of this bundle yet"
    now = conditions_now(bundle.identity, backend, root)
    differences = profile.conditions.differences(now)
    if differences:
        return f"the profile was made for {'; '.join(differences)}"
    if profile.disturbance:
        return f"the profile is not of an idle machine: {profile.disturbance}"
    for precision, counts in by_precision(wanted).items():
        measured = profile.latencies.get(precision, {})
        missing = [str(frames) for frames in counts if frames not in measured]
        if missing:
            return f"the profile lacks {', '.join(missing)} frames in {precision}"
    return ""


def _power_by(
    meter: Meter, profile: Profile | None, needs_power: bool, command: str
) -> PowerProfile | None:
    """Return a profile's power, if it can be compared with what the meter tells in a run.

    Else it is said which command would measure it again.
    """
    if profile is None or profile.power.fault is not None:
        return None
    power = profile.power
    if power.is_by(meter):
        return power
    if isinstance(meter, NullMeter):  # which could not hold a run to a budget
        return None if needs_power else power
    _log.log(
        logging.WARNING if needs_power else logging.INFO,
        "the profile's power is by %s, %s; here %s covers %s, so it is not used. "
        "`%s` measures it again.",
        power.meter,
        power.scope,
        meter.name,
        meter.scope,
        command,
    )
    return None
