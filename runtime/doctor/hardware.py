"""What `ffn-edge doctor` says of the board, its cameras and sensors, its memory and disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ffn_edge.device.host_memory import memory_sizes
from ffn_edge.device.jetson import fastest_power_mode, power_mode_in
from ffn_edge.runtime.doctor.probes import Facts, existing
from ffn_edge.runtime.doctor.report import Failure, Line, attempt
from ffn_edge.runtime.machine.health import Health
from ffn_edge.runtime.power.ina import find_rails
from ffn_edge.runtime.power.rapl import find_packages

# NVIDIA's JetPack archive: developer.nvidia.com/embedded/jetpack-archive. Exact releases, but that
# the points of 39.2 are those of JetPack 7.2.
_JETPACK_OF_L4T = {
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.5.0": "6.2.2",
    "36.5.2": "6.2.3",
    "38.2.0": "7.0",
    "38.2.1": "7.0",
    "38.4.0": "7.1",
    "39.2": "7.2",
    "39.2.0": "7.2",
    "39.2.1": "7.2.1",
}
_OLDEST_L4T = (36, 4)  # JetPack 6.1: the first with TensorRT 10.3
_MIB = 1 << 20
_LITTLE_MEMORY, _TOO_LITTLE_MEMORY = 1536 * _MIB, 512 * _MIB
_TOO_LITTLE_DISK = 256 * _MIB


def board_lines(facts: Facts) -> Iterator[Line]:
    """Report the board and, on a Jetson, its software and power mode."""
    if not facts.is_jetson:
        yield Line("board", f"{facts.board or 'a PC'}; not a Jetson")
        return
    yield Line("board", facts.board or "unknown")
    if facts.l4t is None:
        yield Line(
            "Jetson Linux (L4T)", "unknown: /etc/nv_tegra_release is missing", "note",
            "in a container, mount it: -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro",
        )  # fmt: skip
    elif tuple(map(int, facts.l4t.split(".")[:2])) < _OLDEST_L4T:
        yield Line(
            "Jetson Linux (L4T)", f"{facts.l4t}; its TensorRT is older than 10.3", "problem",
            "flash JetPack 6.1 or later, or run engines on the CPU: --backend onnxruntime.",
        )  # fmt: skip
    else:
        yield Line("Jetson Linux (L4T)", facts.l4t)
    release = facts.l4t or ""
    family = release.rpartition(".")[0]
    jetpack = _JETPACK_OF_L4T.get(release) or _JETPACK_OF_L4T.get(family)
    if jetpack is not None:
        yield Line("JetPack", jetpack)
    yield _power_mode_line(facts)


def _power_mode_line(facts: Facts) -> Line:
    name = "power mode"
    fastest = fastest_power_mode(facts.root)
    switch = "" if fastest is None else f"before `ffn-edge build`: sudo nvpmodel -m {fastest[0]}"
    printed = attempt(lambda: facts.probes.output_of(["nvpmodel", "-q"]))
    if printed is None:
        return Line(name, "unknown: there is no nvpmodel", "note")
    if isinstance(printed, Failure):
        return Line(name, f"unknown: nvpmodel failed ({printed.message})", "note", switch)
    mode = power_mode_in(printed)
    if mode is None:
        return Line(name, "unknown: nvpmodel does not say", "note", switch or "sudo nvpmodel -q")
    if fastest is None or mode == fastest[1]:
        return Line(name, f"{mode}; a latency profile belongs to one power mode")
    return Line(
        name, f"{mode}, not {fastest[1]}; an engine is tuned for the mode it is built in",
        "note", switch,
    )  # fmt: skip


def camera_lines(facts: Facts) -> Iterator[Line]:
    """Report the cameras, and whether this user may open them."""
    cameras = sorted(facts.root.glob("dev/video[0-9]*"))
    closed = _closed(facts, cameras, os.R_OK | os.W_OK)
    opened = [path for path in cameras if path not in closed]
    if opened:
        yield Line("cameras", ", ".join(map(str, opened)))
    if closed:
        yield Line(
            "cameras", f"not for this user: {', '.join(map(str, closed))}", "problem",
            "sudo usermod -aG video $USER, then log in again.",
        )  # fmt: skip
    if not cameras:
        yield Line("cameras", "none: there is no /dev/video*", "note")


def sensor_lines(facts: Facts) -> Iterator[Line]:
    """Report which sensors of power and temperature are there and open to this user."""
    rails = find_rails(facts.root)
    closed = _closed(facts, [file.path for rail in rails for file in rail.files], os.R_OK)
    if closed:
        folders = sorted({path.parent for path in closed})
        yield Line(
            "power (INA)", f"not for this user: {_listed(folders)}", "problem",
            f"sudo chmod a+r {' '.join(f'{folder}/*_input' for folder in folders)}, after each "
            "start of the machine.",
        )  # fmt: skip
    elif rails:
        yield Line("power (INA)", ", ".join(rail.name for rail in rails))
    elif facts.is_jetson:
        yield Line(
            "power (INA)", "none: this board has no sensor, or a container hides it", "note",
            "in a container, mount /sys: -v /sys:/sys:ro. A Nano 2GB has no sensor.",
        )  # fmt: skip
    else:
        yield Line("power (INA)", "none; Jetson boards have it", "note")
    yield _thermal_line(facts)
    yield from _rapl_lines(facts)


def _thermal_line(facts: Facts) -> Line:
    zones = sorted(facts.root.glob("sys/class/thermal/thermal_zone*"))
    if not zones:
        return Line("temperatures", "none: no thermal zones", "note")
    closed = _closed(facts, [zone / "temp" for zone in zones], os.R_OK)
    if closed:
        return Line(
            "temperatures", f"not for this user: {_listed(closed)}", "note",
            f"sudo chmod a+r {' '.join(map(str, closed))}, after each start of the machine.",
        )  # fmt: skip
    told = Health(facts.root).read().temperatures_c
    if not told:
        return Line("temperatures", "none: no thermal zone tells its own now", "note")
    return Line("temperatures", ", ".join(told))


def _rapl_lines(facts: Facts) -> Iterator[Line]:
    """Report the energy counters of an x86 processor; other machines have none to speak of."""
    packages = find_packages(facts.root)
    counters = [each / "energy_uj" for folders in packages.values() for each in folders]
    if not counters:
        return
    if _closed(facts, counters, os.R_OK):
        yield Line(
            "energy (RAPL)", "only root may read it", "note",
            f"sudo chmod a+r {' '.join(map(str, counters))}, after each start of the machine.",
        )  # fmt: skip
    else:
        yield Line("energy (RAPL)", ", ".join(packages))


def resource_lines(facts: Facts, folders: dict[str, Path]) -> Iterator[Line]:
    """Report free memory, and free disk space of the file systems that `folders` are on."""
    yield from _memory_lines(facts)
    for name, folder in folders.items():
        there = existing(folder)
        free = facts.probes.free_bytes(there)
        found = f"{_size(free)} free at {there}"
        if free < _TOO_LITTLE_DISK:
            yield Line(name, found, "problem", "free space: 256 MiB at least.")
        else:
            yield Line(name, found)


def _memory_lines(facts: Facts) -> Iterator[Line]:
    sizes = memory_sizes(facts.root)
    if "MemAvailable" not in sizes or "MemTotal" not in sizes:
        yield Line("memory", "unknown: /proc/meminfo does not say", "note")
        return
    free = sizes["MemAvailable"]
    found = f"{_size(free)} available of {_size(sizes['MemTotal'])}"
    if free < _TOO_LITTLE_MEMORY:
        yield Line("memory", found, "problem", "end other programs; ffn-edge run --resident one.")
    elif free < _LITTLE_MEMORY:
        yield Line(
            "memory", found, "note", "ffn-edge run --resident one keeps one engine at a time."
        )
    else:
        yield Line("memory", found)
    if sizes.get("SwapTotal"):
        swap = f"{_size(sizes.get('SwapFree', 0))} free of {_size(sizes['SwapTotal'])}"
        yield Line("swap", swap)
    else:
        yield Line("swap", "none")


def _closed(facts: Facts, paths: Iterable[Path], mode: int) -> list[Path]:
    return [path for path in paths if not facts.probes.may(path, mode)]


def _listed(paths: list[Path]) -> str:
    return ", ".join(map(str, paths))


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count // _MIB} MiB"
