"""The service: cameras, events, outputs and the page, from a configuration, until told to end.

One thread infers. Between two inferences it does what must not happen during one: it takes over a
new bundle, and a configuration that was read again. All else has threads of its own.
"""

from __future__ import annotations

import dataclasses
import logging
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from ffn_edge.bundle.bundle import Bundle
from ffn_edge.bundle.signature import PublicKey
from ffn_edge.errors import EngineError, FfnEdgeError, counted
from ffn_edge.runtime.camera_settings import CameraSettings, open_camera
from ffn_edge.runtime.cameras import Cameras, CameraState
from ffn_edge.runtime.classifier import Classifier
from ffn_edge.runtime.event_sink import EventSetting, event_setting
from ffn_edge.runtime.event_stage import EventStage
from ffn_edge.runtime.events.event import Event
from ffn_edge.runtime.events.rules import EventRules
from ffn_edge.runtime.outputs.event_clips import EventClips
from ffn_edge.runtime.outputs.lines import Lines
from ffn_edge.runtime.outputs.metrics import Metrics
from ffn_edge.runtime.outputs.mqtt import Mqtt
from ffn_edge.runtime.outputs.open_events import OpenEvents
from ffn_edge.runtime.outputs.output import Output, Status
from ffn_edge.runtime.outputs.webhook import Webhook
from ffn_edge.runtime.run import RunOptions, Sensors, open_classifier, with_window
from ffn_edge.runtime.serve.board import LATELY_S, Board
from ffn_edge.runtime.serve.changes import changes_between
from ffn_edge.runtime.serve.config import Config, load_config, state_folder
from ffn_edge.runtime.serve.http import HttpServer
from ffn_edge.runtime.serve.logs import JsonHandler
from ffn_edge.runtime.serve.systemd import Watchdog, notify, reloading
from ffn_edge.runtime.serve.updates import Updates
from ffn_edge.runtime.session import Hooks
from ffn_edge.runtime.stream.sources import Frame, Stream
from ffn_edge.signals import on_signals

_log = logging.getLogger(__name__)


def serve(
    config: Config,
    *,
    public_key: Path | None = None,
    logs: JsonHandler | None = None,
    root: Path = Path("/"),
) -> None:
    """Watch the cameras until SIGTERM or Ctrl-C. SIGHUP reads the configuration again.

    Args:
        config: checked.
        public_key: of whoever must have signed the bundles that run; None is nobody.
        logs: is told of new secrets to hide.
        root: where the machine's file system begins, for its sensors.

    Raises:
        FfnEdgeError: the bundle, the page's address or an output cannot be used, or no camera is
            left that can come back.
    """
    with ExitStack() as stack:
        state_folder(config)
        service = _Service(config, logs, root)
        stack.enter_context(on_signals(service.ask_for_reload, signal.SIGHUP, once=False))
        # What cannot be used is told before the engines are opened, which takes a while.
        page = stack.enter_context(service.page())
        _log.info("the page is at %s", page.url)
        stack.enter_context(service.sensors)
        key = None if public_key is None else PublicKey.read(public_key)
        updates = stack.enter_context(
            Updates(config.bundle, service.open, signed_by=key, stream=config.engines.stream)
        )
        service.begin(stack, updates)
        service.run()
    _log.info("the service has ended")


class _Service:
    """What belongs together while it runs."""

    def __init__(self, config: Config, logs: JsonHandler | None, root: Path) -> None:
        self._config = config
        self._logs = logs
        self._limits = config.limits.limits()
        self._options = RunOptions(
            engines=config.engines.options(), stream=config.engines.stream, root=root
        )
        self.sensors = Sensors(root)
        self._outputs: list[Output] = []
        names = [camera.name for camera in config.camera]
        self._board = Board(names, self._statuses, lately_s=_lately_s(config))
        self._metrics = Metrics(self._camera_states, self._statuses)
        self._clips: EventClips | None = None
        self._mqtt: Mqtt | None = None
        self._cameras: Cameras | None = None
        self._learnt: dict[str, EventSetting] = {}  # of each bundle that is open
        self._must_reload = False
        self._round = time.monotonic()

    def page(self) -> HttpServer:
        """Return the server of the page, the health and the metrics."""
        return HttpServer(self._config.http, self._board, render=self._metrics.render)

    @contextmanager
    def open(self, bundle: Bundle) -> Iterator[Classifier]:
        """Open a bundle's engines, for `Updates`."""
        manifest = bundle.manifest
        manifest.input.check_streamable()
        options = with_window(self._options, manifest.input.window_s)
        hop_s = min(camera.hop_s for camera in self._config.camera)
        # Here, where a calibration that cannot be used refuses the bundle.
        self._learnt[bundle.identity] = event_setting(bundle, stream=options.stream)
        try:
            with open_classifier(
                bundle, self._limits, options, self.sensors, period_s=hop_s
            ) as classifier:
                yield classifier
        finally:
            del self._learnt[bundle.identity]

    def begin(self, stack: ExitStack, updates: Updates) -> None:
        """Open the outputs, and make ready to watch."""
        config, bundle = self._config, updates.bundle
        self._updates = updates
        learnt = self._learnt[bundle.identity]
        self._rules = self._merged()
        self._board.classes = bundle.manifest.classes
        for output in self._opened_outputs(bundle):
            self._outputs.append(stack.enter_context(output))
        kept = stack.enter_context(OpenEvents(state_folder(config) / "open_events.json"))
        self._outputs.append(kept)
        for event in kept.left:
            self._tell(event)
        self._stage = EventStage(
            lambda camera: self._rules, bundle.manifest.classes, learnt.temperatures, self._tell
        )
        stack.callback(self._stage.end_all)
        self.sensors.start()
        hooks = Hooks(on_frame=self._frame, on_still=self._still, on_lost=self._lost)
        self._cameras = Cameras(
            self._opened_cameras(config),
            updates.classifier,
            lambda: self._limits,
            with_window(self._options, bundle.manifest.input.window_s),
            hooks,
            still=learnt.still if config.events.gate else None,
        )
        self._cameras.fall_back = self._fall_back
        self._cameras.on_round = self._on_round

    def run(self) -> None:
        """Watch until told to end."""
        cameras, updates = self._cameras, self._updates
        assert cameras is not None
        with (
            on_signals(cameras.stop, signal.SIGINT, signal.SIGTERM),
            Watchdog(lambda: self._round),
            closing(iter(cameras)) as results,
        ):
            notify(READY=1, STATUS=counted(len(self._config.camera), "camera"))
            for result in results:
                self._stage.result(result)
                for output in (self._board, self._metrics, *self._outputs):
                    output.result(result)
                updates.ran(result)
            notify(STOPPING=1)

    # --- between two inferences

    def _on_round(self) -> None:
        self._round = time.monotonic()
        if (classifier := self._updates.take()) is not None:
            assert self._cameras is not None
            self._cameras.swap(classifier)  # before the next inference
            self._relearn()
        if self._must_reload:
            self._must_reload = False
            reloading()
            self._reload()
            notify(READY=1, STATUS=counted(len(self._config.camera), "camera"))

    def _fall_back(self, error: EngineError) -> Classifier | None:
        before = self._updates.failed(error)
        if before is not None:
            self._relearn()
        return before

    def _relearn(self) -> None:
        """Take events as the bundle that runs now has learnt them."""
        learnt = self._learnt[self._updates.bundle.identity]
        self._stage.temperatures = learnt.temperatures
        self._rules = self._merged()
        if self._cameras is not None and self._config.events.gate:
            self._cameras.still = learnt.still  # of windows that are opened from now on

    def ask_for_reload(self) -> None:
        """Read the configuration again, as soon as it runs."""
        self._must_reload = True

    def _reload(self) -> None:
        """Read the configuration again; one that is wrong changes nothing."""
        try:
            new = load_config(self._config.path)
            new.check(self._updates.bundle.manifest)
            cameras = self._opened_cameras(new)
        except FfnEdgeError as error:
            _log.error("nothing was changed: %s", error)
            return
        if self._logs is not None:
            self._logs.hide(new.secrets())
        changes = changes_between(self._config, new)
        _log.info("read %s again: %s", new.path, changes.in_words())
        self._config, self._limits = new, new.limits.limits()
        self._rules = self._merged()
        if changes.cameras:
            names = [camera.name for camera in new.camera]
            self._board.set_cameras(names, _lately_s(new))
            if self._mqtt is not None:
                self._mqtt.set_cameras(names)
            assert self._cameras is not None
            self._cameras.set_cameras(cameras)

    # --- what the parts tell each other

    def _frame(self, frame: Frame, stream: Stream) -> None:
        self._board.frame(frame, stream)
        if self._clips is not None:
            self._clips.frame(frame, stream)

    def _still(self, name: str, time_s: float) -> None:
        self._board.still(name, time_s)
        self._stage.still(name, time_s)

    def _lost(self, name: str) -> None:
        self._board.lost(name)
        self._stage.end(name)

    def _tell(self, event: Event) -> None:
        for output in (self._board, self._metrics, *self._outputs):
            output.event(event)

    def _statuses(self) -> list[Status]:
        found = [output.status() for output in self._outputs]
        return [status for status in found if status is not None]

    # --- from the configuration to parts

    def _merged(self) -> EventRules:
        """Return the calibration's rules of events, and what the configuration says instead."""
        table = self._config.events
        given = {
            each.name: getattr(table, each.name)
            for each in dataclasses.fields(EventRules)
            if getattr(table, each.name, None) is not None
        }
        learnt = self._learnt[self._updates.bundle.identity].rules
        classes = self._updates.bundle.manifest.classes
        for name, value in given.items():
            if isinstance(value, Mapping):  # of some classes; of the others, what was learnt
                before = getattr(learnt, name)
                if not isinstance(before, Mapping):
                    before = dict.fromkeys(classes, before)
                given[name] = {**before, **value}
        return dataclasses.replace(learnt, **given)

    def _opened_cameras(self, config: Config) -> list[tuple[CameraSettings, Stream]]:
        return [(each, open_camera(each)) for each in config.camera]

    def _camera_states(self) -> list[CameraState]:
        return [] if self._cameras is None else self._cameras.states()

    def _opened_outputs(self, bundle: Bundle) -> Iterator[Output]:
        config, state = self._config, state_folder(self._config)
        names = [camera.name for camera in config.camera]
        if config.files.events is not None:
            yield Lines(config.files.events)
        if config.files.results is not None:
            yield Lines(config.files.results, results=True)
        if config.clips is not None:
            self._clips = EventClips(config.clips)
            yield self._clips
        if config.mqtt is not None:
            spool, classes = state / "mqtt.spool", bundle.manifest.classes
            self._mqtt = Mqtt(config.mqtt, spool, cameras=names, classes=classes)
            yield self._mqtt
        if config.webhook is not None:
            yield Webhook(config.webhook, state / "webhook.spool")


def _lately_s(config: Config) -> float:
    """Return how old a camera's last answer may be."""
    return LATELY_S + max(camera.hop_s for camera in config.camera)
