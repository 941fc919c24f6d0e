"""What a profile belongs to, and what else was so while it was measured."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from ffn_edge.device.jetson import power_mode
from ffn_edge.errors import SensorError
from ffn_edge.runtime.engines.engine import Backend
from ffn_edge.runtime.machine.health import Health
from ffn_edge.runtime.machine.machine import (
    CardSetting,
    Clocks,
    Machine,
    clocks_now,
    this_machine,
)
from ffn_edge.runtime.power.nvml import NvmlMeter, visible_gpu

_ROOT = Path("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a profile belongs to. Under other conditions its latencies are not to be trusted.

    The memory's clock is one of them: on a Jetson Orin NX a governor that did not know it missed
    25 to 28 % of tight deadlines, and one that did 1.3 % at most (Kang 2026, arXiv:2606.16106).
    """

    bundle: str
    machine: Machine
    backend: str
    backend_version: str
    device: str
    threads: int
    power_mode: str | None
    clocks: Clocks
    card: CardSetting = field(default_factory=CardSetting)

    def differences(self, other: Conditions) -> list[str]:
        """Say what differs from `other`, as far as it moves latency.

        What is unknown on one side differs from nothing: only root can read some of it.
        """
        pairs: dict[str, tuple[object, object]] = {
            "bundle": (self.bundle[:12], other.bundle[:12]),
            "processor": (self.machine.cpu, other.machine.cpu),
            "cores": (self.machine.cores, other.machine.cores),
            "backend": (
                f"{self.backend} {self.backend_version}",
                f"{other.backend} {other.backend_version}",
            ),
            "device": (self.device, other.device),
            "threads": (self.threads, other.threads),
        }
        if self.power_mode is not None and other.power_mode is not None:
            pairs["power mode"] = (self.power_mode, other.power_mode)
        for what, my_clock, their_clock in (
            ("CPU clock", self.clocks.cpu, other.clocks.cpu),
            ("GPU clock", self.clocks.gpu, other.clocks.gpu),
            ("memory clock", self.clocks.memory, other.clocks.memory),
        ):
            if my_clock and their_clock and not my_clock.is_close_to(their_clock):
                pairs[what] = (str(my_clock), str(their_clock))
        for what, values in self.card.differences(other.card).items():
            pairs[f"the card's {what}"] = values
        return [
            f"{what} {mine}, not {theirs}"
            for what, (mine, theirs) in pairs.items()
            if mine != theirs
        ]


def conditions_now(identity: str, backend: Backend, root: Path = _ROOT) -> Conditions:
    """Return the conditions under which the bundle of this identity runs here and now."""
    return Conditions(
        bundle=identity,
        machine=this_machine(),
        backend=backend.name,
        backend_version=backend.version,
        device=backend.device,
        threads=backend.threads,
        power_mode=power_mode(root),
        clocks=clocks_now(root),
        card=_card_setting() if backend.device != "CPU" and root == _ROOT else CardSetting(),
    )


def _card_setting() -> CardSetting:
    """Ask the card that the engines run on; a Jetson's GPU tells in files."""
    try:
        with closing(NvmlMeter(visible_gpu())) as meter:
            return meter.setting()
    except SensorError:
        return CardSetting()


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What changes while one measures: told with a profile, and not compared. None is unknown.

    Attributes:
        temperature_c: of the hottest zone.
        cpu_hz: the clock at that moment ...
        gpu_hz: ... of the GPU ...
        memory_hz: ... and of the memory.
    """

    temperature_c: float | None
    cpu_hz: float | None
    gpu_hz: float | None
    memory_hz: float | None


def this_moment(root: Path = _ROOT) -> Moment:
    """Read temperature and clocks."""
    reading = Health(root).read()
    return Moment(
        temperature_c=reading.hottest_c,
        cpu_hz=reading.cpu_hz,
        gpu_hz=reading.gpu_hz,
        memory_hz=reading.memory_hz,
    )
