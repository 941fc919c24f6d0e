"""A run of one policy, or of the oracle, on one workload."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from benchmarks.simulation.board import SYNTHETIC, BoardSpec
from benchmarks.simulation.oracle import (
    KnownDevice,
    Oracle,
    Surprise,
    least_price,
    spent,
    true_points,
)
from benchmarks.simulation.timeline import Timeline, settling_s
from ffn_edge.runtime.policy.interface import Controller, Policy, Setting
from ffn_edge.runtime.simulate.drive import Chooser, drive
from ffn_edge.runtime.simulate.figures import Figures, Tally

# Runs of the oracle, until it foresees what spikes will draw.
_TRIES = 2


class Workload(Protocol):
    """What is simulated: a scenario, or a recorded trace."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def length_s(self) -> float:
        """How long it is."""

    def device(self, spec: BoardSpec, seed: int, miss_rate: float) -> KnownDevice:
        """Return the device at its beginning, with limits that allow so many misses."""

    def steps_s(self) -> list[float]:
        """Return when something changes at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures(Figures):
    """What a run on a workload comes to.

    Attributes:
        settling_s: from a change of the workload until the policy behaves as it does later on,
            mean over the changes; None if there are none, or the run was not kept.
    """

    settling_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a policy did on a workload.

    Attributes:
        setting: of the device.
        figures: what it comes to.
        timeline: every inference; None if it was not kept.
    """

    setting: Setting
    figures: RunFigures
    timeline: Timeline | None


def simulate(
    workload: Workload,
    policy: Policy[Any] | None,
    seed: int,
    miss_rate: float,
    *,
    spec: BoardSpec = SYNTHETIC,
    keep: bool = True,
    late: bool = False,
) -> Run:
    """Let a policy run a board.

    Args:
        workload: what the board meets.
        policy: what chooses; None is the oracle.
        seed: of the noise; two policies meet the same noise with the same seed.
        miss_rate: the share of inferences that may miss the deadline.
        spec: what the board is like.
        keep: keep every inference; without, memory does not grow with the length.
        late: whether the oracle spends the misses that are allowed.
    """
    device = workload.device(spec, seed, miss_rate)
    setting, points = device.setting, true_points(device)
    chooser: Chooser
    if policy is None:
        chooser = _oracle(workload, device, seed, miss_rate, spec, late)
    else:
        chooser = Controller(policy, setting)
    tally = Tally(points)
    timeline = Timeline() if keep else None
    end_s = energy_j = 0.0
    for step in drive(device, chooser, workload.length_s):
        tally.add(step)
        end_s = step.end_s
        if timeline is not None:
            power_w = (step.energy_j - energy_j) / (step.end_s - step.begin_s)
            timeline.append(step, power_w, device.temperature_c)
        energy_j = step.energy_j
    settling = None
    if timeline is not None:
        settling = settling_s(timeline, points, [*workload.steps_s(), end_s])
    figures = RunFigures(**asdict(tally.figures()), settling_s=settling)
    return Run(setting=setting, figures=figures, timeline=timeline)


def _oracle(
    workload: Workload,
    device: KnownDevice,
    seed: int,
    miss_rate: float,
    spec: BoardSpec,
    late: bool,
) -> Oracle:
    """Return the oracle that knows a run, from having run it before; see `Oracle`."""
    price = 0.0
    foreseen: Sequence[Surprise] = ()
    late_at: frozenset[float] | None = None

    def tried(price: float) -> tuple[Oracle, float]:
        tried_on = workload.device(spec, seed, miss_rate)
        oracle = Oracle(tried_on, price, foreseen, late_at)
        deque(drive(tried_on, oracle, workload.length_s), maxlen=0)
        return oracle, tried_on.energy_j

    def prepare() -> Oracle:
        nonlocal foreseen, price
        battery_j = device.limits.battery_j
        if battery_j is not None:
            price = least_price(lambda price: tried(price)[1] <= battery_j)
        oracle, _ = tried(price)
        for _ in range(_TRIES if oracle.surprises else 0):
            foreseen = oracle.surprises
            oracle, _ = tried(price)
        foreseen = oracle.surprises
        return oracle

    ready = prepare()
    if late:
        late_at = spent(ready.gains, miss_rate)
        prepare()
    return Oracle(device, price, foreseen, late_at)
