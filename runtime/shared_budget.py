"""What several cameras may spend of one machine: learned from results, and given out anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ffn_edge.runtime.camera_settings import CameraSettings
from ffn_edge.runtime.classifier import Result
from ffn_edge.runtime.policy.interface import Limits, Setting
from ffn_edge.runtime.policy.power_model import PowerModel
from ffn_edge.runtime.policy.sharing import Claim, allot

# It is given out anew so often.
_SHARING_S = 1.0
# Doubt and slowdown are means of late: over so many seconds.
_LATELY_S = 3.0


class SharedBudget:
    """The power and the processor's time of one machine, for all cameras. For one thread.

    Each camera's own policy keeps its deadline, with no more frames than it has from here.
    """

    def __init__(self, setting: Setting, warn: Callable[[str, float], None]) -> None:
        """Begin with what is known of the engines; `warn` is given a text and the time."""
        self._points = {point.frames: point for point in setting.points}
        self._warn = warn
        self._slowdown = 1.0
        self._power = PowerModel(setting.idle_w or 0.0)
        self._observed: float | None = None
        self._doubts: dict[str, float] = {}
        self._still: set[str] = set()
        self._shares: dict[str, int] = {}
        self._of_what = ""
        self._shared = self._changed = -math.inf

    def share_of(
        self, name: str, cameras: Mapping[str, CameraSettings], limits: Limits, now: float
    ) -> tuple[int, str]:
        """Return the most frames of a camera, and why in words.

        Args:
            name: which one.
            cameras: all of them, by name.
            limits: for all of them.
            now: on the clock of the results.
        """
        if now - self._shared >= _SHARING_S or self._shares.keys() != cameras.keys():
            self._give_out(cameras, limits, now)
        most = self._shares[name]
        return most, f"at most {most}, its share of {self._of_what} for {len(cameras)} cameras"

    def note_still(self, name: str) -> None:
        """Note that nothing moves before a camera, until it has a result."""
        self._still.add(name)

    def learn(self, result: Result, hop_s: float, limits: Limits) -> None:
        """Learn from a camera's result; `limits` are those for all cameras."""
        observation = result.observation
        now, name = observation.now, result.source
        elapsed_s = 0.0 if self._observed is None else now - self._observed
        self._observed = now
        self._still.discard(name)
        doubt = self._doubts.get(name, 1.0)
        seen = 1 - float(result.probabilities.max())
        self._doubts[name] = doubt + (seen - doubt) * hop_s / (hop_s + _LATELY_S)
        latency_ms = result.latency_ms - result.waited_ms
        engine_j = base_ms = 0.0
        for frames, ms in observation.ran or ((result.frames, latency_ms),):
            engine_j += (self._points[frames].power_w or 0.0) * ms / 1e3
            base_ms += self._points[frames].base_ms
        slowdown = latency_ms / base_ms
        self._slowdown += (slowdown - self._slowdown) * elapsed_s / (elapsed_s + _LATELY_S)
        self._power = self._power.observe(
            now,
            observation.sensed.power_w,
            engine_j / elapsed_s if elapsed_s else 0.0,
            limits.budget_w(self._power.spent_j, now),
            switched=now - elapsed_s < self._changed <= now,
        )

    def _give_out(self, cameras: Mapping[str, CameraSettings], limits: Limits, now: float) -> None:
        budget_w = limits.budget_w(self._power.spent_j, now)
        points, spare_w, self._of_what = self._points, math.inf, "the processor's time"
        if budget_w is not None:
            self._of_what += f" and of {budget_w:.3g} W"
            spare_w = self._power.allowed_w(
                budget_w, of_battery=limits.power_w is None
            ) - self._power.predicted_w(0.0)
            if not self._is_power_known:
                points = {min(points): points[min(points)]}
                self._warn("the power is not known, so the fewest frames for all cameras", now)
        shares = allot(
            list(points.values()),
            {
                name: Claim(
                    hop_s=each.hop_s,
                    weight=each.weight,
                    doubt=self._doubts.get(name, 1.0),
                    still=name in self._still,
                )
                for name, each in cameras.items()
            },
            slowdown=self._slowdown,
            spare_w=max(spare_w, 0.0),
            before=self._shares,
        )
        if shares != self._shares:
            self._changed = now
        self._shares, self._shared = shares, now

    @property
    def _is_power_known(self) -> bool:
        """Whether it was at the last result; where nothing moves, it is not asked for."""
        profiled = all(point.power_w is not None for point in self._points.values())
        return profiled and self._power.silent_s is None
