"""Class-name files."""

from __future__ import annotations

from pathlib import Path

import pytest

from ffn_edge.errors import DataError
from ffn_edge.media.classes import read_classes


def written(folder: Path, content: bytes) -> Path:
    file = folder / "classes.txt"
    file.write_bytes(content)
    return file


def test_names_are_read_in_order(tmp_path: Path) -> None:
    content = "\ufeffpush up \r\nöffnen\n\n".encode()  # as a Windows editor writes it

    assert read_classes(written(tmp_path, content)) == ("push up", "öffnen")


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"1 wave\n2 clap\n", ("wave", "clap")),
        (b"0 wave\n1 clap\n", ("wave", "clap")),
        (b"1 hand\n2 hands\n3 hands\n", ("1 hand", "2 hands", "3 hands")),
        (b"2 hands\n3 feet\n", ("2 hands", "3 feet")),
        (b"1 hand\nclap\n", ("1 hand", "clap")),
    ],
)
def test_numbers_of_lines_are_no_part_of_names(
    content: bytes, names: tuple[str, ...], tmp_path: Path
) -> None:
    assert read_classes(written(tmp_path, content)) == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "names no class"),
        (b"\n \n", "names no class"),
        (b"a\n\nb\n", "line 2: '' is no name"),
        (b"a\nb\na\n", "line 3: 'a' is there already"),
        (b"a\n\x1b[2J\n", "line 2: .* no name that can be shown"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_file_that_does_not_name_every_class_is_refused(
    content: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        read_classes(written(tmp_path, content))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_classes(tmp_path / "absent.txt")
