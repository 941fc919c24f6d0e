"""How many processors there are for a process: by its affinity and by its control groups."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ffn_edge.device.cores import cpu_quota, usable_cores, usable_processors
from ffn_edge.media import video
from ffn_edge.media.opencv import opencv

V1 = "32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct"
OTHER_V1 = "33 31 0:30 / /sys/fs/cgroup/cpuset rw,relatime shared:9 - cgroup cgroup rw,cpuset"
V2 = "30 23 0:26 {top} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
HYBRID_V2 = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw"
CPU = "/sys/fs/cgroup/cpu,cpuacct"


def machine(root: Path, mounts: list[str], groups: list[str], files: dict[str, str]) -> Path:
    """Write what Linux shows of control groups: their mounts, the process's own, and quotas."""
    texts = {
        "/proc/self/mountinfo": "\n".join(["23 1 8:1 / / rw - ext4 /dev/sda1 rw", *mounts]),
        "/proc/self/cgroup": "\n".join(groups),
        **files,
    }
    for name, text in texts.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def v1(group: str, quota: int, period: int = 100_000) -> dict[str, str]:
    folder = f"{CPU}{group}"
    return {f"{folder}/cpu.cfs_quota_us": str(quota), f"{folder}/cpu.cfs_period_us": str(period)}


@pytest.mark.parametrize(
    ("mounts", "groups", "files", "quota"),
    [
        # Version 2: on the host, in a container with a view of its own, and with the host's view.
        ([V2.format(top="/")], ["0::/a/b"], {"/sys/fs/cgroup/a/b/cpu.max": "150000 100000"}, 1.5),
        ([V2.format(top="/")], ["0::/"], {"/sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5),
        ([V2.format(top="/a")], ["0::/a"], {"/sys/fs/cgroup/cpu.max": "300000 100000"}, 3.0),
        ([V2.format(top="/")], ["0::/../b"], {"/sys/fs/cgroup/cpu.max": "300000 100000"}, 3.0),
        # The tightest of a group and those around it.
        (
            [V2.format(top="/")],
            ["0::/a/b/c"],
            {
                "/sys/fs/cgroup/a/cpu.max": "200000 100000",
                "/sys/fs/cgroup/a/b/cpu.max": "max 100000",
                "/sys/fs/cgroup/a/b/c/cpu.max": "700000 100000",
            },
            2.0,
        ),
        # Version 1: the host; a container under the host's name for it; a quota that is none.
        (
            [OTHER_V1, V1.format(top="/")],
            ["4:cpuset:/x", "3:cpu,cpuacct:/a"],
            v1("/a", 50_000, 20_000),
            2.5,
        ),
        ([V1.format(top="/docker/1f")], ["3:cpu,cpuacct:/docker/1f"], v1("", 200_000), 2.0),
        (
            [V1.format(top="/docker/1f")],
            ["3:cpu,cpuacct:/docker/1f/in"],
            {**v1("", 200_000), **v1("/in", 100_000)},
            1.0,
        ),
        ([V1.format(top="/")], ["3:cpu,cpuacct:/elsewhere"], v1("", 100_000), 1.0),
        ([V1.format(top="/")], ["3:cpu,cpuacct:/"], v1("", -1), math.inf),
        # Both, as systemd mounts them on older systems.
        ([V1.format(top="/"), HYBRID_V2], ["3:cpu,cpuacct:/a", "0::/b"], v1("/a", 100_000), 1.0),
        # Nothing of the kind.
        ([], [], {}, math.inf),
        ([V2.format(top="/")], ["0::/a"], {"/sys/fs/cgroup/a/cpu.max": "100000 0"}, math.inf),
    ],
)
def test_the_tightest_quota_counts(
    mounts: list[str], groups: list[str], files: dict[str, str], quota: float, tmp_path: Path
) -> None:
    assert cpu_quota(machine(tmp_path, mounts, groups, files)) == quota


def test_opencv_has_no_more_threads_than_a_quota_lets_run(monkeypatch: pytest.MonkeyPatch) -> None:
    before = opencv().getNumThreads()
    monkeypatch.setattr("ffn_edge.media.opencv.usable_processors", lambda: 1)
    try:
        opencv().setNumThreads(2)
        assert opencv.__wrapped__().getNumThreads() == 1
    finally:
        opencv().setNumThreads(before)


@pytest.mark.parametrize(("processors", "threads"), [(1, 2), (4, 5), (100, 16)])
def test_a_decoder_has_no_more_threads_than_a_quota_lets_run(
    processors: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "usable_processors", lambda: processors)
    assert video._decoding_threads() == threads


@pytest.mark.parametrize(
    ("quota", "processors", "cores"),
    [
        ("20000", 1, 1),
        ("100000", 1, 1),
        ("150000", 2, 2),
        ("300000", 3, 2),
        ("900000", 4, 2),
        ("max", 4, 2),
    ],
)
def test_a_part_of_a_processor_counts_as_one(
    quota: str, processors: int, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3})
    topology = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    siblings = {topology.format(cpu): f"{cpu % 2},{cpu % 2 + 2}" for cpu in range(4)}
    files = {"/sys/fs/cgroup/cpu.max": f"{quota} 100000", **siblings}
    root = machine(tmp_path, [V2.format(top="/")], ["0::/"], files)
    assert (usable_processors(root), usable_cores(root)) == (processors, cores)
    # A container may hide which threads share a core.
    (root / topology.format(1).lstrip("/")).unlink()
    assert usable_cores(root) == processors
