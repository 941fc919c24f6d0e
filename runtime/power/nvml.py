"""An NVIDIA graphics card's power and clocks, by NVML (`nvidia-ml-py`, imported only here)."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ffn_edge.errors import SensorError
from ffn_edge.runtime.machine.machine import CardSetting
from ffn_edge.runtime.power.meter import Averaging, PowerReading


def visible_gpu(environment: Mapping[str, str] = os.environ) -> str:
    """Return how CUDA's first device is named to `NvmlMeter`, as far as the environment tells.

    CUDA numbers the fastest card first and NVML that of the lowest PCI address: among cards of
    several kinds a number may mean another one, unless CUDA_DEVICE_ORDER is PCI_BUS_ID. A UUID in
    CUDA_VISIBLE_DEVICES always means the same. The meter's scope names the card.
    """
    return environment.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip() or "0"


class NvmlMeter:
    """One graphics card: its energy counter if it has one, else its power.

    The power is a running average of about a second on recent cards.
    """

    name = "NVML"
    averaging = Averaging()

    def __init__(self, gpu: str = "0") -> None:
        """Load NVML and find the card.

        Args:
            gpu: its index, or its UUID ("GPU-..."; the first characters will do).

        Raises:
            SensorError: NVML or the card is missing, or it tells neither power nor energy.
        """
        try:
            self._nvml: Any = importlib.import_module("pynvml")
        except ModuleNotFoundError as error:
            raise SensorError(
                "a graphics card cannot be asked: nvidia-ml-py is not installed",
                'with an NVIDIA card, pip install "ffn-edge[nvml]".',
            ) from error
        self._ask(self._nvml.nvmlInit)
        try:
            self._card = self._ask(lambda: self._find(gpu))
            self._start_mj = self._supported(self._nvml.nvmlDeviceGetTotalEnergyConsumption)
            if self._start_mj is None and self._power_mw() is None:
                raise SensorError("NVML tells neither power nor energy of this GPU, as on a Jetson")
            name = self._ask(lambda: self._nvml.nvmlDeviceGetName(self._card))
        except BaseException:
            self.close()
            raise
        how = "about 1 s average" if self._start_mj is None else "energy counter"
        self.scope = f"GPU board ({name}), {how}"

    def read(self, now: float) -> PowerReading:
        """Ask the card. See `Meter.read`."""
        energy_j = None
        if self._start_mj is not None:
            energy_mj = self._supported(self._nvml.nvmlDeviceGetTotalEnergyConsumption)
            if energy_mj is None:
                raise SensorError("the GPU's energy counter is gone", "was its driver reset?")
            energy_j = (energy_mj - self._start_mj) / 1e3
        power_mw = self._power_mw()
        if power_mw is None and energy_j is None:
            raise SensorError("NVML tells neither power nor energy now", "was its driver reset?")
        total_w = None if power_mw is None else power_mw / 1e3
        return PowerReading(
            time_s=now,
            total_w=total_w,
            rails_w={},
            energy_j=energy_j,
            clocks_mhz=self._clocks_mhz(),
        )

    def setting(self) -> CardSetting:
        """Ask the card how it is set. What it does not tell is None; nothing is raised."""
        nvml = self._nvml
        gpu, memory = nvml.NVML_CLOCK_GRAPHICS, nvml.NVML_CLOCK_MEM
        set_to = nvml.NVML_CLOCK_ID_APP_CLOCK_TARGET
        limit_mw = self._told(nvml.nvmlDeviceGetEnforcedPowerLimit)
        return CardSetting(
            application_mhz=self._told(nvml.nvmlDeviceGetClock, gpu, set_to),
            highest_mhz=self._told(nvml.nvmlDeviceGetMaxClockInfo, gpu),
            memory_application_mhz=self._told(nvml.nvmlDeviceGetClock, memory, set_to),
            memory_highest_mhz=self._told(nvml.nvmlDeviceGetMaxClockInfo, memory),
            power_limit_w=None if limit_mw is None else limit_mw / 1e3,
        )

    def _clocks_mhz(self) -> tuple[float, ...]:
        """Return the clocks of GPU and memory now, as far as they are told."""
        nvml = self._nvml
        gpu_mhz = self._told(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_GRAPHICS)
        if gpu_mhz is None:
            return ()
        memory_mhz = self._told(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM)
        return (gpu_mhz,) if memory_mhz is None else (gpu_mhz, memory_mhz)

    def _told(self, call: Callable[..., int], *which: int) -> int | None:
        """Ask the card one thing that is no matter of power; None if it is 0, or not told."""
        with suppress(self._nvml.NVMLError):
            return call(self._card, *which) or None
        return None

    def _power_mw(self) -> int | None:
        return self._supported(self._nvml.nvmlDeviceGetPowerUsage)

    def close(self) -> None:
        """Unload NVML. It fails only where the driver is gone."""
        with suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    def _find(self, gpu: str) -> Any:
        if gpu.isdecimal():
            return self._nvml.nvmlDeviceGetHandleByIndex(int(gpu))
        cards = map(self._nvml.nvmlDeviceGetHandleByIndex, range(self._nvml.nvmlDeviceGetCount()))
        for card in cards:
            if self._nvml.nvmlDeviceGetUUID(card).startswith(gpu):
                return card
        raise SensorError(f"NVML knows no GPU {gpu!r}", "`nvidia-smi -L` lists them.")

    def _supported(self, call: Callable[[Any], int]) -> int | None:
        """Ask the card one thing; None if it is not among what it tells."""

        def ask() -> int | None:
            try:
                return call(self._card)
            except self._nvml.NVMLError_NotSupported:
                return None

        answer: int | None = self._ask(ask)
        return answer

    def _ask(self, call: Callable[[], Any]) -> Any:
        """Call NVML; its errors become a SensorError."""
        nvml = self._nvml
        try:
            return call()
        except (nvml.NVMLError_LibraryNotFound, nvml.NVMLError_DriverNotLoaded) as error:
            raise SensorError(
                f"there is no NVIDIA driver ({error})",
                "in a container, start it with --gpus all.",
            ) from error
        except nvml.NVMLError as error:
            raise SensorError(
                f"NVML does not answer: {error}", "does `nvidia-smi` work here?"
            ) from error
