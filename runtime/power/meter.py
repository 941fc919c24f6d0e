"""What every power meter gives, and the meter of a machine that has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ffn_edge.errors import SensorError


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerReading:
    """What a meter shows at one moment.

    Attributes:
        time_s: when, on the clock that the caller of `read` uses.
        total_w: of the meter's scope; None at the first reading of a mere energy counter.
        rails_w: of each part that is measured by itself.
        energy_j: a counter that runs since the meter was opened, whose wraps are undone; None
            where the sensor gives power alone.
        registers: what the sensor showed, before powers were made of it; empty where it gives
            nothing else.
        clocks_mhz: of a card's GPU and memory, where the same device tells them.
    """

    time_s: float
    total_w: float | None
    rails_w: Mapping[str, float]
    energy_j: float | None = None
    registers: tuple[int, ...] = ()
    clocks_mhz: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Averaging:
    """How a sensor forms what it shows; None where it does not tell.

    Attributes:
        samples: how many conversions each value is the mean of.
        update_interval_ms: what they take together, until every channel has a new value.
    """

    samples: int | None = None
    update_interval_ms: int | None = None

    def __str__(self) -> str:
        parts = []
        if self.samples is not None:
            parts.append("no averaging" if self.samples == 1 else f"mean of {self.samples} samples")
        if self.update_interval_ms is not None:
            parts.append(f"a value each {self.update_interval_ms} ms")
        return ", ".join(parts)


class Meter(Protocol):
    """Something that tells power. It is opened by its constructor."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def scope(self) -> str:
        """What its total covers, in words."""

    @property
    def averaging(self) -> Averaging:
        """How the sensor forms what it shows, as it is set now."""

    def read(self, now: float) -> PowerReading:
        """Read the sensor.

        Raises:
            SensorError: it cannot be read now. It may come back.
        """

    def close(self) -> None:
        """Let go of what it holds."""


class NullMeter:
    """No meter, and why."""

    name = "none"
    scope = "nothing"
    averaging = Averaging()

    def __init__(self, reasons: Mapping[str, SensorError]) -> None:
        """Remember why each kind of meter is missing."""
        message = "; ".join(error.message for error in reasons.values())
        hint = " ".join(error.hint for error in reasons.values() if error.hint)
        self.error = SensorError(f"no power can be measured here: {message}", hint)

    def read(self, now: float) -> PowerReading:
        """Say why there is nothing to read.

        Raises:
            SensorError: always.
        """
        # A new one each time: at each raise an exception gathers frames, and keeps them.
        raise SensorError(self.error.message, self.error.hint)

    def close(self) -> None:
        """Nothing is held."""
