"""What a Jetson says of itself in files and programs. On any other machine: nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ffn_edge.device.sysfs import text_of

_ROOT = Path("/")
_COMMAND_TIMEOUT_S = 5.0


def l4t_release(root: Path = _ROOT) -> str | None:
    """Return the release of Jetson Linux (L4T), such as "36.4.0"; None on another machine.

    TensorRT plans are bound to it: the same TensorRT version has come with several releases.
    """
    text = text_of(root / "etc/nv_tegra_release") or ""
    match = re.search(r"# R(\d{1,9}) \(release\), REVISION: (\d{1,9}(?:\.\d{1,9})*)", text)
    return f"{match[1]}.{match[2]}" if match else None


def board_model(root: Path = _ROOT) -> str | None:
    """Return the board's name, such as "NVIDIA Jetson Orin Nano Developer Kit"."""
    return text_of(root / "proc/device-tree/model")


def output_of(command: Sequence[str]) -> str | None:
    """Return what a program prints; None if there is no such program."""
    program = shutil.which(command[0])
    if program is None:
        return None
    done = subprocess.run(
        [program, *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=_COMMAND_TIMEOUT_S,
        check=False,
    )
    return done.stdout


def power_mode(root: Path = _ROOT) -> str | None:
    """Return the power mode of a Jetson, such as "MAXN"; None where it is not known.

    A program tells it, so that of a copied tree is not known.
    """
    if root != _ROOT:
        return None
    try:
        return power_mode_in(output_of(["nvpmodel", "-q"]) or "")
    except (OSError, subprocess.SubprocessError):
        return None


def power_mode_in(printed: str) -> str | None:
    """Find the power mode in what `nvpmodel -q` prints."""
    match = re.search(r"NV Power Mode:\s*(\S+)", printed)
    return match[1] if match else None


def fastest_power_mode(root: Path = _ROOT) -> tuple[int, str] | None:
    """Return the id and the name of the power mode without limits, as `nvpmodel -m` takes it.

    It is MAXN_SUPER, or else MAXN; None where there is neither. Its id is not the same on every
    board: 2 on an Orin Nano since JetPack 6.2, 0 on others.
    """
    text = text_of(root / "etc/nvpmodel.conf") or ""
    # "< POWER_MODEL ID=2 NAME=MAXN_SUPER >"; a line that is a comment begins with "#".
    modes = re.findall(r"(?m)^\s*<\s*POWER_MODEL\s+ID=(\d{1,9})\s+NAME=([^\s>]+)\s*>", text)
    ids = {name: int(number) for number, name in modes}
    return next(((ids[name], name) for name in ("MAXN_SUPER", "MAXN") if name in ids), None)
