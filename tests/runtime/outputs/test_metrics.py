"""Metrics as Prometheus reads them."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ffn_edge.runtime.outputs.metrics import CameraState, Metrics
from ffn_edge.runtime.outputs.output import Status
from ffn_edge.runtime.policy.interface import Limits, Sensed

ODD = 'the "front"\\door\n<b>ü'


def scraped(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Each sample by its name and its labels."""
    text, kind = metrics.render()
    assert kind.startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return f"ffn_edge_{name}", frozenset(labels.items())


def test_results_and_events_are_counted(new_result: Any, new_event: Any) -> None:
    metrics = Metrics()
    for latency_ms in (20.0, 30.0, 60.0):  # of at most 50
        metrics.result(new_result(latency_ms=latency_ms))
    metrics.result(new_result(frames=4))
    metrics.event(new_event())
    metrics.event(new_event(end_s=12.0))  # the same one
    found = scraped(metrics)
    of_8 = {"camera": "door", "frames": "8"}
    assert found[key("inferences_total", **of_8)] == 3
    assert found[key("inferences_total", camera="door", frames="4")] == 1
    assert found[key("latency_seconds_sum", **of_8)] == pytest.approx(0.11)
    assert found[key("latency_seconds_bucket", **of_8, le="0.05")] == 2
    assert found[key("deadline_misses_total", camera="door")] == 1
    assert found[key("deadline_seconds")] == 0.05
    assert found[key("events_total", **{"camera": "door", "class": "wave"})] == 1


def test_sensors_are_in_base_units_and_what_was_not_measured_is_absent(new_result: Any) -> None:
    metrics = Metrics()
    metrics.result(new_result(limits=Limits()))
    assert not {name for name, _ in scraped(metrics)} & {
        "ffn_edge_power_watts", "ffn_edge_power_budget_watts", "ffn_edge_deadline_seconds",
        "ffn_edge_temperature_celsius",
    }  # fmt: skip
    for energy_j in (1.5, 2.0):
        metrics.result(
            new_result(
                sensed=Sensed(
                    power_w=7.5, energy_j=energy_j, zones_c={"cpu": 61.0}, over_current=2,
                    throttled="heat",
                )
            )
        )  # fmt: skip
    found = scraped(metrics)
    assert found[key("power_watts")] == 7.5
    assert found[key("power_budget_watts")] == 12
    assert found[key("energy_joules_total")] == 3.5
    assert found[key("over_currents_total")] == 4
    assert found[key("temperature_celsius", zone="cpu")] == 61
    assert found[key("throttled")] == 1


def test_power_that_is_told_seldom_stays_until_it_is_told_again_or_fails(new_result: Any) -> None:
    metrics, shown = Metrics(), []
    for sensed in (Sensed(power_w=7.5), Sensed(), Sensed(fault="it is gone"), Sensed()):
        metrics.result(new_result(sensed=sensed))
        shown.append(scraped(metrics).get(key("power_watts")))
    assert shown == [7.5, 7.5, None, None]


def test_cameras_and_outputs_are_asked_at_each_scrape() -> None:
    cameras = [CameraState("door", up=True, received=100, dropped=3)]
    outputs = [Status(name="mqtt", sent=5, dropped=1, waiting=2, fault="away")]
    metrics = Metrics(lambda: cameras, lambda: outputs)
    found = scraped(metrics)
    assert found[key("camera_up", camera="door")] == 1
    assert found[key("camera_frames_total", camera="door")] == 100
    assert found[key("camera_dropped_frames_total", camera="door")] == 3
    assert found[key("output_sent_total", output="mqtt")] == 5
    assert found[key("output_dropped_total", output="mqtt")] == 1
    assert found[key("output_waiting", output="mqtt")] == 2
    assert found[key("output_up", output="mqtt")] == 0
    cameras.clear()
    assert key("camera_up", camera="door") not in scraped(metrics)


def test_odd_names_come_back_from_the_labels(new_result: Any, new_event: Any) -> None:
    metrics = Metrics()
    metrics.result(new_result(source=ODD))
    metrics.event(new_event(source=ODD, class_name=ODD))
    found = scraped(metrics)
    assert found[key("inferences_total", camera=ODD, frames="8")] == 1
    assert found[key("events_total", **{"camera": ODD, "class": ODD})] == 1


def test_the_release_and_the_process_are_told() -> None:
    names = {name for name, _ in scraped(Metrics())}
    assert {"ffn_edge_build_info", "process_resident_memory_bytes", "process_open_fds"} <= names
