"""What `ffn-edge doctor` says of the board, its cameras and sensors, its memory and disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ffn_edge.device.host_memory import memory_sizes
from ffn_edge.device.int8_instructions import int8_instructions
from ffn_edge.device.jetson import fastest_power_mode
from ffn_edge.runtime.doctor.host import Host, existing
from ffn_edge.runtime.doctor.report import Failure, Line
from ffn_edge.runtime.machine.health import Health
from ffn_edge.runtime.machine.machine import MEMORY_CLOCK, clocks_now
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


def board_lines(host: Host) -> Iterator[Line]:
    """Report the board and, on a Jetson, its software and power mode."""
    if not host.is_jetson:
        yield Line("board", f"{host.board or 'a PC'}; not a Jetson")
        return
    yield Line("board", host.board or "unknown")
    if host.l4t is None:
        yield Line(
            "Jetson Linux (L4T)",
            "unknown: /etc/nv_tegra_release is missing",
            "note",
            "in a container, mount it: -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro",
        )
    elif tuple(map(int, host.l4t.split(".")[:2])) < _OLDEST_L4T:
        yield Line(
            "Jetson Linux (L4T)",
            f"{host.l4t}; its TensorRT is older than 10.3",
            "problem",
            "flash JetPack 6.1 or later, or run engines on the CPU: --backend onnxruntime.",
        )
    else:
        yield Line("Jetson Linux (L4T)", host.l4t)
    release = host.l4t or ""
    family = release.rpartition(".")[0]
    jetpack = _JETPACK_OF_L4T.get(release) or _JETPACK_OF_L4T.get(family)
    if jetpack is not None:
        yield Line("JetPack", jetpack)
    yield _power_mode_line(host)
    yield _memory_clock_line(host)


def _power_mode_line(host: Host) -> Line:
    name = "power mode"
    fastest = fastest_power_mode(host.root)
    switch = "" if fastest is None else f"before `ffn-edge build`: sudo nvpmodel -m {fastest[0]}"
    if host.nvpmodel is None:
        return Line(name, "unknown: there is no nvpmodel", "note")
    if isinstance(host.nvpmodel, Failure):
        return Line(name, f"unknown: nvpmodel failed ({host.nvpmodel.message})", "note", switch)
    mode = host.power_mode
    if mode is None:
        return Line(name, "unknown: nvpmodel does not say", "note", switch or "sudo nvpmodel -q")
    if fastest is None or mode == fastest[1]:
        return Line(name, f"{mode}; a latency profile belongs to one power mode")
    return Line(
        name,
        f"{mode}, not {fastest[1]}; an engine is tuned for the mode it is built in",
        "note",
        switch,
    )


def _memory_clock_line(host: Host) -> Line:
    clock = clocks_now(host.root).memory
    if clock is not None:
        return Line("memory clock", str(clock))
    folder = host.root / MEMORY_CLOCK
    files = " ".join(str(folder / name) for name in ("rate", "min_rate", "max_rate"))
    return Line(
        "memory clock",
        "not known: a profile that was made at another one would be trusted",
        "note",
        f"sudo chmod a+x {host.root / 'sys/kernel/debug'} && sudo chmod a+r {files} "
        f"{folder / 'mrq_rate_locked'}, after each start of the machine; sudo jetson_clocks fixes "
        "it.",
    )


def int8_lines(host: Host) -> Iterator[Line]:
    """Report whether the processor has instructions for INT8, where it tells what it has."""
    instructions = int8_instructions(host.root)
    if instructions.found:
        yield Line("processor, INT8", ", ".join(instructions.found))
    elif instructions.wanted:
        yield Line(
            "processor, INT8",
            f"no {' or '.join(instructions.wanted)}: INT8 may be slower here than float32",
            "note",
        )


def camera_lines(host: Host) -> Iterator[Line]:
    """Report the cameras, and whether this user may open them."""
    cameras = sorted(host.root.glob("dev/video[0-9]*"))
    closed = host.closed(cameras, os.R_OK | os.W_OK)
    opened = [path for path in cameras if path not in closed]
    if opened:
        yield Line("cameras", ", ".join(map(str, opened)))
    if closed:
        yield Line(
            "cameras",
            f"not for this user: {', '.join(map(str, closed))}",
            "problem",
            "sudo usermod -aG video $USER, then log in again.",
        )
    if not cameras:
        yield Line("cameras", "none: there is no /dev/video*", "note")


def sensor_lines(host: Host) -> Iterator[Line]:
    """Report which sensors of power and temperature are there and open to this user."""
    rails = find_rails(host.root)
    closed = host.closed([file.path for rail in rails for file in rail.files])
    if closed:
        folders = sorted({path.parent for path in closed})
        yield Line(
            "power (INA)",
            f"not for this user: {_listed(folders)}",
            "problem",
            f"sudo chmod a+r {' '.join(f'{folder}/*_input' for folder in folders)}, after each "
            "start of the machine.",
        )
    elif rails:
        yield Line("power (INA)", ", ".join(rail.name for rail in rails))
    elif host.is_jetson:
        yield Line(
            "power (INA)",
            "none: this board has no sensor, or a container hides it",
            "note",
            "in a container, mount /sys: -v /sys:/sys:ro. A Nano 2GB has no sensor.",
        )
    else:
        yield Line("power (INA)", "none; Jetson boards have it", "note")
    yield _thermal_line(host)
    yield from _rapl_lines(host)


def _thermal_line(host: Host) -> Line:
    zones = sorted(host.root.glob("sys/class/thermal/thermal_zone*"))
    if not zones:
        return Line("temperatures", "none: no thermal zones", "note")
    closed = host.closed([zone / "temp" for zone in zones])
    if closed:
        return Line(
            "temperatures",
            f"not for this user: {_listed(closed)}",
            "note",
            f"sudo chmod a+r {' '.join(map(str, closed))}, after each start of the machine.",
        )
    told = Health(host.root).read().temperatures_c
    if not told:
        return Line("temperatures", "none: no thermal zone tells its own now", "note")
    return Line("temperatures", ", ".join(told))


def _rapl_lines(host: Host) -> Iterator[Line]:
    """Report the energy counters of an x86 processor; other machines have none to speak of."""
    packages = find_packages(host.root)
    counters = [each / "energy_uj" for folders in packages.values() for each in folders]
    if not counters:
        return
    if host.closed(counters):
        yield Line(
            "energy (RAPL)",
            "only root may read it",
            "note",
            f"sudo chmod a+r {' '.join(map(str, counters))}, after each start of the machine.",
        )
    else:
        yield Line("energy (RAPL)", ", ".join(packages))


def resource_lines(host: Host, folders: dict[str, Path]) -> Iterator[Line]:
    """Report free memory, and free disk space of the file systems that `folders` are on."""
    yield from _memory_lines(host)
    for name, folder in folders.items():
        there = existing(folder)
        free = host.free_bytes(there)
        found = f"{_size(free)} free at {there}"
        if free < _TOO_LITTLE_DISK:
            yield Line(name, found, "problem", "free space: 256 MiB at least.")
        else:
            yield Line(name, found)


def _memory_lines(host: Host) -> Iterator[Line]:
    sizes = memory_sizes(host.root)
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


def _listed(paths: list[Path]) -> str:
    return ", ".join(map(str, paths))


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count // _MIB} MiB"
