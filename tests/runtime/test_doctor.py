"""The doctor on machines that are built here as trees of files, and on this one."""

from __future__ import annotations

import configparser
import dataclasses
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result

from ffn_edge.bundle.bundle import MANIFEST, Bundle, FileRecord, file_record
from ffn_edge.commands import doctor as command
from ffn_edge.device.gpu import Gpu
from ffn_edge.device.plan_cache import PlanCache, Sidecar, plan_key
from ffn_edge.device.tensorrt_api import Api, Target
from ffn_edge.errors import EngineError, FfnEdgeError
from ffn_edge.runtime.doctor.examine import examine
from ffn_edge.runtime.doctor.host import Host, Python
from ffn_edge.runtime.doctor.report import Line, Report, attempt
from ffn_edge.runtime.doctor.software import PACKAGES
from ffn_edge.runtime.engines.engine import Backend, EngineOptions, OpenEngines, cpu_backend
from ffn_edge.runtime.profile.profile import Latency, save_profile

ORIN = Gpu(name="Orin", sm="87", memory_bytes=8 << 30)
RAILS = ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")
WITH_GSTREAMER = """
General configuration for OpenCV 4.10.0 =====================================
  Video I/O:
    FFMPEG:                      YES
      avcodec:                   YES (58.134.100)
    GStreamer:                   YES (1.20.3)
"""
# As on an Orin Nano since JetPack 6.2.
POWER_MODES = """
# < POWER_MODEL ID=9 NAME=MAXN >
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
GPU MAX_FREQ 918000000
# MAXN_SUPER releases all constraints
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
GPU MAX_FREQ -1
< POWER_MODEL ID=3 NAME=7W >
< PM_CONFIG DEFAULT=1 >
"""
FROM_PIP = WITH_GSTREAMER.replace("YES (1.20.3)", "NO")


def tensorrt(target: Target = "tensorrt", version: str = "10.3.0") -> Api:
    return Api(target, ModuleType(target), version, log=None)


@dataclasses.dataclass
class Computer:
    """A machine without anything, to be equipped. An exception is raised where it is asked for."""

    root: Path
    modules: set[str] = dataclasses.field(default_factory=set)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    programs: dict[str, str | Exception] = dataclasses.field(default_factory=dict)
    apis: dict[str, Api | Exception] = dataclasses.field(default_factory=dict)
    closed: set[str] = dataclasses.field(default_factory=set)
    gpu: Gpu | Exception = dataclasses.field(default_factory=lambda: no_pycuda())
    opencv: str | Exception = FROM_PIP
    onnxruntime: str | Exception = "1.32.0"
    python: tuple[int, int, int] = (3, 10, 12)
    free_bytes: int | Exception = 10 << 30
    backend: Backend | Exception | None = None

    def write(self, path: str, text: str) -> None:
        """Write a file of the machine."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def memory(self, available_mib: int, total_mib: int = 7600, swap_mib: int = 3800) -> None:
        """Write how much memory is free."""
        self.write(
            "proc/meminfo",
            f"MemTotal:  {total_mib << 10} kB\nMemAvailable:  {available_mib << 10} kB\n"
            f"SwapTotal:  {swap_mib << 10} kB\nSwapFree:  {swap_mib << 10} kB\n",
        )

    def examine(self, bundle: Path | None = None) -> Report:
        """Let the doctor look."""
        return examine(bundle, cache=self.cache, host=ComputerHost(self))

    def api(self, target: Target) -> Api | Exception:
        """Return one TensorRT, or why there is none."""
        return self.apis.get(target, EngineError(f"no {target}", f"install {target}"))

    @property
    def cache(self) -> Path:
        """Where its engines are kept."""
        return self.root / "cache"


class ComputerHost(Host):
    """Answers for a computer. A bundle is opened for real, unless the computer has a `backend`."""

    def __init__(self, computer: Computer) -> None:
        super().__init__(computer.root)
        self.computer = computer
        self.version_of = computer.versions.get
        self.has_module = computer.modules.__contains__
        self.onnxruntime = attempt(lambda: given(computer.onnxruntime))
        self.opencv = attempt(lambda: given(computer.opencv))
        self.gpu = attempt(lambda: given(computer.gpu))
        self.tensorrt = {
            target: attempt(lambda target=target: given(computer.api(target)))
            for target in ("tensorrt", "rtx")
        }
        if computer.backend is not None:
            self.open_engines = self._open_engines

    @property
    def python(self) -> Python:
        """That of a virtual environment."""
        return Python(self.computer.python, self.root / "venv", self.root / "usr")

    def output_of(self, command: Sequence[str]) -> str | None:
        """Give what a program prints."""
        programs = self.computer.programs
        return given(programs[command[0]]) if command[0] in programs else None

    def path_of(self, program: str) -> str | None:
        """Say where a program is: here, all come with the CUDA toolkit."""
        there = program in self.computer.programs
        return f"{self.root}/usr/local/cuda/bin/{program}" if there else None

    def may(self, path: Path, mode: int) -> bool:
        """Open all but what is closed."""
        return path.relative_to(self.root).as_posix() not in self.computer.closed

    def free_bytes(self, folder: Path) -> int:
        """Give what is free everywhere."""
        return given(self.computer.free_bytes)

    @contextmanager
    def _open_engines(self, bundle: Bundle, options: EngineOptions) -> Iterator[OpenEngines]:
        assert options.cache == self.computer.cache
        warnings = ["out of memory; keeping one engine at a time"]
        yield OpenEngines({}, given(self.computer.backend), {8: "fp16"}, warnings=warnings)


def given(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise answer
    return answer


def no_pycuda() -> EngineError:
    return caused("PyCUDA is not installed", ModuleNotFoundError("No module named 'pycuda'"))


def caused(message: str, cause: Exception) -> EngineError:
    error = EngineError(message, "pip install pycuda")
    error.__cause__ = cause
    return error


@pytest.fixture
def desktop(tmp_path: Path) -> Computer:
    """A PC without a GPU that can run bundles on its CPU."""
    computer = Computer(tmp_path / "desktop")
    computer.modules = {
        "ffn_edge",
        "numpy",
        "click",
        "rich",
        "filelock",
        "safetensors",
        "onnx",
        "onnxruntime",
        "cv2",
        "av",
    }
    computer.versions = {"numpy": "2.2.0", "onnxruntime": "1.32.0", "opencv-python": "4.10.0.84"}
    computer.write("venv/pyvenv.cfg", "home = /usr/bin\ninclude-system-site-packages = false\n")
    computer.memory(9000, 16000)
    for path in ("sys/class/powercap/intel-rapl:0", "sys/class/powercap/intel-rapl:0:0"):
        computer.write(f"{path}/energy_uj", "1\n")
        computer.write(f"{path}/name", "package-0\n")
    return computer


@pytest.fixture
def jetson(desktop: Computer, tmp_path: Path) -> Computer:
    """An Orin Nano on JetPack 6.2 with all that TensorRT needs."""
    modules = desktop.modules | {"tensorrt", "pycuda"}
    computer = Computer(tmp_path / "jetson", modules=modules)
    computer.write("venv/pyvenv.cfg", "include-system-site-packages = true\n")
    computer.write("proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
    computer.write(
        "etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n"
    )
    computer.write(
        "proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build\n",
    )
    computer.write("usr/local/cuda/version.json", '{"cuda": {"version": "12.6.11"}}')
    for name in ("dev/video0", "dev/nvmap", "dev/nvhost-gpu"):
        computer.write(name, "")
    for number, rail in enumerate((*RAILS, "sum of shunt voltages"), start=1):
        channel = 7 if number == 4 else number
        folder = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
        computer.write(f"{folder}/in{channel}_label", f"{rail}\n")
        computer.write(f"{folder}/in{channel}_input", "5000\n")
    for number, zone in enumerate(("cpu-thermal", "gpu-thermal")):
        computer.write(f"sys/class/thermal/thermal_zone{number}/type", f"{zone}\n")
        computer.write(f"sys/class/thermal/thermal_zone{number}/temp", "45000\n")
    computer.memory(5000)
    computer.versions = {"tensorrt": "10.3.0", "pycuda": "2026.1"}
    computer.programs["nvpmodel"] = "NV Power Mode: MAXN_SUPER\n2\n"
    computer.write("etc/nvpmodel.conf", POWER_MODES)
    computer.programs["nvcc"] = "Cuda compilation tools, release 12.6, V12.6.68\n"
    computer.apis["tensorrt"] = tensorrt()
    computer.gpu = ORIN
    computer.opencv = WITH_GSTREAMER
    return computer


def line(report: Report, group: str, name: str, number: int = 0) -> Line:
    lines = [each for found in report.groups if found.name == group for each in found.lines]
    return [each for each in lines if each.name == name][number]


def names(report: Report, group: str) -> set[str]:
    return {each.name for found in report.groups if found.name == group for each in found.lines}


def problems(report: Report) -> list[str]:
    lines = [each for group in report.groups for each in group.lines]
    return [each.name for each in lines if each.status == "problem"]


def store_plan(
    cache: PlanCache,
    bundle: Bundle,
    frames: int,
    power_mode: str | None = None,
    **changes: object,
) -> Path:
    """Put an engine for the emulated Orin, or one that differs in `changes`, into a cache."""
    key = plan_key(tensorrt(), ORIN, bundle, frames, "fp16", "identical")
    key = dataclasses.replace(key, l4t="36.4.3", board="NVIDIA Jetson Orin Nano Developer Kit")
    sidecar = Sidecar(
        key=dataclasses.replace(key, **changes),  # type: ignore[arg-type]
        flags=(),
        weights=(),
        plan=FileRecord(bytes=0, sha256=""),
        power_mode=power_mode,
        deviation=None,
        build_seconds=1.0,
        created="2026-01-01",
        producer="the tests",
    )
    with cache.lock(), cache.workplace() as folder:
        (folder / "plan").write_bytes(b"a plan" * 50_000)
        return cache.store(sidecar, folder / "plan").path


def test_a_jetson_with_everything_has_no_problem(jetson: Computer) -> None:
    report = jetson.examine()
    assert problems(report) == []
    assert report.backend == "tensorrt"
    assert report.verdict == (
        "`ffn-edge run` would work here: TensorRT 10.3.0 on Orin, once `ffn-edge build` has built "
        "a bundle's engines."
    )
    found = {(group.name, each.name): each.found for group in report.groups for each in group.lines}
    assert found["Python", "version"] == "3.10.12"
    assert "with the system's packages" in found["Python", "virtual environment"]
    assert found["Board", "board"] == "NVIDIA Jetson Orin Nano Developer Kit"
    assert found["Board", "Jetson Linux (L4T)"] == "36.4.3"
    assert found["Board", "JetPack"] == "6.2"
    assert found["Board", "power mode"].startswith("MAXN_SUPER;")
    assert found["GPU", "TensorRT"] == "10.3.0"
    assert found["GPU", "NVIDIA driver"] == "540.4.0"
    assert found["GPU", "PyCUDA"] == "2026.1"
    assert found["GPU", "GPU"] == "Orin, SM 87, 8.0 GiB"
    assert found["GPU", "CUDA toolkit"] == "12.6, nvcc on the PATH"
    assert found["Video", "OpenCV"] == "4.10.0"
    assert found["Video", "FFmpeg"] == "yes"
    assert found["Video", "GStreamer"] == "yes (1.20.3)"
    assert found["Video", "cameras"].endswith("dev/video0")
    assert found["Sensors", "power (INA)"] == ", ".join(RAILS)
    assert found["Sensors", "temperatures"] == "cpu-thermal, gpu-thermal"
    assert found["Memory and disk", "memory"] == "4.9 GiB available of 7.4 GiB"
    assert found["Memory and disk", "swap"] == "3.7 GiB free of 3.7 GiB"
    assert found["Memory and disk", "disk, engines"].startswith("10.0 GiB free")


def test_a_desktop_without_a_gpu_runs_on_its_cpu(desktop: Computer) -> None:
    report = desktop.examine()
    assert problems(report) == []
    assert report.backend == "onnxruntime"
    assert report.verdict.endswith("ONNX Runtime 1.32.0 on the CPU, as TensorRT is not installed.")
    assert line(report, "Board", "board").found == "a PC; not a Jetson"
    assert line(report, "GPU", "NVIDIA driver").status == "note"
    assert line(report, "Sensors", "energy (RAPL)").found == "package-0"
    assert "not installed" in line(report, "Packages", "torch").found


def test_another_board_is_named(desktop: Computer) -> None:
    desktop.write("proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    report = desktop.examine()
    assert line(report, "Board", "board").found == "Raspberry Pi 5 Model B Rev 1.0; not a Jetson"
    assert report.works


@pytest.mark.parametrize(
    ("cpuinfo", "status", "found"),
    [
        ("flags\t\t: fpu avx2 avx512_vnni\nvmx flags : ept\n", "ok", "avx512_vnni"),
        ("flags\t\t: fpu avx2\n", "note", "INT8 may be slower"),
        ("Features\t: fp asimd asimddp\n", "ok", "asimddp"),
        ("Features\t: fp asimd\n", "note", "no asimddp or i8mm"),
    ],
)
def test_instructions_for_int8_are_looked_for(
    cpuinfo: str, status: str, found: str, desktop: Computer
) -> None:
    desktop.write("proc/cpuinfo", f"processor\t: 0\n{cpuinfo}")
    told = line(desktop.examine(), "Board", "processor, INT8")
    assert told.status == status
    assert found in told.found


def test_a_processor_that_does_not_tell_its_instructions_has_no_line(desktop: Computer) -> None:
    desktop.write("proc/cpuinfo", "processor\t: 0\n")
    assert "processor, INT8" not in names(desktop.examine(), "Board")


def test_cameras_and_sensors_without_permission_come_with_the_command_that_opens_them(
    jetson: Computer,
) -> None:
    ina = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
    jetson.closed = {
        "dev/video0",
        "dev/nvmap",
        f"{ina}/in1_input",
        "sys/class/thermal/thermal_zone1/temp",
    }
    report = jetson.examine()
    assert problems(report) == ["GPU device files", "cameras", "power (INA)"]
    assert "usermod -aG video $USER" in line(report, "Video", "cameras").remedy
    assert "usermod -aG video,render $USER" in line(report, "GPU", "GPU device files").remedy
    assert f"chmod a+r {jetson.root}/{ina}/*_input" in line(report, "Sensors", "power (INA)").remedy
    assert "thermal_zone1/temp" in line(report, "Sensors", "temperatures").remedy
    assert report.works


def test_a_memory_clock_that_only_root_may_read_is_told_with_the_remedy(jetson: Computer) -> None:
    unknown = line(jetson.examine(), "Board", "memory clock")
    assert unknown.status == "note"
    assert "sys/kernel/debug/bpmp/debug/clk/emc/mrq_rate_locked" in unknown.remedy
    for name in ("rate", "min_rate", "max_rate"):
        jetson.write(f"sys/kernel/debug/bpmp/debug/clk/emc/{name}", "3199000000\n")
    known = line(jetson.examine(), "Board", "memory clock")
    assert (known.status, known.found) == ("ok", "fixed at 3199 MHz")


def test_a_thermal_zone_that_is_switched_off_is_left_out(jetson: Computer) -> None:
    jetson.write("sys/class/thermal/thermal_zone0/temp", "")
    assert line(jetson.examine(), "Sensors", "temperatures").found == "gpu-thermal"
    jetson.write("sys/class/thermal/thermal_zone1/temp", "-256000\n")
    assert line(jetson.examine(), "Sensors", "temperatures").status == "note"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permissions_are_those_of_the_file_system(jetson: Computer) -> None:
    (jetson.root / "dev/video0").chmod(0)
    host = ComputerHost(jetson)
    host.may = Host().may
    report = examine(cache=jetson.cache, host=host)
    assert line(report, "Video", "cameras").status == "problem"


def test_energy_counters_that_only_root_may_read_are_a_note(desktop: Computer) -> None:
    desktop.closed = {"sys/class/powercap/intel-rapl:0/energy_uj"}
    rapl = line(desktop.examine(), "Sensors", "energy (RAPL)")
    assert (rapl.status, rapl.found) == ("note", "only root may read it")
    assert "chmod a+r" in rapl.remedy


@pytest.mark.parametrize(
    ("rails", "found"),
    [({"rail_name_0": "POM_5V_IN", "in_power0_input": "1"}, "POM_5V_IN"), ({}, "none")],
)
def test_the_sensor_of_an_older_jetson_is_found(
    desktop: Computer, rails: dict[str, str], found: str
) -> None:
    for name, text in rails.items():
        desktop.write(f"sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/{name}", text)
    assert line(desktop.examine(), "Sensors", "power (INA)").found.startswith(found)


def test_a_python_that_is_too_new_is_a_problem(desktop: Computer) -> None:
    desktop.python = (3, 14, 0)
    assert line(desktop.examine(), "Python", "version").status == "problem"


def test_an_environment_that_hides_jetpack_is_to_be_made_anew(jetson: Computer) -> None:
    jetson.write("venv/pyvenv.cfg", "include-system-site-packages = false\n")
    assert line(jetson.examine(), "Python", "virtual environment").status == "ok"  # it sees them
    jetson.modules -= {"tensorrt"}
    environment = line(jetson.examine(), "Python", "virtual environment")
    assert environment.status == "problem"
    assert "--system-site-packages" in environment.remedy


def test_a_driver_without_tensorrt_is_told_how_to_get_it(jetson: Computer) -> None:
    jetson.apis.clear()
    jetson.modules.discard("tensorrt")
    report = jetson.examine()
    missing = line(report, "GPU", "TensorRT")
    assert (missing.found, missing.remedy) == ("not installed", "install tensorrt")
    assert missing.status == "problem"  # a Jetson is there for it
    assert report.backend == "onnxruntime"


def test_on_a_pc_tensorrt_is_no_more_than_a_note(desktop: Computer) -> None:
    desktop.write(
        "proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12\n",
    )
    report = desktop.examine()
    assert line(report, "GPU", "NVIDIA driver").found == "535.183.01"
    assert line(report, "GPU", "TensorRT").status == "note"
    assert line(report, "GPU", "TensorRT").remedy == "install tensorrt"
    assert line(report, "GPU", "PyCUDA").remedy == "pip install pycuda"


def test_what_every_bundle_needs_is_a_problem_where_it_is_missing(
    jetson: Computer, desktop: Computer
) -> None:
    for computer in (jetson, desktop):
        computer.modules -= {"onnx", "av"}
        for name in ("onnx", "av"):
            found = line(computer.examine(), "Packages", name)
            assert found.status == "problem"
            assert "ffn-edge[jetson]" in found.remedy


def test_every_library_that_a_device_may_need_is_looked_for() -> None:
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg")
    extras = setup["options.extras_require"]
    wanted = setup["options"]["install_requires"] + "".join(
        extras[name] for name in ("cpu", "jetson", "rtx", "video")
    )
    names = {re.split(r"[><=]", each)[0] for each in wanted.split()}
    assert names <= {name for each in PACKAGES for name in each.distributions.split()}


def test_tensorrt_without_pycuda_is_told_how_to_get_it(jetson: Computer) -> None:
    jetson.gpu = no_pycuda()
    jetson.modules.discard("pycuda")
    jetson.programs.pop("nvcc")
    report = jetson.examine()
    missing = line(report, "GPU", "PyCUDA")
    assert (missing.found, missing.status) == ("not installed", "problem")
    assert missing.remedy == "pip install pycuda"
    toolkit = line(report, "GPU", "CUDA toolkit")
    assert "export PATH=/usr/local/cuda/bin" in toolkit.remedy
    assert "CUDA_ROOT" in toolkit.remedy
    assert "TensorRT cannot reach a GPU: PyCUDA is not installed" in report.verdict


def test_a_toolkit_without_a_header_that_pycuda_wants_is_told(jetson: Computer) -> None:
    jetson.gpu = no_pycuda()
    jetson.modules.discard("pycuda")
    missing = line(jetson.examine(), "GPU", "curand.h")
    assert missing.found.startswith(f"not in {jetson.root}/usr/local/cuda/include, ")
    assert missing.status == "note"
    for word in ("apt install libcurand-dev-12-6,", "CUDA_ENABLE_CURAND = False", "CUDA_ROOT"):
        assert word in missing.remedy
    jetson.programs["nvcc"] = "an nvcc of its own\n"
    assert "apt install libcurand-dev," in line(jetson.examine(), "GPU", "curand.h").remedy


@pytest.mark.parametrize("folder", ["include", "targets/aarch64-linux/include"])
def test_a_toolkit_with_that_header_is_fine(folder: str, jetson: Computer) -> None:
    jetson.gpu = no_pycuda()
    jetson.modules.discard("pycuda")
    jetson.write(f"usr/local/cuda/{folder}/curand.h", "")
    assert "curand.h" not in names(jetson.examine(), "GPU")


def test_who_has_pycuda_needs_no_headers(jetson: Computer) -> None:
    assert "curand.h" not in names(jetson.examine(), "GPU")


def test_pycuda_without_a_driver_is_told_to_install_one(desktop: Computer) -> None:
    desktop.modules.add("pycuda")
    desktop.gpu = caused("PyCUDA cannot be loaded", ImportError("libcuda.so.1: cannot open"))
    report = desktop.examine()
    assert "ubuntu-drivers install" in line(report, "GPU", "PyCUDA").remedy
    assert line(report, "GPU", "GPU").found == "unknown without PyCUDA"


def test_a_gpu_that_does_not_answer_is_not_pycudas_fault(jetson: Computer) -> None:
    jetson.gpu = EngineError("no CUDA device is visible", "see `ffn-edge doctor`.")
    report = jetson.examine()
    assert line(report, "GPU", "PyCUDA").status == "ok"
    silent = line(report, "GPU", "GPU")
    assert silent.found == "no CUDA device is visible"
    assert "CUDA_VISIBLE_DEVICES" in silent.remedy
    assert "doctor" not in silent.remedy  # that is where the reader is


def test_a_gpu_that_answers_has_a_driver(desktop: Computer) -> None:
    desktop.gpu = ORIN
    desktop.apis["rtx"] = tensorrt("rtx", "1.7.1")
    report = desktop.examine()
    assert line(report, "GPU", "NVIDIA driver").found.startswith("there")
    assert report.backend == "rtx"


def test_a_tensorrt_that_is_too_old_is_not_used(jetson: Computer) -> None:
    jetson.apis["tensorrt"] = EngineError(
        "TensorRT 8.6.2.3 is too old: an engine needs 10.3", "install JetPack 6.1 or later."
    )
    jetson.write("etc/nv_tegra_release", "# R36 (release), REVISION: 3.0, GCID: 1\n")
    report = jetson.examine()
    assert "JetPack 6.1" in line(report, "GPU", "TensorRT").remedy
    assert line(report, "Board", "JetPack").found == "6.0"
    assert line(report, "Board", "Jetson Linux (L4T)").status == "problem"
    assert report.backend == "onnxruntime"
    assert "TensorRT 8.6.2.3 is too old" in report.verdict
    jetson.gpu = no_pycuda()
    assert "TensorRT 8.6.2.3 is too old" in jetson.examine().verdict  # a GPU would not help


def test_the_verdict_says_why_tensorrt_is_not_used(jetson: Computer) -> None:
    jetson.apis["tensorrt"] = EngineError("libnvinfer.so.10 is missing", "install it")
    report = jetson.examine()
    assert report.backend == "onnxruntime"
    assert report.verdict.endswith("on the CPU, as libnvinfer.so.10 is missing.")


def test_an_unknown_release_of_jetson_linux_is_given_without_a_jetpack(jetson: Computer) -> None:
    jetson.write("etc/nv_tegra_release", "# R36 (release), REVISION: 9.9, GCID: 1\n")
    assert "JetPack" not in names(jetson.examine(), "Board")
    assert line(jetson.examine(), "Board", "Jetson Linux (L4T)").found == "36.9.9"


@pytest.mark.parametrize(
    ("release", "revision", "jetpack"),
    [
        (36, "4.4", "6.2.1"),
        (36, "5.0", "6.2.2"),
        (38, "4.0", "7.1"),
        (39, "2.0", "7.2"),
        (39, "2.1", "7.2.1"),
        (39, "2.9", "7.2"),
    ],
)
def test_a_known_release_of_jetson_linux_is_given_with_its_jetpack(
    release: int, revision: str, jetpack: str, jetson: Computer
) -> None:
    jetson.write("etc/nv_tegra_release", f"# R{release} (release), REVISION: {revision}, GCID: 1")
    assert line(jetson.examine(), "Board", "JetPack").found == jetpack


def test_a_power_mode_that_does_not_answer_is_a_note(jetson: Computer) -> None:
    jetson.programs["nvpmodel"] = TimeoutError("5 s")
    assert "nvpmodel failed" in line(jetson.examine(), "Board", "power mode").found
    jetson.programs["nvpmodel"] = "NVPM ERROR: needs root\n"
    assert line(jetson.examine(), "Board", "power mode").status == "note"


@pytest.mark.parametrize("mode", ["15W", "25W", "7W", "MAXN_SUPER_OF_MINE"])
def test_a_slower_power_mode_is_to_be_left_before_engines_are_built(
    mode: str, jetson: Computer
) -> None:
    jetson.programs["nvpmodel"] = f"NVPM WARN: fan mode is not set!\nNV Power Mode: {mode}\n0\n"
    power_mode = line(jetson.examine(), "Board", "power mode")
    assert power_mode.status == "note"
    assert power_mode.found.startswith(f"{mode}, ")
    assert power_mode.remedy == "before `ffn-edge build`: sudo nvpmodel -m 2"
    assert jetson.examine().works


def test_in_the_fastest_power_mode_nothing_is_to_be_done(jetson: Computer) -> None:
    assert line(jetson.examine(), "Board", "power mode").status == "ok"


@pytest.mark.parametrize("modes", [None, "< POWER_MODEL ID=0 NAME=15W >\n"])
def test_on_a_board_that_names_no_fastest_power_mode_any_will_do(
    modes: str | None, jetson: Computer
) -> None:
    (jetson.root / "etc/nvpmodel.conf").unlink()
    if modes is not None:
        jetson.write("etc/nvpmodel.conf", modes)
    jetson.programs["nvpmodel"] = "NV Power Mode: 15W\n0\n"
    assert line(jetson.examine(), "Board", "power mode").status == "ok"


def test_an_opencv_from_pip_on_a_jetson_is_to_be_removed(jetson: Computer) -> None:
    jetson.opencv = FROM_PIP
    jetson.versions["opencv-contrib-python"] = "4.10.0.84"
    gstreamer = line(jetson.examine(), "Video", "GStreamer")
    assert gstreamer.status == "problem"
    assert gstreamer.remedy.endswith("pip uninstall opencv-contrib-python")


@pytest.mark.parametrize(
    "error", [ImportError("a"), OSError("a"), RuntimeError("a"), TypeError("a")]
)
def test_a_library_that_crashes_on_import_is_a_line(jetson: Computer, error: Exception) -> None:
    jetson.apis["tensorrt"] = error
    jetson.opencv = jetson.onnxruntime = jetson.gpu = error
    report = jetson.examine()
    crashed = f"{type(error).__name__}: a"
    assert not report.works
    assert crashed in report.verdict
    for group, name in (("GPU", "TensorRT"), ("GPU", "PyCUDA"), ("Video", "OpenCV")):
        assert (line(report, group, name).found, line(report, group, name).status) == (
            crashed,
            "problem",
        )


def test_without_any_backend_run_would_not_work(desktop: Computer) -> None:
    desktop.onnxruntime = EngineError("ONNX Runtime cannot be imported", "pip install it")
    desktop.modules.discard("onnxruntime")
    desktop.versions.pop("onnxruntime")
    report = desktop.examine()
    assert report.backend is None
    assert "ONNX Runtime cannot be imported, and TensorRT is not installed" in report.verdict
    assert line(report, "Packages", "onnxruntime").status == "problem"
    assert "ffn-edge[cpu]" in line(report, "Packages", "onnxruntime").remedy


def test_without_opencv_run_would_not_work(jetson: Computer) -> None:
    jetson.opencv = FfnEdgeError("videos need OpenCV", "install OpenCV")
    jetson.modules.discard("cv2")
    report = jetson.examine()
    assert report.backend is None
    assert "would not work here: videos need OpenCV" in report.verdict
    assert line(report, "Video", "OpenCV").remedy == "install OpenCV"
    assert line(report, "Packages", "opencv").status == "problem"


@pytest.mark.parametrize(
    ("available_mib", "status"), [(500, "problem"), (1400, "note"), (1600, "ok")]
)
def test_little_memory_is_told(jetson: Computer, available_mib: int, status: str) -> None:
    jetson.memory(available_mib, swap_mib=0)
    report = jetson.examine()
    memory = line(report, "Memory and disk", "memory")
    assert memory.status == status
    assert ("--resident one" in memory.remedy) == (status != "ok")
    assert line(report, "Memory and disk", "swap").found == "none"


def test_a_full_disk_is_a_problem(desktop: Computer, bundle: Bundle) -> None:
    desktop.free_bytes = 200 << 20
    report = desktop.examine(bundle.path)
    assert line(report, "Memory and disk", "disk, engines").status == "problem"
    assert line(report, "Memory and disk", "disk, bundle").found.startswith("200 MiB free")


def test_files_that_are_not_what_they_should_be_are_no_reason_to_fail(jetson: Computer) -> None:
    for path in ("proc/meminfo", "usr/local/cuda/version.json", "venv/pyvenv.cfg"):
        (jetson.root / path).write_bytes(b"\xff\x00{")
    (jetson.root / "sys/class/thermal/thermal_zone0/type").unlink()
    (jetson.root / "etc/nv_tegra_release").unlink()
    (jetson.root / "etc/nv_tegra_release").mkdir()
    jetson.programs.pop("nvcc")
    report = jetson.examine()
    assert line(report, "Memory and disk", "memory").found.startswith("unknown")
    assert line(report, "Board", "Jetson Linux (L4T)").status == "note"
    assert line(report, "Sensors", "temperatures").found == "thermal_zone0, gpu-thermal"
    assert report.works


def test_a_check_that_fails_itself_is_a_line(desktop: Computer) -> None:
    desktop.free_bytes = OSError("no such device")
    report = desktop.examine()
    failed = line(report, "Memory and disk", "Memory and disk")
    assert (failed.status, failed.found) == (
        "problem",
        "this check failed: OSError: no such device",
    )
    assert line(report, "Memory and disk", "memory").status == "ok"  # what came before is kept


def test_engines_of_steps_are_told_from_those_for_clips(
    jetson: Computer, exported_causal: Bundle
) -> None:
    cache = PlanCache(jetson.cache)
    graph = exported_causal.graph_path(2, step=True).name
    record = exported_causal.manifest.files[graph]
    store_plan(cache, exported_causal, 2, step=True, graph_sha256=record.sha256)

    report = jetson.examine(exported_causal.path)

    found = line(report, "Engines", "tsm_tiny, 2 frames of a stream, fp16").found
    assert found.endswith("fits this machine and the bundle")
    for frames in (2, 4):  # which clips are classified with
        missing = line(report, "Engines", f"{frames} frames")
        assert "was built" in missing.found
        assert missing.remedy.endswith(f"ffn-edge build {exported_causal.path}")


def test_built_engines_are_listed_with_what_they_fit(jetson: Computer, bundle: Bundle) -> None:
    cache = PlanCache(jetson.cache)
    store_plan(cache, bundle, 2)
    store_plan(cache, bundle, 4, sm="72", tensorrt_version="10.1.0", l4t=None)
    store_plan(cache, bundle, 8, composed_sha256="other")
    store_plan(cache, bundle, 8, target="rtx", sm="any", precision="fp32")
    jetson.backend = Backend(
        name="tensorrt",
        version="10.3.0",
        device="Orin (SM 87)",
        threads=1,
        reason="asked",
    )

    alone = jetson.examine()
    assert line(alone, "Engines", "cache").found == f"{jetson.cache}: 4 engines"
    assert line(alone, "Engines", "colours, 2 frames, fp16").found == (
        "TensorRT 10.3.0, Orin (SM 87), 0.3 MB; fits this machine"
    )
    misfit = line(alone, "Engines", "colours, 4 frames, fp16")
    assert misfit.status == "note"
    for reason in ("this is 10.3.0", "this one has SM 87", "of L4T none"):
        assert reason in misfit.found

    other = line(alone, "Engines", "colours, 8 frames, fp32").found
    assert "any GPU" in other
    assert other.endswith("does not fit: TensorRT-RTX does not work here")

    report = jetson.examine(bundle.path)
    fits = line(report, "Engines", "colours, 2 frames, fp16").found
    assert fits.endswith("fits this machine and the bundle")
    assert "of another bundle" in line(report, "Engines", "colours, 8 frames, fp16").found
    assert "SM 72" in line(report, "Engines", "4 frames").found
    missing = line(report, "Engines", "8 frames")
    assert "of other weights" in missing.found
    assert missing.remedy.endswith(f"ffn-edge build {bundle.path}")
    assert not [each for group in report.groups for each in group.lines if each.name == "2 frames"]
    assert report.backend == "tensorrt"
    assert line(report, "Bundle", "engines").found == (
        "tensorrt 10.3.0 in fp16 on Orin (SM 87), 1 thread: asked"
    )
    assert line(report, "Bundle", "engines", 1).found.startswith("out of memory")


def test_an_engine_of_another_power_mode_is_a_note(jetson: Computer, bundle: Bundle) -> None:
    cache = PlanCache(jetson.cache)
    store_plan(cache, bundle, 2, power_mode="15W")
    store_plan(cache, bundle, 4, power_mode="MAXN_SUPER")

    report = jetson.examine()

    other = line(report, "Engines", "colours, 2 frames, fp16")
    assert other.status == "note"
    assert "15W" in other.found
    assert "ffn-edge build" in other.remedy
    assert line(report, "Engines", "colours, 4 frames, fp16").status == "ok"


def test_damaged_engines_are_lines_with_their_remedies(jetson: Computer, bundle: Bundle) -> None:
    cache = PlanCache(jetson.cache)
    truncated = store_plan(cache, bundle, 2)
    edited = store_plan(cache, bundle, 4)
    alone = store_plan(cache, bundle, 8)
    renamed = store_plan(cache, bundle, 8, precision="fp32")
    truncated.write_bytes(b"half")
    sidecar = edited.with_suffix(".json")
    sidecar.write_text(sidecar.read_text().replace('"flags"', '"flag"'))
    alone.with_suffix(".json").unlink()
    renamed.rename(renamed.with_name("mine.plan"))
    renamed.with_suffix(".json").rename(renamed.with_name("mine.json"))

    report = jetson.examine(bundle.path)

    assert "the manifest says" in line(report, "Engines", "colours, 2 frames, fp16").found
    assert "is damaged" in line(report, "Engines", edited.stem).found
    assert "is missing" in line(report, "Engines", alone.stem).found
    assert line(report, "Engines", "mine").found == "it was renamed"
    (engines,) = [group for group in report.groups if group.name == "Engines"]
    damaged = [each for each in engines.lines if each.status == "problem"]
    assert len(damaged) == 4
    assert all("build" in each.remedy for each in damaged)
    assert "colours, 8 frames, fp32" not in {each.name for each in engines.lines}
    # Each has its line already, and none says that nothing was built.
    assert not {"2 frames", "4 frames", "8 frames"} & {each.name for each in engines.lines}


def test_a_cache_that_cannot_be_written_is_told(jetson: Computer) -> None:
    jetson.cache.mkdir()
    jetson.closed = {"cache"}
    problem = line(jetson.examine(), "Engines", "cache", 1)
    assert problem.status == "problem"
    assert "--cache" in problem.remedy


def test_a_bundle_is_opened_for_real(desktop: Computer, bundle: Bundle) -> None:
    report = desktop.examine(bundle.path)
    assert report.backend == "onnxruntime"
    assert report.verdict.startswith(
        f"`ffn-edge run {bundle.path}` would work here: onnxruntime 1."
    )
    assert line(report, "Bundle", "architecture").found == "colours, 3 classes"
    assert line(report, "Bundle", "frame counts").found == "2, 4, 8"
    assert line(report, "Bundle", "engines").status == "ok"


def test_a_quantised_bundle_opens_in_the_precisions_that_run_would_choose(
    desktop: Computer, quantize: Callable[[dict[int, float]], Bundle]
) -> None:
    bundle = quantize({2: 0.0, 4: 0.02})
    save_profile(
        bundle,
        cpu_backend(),
        {"fp32": {2: Latency((2.0,)), 4: Latency((4.0,))}, "int8": {2: Latency((1.0,))}},
        root=desktop.root,
    )
    report = desktop.examine(bundle.path)
    assert "in int8 at 2 and fp32 at 4 frames" in line(report, "Bundle", "engines").found


def test_a_bundle_whose_engines_do_not_open_would_not_run(
    desktop: Computer, bundle: Bundle
) -> None:
    graph = bundle.graph_path(4)
    model = onnx.load(str(graph), load_external_data=False)
    model.ir_version = 1000  # of a later ONNX than ONNX Runtime knows
    graph.write_bytes(model.SerializeToString())
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    manifest["files"][graph.name] = dataclasses.asdict(file_record(graph))
    (bundle.path / MANIFEST).write_text(json.dumps(manifest))
    report = desktop.examine(bundle.path)
    assert report.backend is None
    assert "graph for 4 frames" in report.verdict
    assert "ffn-edge verify" in line(report, "Bundle", "engines").remedy


def test_a_damaged_bundle_would_not_run(desktop: Computer, bundle: Bundle) -> None:
    (bundle.path / "weights.safetensors").write_bytes(b"")
    report = desktop.examine(bundle.path)
    damaged = line(report, "Bundle", "bundle")
    assert damaged.status == "problem"
    assert "ffn-edge export" in damaged.remedy
    assert not report.works
    assert "0 bytes" in report.verdict


def test_a_bundle_for_several_clips_would_not_run(
    desktop: Computer, write_bundle: Callable[..., Bundle], bundle: Bundle
) -> None:
    contract = dataclasses.replace(bundle.manifest.input, batch=2)
    report = desktop.examine(write_bundle(input=contract).path)
    assert not report.works
    assert "without --batch" in line(report, "Bundle", "engines").remedy


def test_a_bundle_without_opencv_would_not_run(desktop: Computer, bundle: Bundle) -> None:
    desktop.opencv = FfnEdgeError("videos need OpenCV", "install OpenCV")
    report = desktop.examine(bundle.path)
    assert not report.works
    assert line(report, "Bundle", "engines").status == "ok"


def test_a_library_is_found_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()
    assert host.has_module("this")
    assert "this" not in sys.modules
    assert not host.has_module("no_such_module")
    monkeypatch.setitem(sys.modules, "made_by_hand", ModuleType("made_by_hand"))
    assert host.has_module("made_by_hand")  # such a module has no spec
    assert host.version_of("click") is not None
    assert host.version_of("no-such-distribution") is None

    class Refusing:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            raise ModuleNotFoundError(name)

    monkeypatch.setattr(sys, "meta_path", [Refusing()])
    assert not host.has_module("this")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(
        command.doctor, [str(argument) for argument in arguments], catch_exceptions=False
    )


def test_this_machine_can_run_a_bundle(bundle: Bundle, tmp_path: Path) -> None:
    for arguments in ((), (bundle.path,)):
        result = invoke(*arguments, "--cache", tmp_path / "cache")
        assert result.exit_code == 0
        assert "would work here" in result.stdout.splitlines()[-1]
    assert not (tmp_path / "cache").exists()  # looking changes nothing


def test_the_exit_code_is_one_if_run_would_not_work(tmp_path: Path) -> None:
    result = invoke(tmp_path, "--cache", tmp_path)
    assert result.exit_code == 1
    assert "would not work here" in result.stdout.splitlines()[-1]
    assert "Remedy: name the folder that `ffn-edge export` wrote." in " ".join(
        result.stdout.split()
    )


def test_json_has_every_line(
    jetson: Computer, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = jetson.examine(bundle.path)
    monkeypatch.setattr(command, "examine", lambda path, cache: report)
    fields = json.loads(invoke(bundle.path, "--json").stdout)
    assert fields["works"] is True
    assert fields["backend"] == report.backend
    assert fields["verdict"] == report.verdict
    assert [
        (group["name"], Line(**each)) for group in fields["groups"] for each in group["lines"]
    ] == [(group.name, each) for group in report.groups for each in group.lines]


def test_the_table_says_everything_in_words_however_narrow(
    jetson: Computer, monkeypatch: pytest.MonkeyPatch
) -> None:
    jetson.closed = {"dev/video0"}
    jetson.apis["tensorrt"] = EngineError(
        "libnvinfer.so.10 is missing", 'pip install "ffn-edge[jetson]"'
    )
    report = jetson.examine()
    monkeypatch.setattr(command, "examine", lambda path, cache: report)
    monkeypatch.setenv("COLUMNS", "60")
    printed = "".join(invoke().stdout.split())
    for group in report.groups:
        assert "".join(group.name.split()) in printed
        for each in group.lines:
            assert "".join(each.name.split()) in printed
            assert each.status in printed
    words = set(invoke().stdout.split())
    for each in (each for group in report.groups for each in group.lines if each.remedy):
        assert {word for word in each.remedy.split() if len(word) < 20} <= words
