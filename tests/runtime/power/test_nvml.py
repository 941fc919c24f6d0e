"""Graphics cards, through a module with the names, answers and errors of nvidia-ml-py 13."""

# ruff: noqa: N802, D102

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ffn_edge.errors import SensorError
from ffn_edge.runtime.machine.machine import CardSetting
from ffn_edge.runtime.power import nvml
from ffn_edge.runtime.power.nvml import NvmlMeter, visible_gpu

UUIDS = ("GPU-aaaa1111", "GPU-bbbb2222")


class NVMLError(Exception):
    """As in pynvml."""


class NotSupportedError(NVMLError):
    """As in pynvml."""

    def __str__(self) -> str:
        return "Not Supported"


class LibraryNotFoundError(NVMLError):
    """As in pynvml."""

    def __str__(self) -> str:
        return "NVML Shared Library Not Found"


class DriverNotLoadedError(NVMLError):
    """As in pynvml."""


class Driver(ModuleType):
    """Two cards. What is an exception is raised."""

    NVML_CLOCK_GRAPHICS, NVML_CLOCK_MEM, NVML_CLOCK_ID_APP_CLOCK_TARGET = 0, 2, 1
    NVMLError = NVMLError
    NVMLError_NotSupported = NotSupportedError
    NVMLError_LibraryNotFound = LibraryNotFoundError
    NVMLError_DriverNotLoaded = DriverNotLoadedError

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.init: Exception | None = None
        self.power_mw: int | Exception = 62_345
        self.energy_mj: int | Exception = 5_000_000
        self.clocks_mhz: dict[int, int | Exception] = {0: 1410, 2: 1215}
        self.application_mhz: dict[int, int | Exception] = {0: 1095, 2: 1215}
        self.highest_mhz: dict[int, int | Exception] = {0: 1410, 2: 1215}
        self.limit_mw: int | Exception = 250_000
        self.asked: Any = None
        self.users = 0

    def nvmlInit(self) -> None:
        answer(self.init)
        self.users += 1

    def nvmlShutdown(self) -> None:
        if not self.users:
            raise NVMLError("Uninitialized")
        self.users -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        if index >= 2:
            raise NVMLError("Invalid Argument")
        return UUIDS[index]

    def nvmlDeviceGetUUID(self, card: str) -> str:
        return card

    def nvmlDeviceGetName(self, card: str) -> str:
        self.asked = card
        return "NVIDIA RTX"

    def nvmlDeviceGetPowerUsage(self, card: str) -> Any:
        return answer(self.power_mw)

    def nvmlDeviceGetTotalEnergyConsumption(self, card: str) -> Any:
        return answer(self.energy_mj)

    def nvmlDeviceGetClockInfo(self, card: str, kind: int) -> Any:
        return answer(self.clocks_mhz[kind])

    def nvmlDeviceGetMaxClockInfo(self, card: str, kind: int) -> Any:
        return answer(self.highest_mhz[kind])

    def nvmlDeviceGetClock(self, card: str, kind: int, which: int) -> Any:
        assert which == self.NVML_CLOCK_ID_APP_CLOCK_TARGET
        return answer(self.application_mhz[kind])

    def nvmlDeviceGetEnforcedPowerLimit(self, card: str) -> Any:
        return answer(self.limit_mw)


def answer(given: Any) -> Any:
    if isinstance(given, Exception):
        raise given
    return given


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """A machine with two cards."""
    driver = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    return driver


def test_a_card_with_a_counter_gives_energy_since_it_was_opened(driver: Driver) -> None:
    meter = NvmlMeter()
    driver.energy_mj = 5_012_500
    reading = meter.read(3.0)
    assert (reading.time_s, reading.total_w, reading.energy_j) == (3.0, 62.345, 12.5)
    assert meter.scope == "GPU board (NVIDIA RTX), energy counter"
    meter.close()
    meter.close()
    assert driver.users == 0


def test_a_card_without_a_counter_gives_its_average_power(driver: Driver) -> None:
    driver.energy_mj = NotSupportedError()
    meter = NvmlMeter()
    reading = meter.read(0.0)
    assert (reading.total_w, reading.energy_j) == (62.345, None)
    assert meter.scope == "GPU board (NVIDIA RTX), about 1 s average"


def test_a_card_may_have_a_counter_alone(driver: Driver) -> None:
    driver.power_mw = NotSupportedError()
    reading = NvmlMeter().read(0.0)
    assert (reading.total_w, reading.energy_j) == (None, 0.0)


def test_on_a_jetson_nvml_starts_and_measures_nothing(driver: Driver) -> None:
    driver.power_mw = driver.energy_mj = NotSupportedError()
    with pytest.raises(SensorError, match="neither power nor energy"):
        NvmlMeter()
    assert driver.users == 0


def test_a_card_that_tells_nothing_any_more_is_an_error(driver: Driver) -> None:
    driver.energy_mj = NotSupportedError()
    meter = NvmlMeter()
    driver.power_mw = NotSupportedError()
    with pytest.raises(SensorError, match="neither power nor energy"):
        meter.read(1.0)


@pytest.mark.parametrize(
    ("gpu", "card"),
    [("0", 0), ("1", 1), ("GPU-bbbb2222", 1), ("GPU-bb", 1)],
)
def test_a_card_is_named_by_index_or_uuid(gpu: str, card: int, driver: Driver) -> None:
    NvmlMeter(gpu)
    assert driver.asked == UUIDS[card]


@pytest.mark.parametrize("gpu", ["7", "GPU-cccc"])
def test_a_card_that_is_not_there_is_an_error(gpu: str, driver: Driver) -> None:
    with pytest.raises(SensorError) as caught:
        NvmlMeter(gpu)
    assert "nvidia-smi" in caught.value.hint
    assert driver.users == 0


def test_the_card_that_cuda_shows_first_is_the_one() -> None:
    assert visible_gpu({}) == "0"
    assert visible_gpu({"CUDA_VISIBLE_DEVICES": "GPU-bbbb2222,0"}) == "GPU-bbbb2222"


def test_without_a_driver_or_the_library_the_remedy_is_told(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.init = LibraryNotFoundError()
    with pytest.raises(SensorError, match=r"no NVIDIA driver .*Not Found"):
        NvmlMeter()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(SensorError, match="not installed") as caught:
        NvmlMeter()
    assert 'pip install "ffn-edge[nvml]"' in caught.value.hint


def test_a_card_that_is_lost_while_running_is_an_error_and_may_come_back(driver: Driver) -> None:
    meter = NvmlMeter()
    driver.power_mw = NVMLError("GPU is lost")
    with pytest.raises(SensorError, match="GPU is lost"):
        meter.read(0.0)
    driver.power_mw, driver.energy_mj = 1000, NotSupportedError()
    with pytest.raises(SensorError, match="counter is gone"):
        meter.read(0.0)
    driver.energy_mj = 5_001_000
    assert meter.read(0.0).energy_j == 1.0


def test_a_reading_holds_the_clocks_of_gpu_and_memory(driver: Driver) -> None:
    meter = NvmlMeter()
    assert meter.read(0.0).clocks_mhz == (1410, 1215)
    driver.clocks_mhz[2] = NotSupportedError()
    assert meter.read(0.0).clocks_mhz == (1410,)
    driver.clocks_mhz[0] = NVMLError("Unknown Error")
    reading = meter.read(0.0)
    assert (reading.clocks_mhz, reading.total_w) == ((), 62.345)


def test_a_card_tells_how_it_is_set_as_far_as_it_knows(driver: Driver) -> None:
    meter = NvmlMeter()
    assert meter.setting() == CardSetting(
        application_mhz=1095,
        highest_mhz=1410,
        memory_application_mhz=1215,
        memory_highest_mhz=1215,
        power_limit_w=250.0,
    )
    driver.application_mhz = {0: NotSupportedError(), 2: NVMLError("Function Not Found")}
    driver.limit_mw = 0
    assert meter.setting() == CardSetting(highest_mhz=1410, memory_highest_mhz=1215)


def test_the_real_library_has_every_name_that_is_used() -> None:
    pynvml = pytest.importorskip("pynvml")
    names = set(re.findall(r"nvml\.(\w+)", Path(nvml.__file__).read_text())) - {"py"}
    used = {name for name in names if name.startswith(("nvml", "NVML"))}
    assert len(used) > 8
    assert {name for name in used if not hasattr(pynvml, name)} == set()


@pytest.mark.gpu
def test_a_real_card_draws_power() -> None:
    """Not yet run on one."""
    try:
        meter = NvmlMeter(visible_gpu())
    except SensorError as error:
        pytest.skip(error.message)
    first = meter.read(time.monotonic())
    time.sleep(1.0)
    second = meter.read(time.monotonic())
    assert second.total_w is None or 1 < second.total_w < 2000
    if first.energy_j is not None and second.energy_j is not None:
        assert 1 < second.energy_j - first.energy_j < 2000
    assert all(0 < mhz < 20_000 for mhz in second.clocks_mhz)
    print(second.clocks_mhz, meter.setting())
    meter.close()
