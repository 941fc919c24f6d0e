"""What the policy is told of the engines: their profile, or, without one, a quick measurement."""

from __future__ import annotations

import logging
from pathlib import Path

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.errors import FfnEdgeError
from ffn_edge.runtime.engines.engine import OpenEngines
from ffn_edge.runtime.policy.interface import OperatingPoint, Setting
from ffn_edge.runtime.power.meter import Meter, NullMeter
from ffn_edge.runtime.profile.conditions import conditions_now
from ffn_edge.runtime.profile.power import PowerProfile
from ffn_edge.runtime.profile.profile import (
    Latency,
    Profile,
    load_profile,
    profile_engines,
    profile_power,
    profile_undisturbed,
)

_log = logging.getLogger(__name__)

# Enough to start with; the policy learns the rest from the run itself.
_QUICK_RUNS = 5
# Other programs can only add to a latency. A low quantile keeps them out of the proportions
# between the engines; their share goes into the slowdown, which the run corrects.
_BASE_QUANTILE = 0.1


def learn_setting(
    bundle: Bundle,
    engines: OpenEngines,
    meter: Meter,
    *,
    needs_power: bool = True,
    root: Path = Path("/"),
    period_s: float = 0.0,
) -> Setting:
    """Return what is known of the engines: from the profile, or measured quickly.

    Either way every engine has run when this returns, so that the first inference of the run is
    as fast as the others.

    Args:
        bundle: what runs.
        engines: open.
        meter: tells the power during the run. What the profile's meter told is used only where
            that covers the same ...
        needs_power: ... and else this one measures the engines' power, if it is needed.
        root: where the machine's file system begins, for its sensors.
        period_s: see `Setting`.
    """
    profile = _trusted_profile(bundle, engines, root)
    if profile is None:
        latencies, _ = profile_undisturbed(
            engines, bundle.manifest, runs=_QUICK_RUNS, warm_up=1, root=root
        )
    else:
        latencies = {frames: profile.latencies[frames] for frames in engines}
        profile_engines(engines, bundle.manifest.input, runs=1, warm_up=0)
    power = _power_by(meter, profile, needs_power)
    if needs_power and power is None:
        power = profile_power(engines, bundle.manifest.input, meter, root)
    switch_ms = 0.0
    if not engines.switch_is_free and len(engines) > 1:
        switched = profile_engines(engines, bundle.manifest.input, runs=1, warm_up=0)
        switch_ms = max(switched[t].median_ms - latencies[t].median_ms for t in engines)
    return setting_from_latencies(
        bundle, latencies, power=power, period_s=period_s, switch_ms=max(0.0, switch_ms)
    )


def setting_from_latencies(
    bundle: Bundle,
    latencies: dict[int, Latency],
    *,
    power: PowerProfile | None = None,
    period_s: float = 0.0,
    switch_ms: float = 0.0,
) -> Setting:
    """Return the policy's setting: what was measured, and the manifest's accuracies."""
    points = []
    ratios: list[float] = []
    for frames, latency in latencies.items():
        base_ms = latency.quantile_ms(_BASE_QUANTILE)
        accuracy = bundle.manifest.sub_networks[frames].accuracy
        points.append(
            OperatingPoint(
                frames=frames,
                base_ms=base_ms,
                accuracy=None if accuracy is None else accuracy.top1,
                clips=None if accuracy is None else accuracy.clips,
                power_w=None if power is None else power.above_idle_w.get(frames),
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


def _trusted_profile(bundle: Bundle, engines: OpenEngines, root: Path) -> Profile | None:
    """Return the bundle's profile, unless there is none that holds here."""
    try:
        profile = load_profile(bundle.path)
        doubt = _doubt(profile, bundle, engines, root)
    except FfnEdgeError as error:
        profile, doubt = None, error.message
    if doubt:
        _log.info("%s; measuring quickly. `ffn-edge profile` measures thoroughly.", doubt)
        return None
    return profile


def _doubt(profile: Profile | None, bundle: Bundle, engines: OpenEngines, root: Path) -> str:
    """Say why a profile cannot be trusted here; nothing if it can."""
    if profile is None:
        return "there is no profile of this bundle yet"
    now = conditions_now(bundle.identity, engines.backend, root)
    differences = profile.conditions.differences(now)
    if differences:
        return f"the profile was made for {'; '.join(differences)}"
    if profile.disturbance:
        return f"the profile is not of an idle machine: {profile.disturbance}"
    missing = [str(frames) for frames in engines if frames not in profile.latencies]
    return f"the profile lacks {', '.join(missing)} frames" if missing else ""


def _power_by(meter: Meter, profile: Profile | None, needs_power: bool) -> PowerProfile | None:
    """Return a profile's power, if it can be compared with what the meter tells in a run."""
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
        "`ffn-edge profile` measures it again.",
        power.meter,
        power.scope,
        meter.name,
        meter.scope,
    )
    return None
