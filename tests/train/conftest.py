"""A data set small enough to train on in a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ffn_edge.media.video_writer import VideoWriter
from ffn_edge.train.recipe import Recipe

VIDEOS = 12


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve videos of 10 noisy 32×32 frames in two classes, with list and class-name file."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for i in range(VIDEOS):
        with VideoWriter(folder / f"{i}.mp4", 10, 32, 32) as writer:
            base = 60 + 120 * (i % 2)
            for frame in rng.integers(base - 50, base + 50, (10, 32, 32, 3), dtype=np.uint8):
                writer.write(frame)
    (folder / "list.txt").write_text("".join(f"{i}.mp4 {i % 2}\n" for i in range(VIDEOS)))
    (folder / "classes.txt").write_text("dark\nbright\n")
    return folder


@pytest.fixture
def recipe(data: Path) -> Recipe:
    """Two epochs of three steps on a CPU, in float32, with everything that uses randomness."""
    return Recipe(
        architecture="tsm_tiny",
        dataset="custom",
        frame_counts=(2, 4),
        train_list=str(data / "list.txt"),
        val_list=str(data / "list.txt"),
        classes=str(data / "classes.txt"),
        size=32,
        short_side=32,
        dropout=0.5,
        learning_rate=0.01,
        epochs=2,
        batch_size=4,
        precision="fp32",
    )
