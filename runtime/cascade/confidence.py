"""How sure a network is: temperatures, margins and the joining of two answers. Pure, NumPy only.

Legend: N clips, C classes, K networks. Logits are float (..., C).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Logits = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.int64]  # (N,)

# Of the calibration error: as in Guo et al., "On Calibration of Modern Neural Networks" (2017).
_BINS = 15
# Where every clip is right, the likelihood has no maximum: a scale would grow for ever. This pull
# towards the plain mean ends it, and moves a scale that errors determine by about a thousandth.
_PULL = 1e-4
_NEWTON_STEPS = 100
_CONVERGED = 1e-12  # of the fall that a Newton step promises, in nats


def log_probabilities(logits: Logits) -> Floats:
    """Return the logarithm of the softmax, of the same shape."""
    shifted = np.asarray(logits, np.float64)
    shifted = shifted - shifted.max(axis=-1, keepdims=True)
    normalised: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalised


def margins(logits: Logits, temperature: float) -> Floats:
    """Return how far the most probable class is ahead of the second, in 0..1: (...).

    Of two classes or more. Where a logit is not a number, neither is the margin.
    """
    probabilities = np.exp(log_probabilities(np.asarray(logits, np.float64) / temperature))
    ahead = np.partition(probabilities, -2, axis=-1)
    margin: Floats = ahead[..., -1] - ahead[..., -2]
    return margin


def accuracy(logits: Logits, labels: Labels) -> float:
    """Return the share of clips, of (N, C), whose largest logit is their label's."""
    return float((logits.argmax(axis=-1) == labels).mean())


def log_loss(logits: Logits, labels: Labels) -> float:
    """Return the mean negative log-likelihood of the labels, in nats."""
    return float(-log_probabilities(logits)[np.arange(len(labels)), labels].mean())


def calibration_error(logits: Logits, labels: Labels) -> float:
    """Return the expected calibration error, in 0..1.

    |accuracy - mean confidence| of the clips whose highest probability falls into one of 15
    equal bins, averaged over the clips (Guo et al. 2017, Eq. 3).
    """
    probabilities = np.exp(log_probabilities(logits))
    confidences = probabilities.max(axis=-1)
    right = probabilities.argmax(axis=-1) == labels
    bins = np.minimum((confidences * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights=right - confidences, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def fit_scales(logits: Logits, labels: Labels) -> Floats:
    """Return the factors, none negative, by which the logits' sum is most likely right: (K,).

    One network's factor is its inverse temperature (Guo et al. 2017); for two, the factors say
    as well how much to trust each. The log loss is convex in them: Newton's method.

    Args:
        logits: of K = 1 or 2 networks, (K, N, C).
        labels: of the clips.

    Returns:
        The factors. All are 0 if nothing in the logits speaks for the labels.
    """
    factors = _newton(np.asarray(logits, np.float64), labels)
    if (factors >= 0).all():
        return factors
    # The loss is convex: what would be negative is best left out.
    kept = np.flatnonzero(factors > 0)
    clipped = np.zeros_like(factors)
    if len(kept):
        clipped[kept] = fit_scales(logits[kept], labels)
    return clipped


def _newton(logits: Floats, labels: Labels) -> Floats:
    count, clips, _ = logits.shape
    truth = logits[:, np.arange(clips), labels]  # (K, N)

    def loss(factors: Floats) -> float:
        joined = np.tensordot(factors, logits, 1)
        pull = _PULL / 2 * float(((factors - 1 / count) ** 2).sum())
        return log_loss(joined, labels) + pull

    factors = np.full(count, 1 / count)
    for _ in range(_NEWTON_STEPS):
        probabilities = np.exp(log_probabilities(np.tensordot(factors, logits, 1)))  # (N, C)
        means = (probabilities * logits).sum(axis=-1)  # (K, N)
        centred = logits - means[..., None]
        gradient = (means - truth).mean(axis=-1) + _PULL * (factors - 1 / count)
        curvature = np.einsum("knc,lnc->kl", centred * probabilities, centred) / clips
        step = np.linalg.solve(curvature + _PULL * np.eye(count), -gradient)
        slope = float(gradient @ step)
        if -slope < _CONVERGED:
            break
        here, length = loss(factors), 1.0
        while loss(factors + length * step) > here + length * slope / 4 and length > 1e-9:
            length /= 2
        factors = factors + length * step
    return factors
