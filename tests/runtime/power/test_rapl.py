"""The energy counters of x86 processors."""

from __future__ import annotations

from typing import Any

import pytest

from ffn_edge.errors import SensorError
from ffn_edge.runtime.power.rapl import RaplMeter

RANGE_UJ = 262_143_328_850


def test_packages_are_summed_without_their_parts_and_the_platform(board: Any) -> None:
    first = board.package("intel-rapl:0", "package-0", 1_000_000)
    second = board.package("intel-rapl:1", "package-1", 5_000_000)
    for zone, name in (
        ("intel-rapl:0:0", "core"), ("intel-rapl:2", "psys"), ("intel-rapl-mmio:0", "package-0"),
    ):  # fmt: skip
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
