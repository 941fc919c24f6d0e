"""Which power meters a machine has, and the best of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ffn_edge.errors import SensorError
from ffn_edge.runtime.power.ina import InaMeter
from ffn_edge.runtime.power.meter import Meter, NullMeter
from ffn_edge.runtime.power.nvml import NvmlMeter
from ffn_edge.runtime.power.rapl import RaplMeter

ROOT = Path("/")


def open_meter(root: Path = ROOT, *, gpu: str | None = None) -> Meter:
    """Open the best meter there is: the board's, else that of what the engines run on.

    Args:
        root: where the machine's file system begins. A graphics card is looked for only where
            that is this machine's own.
        gpu: the card that the engines run on, as `NvmlMeter` takes it; None is the CPU. What the
            one of the two draws says nothing of the other.

    Returns:
        A NullMeter where there is nothing, which says why.
    """
    missing = {}
    openers = _openers(root, gpu)
    if gpu is not None:
        del openers[RaplMeter.name]
    for name, opener in openers.items():
        try:
            return opener()
        except SensorError as error:
            missing[name] = error
    return NullMeter(missing)


def find_meters(root: Path = ROOT, *, gpu: str = "0") -> dict[str, Meter | SensorError]:
    """Open every kind of meter; of those that are missing, return why. See `open_meter`."""
    found: dict[str, Meter | SensorError] = {}
    for name, opener in _openers(root, gpu).items():
        try:
            found[name] = opener()
        except SensorError as error:
            found[name] = error
    return found


def _openers(root: Path, gpu: str | None) -> dict[str, Callable[[], Meter]]:
    """Return how each kind is opened, the best first."""
    openers: dict[str, Callable[[], Meter]] = {InaMeter.name: lambda: InaMeter(root)}
    if gpu is not None and root == ROOT:
        openers[NvmlMeter.name] = lambda: NvmlMeter(gpu)
    openers[RaplMeter.name] = lambda: RaplMeter(root)
    return openers
