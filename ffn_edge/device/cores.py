"""How many processors this process may use: those that it may run on, and its groups' quotas."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ffn_edge.device.sysfs import number_in, text_of

_ROOT = Path("/")


def usable_cores(root: Path = _ROOT) -> int:
    """Count the physical cores that this process may use: for threads that compute.

    Two hardware threads of one core share its arithmetic units; counting both would make a
    matrix product slower.
    """
    most = usable_processors(root)
    if not hasattr(os, "sched_getaffinity"):  # macOS, Windows
        return most
    siblings = set()
    for cpu in os.sched_getaffinity(0):
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        threads = text_of(topology)
        if threads is None:  # some containers hide it
            return most
        siblings.add(threads)
    return min(most, len(siblings))


def usable_processors(root: Path = _ROOT) -> int:
    """Count the hardware threads that this process may use: for processes beside each other.

    A quota of one and a half processors is two: what is left of the second is of use.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # macOS, Windows: None
    allowed = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, cpu_quota(root))))


def cpu_quota(root: Path = _ROOT) -> float:
    """Return how many processors' time the control groups of this process let it have.

    A group gets no more than those around it: the tightest counts. `math.inf` is no quota.
    https://docs.kernel.org/admin-guide/cgroup-v2.html and
    https://docs.kernel.org/scheduler/sched-bwc.html
    """
    return min((_quota_of(group) for group in _groups(root)), default=math.inf)


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's groups that limit processors, and of those around them.

    Of version 1 and of version 2 of control groups: a machine may mount both.
    """
    mine: dict[str, str] = {}  # by hierarchy: the path of the group, as the kernel tells it
    for line in (text_of(root / "proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            mine["cgroup2"] = path
        elif "cpu" in controllers.split(","):
            mine["cgroup"] = path
    for line in (text_of(root / "proc/self/mountinfo") or "").splitlines():
        # "31 23 0:28 /docker/1f /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu"
        before, _, after = line.partition(" - ")
        where, what = before.split(), after.split()
        if len(where) < 5 or len(what) < 3 or what[0] not in mine:
            continue
        if what[0] == "cgroup" and "cpu" not in what[2].split(","):
            continue
        top = root / where[4].lstrip("/")
        try:
            inside = PurePosixPath(mine[what[0]]).relative_to(where[3])
        except ValueError:  # a container sees its own group alone, under the host's name for it
            inside = PurePosixPath()
        for each in (inside, *inside.parents):
            yield top / each


def _quota_of(group: Path) -> float:
    """Return the quota that one folder sets, in processors."""
    # "150000 100000" or "max 100000", in version 2.
    told = re.fullmatch(r"(\d{1,18}) (\d{1,18})", text_of(group / "cpu.max") or "")
    if told and int(told[2]):
        return int(told[1]) / int(told[2])
    quota_us, period_us = (
        number_in(group / "cpu.cfs_quota_us"),
        number_in(group / "cpu.cfs_period_us"),
    )
    if quota_us and period_us and quota_us > 0 and period_us > 0:  # -1 is no quota
        return quota_us / period_us
    return math.inf
