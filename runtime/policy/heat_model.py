"""Whether the machine is about to throttle: its temperature, and how fast it rises."""

from __future__ import annotations

from dataclasses import dataclass

# NVIDIA's boards throttle from 95 °C or more. That, or a rise that would reach it in so many
# seconds, is too hot. A sensor shows steps, and a processor that begins to work warms up within a
# second: a rise is smoothed, and tells nothing on a machine that is cool.
_HOT_C, _AHEAD_S, _WARM_C = 95.0, 10.0, 80.0
_SMOOTHING_S = 8.0


@dataclass(frozen=True, slots=True)
class HeatModel:
    """What is known of the heat.

    Attributes:
        temperature_c: of the hottest zone; None is not known.
        rise_c_s: °C a second, smoothed.
        observed: when.
    """

    temperature_c: float | None = None
    rise_c_s: float = 0.0
    observed: float = 0.0

    def observe(self, now: float, temperature_c: float | None) -> HeatModel:
        """Return the model after a reading."""
        if temperature_c is None or self.temperature_c is None:
            return HeatModel(temperature_c, 0.0, now)
        seconds = now - self.observed
        if seconds <= 0:
            return self
        seen_c_s = (temperature_c - self.temperature_c) / seconds
        share = min(1.0, seconds / _SMOOTHING_S)
        return HeatModel(temperature_c, self.rise_c_s + share * (seen_c_s - self.rise_c_s), now)

    @property
    def alarm(self) -> str:
        """Why it is too hot, in words; empty if it is not."""
        hottest_c = self.temperature_c
        if hottest_c is None or hottest_c < _WARM_C:
            return ""
        if hottest_c >= _HOT_C:
            return f"it is {hottest_c:.0f} °C hot"
        if self.rise_c_s > 0 and hottest_c + self.rise_c_s * _AHEAD_S > _HOT_C:
            return (
                f"at {hottest_c:.0f} °C and rising by {self.rise_c_s:.1f} °C/s, it would throttle"
            )
        return ""
