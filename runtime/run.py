"""From a bundle and a source to a running session, and from there to an end in order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.errors import EngineError, FfnEdgeError, VideoError, counted
from ffn_edge.media.video import UNSTATED_FPS
from ffn_edge.runtime.cascade.calibration import load_calibration
from ffn_edge.runtime.cascade.second_look import SecondLook
from ffn_edge.runtime.engines.engine import EngineOptions, OpenEngines, open_engines
from ffn_edge.runtime.limits_file import LimitsFile
from ffn_edge.runtime.machine.health import Health
from ffn_edge.runtime.policy.adaptive import Adaptive
from ffn_edge.runtime.policy.interface import Controller, Limits, OperatingPoint, Policy, Setting
from ffn_edge.runtime.power.meter import Meter, NullMeter
from ffn_edge.runtime.power.sampler import Sampler
from ffn_edge.runtime.profile.conditions import conditions_now
from ffn_edge.runtime.profile.power import PowerProfile, meter_for
from ffn_edge.runtime.profile.profile import (
    Latency,
    Profile,
    load_profile,
    profile_engines,
    profile_power,
    profile_undisturbed,
)
from ffn_edge.runtime.session import Session, Timing
from ffn_edge.runtime.sinks import AnnotatedVideo, Sink
from ffn_edge.runtime.stream.sources import Frame, Source, Stream, open_source
from ffn_edge.runtime.summary import Summary
from ffn_edge.runtime.trace import TraceWriter
from ffn_edge.signals import ending_signals, on_signals

# Enough to start with; the policy learns the rest from the run itself.
_QUICK_RUNS = 5
# Other programs can only add to a latency. A low quantile keeps them out of the proportions
# between the engines; their share goes into the slowdown, which the run corrects.
_BASE_QUANTILE = 0.1
_MOST_FPS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(Timing):
    """How to run, apart from the limits.

    Attributes:
        realtime: play files at their own pace, as a camera would.
        fps: frames a second of folders of images, which state none.
        engines: what runs the engines.
        policy: what picks the frame count.
        limits_file: limits that change during the run; see `LimitsFile`.
        root: where the machine's file system begins, for its sensors.
        escalate: look again, with more frames, where few are not sure.

    Raises:
        FfnEdgeError: a time or the rate is not positive, or out of all proportion.
    """

    realtime: bool = False
    fps: float = UNSTATED_FPS
    engines: EngineOptions = field(default_factory=EngineOptions)
    policy: Policy[Any] = field(default_factory=Adaptive)
    limits_file: Path | None = None
    root: Path = Path("/")
    escalate: bool = False

    def __post_init__(self) -> None:
        # Not super(): a dataclass with slots is another class than the one that stands here.
        Timing.__post_init__(self)
        if not 0 < self.fps <= _MOST_FPS:
            raise FfnEdgeError(
                f"images have more than 0 and at most {_MOST_FPS} frames a second; "
                f"got {self.fps:g}",
                "the default is --fps 30.",
            )


_DEFAULTS = RunOptions()


@contextmanager
def open_session(
    bundle: Bundle,
    source: str | Sequence[str] | Source,
    limits: Limits,
    options: RunOptions = _DEFAULTS,
    *,
    say: Callable[[str], None] = lambda message: None,
    on_frame: Callable[[Frame, Stream], None] | None = None,
    on_skip: Callable[[str, VideoError], None] | None = None,
    trace: TraceWriter | None = None,
) -> Iterator[Session]:
    """Open the engines of a bundle, learn their latency, and yield the session over a source.

        with open_session(bundle, "clip.mp4", Limits(latency_ms=80)) as session:
            for result in session:
                print(result.time_s, result.decision.frames, result.top[0])

    Args:
        bundle: what to run.
        source: see `sources.open_source`; or what it returned.
        limits: what to keep. With `limits.frames`, only that engine is opened.
        options: how to run.
        say: is told what was chosen and what to be warned of.
        on_frame: see `Session`.
        on_skip: see `Session`.
        trace: open; is told what the policy knows at the start.

    Raises:
        FfnEdgeError: the source, the bundle, the backend or a value cannot be used.
    """
    file = options.limits_file
    limits_now: Callable[[], Limits] = (
        (lambda: limits) if file is None else LimitsFile(file, limits, say)
    )
    opened = _open_source(source, bundle, options, say, whole=on_frame is not None)
    is_live = all(stream.live for stream in opened.streams)
    wanted = None if limits.frames is None else (limits.frames,)
    with ExitStack() as stack:
        engines = stack.enter_context(
            open_engines(bundle, options.engines, frame_counts=wanted, say=say)
        )
        chosen = engines.backend
        say(
            f"{bundle.manifest.architecture}, {', '.join(map(str, engines))} frames, with "
            f"{chosen.name} {chosen.version} in {chosen.precision} on {chosen.device}, "
            f"{counted(chosen.threads, 'thread')}: {chosen.reason}"
        )
        meter = stack.enter_context(closing(meter_for(chosen, options.root)))
        needs_power = limits.needs_power or file is not None  # which may ask for it later
        if isinstance(meter, NullMeter) and limits_now().needs_power:
            say(
                f"warning: {meter.error.message}. So a power budget is kept by the fewest frames. "
                "`ffn-edge power` says what would help."
            )
        setting = learn_setting(
            bundle,
            engines,
            say,
            meter=meter,
            needs_power=needs_power,
            root=options.root,
            period_s=options.hop_s if is_live else 0.0,
        )
        second_look = None
        if options.escalate:
            if not engines.switch_is_free:
                raise EngineError(
                    "a second look needs all engines at once, and there is room for one",
                    "leave out --escalate, or --resident one.",
                )
            calibration = load_calibration(bundle)
            for cascade in calibration.below_rounding(engines.logit_errors):
                say(
                    f"warning: whether {cascade.second} frames look again after {cascade.first} "
                    f"may follow from {engines.backend.precision} rounding alone. "
                    "`ffn-edge build --precision fp32` rounds less."
                )
            second_look = SecondLook(calibration, setting)
        if trace is not None:
            conditions = conditions_now(bundle, chosen, options.root)
            trace.begin(setting, limits, dataclasses.asdict(conditions))
        sampler = stack.enter_context(Sampler(meter, Health(options.root)))
        yield Session(
            opened,
            engines,
            bundle.manifest,
            Controller(options.policy, setting),
            limits_now,
            options,
            sense=sampler.sense,
            second_look=second_look,
            new_ring=engines.new_ring,
            on_frame=on_frame,
            on_skip=on_skip,
            say=say,
        )


def learn_setting(
    bundle: Bundle,
    engines: OpenEngines,
    say: Callable[[str], None],
    *,
    meter: Meter | None = None,
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
        say: is told what is measured, and why.
        meter: tells the power during the run; None is not known. What the profile's meter told is
            used only where that covers the same ...
        needs_power: ... and else this one measures the engines' power, if it is needed.
        root: where the machine's file system begins, for its sensors.
        period_s: see `Setting`.
    """
    contract = bundle.manifest.input
    try:
        profile = load_profile(bundle.path)
        doubt = _doubt(profile, bundle, engines, root)
    except FfnEdgeError as error:
        profile, doubt = None, error.message
    if profile is None or doubt:
        profile = None
        say(f"{doubt}; measuring quickly. `ffn-edge profile` measures thoroughly.")
        latencies, _ = profile_undisturbed(
            engines, bundle.manifest, runs=_QUICK_RUNS, warm_up=1, root=root, say=say
        )
    else:
        latencies = {frames: profile.latencies[frames] for frames in engines}
        profile_engines(engines, contract, runs=1, warm_up=0)
    power = None if profile is None else profile.power
    if power is not None and power.fault is None and meter is not None and not power.is_by(meter):
        if not isinstance(meter, NullMeter):
            say(
                f"the profile's power is by {power.meter}, {power.scope}; here {meter.name} covers "
                f"{meter.scope}, so it is not used. `ffn-edge profile` measures it again."
            )
            power = None
        elif needs_power:  # which no meter could hold a run to
            power = None
    if needs_power and meter is not None and (power is None or power.fault):
        power = profile_power(engines, contract, meter, root, say)
    switch_ms = 0.0
    if not engines.switch_is_free and len(engines) > 1:
        switched = profile_engines(engines, contract, runs=1, warm_up=0)
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
    sub_networks = bundle.manifest.sub_networks
    points = []
    ratios: list[float] = []
    for frames, latency in latencies.items():
        base_ms = latency.quantile_ms(_BASE_QUANTILE)
        accuracy = sub_networks[frames].accuracy
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


def run_session(
    bundle: Bundle,
    source: str | Sequence[str],
    limits: Limits,
    options: RunOptions = _DEFAULTS,
    *,
    summary: Summary,
    sinks: Sequence[Sink] = (),
    video_sinks: Sequence[Sink] = (),
    annotate: Path | None = None,
    record: Path | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> None:
    """Run a bundle over a source, and give every result to every sink, until the source ends.

    Ctrl-C, SIGTERM and SIGHUP end the run after the inference at hand; a second Ctrl-C at once.

    Args:
        bundle: what to run.
        source: see `sources.open_source`.
        limits: what to keep.
        options: how to run.
        summary: counts the results; a run that fails leaves what it counted until then.
        sinks: open.
        video_sinks: the same, but they are given no results of cameras, which have no end.
        annotate: an MP4 file to write, or None.
        record: a trace to write, or None; see `TraceWriter`.
        say: is told what was chosen and what to be warned of.

    Raises:
        FfnEdgeError: the source, the bundle, the backend, a value or a file cannot be used.
    """

    def skip(name: str, error: VideoError) -> None:
        say(f"skipped {name}: {error}")
        summary.skip(name, error)

    opened = _open_source(source, bundle, options, say, whole=annotate is not None)
    cameras = {stream.name for stream in opened.streams if stream.comes_back}
    if annotate is not None:
        names = [stream.name for stream in opened.streams]
        if len(names) > 1:
            raise VideoError(
                f"{annotate} can hold one video, and {len(names)} are to be watched",
                "annotate one video at a time, or leave out --annotate.",
            )
        if annotate.exists() and Path(names[0]).exists() and annotate.samefile(names[0]):
            raise VideoError(f"{annotate} is the video to annotate", "write another file.")
    with ExitStack() as stack:
        video = None if annotate is None else stack.enter_context(AnnotatedVideo(annotate))
        trace = None if record is None else stack.enter_context(TraceWriter(record))
        session = stack.enter_context(
            open_session(
                bundle,
                opened,
                limits,
                options,
                say=say,
                on_frame=None if video is None else video.frame,
                on_skip=skip,
                trace=trace,
            )
        )
        stack.enter_context(on_signals(session.stop, *ending_signals()))
        # Closed here and not some time later, so that no thread writes to a sink that is closed.
        results = stack.enter_context(closing(iter(session)))
        targets = [summary, *sinks, *([] if video is None else [video])]
        for result in results:
            if trace is not None:
                trace.write(result.observation)
            for target in targets:
                target.write(result)
            for target in () if result.source in cameras else video_sinks:
                target.write(result)
    for what, counts in (("the run", session), (annotate, video)):
        # Less is no slow handling: a camera that is opened sends what it has, all at once.
        if counts is not None and counts.dropped > counts.received / 100:
            say(
                f"{what} left out {counts.dropped} of {counts.received} frames "
                f"({counts.dropped / counts.received:.0%}): they came faster than they were handled"
            )


def _open_source(
    source: str | Sequence[str] | Source,
    bundle: Bundle,
    options: RunOptions,
    say: Callable[[str], None],
    *,
    whole: bool,
) -> Source:
    """Open what is to be watched; `whole` frames are for people, and not for the network alone."""
    if isinstance(source, Source):
        return source
    return open_source(
        source,
        realtime=options.realtime,
        fps=options.fps,
        # Twice what the network sees leaves its own scaling a whole factor.
        short_side=None if whole else max(2 * bundle.manifest.input.short_side, 256),
        say=say,
    )


def _doubt(profile: Profile | None, bundle: Bundle, engines: OpenEngines, root: Path) -> str:
    """Say why a profile cannot be trusted here; nothing if it can."""
    if profile is None:
        return "there is no profile of this bundle yet"
    differences = profile.conditions.differences(conditions_now(bundle, engines.backend, root))
    if differences:
        return f"the profile was made for {'; '.join(differences)}"
    if profile.disturbance:
        return f"the profile is not of an idle machine: {profile.disturbance}"
    missing = [str(frames) for frames in engines if frames not in profile.latencies]
    return f"the profile lacks {', '.join(missing)} frames" if missing else ""
