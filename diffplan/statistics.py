"""Intervals for what an evaluation reports: means and rates.

Only numpy. Every random routine takes a seed, so the same numbers give the same interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from diffplan.errors import DiffplanError

# Resampling works in blocks of about this many draws, so that memory does not grow with the data.
_BLOCK = 2_000_000


@dataclass(frozen=True)
class Estimate:
    """A point estimate with its interval.

    `low` and `high` are NaN where the data cannot give an interval (one value has no spread).
    """

    mean: float
    """The point estimate."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    n: int
    """How many values the estimate rests on."""


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Mean with its percentile-bootstrap interval (Efron 1979).

    Args:
        values: [n] independent observations, for example the returns of n episodes.
        level: Coverage aimed at. Below about 15 observations the interval is a little too narrow.
        resamples: Bootstrap samples.
        seed: Of the resampling.

    Returns:
        The mean, the interval and n. With n = 1 the interval is NaN.

    Raises:
        DiffplanError: No values, or one that is not finite.
    """
    data = _checked(values)
    n = len(data)
    mean = float(data.mean())
    if n == 1:
        return Estimate(mean, float("nan"), float("nan"), 1)
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // n)
    means = np.concatenate(
        [
            data[rng.integers(n, size=(min(block, resamples - done), n))].mean(axis=1)
            for done in range(0, resamples, block)
        ]
    )
    low, high = np.quantile(means, _tails(level))
    # Rounding in the resampled means must not push the interval of equal values off their mean.
    return Estimate(mean, min(float(low), mean), max(float(high), mean), n)


def wilson(successes: int, n: int, *, level: float = 0.95) -> Estimate:
    """Rate with the Wilson score interval (Wilson 1927), which stays sensible at 0 and n successes.

    Args:
        successes: How often it happened, 0..n.
        n: How many trials.
        level: Coverage aimed at.

    Returns:
        The rate successes / n, the interval within [0, 1], and n.

    Raises:
        DiffplanError: n < 1, or successes outside 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise DiffplanError(f"a rate needs 0 <= successes <= n and n >= 1, got {successes} of {n}")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    rate = successes / n
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    low = 0.0 if successes == 0 else float(centre - half)
    high = 1.0 if successes == n else float(centre + half)
    return Estimate(rate, low, high, n)


def _tails(level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise DiffplanError(f"the level of an interval lies between 0 and 1, got {level}")
    return (1 - level) / 2, (1 + level) / 2


def _checked(values: Sequence[float] | np.ndarray) -> np.ndarray:
    data = np.asarray(values, dtype=np.float64).reshape(-1)
    if data.size == 0:
        raise DiffplanError("an estimate needs at least one value, got none")
    if not np.isfinite(data).all():
        where = int(np.flatnonzero(~np.isfinite(data))[0])
        raise DiffplanError(f"an estimate needs finite values, value {where} is {data[where]}")
    return data
