"""What is asked of a policy in every scenario, and which of it one breaks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.simulation.compare import OURS, Results, Row, Sweep, rows
from benchmarks.simulation.oracle import NAME as ORACLE
from benchmarks.simulation.oracle import NAME_LATE

# The goals; what counts as too many misses, or as too much power, is `compare.Row`'s.
_BURST, _BURST_BEYOND_RIVAL = 2.0, 1.0  # the longest, mean over the seeds
_BELOW_ORACLE = 0.01  # of in_time
_BELOW_RIVAL, _STANDARD_ERRORS = 0.002, 2.0  # of in_time, paired over the seeds
_SWITCHES, _SWITCHES_OF_RIVAL = 30.0, 1.5  # a minute


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one policy broke in one scenario.

    Attributes:
        row: the policy's.
        rival: the row of the rival that keeps the limits and has the most in time; None if none
            keeps them.
        oracle: the oracle's row.
        broken: the names of the goals: "misses", "budget", "bursts", "oracle", "rival" (and which),
            "switches".
    """

    row: Row
    rival: Row | None
    oracle: Row
    broken: tuple[str, ...]


def judge(results: Results, sweep: Sweep, workload: str, miss_rate: float, policy: str) -> Verdict:
    """Say which goals a policy breaks.

    misses: no more than 1.5 times the target, where the oracle keeps the target.
    budget: no more than 2 % beyond, where the oracle keeps it.
    bursts: the longest is at most 2, or one more than the best rival's.
    oracle: at most a point in time below it.
    rival: none is better in time by more than 0.2 points and two standard errors.
    switches: at most 30 a minute, or 1.5 times those of the calmest rival that adapts.

    Rivals are all policies but ours that keep misses and budget; the best has the most in time.
    """
    found = {row.policy: row for row in rows(results, sweep, workload, miss_rate)}
    row, oracle = found[policy], found[ORACLE]
    rivals = [
        each
        for name, each in found.items()
        if (workload, miss_rate, name) in results
        and name not in (policy, OURS, NAME_LATE, ORACLE)
        and not (each.too_many_misses or each.over_budget)
    ]
    best = max(rivals, key=lambda each: each.mean["in_time"], default=None)
    in_time = {
        name: [results[workload, miss_rate, name][seed].in_time for seed in sweep.seeds]
        for name in (policy, *(rival.policy for rival in rivals))
    }
    better = [
        rival.policy for rival in rivals if _is_better(in_time[rival.policy], in_time[policy])
    ]
    adaptive = [each for each in rivals if not each.policy.startswith("static-")]
    calmest = min((each.mean["switches_per_min"] for each in adaptive), default=0.0)
    usual_burst = (best or oracle).mean["longest_burst"]
    checks = {
        "misses": row.too_many_misses,
        "budget": row.over_budget,
        "bursts": row.mean["longest_burst"] > max(_BURST, _BURST_BEYOND_RIVAL + usual_burst),
        "oracle": row.mean["regret"] > _BELOW_ORACLE,
        f"rival ({', '.join(better)})": bool(better),
        "switches": row.mean["switches_per_min"] > max(_SWITCHES, _SWITCHES_OF_RIVAL * calmest),
    }
    broken = tuple(name for name, is_broken in checks.items() if is_broken)
    return Verdict(row=row, rival=best, oracle=oracle, broken=broken)


def _is_better(theirs: Sequence[float], ours: Sequence[float]) -> bool:
    """Tell whether a rival's figures, seed by seed, are better than chance and rounding explain."""
    ahead = np.subtract(theirs, ours)
    error = ahead.std(ddof=1) / math.sqrt(len(ahead)) if len(ahead) > 1 else 0.0
    return bool(ahead.mean() > max(_BELOW_RIVAL, _STANDARD_ERRORS * error))
