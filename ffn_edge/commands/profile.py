"""`ffn-edge profile`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from ffn_edge.bundle.bundle import Bundle, Precision, SubNetwork
from ffn_edge.bundle.signature import PublicKey
from ffn_edge.commands.engine_options import (
    engine_options,
    root_option,
    take_engine_options,
)
from ffn_edge.commands.option_types import UserPath, Whole, signature_option
from ffn_edge.errors import EngineError, counted
from ffn_edge.files.atomic import check_writable
from ffn_edge.progress import progress
from ffn_edge.runtime.profile.profile import Profile, profile_bundle, profile_path
from ffn_edge.runtime.stream.window import Timing
from ffn_edge.terminal import Terminal


@click.command(short_help="Measure each engine's latency and power here.")
@click.argument("bundle", type=UserPath(path_type=Path))
@click.option("--runs", type=Whole(), default=50, show_default=True, help="Of each engine.")
@click.option("--stream", is_flag=True, help="Of the engines that `run --stream` uses.")
@signature_option
@root_option
@engine_options
@click.option("--json", "as_json", is_flag=True, help="Print the profile as JSON.")
def profile(
    bundle: Path,
    runs: int,
    stream: bool,
    signed_by: PublicKey | None,
    root: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure each engine's latency and power here.

    The distributions go to BUNDLE/profile.json, and with --stream to profile_stream.json, where
    `ffn-edge run` finds them. Where other programs disturb, it measures again, at most twice, and
    the profile says so.

    \b
    Examples:
      ffn-edge profile bundle --runs 100 --threads 2
      ffn-edge profile bundle --stream
    """
    engines = replace(take_engine_options(options), stream=stream)
    loaded = Bundle.load(bundle, signed_by)
    path = profile_path(bundle, stream=stream)
    check_writable(path)
    console = Terminal(stderr=True)
    with progress(console, "profiling") as show:
        measured = profile_bundle(loaded, engines, runs=runs, root=root, on_round=show)
    console.say(f"wrote {path}")
    if as_json:
        click.echo(measured.to_json(), nl=False)
    else:
        window_s = Timing(window_s=loaded.manifest.input.window_s).clip_s if stream else None
        Terminal().print(_profile_table(measured, loaded.manifest.sub_networks, window_s))


def _profile_table(
    measured: Profile, sub_networks: Mapping[int, SubNetwork], window_s: float | None
) -> Table:
    """Lay out a profile; `window_s` is what frame counts are rates of, for a stream's engines."""
    where, power = measured.conditions, measured.power
    settings = [f"power mode {where.power_mode}"] if where.power_mode else []
    settings += [
        f"{what} clock {clock}"
        for what, clock in (
            ("CPU", where.clocks.cpu),
            ("GPU", where.clocks.gpu),
            ("memory", where.clocks.memory),
        )
        if clock
    ]
    if measured.end.temperature_c is not None:
        settings.append(f"{measured.end.temperature_c:.0f} °C at the end")
    caption = [
        f"{where.machine.cpu}, {counted(where.threads, 'thread')}, {where.backend} "
        f"{where.backend_version} on {where.device}",
        *([", ".join(settings)] if settings else []),
        *([f"not of an idle machine: {measured.disturbance}"] if measured.disturbance else []),
    ]
    title = "latency in ms"
    headings = ["frames", "precision", "accuracy", "GMAC", "p50", "p90", "p95", "p99"]
    if window_s is not None:
        title = f"latency of one frame in ms, at so many frames in {window_s:g} s"
        headings += ["busy"]
        caption.append("busy: the share of the time that the engine works at this rate")
    table = Table(title=title)
    if power.idle_w is None:
        caption.append(f"power: not measured, because {power.fault}")
    else:
        headings += ["W above idle", "J per clip" if window_s is None else "J per s"]
        caption.append(f"idle: {power.idle_w:.2f} W; {power.meter}, {power.scope}")
    for heading in headings:
        table.add_column(heading, justify="right")
    for frames, sub_network in sub_networks.items():
        for precision, by_frames in measured.latencies.items():
            if frames not in by_frames:
                continue
            figures = by_frames[frames].summary()
            row = [str(frames), precision, _accuracy(sub_network, precision)]
            macs = sub_network.macs if window_s is None else sub_network.macs / frames
            row += [f"{macs / 1e9:.2f}"]
            row += [f"{figures[name]:.2f}" for name in ("p50", "p90", "p95", "p99")]
            rate = 1.0 if window_s is None else frames / window_s
            if window_s is not None:
                row += [f"{rate * figures['p50'] / 1e3:.1%}"]
            engine_w = power.engine_w(precision, frames)
            energy_j = measured.energy_j(precision, frames)
            if engine_w is not None and energy_j is not None:
                row += [f"{engine_w:.2f}", f"{rate * energy_j:.3g}"]
            table.add_row(*row)
    if len(measured.latencies) > 1:
        caption.append(
            "accuracy: the export's; in int8, by what that lost. auto goes by the fastest tenth"
        )
        caption += [f"auto: {_choice(measured, *each)}" for each in sub_networks.items()]
    table.caption = "\n".join(caption)
    return table


def _choice(measured: Profile, frames: int, sub_network: SubNetwork) -> str:
    try:
        return measured.choose(frames, sub_network).reason
    except EngineError as error:
        return error.message


def _accuracy(sub_network: SubNetwork, precision: Precision) -> str:
    """Return the accuracy in a precision; of INT8 without labels, the least that it may be."""
    accuracy, int8 = sub_network.accuracy_in(precision), sub_network.int8
    if accuracy is None:
        return "–"
    if precision == "int8" and int8 is not None and int8.loss is None:
        return f"≥ {accuracy.top1:.1%}"
    return f"{accuracy.top1:.1%}"
