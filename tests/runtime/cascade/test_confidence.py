"""Temperatures, margins and weights, on answers whose right ones are known."""

from __future__ import annotations

import numpy as np
import pytest

from ffn_edge.runtime.cascade.confidence import (
    Floats,
    Labels,
    accuracy,
    calibration_error,
    fit_scales,
    log_loss,
    log_probabilities,
    margins,
)

CLIPS, CLASSES = 20_000, 5


def drawn_from(logits: Floats, rng: np.random.Generator) -> Labels:
    """Labels that are as likely as the logits say."""
    # The largest of logits with Gumbel noise is distributed as their softmax.
    return (logits + rng.gumbel(size=logits.shape)).argmax(axis=-1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def calibrated(rng: np.random.Generator) -> tuple[Floats, Labels]:
    """Logits that are as sure as they are right."""
    logits = rng.normal(scale=2.0, size=(CLIPS, CLASSES))
    return logits, drawn_from(logits, rng)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_the_logits_were_made_with_is_found(
    calibrated: tuple[Floats, Labels], temperature: float
) -> None:
    logits, labels = calibrated
    (scale,) = fit_scales(temperature * logits[None], labels)
    # 20000 clips know it to about a hundredth.
    assert 1 / scale == pytest.approx(temperature, rel=0.03)


def test_no_other_temperature_has_a_smaller_loss(calibrated: tuple[Floats, Labels]) -> None:
    logits, labels = calibrated[0][:300], calibrated[1][:300]
    (scale,) = fit_scales(logits[None], labels)
    least = log_loss(scale * logits, labels)
    for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0):
        assert log_loss(factor * scale * logits, labels) > least


def test_logits_that_are_as_sure_as_they_are_right_have_hardly_an_error(
    calibrated: tuple[Floats, Labels],
) -> None:
    assert calibration_error(*calibrated) < 0.01


def test_the_calibration_error_of_stated_probabilities_is_the_distance_from_the_truth() -> None:
    # Ten clips at 0.9 of which six are right, ten at 0.7 of which eight are.
    logits = np.log([[0.9, 0.1]] * 10 + [[0.7, 0.3]] * 10)
    labels = np.array([0] * 6 + [1] * 4 + [0] * 8 + [1] * 2)
    assert calibration_error(logits, labels) == pytest.approx((0.3 + 0.1) / 2)


def test_a_probability_of_one_belongs_to_the_last_bin() -> None:
    logits = np.array([[1000.0, 0.0], [np.log(99), 0.0]])  # 1.0, and wrong; 0.99, and right
    assert calibration_error(logits, np.array([1, 0])) == pytest.approx((1.0 - 0.01) / 2)


def test_a_set_without_an_error_has_a_finite_temperature() -> None:
    labels = np.arange(CLASSES)
    (scale,) = fit_scales(np.eye(CLASSES)[None], labels)
    assert 1 < scale < 100


def test_answers_that_speak_against_the_labels_count_for_nothing(
    calibrated: tuple[Floats, Labels],
) -> None:
    logits, labels = calibrated
    assert fit_scales(-logits[None], labels).tolist() == [0.0]


def test_logits_that_are_all_alike_are_no_trouble() -> None:
    scales = fit_scales(np.zeros((2, 10, CLASSES)), np.zeros(10, np.int64))
    assert np.isfinite(scales).all()


def test_two_networks_are_weighed_by_what_each_knows(rng: np.random.Generator) -> None:
    # With Gaussian noise, Bayes' rule weighs logits by height / variance.
    labels = rng.integers(CLASSES, size=CLIPS)
    heights, noises = (1.0, 2.0), (2.0, 1.5)
    logits = np.stack(
        [
            height * np.eye(CLASSES)[labels] + rng.normal(scale=noise, size=(CLIPS, CLASSES))
            for height, noise in zip(heights, noises, strict=True)
        ]
    )
    expected = [height / noise**2 for height, noise in zip(heights, noises, strict=True)]
    assert fit_scales(logits, labels) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("misleading", [0, 1])
def test_a_network_that_misleads_gets_no_weight(
    calibrated: tuple[Floats, Labels], misleading: int
) -> None:
    logits, labels = calibrated
    rng = np.random.default_rng(1)
    both = np.stack([logits, rng.normal(size=logits.shape) - logits])
    scales = fit_scales(both[:: -1 if misleading == 0 else 1], labels)
    assert scales[misleading] == 0
    assert scales[1 - misleading] == pytest.approx(fit_scales(both[:1], labels)[0])


def test_the_margin_is_the_two_best_probabilities_distance() -> None:
    logits = np.log([[0.5, 0.2, 0.3], [0.1, 0.1, 0.8]])
    assert margins(logits, 1.0) == pytest.approx([0.2, 0.7])
    assert margins(2 * logits, 2.0) == pytest.approx([0.2, 0.7])
    assert margins(logits[0], 1.0) == pytest.approx(0.2)


def test_large_logits_do_not_overflow() -> None:
    assert log_probabilities(np.array([1e4, -1e4])).tolist() == [0.0, -2e4]


def test_accuracy_is_the_share_of_labels_that_are_met() -> None:
    assert accuracy(np.eye(4), np.array([0, 1, 2, 0])) == 0.75
