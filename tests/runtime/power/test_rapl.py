"""The energy counters of x86 processors."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from ffn_edge.device.sysfs import KernelFile
from ffn_edge.errors import SensorError
from ffn_edge.runtime.power.rapl import RaplMeter

RANGE_UJ = 262_143_328_850


def test_packages_are_summed_without_their_parts_and_the_platform(board: Any) -> None:
    first = board.package("intel-rapl:0", "package-0", 1_000_000)
    second = board.package("intel-rapl:1", "package-1", 5_000_000)
    for zone, name in (
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:2", "psys"),
        ("intel-rapl-mmio:0", "package-0"),
    ):
        board.package(zone, name, 7_000_000).with_name("energy_uj").write_text("broken")
    meter = RaplMeter(board.root)
    assert meter.scope == "processor packages (package-0, package-1)"
    before = meter.read(10.0)
    assert (before.total_w, before.energy_j) == (None, 0.0)
    first.write_text("3000000\n")
    second.write_text("6000000\n")
    after = meter.read(10.5)
    assert (after.total_w, after.energy_j) == (6.0, 3.0)
    assert after.rails_w == {"package-0": 4.0, "package-1": 2.0}
    meter.close()


def test_no_platform_of_any_socket_is_added(board: Any) -> None:
    board.package("intel-rapl:0", "package-0", 1)
    for number, name in enumerate(("psys", "psys-1", "psys-2"), start=1):
        board.package(f"intel-rapl:{number}", name, 1)
    assert RaplMeter(board.root).scope == "processor packages (package-0)"


def test_packages_of_one_name_are_both_counted(board: Any) -> None:
    first = board.package("intel-rapl:0", "package-0", 5)
    second = board.package("intel-rapl:10", "package-0", 5)
    meter = RaplMeter(board.root)
    meter.read(0.0)
    first.write_text("2000005")
    second.write_text("3000005")
    reading = meter.read(1.0)
    assert (reading.total_w, reading.energy_j) == (5.0, 5.0)
    assert reading.rails_w == {"package-0": 2.0, "package-0 (intel-rapl:10)": 3.0}


@pytest.mark.parametrize(
    ("starts", "used", "total_w"),
    [
        ((7, 7), (60, 60), 60),  # one counter, which each die shows
        ((7, 9), (60, 40), 100),  # a counter each
        ((7, 7), (60, 40), 100),  # the same, which began alike
        ((RANGE_UJ - 7, RANGE_UJ - 7), (60, 60), 60),
        ((RANGE_UJ - 7, 7, 9, 11), (60, 40, 30, 20), 150),
    ],
)
def test_dies_are_counted_once_each_and_mirrors_of_their_package_once(
    starts: tuple[int, ...], used: tuple[int, ...], total_w: float, board: Any
) -> None:
    files = [
        board.package(f"intel-rapl:{die}", f"package-0-die-{die}", start)
        for die, start in enumerate(starts)
    ]
    board.package("intel-rapl:9", "package-1-die-0", 3)
    meter = RaplMeter(board.root)
    assert meter.scope == "processor packages (package-0, package-1)"
    meter.read(0.0)
    for turn in (1, 2):
        for file, start, joules in zip(files, starts, used, strict=True):
            file.write_text(str((start + turn * joules * 1_000_000) % RANGE_UJ))
        reading = meter.read(float(turn))
        assert reading.rails_w == {"package-0": pytest.approx(total_w), "package-1": 0.0}
    assert reading.energy_j == pytest.approx(2 * total_w)


def test_a_mirror_that_is_read_a_moment_later_is_one(
    board: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The counter goes on between the readings of its files, over its end, too.
    for die in range(4):
        board.package(f"intel-rapl:{die}", f"package-0-die-{die}", 0)
    count = itertools.count(RANGE_UJ - 1_000_000, 300_000)
    monkeypatch.setattr(KernelFile, "number", lambda file: next(count) % RANGE_UJ)
    meter = RaplMeter(board.root)
    for turn in range(10):
        reading = meter.read(float(turn))
    assert reading.energy_j == pytest.approx(10 * 5 * 0.3)


def test_a_package_that_tells_nothing_is_left_out(board: Any) -> None:
    board.package("intel-rapl:0", "package-0", 1)
    board.package("intel-rapl:1", "package-1", 1).write_text("")
    assert RaplMeter(board.root).scope == "processor packages (package-0)"


def test_a_counter_that_wraps_counts_on(board: Any) -> None:
    counter = board.package("intel-rapl:0", "package-0", RANGE_UJ - 1_000_000)
    meter = RaplMeter(board.root)
    meter.read(0.0)
    counter.write_text("2000000")
    reading = meter.read(0.5)
    assert (reading.energy_j, reading.total_w) == (pytest.approx(3.0), pytest.approx(6.0))


@pytest.mark.parametrize("range_uj", [RANGE_UJ, 0])
def test_a_counter_that_runs_backwards_without_a_wrap_is_an_error_once(
    range_uj: int, board: Any
) -> None:
    counter = board.package("intel-rapl:0", "package-0", 9_000_000, range_uj)
    meter = RaplMeter(board.root)
    counter.write_text("10000000")
    assert meter.read(0.0).energy_j == 1.0
    counter.write_text("4000000")
    with pytest.raises(SensorError, match="backwards"):
        meter.read(1.0)
    counter.write_text("6000000")
    reading = meter.read(2.0)
    assert (reading.energy_j, reading.total_w) == (3.0, None)


def test_a_counter_that_only_root_may_read_comes_with_the_remedy(
    open_board: Any, as_a_user: Any
) -> None:
    open_board.package("intel-rapl:0", "package-0", 1).chmod(0o400)
    with as_a_user(), pytest.raises(SensorError, match="only root may read") as caught:
        RaplMeter(open_board.root)
    assert f"chmod a+r {open_board.root}/sys/class/powercap/intel-rapl:*/energy_uj" in str(
        caught.value
    )
    assert "udev rule" in caught.value.hint


def test_a_counter_that_is_hidden_or_garbage_is_told(board: Any) -> None:
    with pytest.raises(SensorError, match="no energy counter"):
        RaplMeter(board.root)
    counter = board.package("intel-rapl:0", "package-0", 1)
    meter = RaplMeter(board.root)
    counter.write_text("garbage")
    with pytest.raises(SensorError, match="holds no number"):
        meter.read(0.0)
    counter.unlink()
    with pytest.raises(SensorError, match="no such file"):
        RaplMeter(board.root)
