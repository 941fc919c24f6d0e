"""From a bundle and a source to a running session, and from there to an end in order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ffn_edge.bundle import Bundle
from ffn_edge.errors import FfnEdgeError, VideoError
from ffn_edge.runtime.engine import EngineOptions, OpenEngines, open_engines
from ffn_edge.runtime.policy import Limits, OperatingPoint, State, initial_state
from ffn_edge.runtime.profile import (
    Latency,
    Profile,
    conditions_now,
    load_profile,
    profile_engines,
)
from ffn_edge.runtime.session import Session, Timing
from ffn_edge.runtime.sinks import AnnotatedVideo, Sink
from ffn_edge.runtime.sources import Frame, Stream, open_source
from ffn_edge.runtime.summary import Summary
from ffn_edge.signals import on_signals

# Enough to start with; the policy learns the rest from the run itself.
_QUICK_RUNS = 5
# Other programs can only add to a latency. A low quantile keeps them out of the proportions
# between the engines; their share goes into the slowdown, which the run corrects.
_BASE_QUANTILE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(Timing):
    """How to run, apart from the limits.

    Attributes:
        realtime: play files at their own pace, as a camera would.
        engines: what runs the engines.
    """

    realtime: bool = False
    engines: EngineOptions = field(default_factory=EngineOptions)


_DEFAULTS = RunOptions()


@contextmanager
def open_session(
    bundle: Bundle,
    source: str,
    limits: Limits,
    options: RunOptions = _DEFAULTS,
    *,
    say: Callable[[str], None] = lambda message: None,
    on_frame: Callable[[Frame, Stream], None] | None = None,
    on_skip: Callable[[str, VideoError], None] | None = None,
) -> Iterator[Session]:
    """Open the engines of a bundle, learn their latency, and yield the session over a source.

        with open_session(bundle, "clip.mp4", Limits(latency_ms=80)) as session:
            for result in session:
                print(result.time_s, result.decision.frames, result.top[0])

    Args:
        bundle: what to run.
        source: see `sources.open_source`.
        limits: what to keep. With `limits.frames`, only that engine is opened.
        options: how to run.
        say: is told what was chosen and what to be warned of.
        on_frame: see `Session`.
        on_skip: see `Session`.

    Raises:
        FfnEdgeError: the source, the bundle, the backend or a value cannot be used.
    """
    streams = open_source(source, realtime=options.realtime)
    wanted = None if limits.frames is None else (limits.frames,)
    with open_engines(bundle, options.engines, frame_counts=wanted, say=say) as engines:
        chosen = engines.backend
        say(
            f"{bundle.manifest.architecture}, {', '.join(map(str, engines))} frames, with "
            f"{chosen.name} {chosen.version} in {chosen.precision} on {chosen.device}, "
            f"{chosen.threads} threads: {chosen.reason}"
        )
        yield Session(
            streams,
            engines,
            bundle.manifest,
            learn_state(bundle, engines, say),
            limits,
            options,
            new_ring=engines.new_ring,
            on_frame=on_frame,
            on_skip=on_skip,
        )


def learn_state(bundle: Bundle, engines: OpenEngines, say: Callable[[str], None]) -> State:
    """Return what is known of the engines' latency: from the profile, or measured quickly.

    Either way every engine has run when this returns, so that the first inference of the run is
    as fast as the others.
    """
    try:
        profile = load_profile(bundle.path)
        doubt = _doubt(profile, bundle, engines)
    except FfnEdgeError as error:
        profile, doubt = None, error.message
    if profile is None or doubt:
        say(f"{doubt}; measuring quickly. `ffn-edge profile` measures thoroughly.")
        latencies = profile_engines(
            engines,
            bundle.manifest.input,
            runs=_QUICK_RUNS,
            warm_up=1,
            by_turns=engines.switch_is_free,
        )
    else:
        latencies = {frames: profile.latencies[frames] for frames in engines}
        profile_engines(engines, bundle.manifest.input, runs=1, warm_up=0)
    return state_from_latencies(bundle, latencies)


def state_from_latencies(bundle: Bundle, latencies: dict[int, Latency]) -> State:
    """Return the policy's first state from measured latencies and the manifest's accuracies."""
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
            )
        )
        ratios += [sample_ms / base_ms for sample_ms in latency.samples_ms]
    return initial_state(points, ratios)


def run_session(
    bundle: Bundle,
    source: str,
    limits: Limits,
    options: RunOptions = _DEFAULTS,
    *,
    summary: Summary,
    sinks: Sequence[Sink] = (),
    annotate: Path | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> None:
    """Run a bundle over a source, and give every result to every sink, until the source ends.

    Ctrl-C and SIGTERM end the run after the inference at hand; a second Ctrl-C at once.

    Args:
        bundle: what to run.
        source: see `sources.open_source`.
        limits: what to keep.
        options: how to run.
        summary: counts the results; a run that fails leaves what it counted until then.
        sinks: open.
        annotate: an MP4 file to write, or None.
        say: is told what was chosen and what to be warned of.

    Raises:
        FfnEdgeError: the source, the bundle, the backend, a value or a file cannot be used.
    """

    def skip(name: str, error: VideoError) -> None:
        say(f"skipped {name}: {error}")
        summary.skip(name, error)

    if annotate is not None and len(open_source(source).streams) > 1:
        raise VideoError(
            f"{annotate} can hold one video; {source} lists several",
            "annotate one video at a time, or leave out --annotate.",
        )
    with ExitStack() as stack:
        video = None if annotate is None else stack.enter_context(AnnotatedVideo(annotate))
        session = stack.enter_context(
            open_session(
                bundle,
                source,
                limits,
                options,
                say=say,
                on_frame=None if video is None else video.frame,
                on_skip=skip,
            )
        )
        stack.enter_context(on_signals(session.stop, signal.SIGINT, signal.SIGTERM))
        # Closed here and not some time later, so that no thread writes to a sink that is closed.
        results = stack.enter_context(closing(iter(session)))
        targets = [summary, *sinks, *([] if video is None else [video])]
        for result in results:
            for target in targets:
                target.write(result)


def _doubt(profile: Profile | None, bundle: Bundle, engines: OpenEngines) -> str:
    """Say why a profile cannot be trusted here; nothing if it can."""
    if profile is None:
        return "there is no profile of this bundle yet"
    differences = profile.conditions.differences(conditions_now(bundle, engines.backend))
    if differences:
        return f"the profile was made for {'; '.join(differences)}"
    missing = [str(frames) for frames in engines if frames not in profile.latencies]
    return f"the profile lacks {', '.join(missing)} frames" if missing else ""
