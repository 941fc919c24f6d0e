"""When an action counts as an event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ffn_edge.files.schema import NotNegative, Share

NOTHING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRules:
    """From the probabilities of windows to events. Below its onset, nothing is known of a class.

    What is said for each class is by its name; a class without an onset there has no events.

    Attributes:
        nothing: the class that is no event; it may be none of the network's.
        onset: an event begins where its probability rises to this, for all classes or for each.
        offset: it ends where the probability falls below this, or below the onset if that is less.
        least_s: what is shorter is no event; it is told of when it has lasted so long.
        merge_s: where an action is back within so long, it never ended. With 0, a dip of its
            probability parts two events, even one that stays above the offset.
        refractory_s: the same action begins again no sooner than so long after it ended.
        start_shift_s: from where the probability rises to where the action begins: a window that
            shows a part of an action may know it. For all classes or for each, 0 where not said.
        end_shift_s: the same from where it falls to where the action ends.
    """

    nothing: str = NOTHING
    onset: Share | Mapping[str, Share] = 0.5
    offset: Share | Mapping[str, Share] = 0.3
    least_s: NotNegative = 0.0
    merge_s: NotNegative = 0.0
    refractory_s: NotNegative = 0.0
    start_shift_s: float | Mapping[str, float] = 0.0
    end_shift_s: float | Mapping[str, float] = 0.0


def of_class(value: float | Mapping[str, float], name: str, default: float) -> float:
    """Return what a rule says of a class."""
    return value.get(name, default) if isinstance(value, Mapping) else value
