"""Paired comparisons of the means of values over the same users: intervals by the bootstrap, p-values, correction.

Values of a ranking metric are few different numbers, so most draws are made for numbers with their counts rather than
for each user, which has the same distribution.
"""

from typing import NamedTuple

import numpy as np

from fastncf.memory import require_memory
from fastncf.rng import Stream, key

_DRAWS_AT_ONCE = 8_000_000
_BYTES_PER_DRAW = 17  # of draws, of what they stand for, and of its products
_USERS_FOR_A_COUNT = 8
"""Users for each different value from which draws for values are faster than draws for users."""


class Difference(NamedTuple):
    """Difference of two means over the same users.

    Attributes:
        mean: mean of the first minus mean of the second.
        low: lower end of the confidence interval.
        high: upper end of the confidence interval.
        p: two-sided p-value of no difference.
    """

    mean: float
    low: float
    high: float
    p: float


def paired_difference(
    first: np.ndarray, second: np.ndarray, *, confidence: float, samples: int, seed: int
) -> Difference:
    """Return the difference of two means over users, with its confidence interval and p-value.

    The interval is that of the percentile bootstrap over users (Efron and Tibshirani 1993, chapter 13). The p-value is
    that of the test that flips the sign of each user's difference at random, with the observed signs among the draws
    (Phipson and Smyth 2010), so it is at least 1 / (samples + 1).

    Args:
        first: (T,) value of each user.
        second: (T,) the same for the same users.
        confidence: share of the intervals that contain the true difference, such as 0.95.
        samples: draws of the bootstrap, and of the test.
        seed: determines the draws.
    """
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    generator = np.random.Generator(np.random.Philox(key=key(seed, Stream.RESAMPLING)))
    means = resampled_means(differences, samples, generator)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    flipped = flipped_means(differences, samples, generator)
    observed = differences.mean()
    tolerance = 1e-12 * np.abs(differences).max(initial=0.0)  # sums in another order differ by rounding
    as_extreme = int((np.abs(flipped) >= abs(observed) - tolerance).sum())
    return Difference(float(observed), float(low), float(high), (1 + as_extreme) / (samples + 1))


def resampled_means(values: np.ndarray, samples: int, generator: np.random.Generator) -> np.ndarray:
    """Return the means (samples,) of values (T,) drawn T times with replacement."""
    distinct, counts = np.unique(values, return_counts=True)
    means, size = np.empty(samples), len(values)
    has_few = len(distinct) * _USERS_FOR_A_COUNT <= size
    for part in _parts(samples, len(distinct) if has_few else size):
        number = part.stop - part.start
        if has_few:
            means[part] = generator.multinomial(size, counts / size, size=number) @ distinct / size
        else:
            means[part] = values[generator.integers(0, size, (number, size))].mean(axis=1)
    return means


def flipped_means(values: np.ndarray, samples: int, generator: np.random.Generator) -> np.ndarray:
    """Return the means (samples,) of values (T,) each of which has either sign with equal probability."""
    distinct, counts = np.unique(np.abs(values), return_counts=True)
    means, size = np.empty(samples), len(values)
    has_few = len(distinct) * _USERS_FOR_A_COUNT <= size
    for part in _parts(samples, len(distinct) if has_few else size):
        number = part.stop - part.start
        if has_few:
            signs = 2 * generator.binomial(counts, 0.5, size=(number, len(counts))) - counts
            means[part] = signs @ distinct / size
        else:
            bits = generator.integers(0, 2, (number, size), dtype=np.int8)
            means[part] = (2.0 * bits - 1.0) @ values / size
    return means


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return p-values (n,) that are corrected for their number by the method of Holm (1979)."""
    order = np.argsort(p_values, kind="stable")
    scaled = p_values[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected


def _parts(samples: int, width: int) -> list[slice]:
    """Return the parts of the samples that are drawn at once, if the memory suffices for the largest one.

    Raises:
        InsufficientMemoryError: it does not.
    """
    step = max(1, _DRAWS_AT_ONCE // max(1, width))
    require_memory("compare: draws of users", _BYTES_PER_DRAW * min(step, samples) * width, "models of fewer users")
    return [slice(first, min(first + step, samples)) for first in range(0, samples, step)]
