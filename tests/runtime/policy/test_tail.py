"""Quantiles of few samples, against distributions whose quantiles are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ffn_edge.runtime.policy.tail import pareto_fit, quantile


def test_within_the_samples_the_quantile_is_empirical() -> None:
    ordered = [float(i) for i in range(1, 100)]
    assert quantile(ordered, 0.5) == 50.0
    assert quantile(ordered, 0.95) == 95.0
    assert quantile(ordered, 0.99) == 99.0


def test_few_samples_beyond_their_last_quantile_give_the_largest() -> None:
    assert quantile([1.0, 2.0, 3.0], 0.99) == 3.0


@pytest.mark.parametrize("shape", [-0.2, 0.0, 0.3])
def test_the_fit_finds_the_parameters_of_a_generalised_pareto_distribution(shape: float) -> None:
    rng = np.random.default_rng(0)
    uniform = rng.uniform(size=20_000)
    draws = -np.log(uniform) if shape == 0 else (uniform**-shape - 1) / shape
    scale_found, shape_found = pareto_fit(sorted((2.0 * draws).tolist()))
    # Standard errors of the moments' estimates at n = 20 000 are below 0.02.
    assert scale_found == pytest.approx(2.0, abs=0.1)
    assert shape_found == pytest.approx(shape, abs=0.05)


@pytest.mark.parametrize("shape", [0.0, 0.25])
def test_beyond_the_samples_misses_are_within_twice_what_was_asked_where_a_gaussian_is_not(
    shape: float,
) -> None:
    rare = 0.001

    def chance_beyond(value: float) -> float:
        excess = (value - 1) / 0.05
        return math.exp(-excess) if shape == 0 else (1 + shape * excess) ** (-1 / shape)

    rng = np.random.default_rng(1)
    fitted, gaussian = [], []
    for _ in range(300):
        uniform = rng.uniform(size=256)
        draws = -np.log(uniform) if shape == 0 else (uniform**-shape - 1) / shape
        samples = 1 + 0.05 * draws
        fitted.append(chance_beyond(quantile(sorted(samples.tolist()), 1 - rare)))
        gaussian.append(chance_beyond(samples.mean() + 3.09 * samples.std()))

    assert rare / 2 < np.median(fitted) < 2 * rare
    assert np.median(gaussian) > 4 * rare


def test_a_rarer_quantile_is_never_smaller() -> None:
    rng = np.random.default_rng(2)
    ordered = sorted(rng.lognormal(0, 0.1, 200).tolist())
    found = [quantile(ordered, level) for level in np.linspace(0.5, 0.9999, 200)]
    assert found == sorted(found)


def test_samples_that_are_all_alike_have_no_tail() -> None:
    assert quantile([1.0] * 100, 0.9999) == pytest.approx(1.0)
