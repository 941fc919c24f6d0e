"""What Linux says of the host's memory."""

from __future__ import annotations

from pathlib import Path

from ffn_edge.device.host_memory import memory_sizes


def test_entries_are_read_in_bytes_and_lines_without_a_unit_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(
        "MemTotal:       1000 kB\nMemAvailable:    250 kB\nHugePages_Total:       3\n"
    )

    assert memory_sizes(tmp_path) == {"MemTotal": 1_024_000, "MemAvailable": 256_000}


def test_a_system_without_meminfo_says_nothing(tmp_path: Path) -> None:
    assert memory_sizes(tmp_path) == {}
