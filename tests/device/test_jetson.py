"""What a Jetson says of itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ffn_edge.device import jetson
from ffn_edge.device.jetson import (
    board_model,
    fastest_power_mode,
    l4t_release,
    output_of,
    power_mode,
)

LINES = {
    "36.4.3": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
    "DATE: Wed Jan  8 01:49:37 UTC 2025",
    "35.4.1": "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, "
    "DATE: Tue Aug  1 19:57:35 UTC 2023",
    "38.2": "# R38 (release), REVISION: 2, GCID: 1, BOARD: generic",
}


@pytest.mark.parametrize("release", LINES)
def test_the_release_of_jetson_linux_is_read(release: str, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text(LINES[release] + "\n# KERNEL_VARIANT: oot\n")
    assert l4t_release(tmp_path) == release


@pytest.mark.parametrize("text", ["", "Ubuntu 22.04\n"])
def test_a_file_that_says_nothing_is_no_release(text: str, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text(text)
    assert l4t_release(tmp_path) is None


def test_another_machine_is_no_jetson(tmp_path: Path) -> None:
    assert l4t_release(tmp_path) is None
    assert board_model(tmp_path) is None


def test_the_board_is_named_without_the_zero_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    name = "NVIDIA Jetson Orin Nano Developer Kit"
    (tmp_path / "proc/device-tree/model").write_bytes(name.encode() + b"\0")
    assert board_model(tmp_path) == name


@pytest.mark.parametrize(
    ("printed", "mode"),
    [("NV Power Mode: MAXN_SUPER\n2\n", "MAXN_SUPER"), ("NVPM ERROR: no root", None), (None, None)],
)
def test_the_power_mode_is_what_nvpmodel_prints(
    printed: str | None, mode: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetson, "output_of", lambda command: printed)
    assert power_mode() == mode
    assert power_mode(tmp_path) is None  # of a copied tree no program tells it


def test_a_power_mode_that_cannot_be_asked_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(command: object) -> str:
        raise subprocess.TimeoutExpired("nvpmodel", 5)

    monkeypatch.setattr(jetson, "output_of", hangs)
    assert power_mode() is None


def test_a_program_is_asked_only_if_it_is_there() -> None:
    assert output_of([sys.executable, "-c", "print('NV Power Mode: 15W')"]) == (
        "NV Power Mode: 15W\n"
    )
    assert output_of(["no-such-program", "-q"]) is None


@pytest.mark.parametrize(
    ("modes", "fastest"),
    [
        (["15W", "25W", "MAXN_SUPER", "7W"], (2, "MAXN_SUPER")),  # Orin Nano
        (["MAXN_SUPER", "10W", "15W", "25W", "40W"], (0, "MAXN_SUPER")),  # Orin NX
        (["MAXN", "MODE_15W", "MODE_30W", "MODE_50W"], (0, "MAXN")),  # AGX Orin
        (["MODE_15W_2CORE", "MODE_15W_4CORE", "MODE_10W_2CORE"], None),  # Xavier NX
    ],
)
def test_the_fastest_power_mode_is_known_by_its_name(
    modes: list[str], fastest: tuple[int, str] | None, tmp_path: Path
) -> None:
    lines = [f"< POWER_MODEL ID={number} NAME={name} >" for number, name in enumerate(modes)]
    (tmp_path / "etc").mkdir()
    text = "\n".join(["# < POWER_MODEL ID=7 NAME=MAXN_SUPER >", *lines, "< PM_CONFIG DEFAULT=1 >"])
    (tmp_path / "etc/nvpmodel.conf").write_text(text)
    assert fastest_power_mode(tmp_path) == fastest


def test_a_machine_without_power_modes_has_no_fastest_one(tmp_path: Path) -> None:
    assert fastest_power_mode(tmp_path) is None
