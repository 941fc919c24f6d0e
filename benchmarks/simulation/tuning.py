"""`python -m benchmarks.simulation.tuning`: the best constants of the rivals that have some.

They are tried on the scenarios and the seeds that our policy was tuned on.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product

import numpy as np

from benchmarks.simulation import scenarios
from benchmarks.simulation.baselines import Hysteresis, Pid
from benchmarks.simulation.board import SYNTHETIC
from benchmarks.simulation.compare import Results, Sweep, compare, rows
from benchmarks.simulation.run import simulate
from ffn_edge.device.cores import usable_processors

Tunable = Hysteresis | Pid

HYSTERESES: list[Tunable] = [
    Hysteresis(high=high, low=share * high, wait=wait)
    for high, share, wait in product((0.8, 0.9, 0.95, 1.0), (0.3, 0.4, 0.5, 0.6), (2, 4, 8, 16))
]
PIDS: list[Tunable] = [
    Pid(setpoint=setpoint, proportional=proportional, integral=integral, derivative=derivative)
    for setpoint, proportional, integral, derivative in product(
        (0.45, 0.55, 0.65, 0.75), (0.25, 0.5, 1.0), (0.02, 0.05, 0.1, 0.2), (0.05,)
    )
]

_FEWEST = f"static-{SYNTHETIC.points[0].frames}"
_SWEEP = Sweep(
    workloads=scenarios.ALL,
    policies=[_FEWEST],
    seeds=range(8),
    miss_rates=(0.01, 0.05),
    spec=SYNTHETIC,
    keep=False,
)


def tuned(candidates: Sequence[Tunable], sweep: Sweep = _SWEEP) -> list[tuple[float, Tunable]]:
    """Return the candidates with their scores, the best first; see `score`."""
    known = compare(sweep, lambda *_: None)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(usable_processors(), mp_context=context) as pool:
        jobs = [(candidate, sweep, known) for candidate in candidates]
        scores = list(pool.map(_scored, jobs))
    return sorted(zip(scores, candidates, strict=True), key=lambda pair: -pair[0])


def _scored(job: tuple[Tunable, Sweep, Results]) -> float:
    return score(*job)


def score(candidate: Tunable, sweep: Sweep, known: Results) -> float:
    """Return the mean of what a candidate has in time, over the scenarios and miss rates.

    Where it breaks the limits nobody could use it: there it counts as the fewest frames.

    Args:
        candidate: to run.
        sweep: the scenarios, with the fewest frames as the one policy.
        known: the sweep's results.
    """
    results = dict(known)
    scores = []
    for workload, miss_rate in product(sweep.workloads, sweep.miss_rates):
        results[workload.name, miss_rate, candidate.name] = {
            seed: simulate(
                workload, candidate, seed, miss_rate, spec=sweep.spec, keep=False
            ).figures
            for seed in sweep.seeds
        }
        both = replace(sweep, policies=[_FEWEST, candidate.name])
        found = {row.policy: row for row in rows(results, both, workload.name, miss_rate)}
        row = found[candidate.name]
        if row.too_many_misses or row.over_budget:
            row = found[_FEWEST]
        scores.append(row.mean["in_time"])
    return float(np.mean(scores))


if __name__ == "__main__":
    for tried in (HYSTERESES, PIDS):
        for in_time, constants in tuned(tried)[:5]:
            print(f"{100 * in_time:.3f} % in time: {constants}", flush=True)
