"""Does an inference wait for a broker that is away? Rates, and what arrives afterwards.

    python -m benchmarks.outage demo/bundle demo/stream.mp4 [--hop 0.1] [--outage 8] [--rounds 2]

A bundle runs on a video, at the video's pace and again and again, and tells a real broker of each
result, and of an event that begins or ends at every fourth. The broker, mosquitto where it is
installed and else amqtt, is stopped (SIGSTOP) for a while and goes on; then it is killed and
started again. Targets: in both outages at least 99 % of the rate with the broker, and every event
arrives afterwards, once. Exit code 1: missed.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

import ffn_edge
from benchmarks.broker import Broker, Listener
from benchmarks.machine import describe_machine
from ffn_edge.runtime.classifier import Result
from ffn_edge.runtime.events.event import Event
from ffn_edge.runtime.outputs.mqtt import Mqtt, MqttSettings

LEAST_RATE = 0.99
_SETTLE_S = 4.0  # after an outage, and at the start
_SETTLING, _RUNNING, _STOPPED, _KILLED = "settling", "with the broker", "stopped", "killed"


@dataclass
class Phase:
    """A part of the run, and what it is found to be.

    Attributes:
        name: of its kind.
        seconds: how long it is.
        inferences: made meanwhile.
        calls_ms: how long the output took for each, in the thread that infers.
    """

    name: str
    seconds: float
    inferences: int = 0
    calls_ms: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Inferences a second."""
        return self.inferences / self.seconds


def events(number: int) -> Event:
    """Return the begin, or of an odd number the end, of an event."""
    start_s = float(number // 2)
    return Event(
        id=f"outage-{number // 2}", source="video", class_name="wave", start_s=start_s,
        end_s=start_s + 1 if number % 2 else None, confidence=0.9, peak=0.95, peak_s=start_s,
    )  # fmt: skip


def results(bundle: Path, video: Path, hop_s: float) -> Iterator[Result]:
    """Yield the results of a video that never ends."""
    with ffn_edge.open_session(
        bundle, [video] * 1000, hop_s=hop_s, realtime=True, max_seconds=3600.0
    ) as session:
        yield from session


@click.command()
@click.argument("bundle", type=Path)
@click.argument("video", type=Path)
@click.option("--hop", "hop_s", default=0.1, show_default=True, help="Seconds.")
@click.option("--outage", "outage_s", default=8.0, show_default=True, help="Seconds.")
@click.option("--rounds", default=2, show_default=True)
@click.option("--amqtt", is_flag=True, help="Not mosquitto, though it is there.")
def main(
    bundle: Path, video: Path, hop_s: float, outage_s: float, rounds: int, amqtt: bool
) -> None:
    """Run, break and print."""
    logging.basicConfig(level="INFO", format="%(message)s")
    console = Console(highlight=False, soft_wrap=True)
    phases = [
        Phase(name, _SETTLE_S if name == _SETTLING else outage_s)
        for _ in range(rounds)
        for broken in (_STOPPED, _KILLED)
        for name in (_SETTLING, _RUNNING, broken)
    ] + [Phase(_SETTLING, _SETTLE_S)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Broker(folder, mosquitto=not amqtt) as broker, Listener(broker.port) as listener:
            settings = MqttSettings(host="127.0.0.1", port=broker.port, topic="outage")
            with Mqtt(settings, folder / "spool", cameras=["video"], classes=["wave"]) as mqtt:
                sent = _run(results(bundle, video, hop_s), phases, broker, listener, mqtt)
                end = time.monotonic() + 60
                while mqtt.status().waiting and time.monotonic() < end:
                    time.sleep(0.1)
            time.sleep(1.0)
        arrived = Counter(
            (event["id"], event["phase"])
            for topic, body, _ in listener.messages
            if topic.endswith("/event")
            for event in [json.loads(body)]
        )
    console.print(f"{describe_machine()}; {broker.name}; load {os.getloadavg()[0]:.1f}\n")
    table = Table("broker", "inferences a second", "least and most", "of it", "call, ms", "most")
    missed = False
    whole = _mean([each.rate for each in phases if each.name == _RUNNING])
    for name in (_RUNNING, _STOPPED, _KILLED):
        rates = [each.rate for each in phases if each.name == name]
        calls = sorted(ms for each in phases if each.name == name for ms in each.calls_ms)
        share = _mean(rates) / whole
        missed |= share < LEAST_RATE
        table.add_row(
            name, f"{_mean(rates):.2f}", f"{min(rates):.2f} {max(rates):.2f}", f"{share:.1%}",
            f"{calls[len(calls) // 2]:.3f}", f"{calls[-1]:.2f}",
        )  # fmt: skip
    console.print(table)
    lost, again = len(sent - arrived.keys()), sum(arrived.values()) - len(arrived)
    console.print(f"{len(sent)} messages of events: {lost} lost, {again} that came again")
    missed |= bool(lost or again)
    console.print("FAIL" if missed else "PASS")
    sys.exit(missed)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _run(
    found: Iterator[Result], phases: list[Phase], broker: Broker, listener: Listener, mqtt: Mqtt
) -> set[tuple[str, str]]:
    """Go through the phases; return the messages that must arrive."""
    sent = set()
    count = 0
    next(found)  # the engines are open, and the first window is full
    for phase in phases:
        if phase.name == _STOPPED:
            broker.pause()
        elif phase.name == _KILLED:
            broker.kill()
        end = time.monotonic() + phase.seconds
        while time.monotonic() < end:
            result = next(found)
            start = time.perf_counter()
            mqtt.result(result)
            if count % 4 == 0:
                event = events(count // 4)
                mqtt.event(event)
                sent.add((event.id, "begin" if event.end_s is None else "end"))
            phase.calls_ms.append((time.perf_counter() - start) * 1e3)
            count += 1
            phase.inferences += 1
        if phase.name == _STOPPED:
            broker.go_on()
        elif phase.name == _KILLED:
            broker.start()
            listener.wait()
    return sent


if __name__ == "__main__":
    main()
