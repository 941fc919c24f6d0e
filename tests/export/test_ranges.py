"""Scales from the values of tensors."""

from __future__ import annotations

import numpy as np
import pytest

from ffn_edge.export.ranges import METHODS, Ranges


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("least", "most"), [(-10.0, 1.0), (-10.0, -1.0), (-1.0, 10.0), (0.0, 10.0)]
)
def test_a_scale_covers_the_larger_end(method: str, least: float, most: float) -> None:
    ranges = Ranges()
    for _ in range(3):
        ranges.add({"x": np.linspace(least, most, 9999, dtype=np.float32)})
    assert ranges.scales(method)["x"] == pytest.approx(10 / 127, rel=0.01)


def test_a_percentile_leaves_out_what_is_rare() -> None:
    ranges = Ranges()
    for number in range(40):
        values = np.linspace(0, 1, 10_000, dtype=np.float32)
        values[0] = 50.0 if number == 7 else 0.0  # once in 400,000
        ranges.add({"x": values})
    assert ranges.scales("percentile")["x"] == pytest.approx(1 / 127, rel=0.1)
    assert ranges.scales("max")["x"] == pytest.approx(50 / 127)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_always_zero_has_a_scale(method: str) -> None:
    ranges = Ranges()
    ranges.add({"x": np.zeros(100, np.float32)})
    assert ranges.scales(method)["x"] > 0
