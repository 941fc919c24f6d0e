"""What the machine would draw with each engine: profiled, and corrected by what it does draw.

    power = idle + beyond it + engine · share of the time that it works + its own error

A budget holds for averages over ten seconds. Between two engines it is kept by both, in turns of
five seconds, so that any ten seconds hold two whole turns. What was drawn beyond what was allowed
is paid back over ten seconds: so the mean is right even where the model is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

# A budget holds for averages over so long. Turns are half of it; in about a turn, what a sensor
# shows too late cancels out, so that what the profile does not know is learned over one, too; and
# no more than a turn's budget is ever owed, so that what nothing could keep is not paid for long.
_WINDOW_S, _TURN_S = 10.0, 5.0
# Of a power budget this much is not used: a turn that is cut by a step of the budget, and sensors.
_RESERVE = 0.015
# What one engine draws is learned only so long after a switch, and power that was not heard of for
# so long is not known; or for so many usual intervals between readings.
_SILENCE_S, _READINGS = 3.0, 3.0


@dataclass(frozen=True, slots=True)
class PowerModel:
    """The machine's power, and the account of joules against a budget.

    Attributes:
        idle_w: what the machine draws when no engine works.
        own_w: what each engine draws beyond the profile, on average from one inference to the next.
        beyond_w: what everything else does: other programs, heat.
        balance_j: joules that were overdrawn and are owed, as a negative number.
        spent_j: joules since the start.
        unheard_j: joules that were expected since the power was last heard of; and
        unheard_s: for how long.
        interval_s: from one reading to the next, usually.
        switched: when the engine last changed.
        heard: when the power was last heard of, or the first observation was; None before it.
        observed: the time of the last observation; None before the first.
    """

    idle_w: float
    own_w: tuple[float, ...] = ()
    beyond_w: float = 0.0
    balance_j: float = 0.0
    spent_j: float = 0.0
    unheard_j: float = 0.0
    unheard_s: float = 0.0
    interval_s: float = 0.0
    switched: float = -math.inf
    heard: float | None = None
    observed: float | None = None

    def observe(
        self,
        now: float,
        power_w: float | None,
        engine_w: float,
        budget_w: float | None,
        *,
        index: int | None = None,
        switched: bool = False,
    ) -> PowerModel:
        """Return the model after the time since the last observation.

        Args:
            now: its end.
            power_w: the mean power since it was last heard of; None is no news.
            engine_w: what the engines drew of it since the last observation, on average, by the
                profile.
            budget_w: what was allowed; None is no limit.
            index: of the engine; None is several.
            switched: whether the engine changed with it.
        """
        seconds = 0.0 if self.observed is None else max(0.0, now - self.observed)
        since = now if switched else self.switched
        expected_w = self.predicted_w(engine_w, index)
        unheard_j, unheard_s = self.unheard_j + expected_w * seconds, self.unheard_s + seconds
        spent_j, beyond_w, own_w = self.spent_j + expected_w * seconds, self.beyond_w, self.own_w
        balance_j = 0.0 if budget_w is None else self.balance_j + (budget_w - expected_w) * seconds
        heard, interval_s = self.heard, self.interval_s
        if power_w is not None and unheard_s:
            error_w = power_w - unheard_j / unheard_s
            spent_j += error_w * unheard_s
            balance_j -= error_w * unheard_s
            learned_w = error_w * unheard_s / (unheard_s + _TURN_S)
            beyond_w += learned_w
            settled_s = max(_SILENCE_S, _READINGS * interval_s)
            if index is not None and now - since >= settled_s:
                own_w = (*own_w[:index], own_w[index] + learned_w, *own_w[index + 1 :])
            interval_s += (min(unheard_s, _WINDOW_S) - interval_s) / 4
            unheard_j = unheard_s = 0.0
        if power_w is not None or heard is None:
            heard = now
        if budget_w is not None:
            balance_j = min(max(balance_j, -budget_w * _TURN_S), 0.0)
        return replace(
            self,
            own_w=own_w,
            beyond_w=beyond_w,
            balance_j=balance_j,
            spent_j=spent_j,
            unheard_j=unheard_j,
            unheard_s=unheard_s,
            interval_s=interval_s,
            switched=since,
            heard=heard,
            observed=now,
        )

    @property
    def silent_s(self) -> float | None:
        """For how long it was not heard of, where that is too long to be known; else None."""
        if self.heard is None or self.observed is None:
            return None
        silent_s = self.observed - self.heard
        return silent_s if silent_s > max(_SILENCE_S, _READINGS * self.interval_s) else None

    def predicted_w(self, engine_w: float, index: int | None = None) -> float:
        """Return the mean power where an engine draws `engine_w` on average."""
        own_w = 0.0 if index is None else self.own_w[index]
        return self.idle_w + self.beyond_w + engine_w + own_w

    def allowed_w(self, budget_w: float, *, of_battery: bool) -> float:
        """Return the power that keeps the budget and pays overdrawn joules back."""
        return budget_w * (1.0 if of_battery else 1 - _RESERVE) + self.balance_j / _WINDOW_S


def in_turns(
    power_w: Sequence[float],
    worth: Sequence[float],
    allowed_w: float,
    now: float,
    current: int | None,
) -> list[bool]:
    """Say which engines may run now: those within what is allowed, and a better one in its turn.

    Where none is, the one that draws least: the first, where no power is known.

    Args:
        power_w: of each engine; infinite is not known.
        worth: of each engine.
        allowed_w: on average.
        now: on any clock.
        current: the engine that ran last.
    """
    fits = [each_w <= allowed_w for each_w in power_w]
    every = range(len(power_w))
    if not any(fits):
        least = min(every, key=lambda each: power_w[each])
        return [each == least for each in every]
    fewer = max((each for each in every if fits[each]), key=lambda each: worth[each])
    better = [each for each in every if worth[each] > worth[fewer] and math.isfinite(power_w[each])]
    if better:
        more = max(
            better,
            key=lambda each: (worth[each] - worth[fewer]) / (power_w[each] - power_w[fewer]),
        )
        share = (allowed_w - power_w[fewer]) / (power_w[more] - power_w[fewer])
        # Last in its turn, after what it needs was saved; and it is not cut short by a small error.
        left = 1 - now / _TURN_S % 1.0
        fits[more] = left < share + (0.1 if current == more else 0.0)
    return fits
