"""Metrics for Prometheus, in base units: seconds, joules, watts, degrees Celsius, ratios."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import ffn_edge
from ffn_edge.runtime.cameras import CameraState
from ffn_edge.runtime.classifier import Result
from ffn_edge.runtime.events.event import Event
from ffn_edge.runtime.outputs.output import Output, Status
from ffn_edge.runtime.outputs.prometheus import prometheus
from ffn_edge.runtime.policy.interface import Observation

# Latencies from a small network on a graphics card to a large one on a busy processor.
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)


class Metrics(Output):
    """Counts results and events; `render` writes what Prometheus scrapes.

    Labels are cameras, frame counts and classes of the bundle: as many series as those allow. What
    was not measured, as power without a meter, has no series.
    """

    def __init__(
        self,
        cameras: Callable[[], Iterable[CameraState]] = tuple,
        outputs: Callable[[], Iterable[Status]] = tuple,
    ) -> None:
        """Prepare.

        Args:
            cameras: is asked at each `render`, in its thread, how the cameras do.
            outputs: likewise.

        Raises:
            FfnEdgeError: prometheus-client is not installed.
        """
        client: Any = prometheus()
        self._cameras = cameras
        self._outputs = outputs
        self._registry = client.CollectorRegistry()
        where = {"namespace": "ffn_edge", "registry": self._registry}
        by_frames = ("camera", "frames")
        self._inferences = client.Counter("inferences", "Inferences", by_frames, **where)
        self._latency = client.Histogram(
            "latency_seconds",
            "From the decision to the logits",
            by_frames,
            buckets=_BUCKETS_S,
            **where,
        )
        self._missed = client.Counter(
            "deadline_misses", "Inferences that took longer than the deadline", ("camera",), **where
        )
        # To look one up at the client takes longer than to count.
        self._series: dict[tuple[str, int], _Series] = {}
        self._events = client.Counter("events", "Events that began", ("camera", "class"), **where)
        self._energy = client.Counter(
            "energy_joules", "What was drawn, where it is measured", **where
        )
        self._over_currents = client.Counter(
            "over_currents", "Over-currents that the device told of", **where
        )
        self._latest: Observation | None = None
        self._power_w: float | None = None  # the latest: it is told less often than inferences end
        client.Info("build", "The release", **where).info({"version": ffn_edge.__version__})
        client.ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def result(self, result: Result) -> None:
        """Count an inference."""
        key = result.source, result.frames
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _Series(
                self._inferences.labels(*key),
                self._latency.labels(*key),
                self._missed.labels(result.source),
            )
        series.inferences.inc()
        series.latency.observe(result.latency_ms / 1000)
        if result.missed:
            series.missed.inc()
        self._latest = result.observation
        sensed = self._latest.sensed
        if sensed.power_w is not None or sensed.fault is not None:
            self._power_w = sensed.power_w
        if sensed.energy_j:
            self._energy.inc(sensed.energy_j)
        if sensed.over_current:
            self._over_currents.inc(sensed.over_current)

    def event(self, event: Event) -> None:
        """Count an event that began."""
        if event.end_s is None:
            self._events.labels(event.source, event.class_name).inc()

    def render(self) -> tuple[bytes, str]:
        """Return what Prometheus reads, and its content type. From any thread."""
        client: Any = prometheus()
        return client.generate_latest(self._registry), client.CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Any]:
        """Yield what is asked for and not counted: prometheus-client calls this."""
        client: Any = prometheus()
        kinds = {
            True: client.core.CounterMetricFamily,
            False: client.core.GaugeMetricFamily,
        }
        for name, text, label, values in self._asked():
            family = kinds[name.endswith("_total")](f"ffn_edge_{name}", text, labels=label)
            for key, value in values.items():
                family.add_metric((key,) if label else (), value)
            if values:
                yield family

    def _asked(self) -> Iterator[tuple[str, str, tuple[str, ...], Mapping[str, float]]]:
        """Yield of each metric its name, its meaning, its label, and values by that label's."""
        cameras = {each.name: each for each in self._cameras()}
        for name, text, field in (
            ("camera_up", "Whether frames come", "up"),
            ("camera_frames_total", "Frames that came", "received"),
            ("camera_dropped_frames_total", "Frames that were never looked at", "dropped"),
        ):
            yield name, text, ("camera",), {key: getattr(cameras[key], field) for key in cameras}
        outputs = {each.name: each for each in self._outputs()}
        for name, text, field in (
            ("output_sent_total", "Messages that arrived", "sent"),
            ("output_dropped_total", "Messages that never will arrive", "dropped"),
            ("output_waiting", "Messages that are still to be sent", "waiting"),
        ):
            yield name, text, ("output",), {key: getattr(outputs[key], field) for key in outputs}
        up = {key: each.fault is None for key, each in outputs.items()}
        yield "output_up", "Whether messages arrive", ("output",), up
        if self._latest is None:
            return
        sensed, limits = self._latest.sensed, self._latest.limits
        deadline_ms = self._latest.deadline_ms
        for name, text, value in (
            ("power_watts", "What is drawn", self._power_w),
            ("power_budget_watts", "What may be drawn", limits.power_w),
            ("deadline_seconds", "What an inference may take", deadline_ms and deadline_ms / 1000),
            ("throttled", "Whether the device slows itself down", sensed.throttled is not None),
        ):
            yield name, text, (), {} if value is None else {"": value}
        zones = sensed.zones_c
        yield "temperature_celsius", "Of a zone of the device", ("zone",), zones


class _Series(NamedTuple):
    """What one camera counts at one frame count."""

    inferences: Any
    latency: Any
    missed: Any
