"""From a bundle and a source to a running session, and from there to an end in order."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ffn_edge.bundle.bundle import Bundle, InputContract
from ffn_edge.errors import FfnEdgeError, VideoError
from ffn_edge.media.video import UNSTATED_FPS
from ffn_edge.runtime.camera_settings import cameras_of
from ffn_edge.runtime.cameras import Cameras
from ffn_edge.runtime.cascade.calibration import load_calibration
from ffn_edge.runtime.cascade.cascade import CascadeController
from ffn_edge.runtime.classifier import Classifier
from ffn_edge.runtime.engines.engine import Backend, EngineOptions, OpenEngines, open_engines
from ffn_edge.runtime.event_sink import EventSink
from ffn_edge.runtime.limits_file import LimitsFile
from ffn_edge.runtime.machine.health import Health
from ffn_edge.runtime.policy.adaptive import Adaptive
from ffn_edge.runtime.policy.interface import NOTHING_SENSED, Limits, Policy, Sensed
from ffn_edge.runtime.power.meter import Meter, NullMeter
from ffn_edge.runtime.power.sampler import Sampler
from ffn_edge.runtime.profile.conditions import conditions_now
from ffn_edge.runtime.profile.power import meter_for
from ffn_edge.runtime.profile.setting import PrecisionChooser, learn_setting
from ffn_edge.runtime.session import NO_HOOKS, Hooks, Session
from ffn_edge.runtime.sinks import AnnotatedVideo, Sink
from ffn_edge.runtime.stream.sources import Name, Source, open_source
from ffn_edge.runtime.stream.window import Timing
from ffn_edge.runtime.summary import Summary
from ffn_edge.runtime.trace import TraceWriter
from ffn_edge.signals import ending_signals, on_signals

_log = logging.getLogger(__name__)

_MOST_FPS = 1000
_LIMITS = {each.name for each in dataclasses.fields(Limits)}


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
        escalate: look again, with more frames, where few are not sure: a cascade.
        still: of cameras, leave inferences out where nothing moves: the threshold of `Stillness`.

    Raises:
        FfnEdgeError: a time or the rate is not positive, or out of all proportion; or a stream was
            to be looked at again.
    """

    realtime: bool = False
    fps: float = UNSTATED_FPS
    engines: EngineOptions = field(default_factory=EngineOptions)
    policy: Policy[Any] = field(default_factory=Adaptive)
    limits_file: Path | None = None
    root: Path = Path("/")
    escalate: bool = False
    still: float | None = None

    def __post_init__(self) -> None:
        # Not super(): a dataclass with slots is another class than the one that stands here.
        Timing.__post_init__(self)
        if not 0 < self.fps <= _MOST_FPS:
            raise FfnEdgeError(
                f"images have more than 0 and at most {_MOST_FPS} frames a second; "
                f"got {self.fps:g}",
                "the default is --fps 30.",
            )
        if self.stream and self.escalate:
            raise FfnEdgeError(
                "a cascade looks again at a whole clip, and a stream is seen frame by frame",
                "leave out --escalate or --stream.",
            )


_DEFAULTS = RunOptions()
_NO_LIMITS = Limits()


@contextmanager
def open_session(
    bundle: Bundle | str | Path,
    source: Name | Sequence[Name] | Source,
    *,
    limits: Limits = _NO_LIMITS,
    options: RunOptions = _DEFAULTS,
    hooks: Hooks = NO_HOOKS,
    trace: TraceWriter | None = None,
    **fields: Any,
) -> Iterator[Session | Cameras]:
    """Open a bundle's engines, learn their latency, and yield the session over a source.

        source = "demo/clips/test"  # a folder of videos; or one, or 0 for a camera
        with ffn_edge.open_session("demo/bundle", source, latency_ms=80) as session:
            for result in session:
                print(result.frames, result.latency_ms, result.top[0].class_name)

    Iterating the session runs it; each result is one inference, on a clip of the last
    `window_s` seconds, every `hop_s` seconds; or with `stream`, on each frame that is due. Its
    `probabilities` are float64 (classes,), its times in seconds, its latencies in milliseconds.
    Several cameras are watched at once, and share one budget; several videos one by one.

    Args:
        bundle: what to run: a folder, or one that was loaded.
        source: a video, a folder, a pattern, a list or a camera, or several; see `open_source`.
        limits: what to keep. With `limits.frames`, only that engine is opened.
        options: how to run.
        hooks: what to call meanwhile.
        trace: open; is told what the policy knows at the start.
        **fields: of `Limits`, as latency_ms, power_w or frames, and of `RunOptions`, as window_s,
            hop_s, max_seconds or realtime; they replace those of `limits` and `options`.

    Raises:
        FfnEdgeError: the source, the bundle, the backend or a value cannot be used.
        TypeError: there is no such field.
    """
    limits = dataclasses.replace(limits, **{k: v for k, v in fields.items() if k in _LIMITS})
    options = dataclasses.replace(options, **{k: v for k, v in fields.items() if k not in _LIMITS})
    if isinstance(bundle, str | Path):
        bundle = Bundle.load(bundle)
    manifest = bundle.manifest
    manifest.input.check_streamable()
    options = with_window(options, manifest.input.window_s)
    limits_now = _limits_now(limits, options)
    opened = source_for(manifest.input, source, options, whole=hooks.on_frame is not None)
    is_live = all(stream.live for stream in opened.streams)
    several = len(opened.streams) > 1 and any(stream.comes_back for stream in opened.streams)
    cameras = cameras_of(opened, options) if several else []
    with ExitStack() as stack:
        sensors = stack.enter_context(Sensors(options.root))
        classifier = stack.enter_context(
            open_classifier(
                bundle, limits_now(), options, sensors, period_s=options.hop_s if is_live else 0.0
            )
        )
        if trace is not None:
            trace.begin(classifier.setting, limits, sensors.conditions(bundle))
        sensors.start()
        if cameras:
            yield Cameras(cameras, classifier, limits_now, options, hooks, still=options.still)
        else:
            yield Session(opened, classifier, limits_now, options, hooks, still=options.still)


class Sensors:
    """The machine's meter and health, which bundles that follow each other share.

    The meter is opened for the first engines: a graphics card's only where they run on it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._stack = ExitStack()
        self._meter: Meter | None = None
        self._backend: Backend | None = None
        self._sampler: Sampler | None = None

    def __enter__(self) -> Sensors:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def meter_for(self, backend: Backend) -> Meter:
        """Return the meter, opened for the first engines that ask."""
        if self._meter is None:
            self._meter = self._stack.enter_context(closing(meter_for(backend, self.root)))
            self._backend = backend
        return self._meter

    def conditions(self, bundle: Bundle) -> dict[str, Any]:
        """Return the conditions of now, for a trace."""
        assert self._backend is not None
        return dataclasses.asdict(conditions_now(bundle.identity, self._backend, self.root))

    def start(self) -> None:
        """Begin to sample; until then nothing is sensed."""
        assert self._meter is not None
        self._sampler = self._stack.enter_context(Sampler(self._meter, Health(self.root)))

    def sense(self, now: float) -> Sensed:
        """Return what was sensed since the last call; see `Sampler`."""
        return NOTHING_SENSED if self._sampler is None else self._sampler.sense(now)


@contextmanager
def open_classifier(
    bundle: Bundle,
    limits: Limits,
    options: RunOptions,
    sensors: Sensors,
    *,
    period_s: float,
) -> Iterator[Classifier]:
    """Open a bundle's engines, and learn what they take; all close when the block ends.

    Args:
        bundle: what to run.
        limits: that are to be kept first. With `limits.frames`, only that engine is opened.
        options: how to run; its window is the bundle's where it has one.
        sensors: of the machine.
        period_s: from one inference to the next; 0 is back to back, as of a file.

    Raises:
        FfnEdgeError: the bundle or the backend cannot be used.
    """
    manifest = bundle.manifest
    wanted = None if limits.frames is None else (limits.frames,)
    with ExitStack() as stack:
        engine_options = dataclasses.replace(options.engines, stream=options.stream)
        chooser = PrecisionChooser(bundle, engine_options, options.root)
        engines = stack.enter_context(
            open_engines(bundle, engine_options, frame_counts=wanted, precisions=chooser)
        )
        _tell_engines(manifest.architecture, engines)
        meter = sensors.meter_for(engines.backend)
        _warn_without_meter(meter, limits)
        setting = learn_setting(
            bundle,
            engines,
            meter,
            chooser=chooser,
            # A file may ask for it later.
            needs_power=limits.needs_power or options.limits_file is not None,
            root=options.root,
            period_s=period_s,
            stream=options.stream,
        )
        if options.stream:
            setting = setting.streamed(options.clip_s, live=period_s > 0)
        cascade = None
        if options.escalate:
            cascade = CascadeController(load_calibration(bundle), engines, setting)
        yield Classifier(engines, manifest, options.policy, setting, sensors.sense, cascade)


def with_window(options: RunOptions, trained_s: float | None) -> RunOptions:
    """Let clips span what they did in training, unless the user has said otherwise."""
    if trained_s is None:
        return options
    if options.window_s is None:
        return dataclasses.replace(options, window_s=trained_s)
    if options.window_s != trained_s:
        _log.warning(
            "clips span %g s; the network was trained on clips of %g s", options.clip_s, trained_s
        )
    return options


def source_for(
    contract: InputContract,
    source: Name | Sequence[Name] | Source,
    options: RunOptions,
    *,
    whole: bool,
) -> Source:
    """Open what is to be watched, unless that was done; `whole` frames are for people too."""
    if isinstance(source, Source):
        return source
    # Twice what the network sees leaves its own scaling a whole factor.
    short_side = None if whole else max(2 * contract.short_side, 256)
    return open_source(source, realtime=options.realtime, fps=options.fps, short_side=short_side)


def run_session(
    bundle: Bundle,
    source: Name | Sequence[Name] | Source,
    limits: Limits,
    options: RunOptions = _DEFAULTS,
    *,
    summary: Summary,
    sinks: Sequence[Sink] = (),
    video_sinks: Sequence[Sink] = (),
    events: EventSink | None = None,
    annotate: Path | None = None,
    record: Path | None = None,
) -> None:
    """Run a bundle over a source, and give every result to every sink, until the source ends.

    Ctrl-C, SIGTERM and SIGHUP end the run after the inference at hand; a second Ctrl-C at once.

    Args:
        bundle: what to run.
        source: see `open_session`.
        limits: what to keep.
        options: how to run.
        summary: counts the results; a run that fails leaves what it counted until then.
        sinks: open.
        video_sinks: the same, but they are given no results of cameras, which have no end.
        events: makes events of the results; it is open, and one of the sinks.
        annotate: an MP4 file to write, or None.
        record: a trace to write, or None; see `TraceWriter`.

    Raises:
        FfnEdgeError: the source, the bundle, the backend, a value or a file cannot be used.
    """
    video = None if annotate is None else AnnotatedVideo(annotate)
    hooks = Hooks(on_frame=None if video is None else video.frame, on_skip=summary.skip)
    if events is not None:
        stage = events.stage
        hooks = dataclasses.replace(hooks, on_still=stage.still, on_lost=stage.end)
    opened = source_for(bundle.manifest.input, source, options, whole=annotate is not None)
    cameras = {stream.name for stream in opened.streams if stream.comes_back}
    if annotate is not None:
        _check_annotation(annotate, opened)
    if record is not None and len(cameras) > 1:
        raise FfnEdgeError(
            f"{record} can hold what the policy saw of one camera, not of {len(cameras)}",
            "record one camera at a time, or leave out --record.",
        )
    with ExitStack() as stack:
        if video is not None:
            stack.enter_context(video)
        trace = None if record is None else stack.enter_context(TraceWriter(record))
        session = stack.enter_context(
            open_session(bundle, opened, limits=limits, options=options, hooks=hooks, trace=trace)
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
            _log.warning(
                "%s left out %d of %d frames (%.0f%%): they came faster than they were handled",
                what,
                counts.dropped,
                counts.received,
                100 * counts.dropped / counts.received,
            )


def _limits_now(limits: Limits, options: RunOptions) -> Callable[[], Limits]:
    """Return what tells the limits: the file that may change them, or these."""
    if options.limits_file is not None:
        return LimitsFile(options.limits_file, limits)
    return lambda: limits


def _tell_engines(architecture: str, engines: OpenEngines) -> None:
    frames = ", ".join(map(str, engines))
    _log.info("%s, %s frames, with %s", architecture, frames, engines.in_words)


def _warn_without_meter(meter: Meter, limits: Limits) -> None:
    if isinstance(meter, NullMeter) and limits.needs_power:
        _log.warning(
            "%s. So a power budget is kept by the fewest frames. "
            "`ffn-edge power` says what would help.",
            meter.error.message,
        )


def _check_annotation(path: Path, source: Source) -> None:
    names = [stream.name for stream in source.streams]
    if len(names) > 1:
        raise VideoError(
            f"{path} can hold one video, and {len(names)} are to be watched",
            "annotate one video at a time, or leave out --annotate.",
        )
    if path.exists() and Path(names[0]).exists() and path.samefile(names[0]):
        raise VideoError(f"{path} is the video to annotate", "write another file.")
