"""Which frame count is taken to be the more accurate, where validation has an error."""

from __future__ import annotations

import pytest

from ffn_edge.runtime.policy.adaptive import Adaptive
from ffn_edge.runtime.policy.interface import (
    Limits,
    OperatingPoint,
    Setting,
    by_accuracy,
    why_not_as_good,
)

# Frames with top-1, and with clips where those are not 400.
Measured = dict[int, float | tuple[float, int] | None]


def points(measured: Measured) -> list[OperatingPoint]:
    found = []
    for frames, value in measured.items():
        accuracy, clips = value if isinstance(value, tuple) else (value, 400)
        found.append(
            OperatingPoint(frames=frames, base_ms=frames, accuracy=accuracy, clips=clips or None)
        )
    return found


@pytest.mark.parametrize(
    ("measured", "best_first"),
    [
        # One clip of 400 apart: no difference.
        ({4: 0.8525, 8: 0.9050, 16: 0.9025}, [16, 8, 4]),
        ({8: 0.9025, 16: 0.9050}, [16, 8]),
        ({8: 0.9, 16: 0.9}, [16, 8]),
        # Far beyond the error: 4 frames above the range that was trained, and 4 that collapsed.
        ({8: 0.9, 16: 0.88, 20: 0.8}, [16, 8, 20]),
        ({2: 0.8, 4: 0.6, 8: 0.79}, [8, 2, 4]),
        ({4: 0.2, 8: 0.9, 16: 0.6}, [8, 16, 4]),
        # Two that are worse do not hide each other.
        ({2: 0.9, 4: 0.7, 8: 0.7, 16: 0.91}, [16, 2, 8, 4]),
        # A lucky few clips do not outweigh many.
        ({4: (0.94, 10000), 8: (0.95, 20), 16: (0.90, 10000)}, [8, 4, 16]),
        ({4: (1.0, 8), 8: (0.91, 10000)}, [8, 4]),
        # The same difference, on enough clips to tell, is one.
        ({8: (0.9050, 400000), 16: (0.9025, 400000)}, [8, 16]),
        # All right, or all wrong: the error is not zero.
        ({8: 1.0, 16: 0.9975}, [16, 8]),
        ({8: 0.0025, 16: 0.0}, [16, 8]),
        ({8: 1.0, 16: 1.0}, [16, 8]),
        ({8: 0.0, 16: 0.0}, [16, 8]),
        # Without clips, every difference counts, and ties go to fewer.
        ({4: (0.85, 0), 8: (0.905, 0), 16: (0.9025, 0)}, [8, 16, 4]),
        ({8: (0.9, 0), 16: 0.9}, [8, 16]),
        ({4: 0.9, 8: None, 16: 0.5}, [16, 8, 4]),
        ({8: 0.9}, [8]),
    ],
)
def test_a_difference_within_the_error_is_none(measured: Measured, best_first: list[int]) -> None:
    given = points(measured)
    assert [point.frames for point in by_accuracy(reversed(given))] == best_first
    start = Adaptive().start(Setting(points=given))
    assert Adaptive().decide(start, Limits(), 0.0).frames == best_first[0]


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ({8: 0.9050, 16: 0.9025}, "no more accurate than 16 within the validation's error"),
        ({8: 0.8950, 16: 0.9025}, "no more accurate than 16 within the validation's error"),
        ({8: 0.9, 16: 0.9}, "no more accurate than 16"),
        ({8: 0.85, 16: 0.9}, "less accurate than 16"),
        ({8: (0.9, 0), 16: (0.9025, 0)}, "less accurate than 16"),
    ],
)
def test_why_fewer_frames_are_not_as_good(measured: Measured, words: str) -> None:
    assert why_not_as_good(points(measured), 8, 16) == words


def test_a_rank_falls_as_an_accuracy_falls() -> None:
    ranks = []
    for right in range(400, 0, -1):
        listed = by_accuracy(points({4: 0.85, 8: 0.9, 16: right / 400}))
        ranks.append([point.frames for point in listed].index(16))
    assert ranks == sorted(ranks)
    assert set(ranks) == {0, 1, 2}
