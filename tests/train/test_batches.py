"""Passes over the videos of a list, and what they say of those that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from ffn_edge.network.checkpoint import ModelCard
from ffn_edge.train.batches import VideoBatches, videos_for

CARD = ModelCard(classes=("dark", "bright"), size=32, short_side=32)


@pytest.fixture
def list_file(data: Path, tmp_path: Path) -> Path:
    """Forty lines, one of them of a file that is no video."""
    (tmp_path / "broken video.mp4").write_bytes(b"no video")
    lines = [f"{data / f'{i % 12}.mp4'} {i % 2}\n" for i in range(39)]
    path = tmp_path / "list.txt"
    path.write_text("".join([*lines[:5], "broken video.mp4 1\n", *lines[5:]]))
    return path


def test_a_broken_video_is_named_after_the_first_pass_and_once(
    list_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    batches = VideoBatches(videos_for(CARD, str(list_file), (2,)), batch_size=8, workers=0)

    first, second = (
        [len(batch.labels) for batch in batches.epoch("reading", number)] for number in (0, 1)
    )

    assert (first, len(batches)) == ([7, 8, 8, 8, 8], 5)
    assert second == first
    (said,) = caplog.messages
    assert said.startswith(f"skipped: {list_file.parent / 'broken video.mp4'} ")
    assert len(batches.broken.reasons) == 1


def test_videos_come_in_the_order_of_the_list_or_in_another_each_epoch(data: Path) -> None:
    videos = videos_for(CARD, str(data / "list.txt"), (2, 4))

    def labels(batches: VideoBatches, number: int) -> list[int]:
        read = batches.epoch("reading", number)
        return [label for batch in read for label in batch.labels.tolist()]

    plain = VideoBatches(videos, batch_size=5, workers=0)
    shuffled = VideoBatches(videos, batch_size=5, workers=0, shuffle=True)

    assert labels(plain, 0) == labels(plain, 1) == [0, 1] * 6
    orders = [labels(shuffled, number) for number in range(3)]
    assert all(sorted(order) == [0] * 6 + [1] * 6 for order in orders)
    assert len({tuple(order) for order in orders}) == 3
