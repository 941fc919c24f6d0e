"""`ffn-edge power`: parse, call the library, print."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ffn_edge.commands.option_types import Number, UserPath
from ffn_edge.device.jetson import power_mode
from ffn_edge.errors import SensorError, counted
from ffn_edge.runtime.machine.health import Health, HealthReading
from ffn_edge.runtime.power.find import ROOT, find_meters
from ffn_edge.runtime.power.ina import RAILS
from ffn_edge.runtime.power.nvml import visible_gpu
from ffn_edge.runtime.power.schedule import Schedule
from ffn_edge.runtime.power.watch import Watched, watch
from ffn_edge.signals import ending_signals, on_signals
from ffn_edge.terminal import Terminal


@click.command(short_help="Show what power can be measured here.")
@click.option("--watch", "watching", is_flag=True, help="Go on, with a live table, until Ctrl-C.")
@click.option(
    "--seconds",
    type=Number(),
    help="Measure for so long.  [default: 1; with --watch, until Ctrl-C]",
)
@click.option(
    "--root",
    type=UserPath(exists=True, file_okay=False, path_type=Path),
    default=ROOT,
    help="Where the machine's file system begins, for a copy of another machine's.  [default: /]",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON; with --watch, one line each second."
)
def power(watching: bool, seconds: float | None, root: Path, as_json: bool) -> None:
    """Show what power can be measured here.

    Every meter with its rails, what each of them covers, and of what cannot be read how to make it
    readable; then temperatures, clocks and power mode. `ffn-edge run` uses the board's, INA; where
    there is none, that of what its engines run on: NVML for a graphics card, RAPL for the CPU. The
    exit code is 0 without a sensor, too.

    \b
    Examples:
      ffn-edge power
      ffn-edge power --watch
      ffn-edge power --watch --json --seconds 60
    """
    found = find_meters(root, gpu=visible_gpu())
    meters = [Watched(meter) for meter in found.values() if not isinstance(meter, SensorError)]
    missing = {name: error for name, error in found.items() if isinstance(error, SensorError)}
    health, mode = Health(root), power_mode(root)
    stop = threading.Event()
    with ExitStack() as stack:
        for each in meters:
            stack.enter_context(closing(each.meter))
        stack.enter_context(on_signals(stop.set, *ending_signals()))
        live = None
        if watching and not as_json:
            live = stack.enter_context(Live(console=Terminal(), auto_refresh=False))
        until_s = seconds or (math.inf if watching else 1.0 if meters else 0.0)
        fields: dict[str, Any] = {}
        for elapsed_s, schedule in watch(meters, until_s, 1.0, stop):
            reading = health.read()
            fields = _fields(elapsed_s, schedule, meters, missing, reading, mode)
            if live is not None:
                shown = _view(elapsed_s, schedule, meters, missing, reading, mode)
                live.update(shown, refresh=True)
            elif watching:
                click.echo(json.dumps(fields))
    if not watching and as_json:
        click.echo(json.dumps(fields, indent=1))
    elif not watching:
        Terminal().print(_view(elapsed_s, schedule, meters, missing, reading, mode))


def _fields(
    elapsed_s: float,
    schedule: Schedule,
    meters: Sequence[Watched],
    missing: Mapping[str, SensorError],
    health: HealthReading,
    mode: str | None,
) -> dict[str, Any]:
    """Return what `--json` prints."""
    return {
        "seconds": round(elapsed_s, 3),
        "missed": schedule.missed,
        "late_ms": schedule.late_s * 1e3,
        "latest_ms": schedule.latest_s * 1e3,
        "used": meters[0].meter.name if meters else None,
        "meters": [
            {
                "name": each.meter.name,
                "scope": each.meter.scope,
                **dataclasses.asdict(each.meter.averaging),
                "mean_w": each.mean_w,
                "max_w": each.total.highest if each.total.mean is not None else None,
                "energy_j": each.account.energy_j,
                "gap_s": each.account.gap_s,
                "ignored": each.account.ignored,
                "failed": each.account.failed,
                "fault": each.account.fault(each.ended_s),
                "rails": {
                    name: {"mean_w": rail.mean, "max_w": rail.highest}
                    for name, rail in each.rails.items()
                },
            }
            for each in meters
        ],
        "missing": {
            name: {"message": error.message, "hint": error.hint} for name, error in missing.items()
        },
        "health": {
            **dataclasses.asdict(health),
            "headroom_c": health.headroom_c,
            "throttled": health.throttled,
        },
        "power_mode": mode,
    }


def _view(
    elapsed_s: float,
    schedule: Schedule,
    meters: Sequence[Watched],
    missing: Mapping[str, SensorError],
    health: HealthReading,
    mode: str | None,
) -> Group:
    """Return what people see."""
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left")
    if meters:
        table.title = f"power over {elapsed_s:.1f} s"
        table.caption = (
            f"readings: {schedule.missed} missed; late by {schedule.late_s * 1e3:.1f} ms on "
            f"average, {schedule.latest_s * 1e3:.1f} ms at worst"
        )
    table.add_column("meter", no_wrap=True)
    for heading in ("mean", "highest", "energy"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("what it covers", overflow="fold")
    for number, each in enumerate(meters):
        used = "used: " if number == 0 else ""
        covers = (used + each.meter.scope, str(each.meter.averaging))
        account = each.account
        notes = [account.fault(each.ended_s)]
        if account.gap_s or account.ignored or account.failed:
            notes.append(
                f"{account.ignored} readings ignored, {account.failed} failed; nothing is known of "
                f"{account.gap_s:.1f} s"
            )
        table.add_row(
            Text(each.meter.name, style="bold"),
            _watts(each.mean_w),
            _watts(each.total.highest if each.total.mean is not None else None),
            f"{account.energy_j:.1f} J",
            Text(", ".join(filter(None, covers))).append(
                "".join(f"\n{note}" for note in notes if note), style="red"
            ),
        )
        for name, rail in each.rails.items():
            table.add_row(
                f"  {name}", _watts(rail.mean), _watts(rail.highest), "", RAILS.get(name, "")
            )
    for name, error in missing.items():
        why = Text(error.message)
        if error.hint:
            why.append(f"\nRemedy: {error.hint}", style="bold")
        table.add_row(Text(name, style="dim"), "-", "-", "-", why)
    return Group(table, _health_table(health, mode))


def _health_table(health: HealthReading, mode: str | None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold")
    temperatures = [
        f"{name} {celsius:.1f} °C"
        + (f" of {health.trips_c[name]:.1f}" if name in health.trips_c else "")
        for name, celsius in health.temperatures_c.items()
    ]
    left_c = health.headroom_c
    gpu = _megahertz(health.gpu_hz)
    if health.gpu_hz is not None and health.gpu_max_hz is not None:
        gpu += f" of {_megahertz(health.gpu_max_hz)}"
    events = health.over_current_events
    for name, found in (
        ("temperatures", ", ".join(temperatures) or "unknown"),
        ("until hot or critical", "unknown" if left_c is None else f"{left_c:.1f} °C"),
        ("throttled by", health.throttled or "nothing that is known"),
        (
            "over-current",
            "unknown" if events is None else counted(events, "event") + " since the start",
        ),
        ("GPU clock", gpu),
        ("memory clock", _megahertz(health.memory_hz)),
        ("CPU clock", _megahertz(health.cpu_hz)),
        ("power mode", mode or "unknown"),
    ):
        table.add_row(name, found)
    return table


def _watts(watts: float | None) -> str:
    return "-" if watts is None else f"{watts:.3f} W"


def _megahertz(hertz: int | None) -> str:
    return "unknown" if hertz is None else f"{hertz / 1e6:.0f} MHz"
