"""Many simulated runs, side by side: policies by scenario, over seeds and miss rates."""

from __future__ import annotations

import multiprocessing
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from benchmarks.simulation.baselines import named
from benchmarks.simulation.board import BoardSpec
from benchmarks.simulation.oracle import NAME as ORACLE
from benchmarks.simulation.oracle import NAME_LATE
from benchmarks.simulation.run import RunFigures, Workload, simulate
from ffn_edge.device.cores import usable_processors
from ffn_edge.errors import FfnEdgeError

OURS = "adaptive"
BEST_STATIC = "best static"
# What a policy may do beyond its target before the comparison marks it.
MISSES_ALLOWED, EXCESS_ALLOWED = 1.5, 0.02

# Seeds with their figures, for each workload, miss rate and policy.
Results = dict[tuple[str, float, str], dict[int, RunFigures]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What is run.

    Attributes:
        workloads: scenarios or traces.
        policies: by name; the oracle is run besides. Frame counts that a workload has no engine
            for are left out there.
        seeds: the noise of each run.
        miss_rates: the targets.
        spec: what the board is like.
        keep: keep each run until its settling time is known; without, memory does not grow with
            the length.
    """

    workloads: Sequence[Workload]
    policies: Sequence[str]
    seeds: Sequence[int]
    miss_rates: Sequence[float]
    spec: BoardSpec
    keep: bool = True


def compare(
    sweep: Sweep, on_done: Callable[[int, int], None], known: Results | None = None
) -> Results:
    """Run it all, by as many processes as there are cores.

    Args:
        sweep: what to run.
        on_done: is called with how many parts of how many are done.
        known: what need not be run again.
    """
    results: Results = defaultdict(dict, known or {})
    left = {
        workload.name: [
            policy
            for policy in (*sweep.policies, ORACLE)
            if any((workload.name, rate, policy) not in results for rate in sweep.miss_rates)
        ]
        for workload in sweep.workloads
    }
    jobs = [
        (replace(sweep, policies=left[workload.name]), workload, seed)
        for workload in sweep.workloads
        for seed in sweep.seeds
        if left[workload.name]
    ]
    for done, (workload, seed, part) in enumerate(_finished(jobs), start=1):
        for (miss_rate, policy), figures in part.items():
            results[workload, miss_rate, policy][seed] = figures
        on_done(done, len(jobs))
    return results


_Job = tuple[Sweep, Workload, int]
_Part = tuple[str, int, dict[tuple[float, str], RunFigures]]


def _finished(jobs: Sequence[_Job]) -> Iterator[_Part]:
    """Yield the jobs' results, in any order."""
    workers = min(len(jobs), usable_processors())
    if workers <= 1:
        yield from map(_run, jobs)
        return
    # Not forked: a process with threads, as numpy's may be, cannot be forked safely.
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_ignore_interrupt) as pool:
        try:
            for future in as_completed([pool.submit(_run, job) for job in jobs]):
                yield future.result()
        except BrokenProcessPool as error:
            raise FfnEdgeError(
                "a process that simulated was killed, perhaps as memory ran out",
                "simulate one scenario at a time.",
            ) from error
        except BaseException:  # a job takes long: the pool would wait for it
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
            raise


def _ignore_interrupt() -> None:
    """Leave Ctrl-C to the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run(job: _Job) -> _Part:
    """Run every policy on one workload with one seed."""
    sweep, workload, seed = job
    served = {f"static-{frames}" for frames in frames_of(workload, sweep.spec)}
    part = {}
    for policy in sweep.policies:
        if policy.startswith("static-") and policy not in served:
            continue
        chooser = None if policy in (NAME_LATE, ORACLE) else named(policy)
        aims = policy != ORACLE and not policy.startswith("static-")
        figures = None
        for miss_rate in sweep.miss_rates:
            if figures is None or aims:  # the others do the same for every target
                figures = simulate(
                    workload,
                    chooser,
                    seed,
                    miss_rate,
                    spec=sweep.spec,
                    keep=sweep.keep,
                    late=policy == NAME_LATE,
                ).figures
            part[miss_rate, policy] = figures
    return workload.name, seed, part


def frames_of(workload: Workload, spec: BoardSpec) -> list[int]:
    """Return the frame counts that a workload has engines for."""
    return [point.frames for point in workload.device(spec, 0, 0.5).setting.points]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A policy's figures over all seeds.

    Attributes:
        policy: its name.
        mean: of each figure that is known; the miss rate and P(miss | miss) over all inferences.
        worst: of each.
        share: of the inferences, by frame count.
        too_many_misses: more than 1.5 times the target, where the oracle keeps the target.
        over_budget: a window of 10 s, or the battery, more than 2 % beyond, where the oracle keeps
            it.
    """

    policy: str
    mean: dict[str, float]
    worst: dict[str, float]
    share: dict[int, float]
    too_many_misses: bool = False
    over_budget: bool = False

    def fields(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        fields = asdict(self)
        del fields["policy"]
        return fields


def rows(results: Results, sweep: Sweep, workload: str, miss_rate: float) -> list[Row]:
    """Return a row for each policy, the best static one in hindsight, and the oracles, last."""
    by_seed = {
        policy: results[workload, miss_rate, policy]
        for policy in (*sweep.policies, ORACLE)
        if (workload, miss_rate, policy) in results
    }
    pooled = [_row(policy, seeds, by_seed[ORACLE], miss_rate) for policy, seeds in by_seed.items()]
    static = [row for row in pooled if row.policy.startswith("static-")]
    kept = [
        row
        for row in static
        if row.mean["miss_rate"] <= miss_rate and row.worst.get("excess", 0.0) <= EXCESS_ALLOWED
    ]
    if kept:
        best = max(kept, key=lambda row: row.mean["accuracy"])
        frames = best.policy.removeprefix("static-")
        again = Row(
            policy=f"{BEST_STATIC} ({frames})", mean=best.mean, worst=best.worst, share=best.share
        )
        pooled.insert(len(static), again)
    return pooled


def _row(
    policy: str, seeds: dict[int, RunFigures], oracle: dict[int, RunFigures], miss_rate: float
) -> Row:
    runs = list(seeds.values())
    columns: dict[str, list[float | None]] = {
        name: [getattr(run, name) for run in runs]
        for name in (
            "miss_rate",
            "longest_burst",
            "miss_after_miss",
            "accuracy",
            "in_time",
            "switches_per_min",
            "mean_power_w",
            "over_j",
            "excess",
            "settling_s",
            "decision_us",
            "decision_p99_us",
        )
    }
    columns["regret"] = [oracle[seed].in_time - figures.in_time for seed, figures in seeds.items()]
    known = {
        name: [value for value in values if value is not None] for name, values in columns.items()
    }
    known = {name: values for name, values in known.items() if values}
    mean = {name: float(np.mean(values)) for name, values in known.items()}
    mean["miss_rate"] = _miss_rate(runs)
    misses = sum(run.misses for run in runs)
    if misses:
        mean["miss_after_miss"] = sum(run.misses_in_a_row for run in runs) / misses
    worst = {name: float(max(values)) for name, values in known.items()}
    worst |= {name: min(known[name]) for name in ("accuracy", "in_time")}
    best = list(oracle.values())
    return Row(
        policy=policy,
        mean=mean,
        worst=worst,
        share={t: float(np.mean([run.share[t] for run in runs])) for t in runs[0].share},
        too_many_misses=_miss_rate(runs) > MISSES_ALLOWED * miss_rate
        and _miss_rate(best) <= miss_rate,
        over_budget=_excess(runs) > EXCESS_ALLOWED and _excess(best) <= EXCESS_ALLOWED,
    )


def _miss_rate(runs: Sequence[RunFigures]) -> float:
    return sum(run.misses for run in runs) / sum(run.inferences for run in runs)


def _excess(runs: Sequence[RunFigures]) -> float:
    return max((run.excess or 0.0 for run in runs), default=0.0)
