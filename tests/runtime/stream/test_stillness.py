"""What counts as motion."""

from __future__ import annotations

import math

import numpy as np

from ffn_edge.runtime.stream.stillness import Stillness, cells_of, difference

SIZE = 64
rng = np.random.default_rng(0)


def scene(noise: float = 0.0, square_at: int | None = None) -> np.ndarray:
    image = np.full((SIZE, SIZE, 3), 120.0) + rng.normal(0, noise, (SIZE, SIZE, 3))
    if square_at is not None:
        image[20:28, square_at : square_at + 8] += 60
    return np.clip(image, 0, 255).astype(np.uint8)


def test_noise_is_still_and_a_small_thing_that_moves_is_not() -> None:
    noisy = [difference(cells_of(scene(4)), cells_of(scene(4))) for _ in range(50)]
    moved = difference(cells_of(scene(4, 10)), cells_of(scene(4, 14)))
    assert max(noisy) < 10
    assert moved > 20


def test_it_tells_since_when_nothing_has_moved() -> None:
    stillness = Stillness(10)
    assert stillness.moved_s == -math.inf
    for time_s in range(10):
        stillness.see(cells_of(scene(2, 30 if time_s >= 4 else None)), float(time_s))
    assert stillness.moved_s == 4.0


def test_what_moves_slowly_is_seen() -> None:
    stillness = Stillness(20)
    stillness.see(cells_of(scene()), 0.0)
    for time_s in range(1, 50):
        shade = np.full((SIZE, SIZE, 3), 120 + time_s, np.uint8)
        stillness.see(cells_of(shade), float(time_s))
    assert stillness.moved_s == 42.0  # 21 shades from the frame of the motion before
