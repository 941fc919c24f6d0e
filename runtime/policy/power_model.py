"""What the machine would draw at each frame count: profiled, and corrected by what it does draw."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

# Two means of what is drawn beyond the profile, over so many seconds, of which the larger counts:
# a rise shows soon, since a budget is kept in time or not at all, and a fall later.
_FAST_S, _SLOW_S = 0.5, 4.0
# Sensors lag by some tenths of a second, and the filters in drivers by more: what is measured
# just after a switch belongs to both frame counts.
_SETTLE_S = 1.5
# A budget holds for averages over ten seconds: overdrawn joules are paid back over half of that.
_PAY_BACK_S = 5.0


@dataclass(frozen=True, slots=True)
class PowerModel:
    """The machine's power beyond the profile, and the account of joules against a budget.

    Attributes:
        idle_w: what the machine draws when no engine works.
        fast_w: what it draws beyond idle and engine, by other programs, heat or a wrong profile:
            the mean of late; and
        slow_w: the same over longer.
        balance_j: joules that the budget allowed and that were not drawn; negative is overdrawn.
        spent_j: joules since the start.
        switched: when the frame count last changed.
        heard: when the power was last known, or the first observation was; None before it.
        observed: the time of the last observation; None before the first.
    """

    idle_w: float
    fast_w: float = 0.0
    slow_w: float = 0.0
    balance_j: float = 0.0
    spent_j: float = 0.0
    switched: float = float("-inf")
    heard: float | None = None
    observed: float | None = None

    def observe(
        self,
        now: float,
        power_w: float | None,
        engine_w: float,
        budget_w: float | None,
        *,
        saving_s: float,
        switched: bool,
    ) -> PowerModel:
        """Return the model after the time since the last observation.

        Args:
            now: its end.
            power_w: the mean power over it; None is not known.
            engine_w: what the engines drew of it, on average.
            budget_w: what was allowed; None is no limit.
            saving_s: how many seconds' worth of it may be saved; more is forfeited.
            switched: whether the frame count changed with it.
        """
        seconds = 0.0 if self.observed is None else max(0.0, now - self.observed)
        since = now if switched else self.switched
        # Unknown joules are taken as expected: neither a debt nor a saving is invented.
        drawn_w = self.predicted_w(engine_w) if power_w is None else power_w
        balance_j = self.balance_j
        if budget_w is not None:
            balance_j += (budget_w - drawn_w) * seconds
            balance_j = min(balance_j, budget_w * saving_s)
        fast_w, slow_w = self.fast_w, self.slow_w
        if power_w is not None and seconds and now - since >= _SETTLE_S:
            seen_w = power_w - self.idle_w - engine_w
            fast_w += (seen_w - fast_w) * seconds / (seconds + _FAST_S)
            slow_w += (seen_w - slow_w) * seconds / (seconds + _SLOW_S)
        return dataclasses.replace(
            self,
            fast_w=fast_w,
            slow_w=slow_w,
            balance_j=balance_j,
            spent_j=self.spent_j + drawn_w * seconds,
            switched=since,
            heard=now if power_w is not None or self.heard is None else self.heard,
            observed=now,
        )

    def predicted_w(self, engine_w: float) -> float:
        """Return the mean power where the engines draw `engine_w` on average."""
        return self.idle_w + max(self.fast_w, self.slow_w) + engine_w

    def allowed_w(self, budget_w: float) -> float:
        """Return the power that keeps the budget and pays overdrawn joules back."""
        return budget_w + min(0.0, self.balance_j) / _PAY_BACK_S
