"""The tail of a distribution from few samples: empirical within them, generalised Pareto beyond.

Exceedances over a high threshold tend to a generalised Pareto distribution (Pickands 1975). Its
two parameters come from probability-weighted moments (Hosking and Wallis 1987): closed, and
reliable for a few dozen exceedances, where maximum likelihood is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# The share of the samples that are exceedances, and the fewest that a fit needs.
_TOP_SHARE = 0.1
_FEWEST = 10
# Heavier tails than this have no variance; a fit that says so on a few dozen samples exaggerates.
_LARGEST_SHAPE = 0.5


def quantile(ordered: Sequence[float], level: float) -> float:
    """Return the value that a next draw stays below with probability `level`.

    The empirical one where there is one: ⌈(n + 1) · level⌉ of n, and not ⌈n · level⌉, since the
    next draw may also exceed all that were seen. Beyond the last, that of the fitted tail.

    Args:
        ordered: at least one sample, ascending.
        level: in 0..1.
    """
    count = len(ordered)
    rank = math.ceil((count + 1) * level)
    if rank <= count:
        return ordered[rank - 1]
    exceedances = round(count * _TOP_SHARE)
    if exceedances < _FEWEST:
        return ordered[-1]
    threshold = ordered[count - exceedances - 1]
    scale, shape = pareto_fit([value - threshold for value in ordered[count - exceedances :]])
    times_rarer = exceedances / count / (1 - level)
    if abs(shape) < 1e-6:
        fitted = threshold + scale * math.log(times_rarer)
    else:
        fitted = threshold + scale / shape * (times_rarer**shape - 1)
    return max(fitted, ordered[-1])


def pareto_fit(exceedances: Sequence[float]) -> tuple[float, float]:
    """Return scale and shape of the generalised Pareto distribution of some exceedances.

    Args:
        exceedances: ascending, not negative.
    """
    count = len(exceedances)
    mean = sum(exceedances) / count
    # The second moment is E[x · (1 - F(x))], with plotting positions (i + 0.65) / n.
    weighted = (
        sum([value * (count - 0.65 - i) for i, value in enumerate(exceedances)]) / count / count
    )
    if mean <= 2 * weighted:  # all alike, or as good as: no tail to speak of
        return max(mean, 1e-12), 0.0
    shape = 2 - mean / (mean - 2 * weighted)
    shape = max(-_LARGEST_SHAPE, min(shape, _LARGEST_SHAPE))
    return mean * (1 - shape), shape
