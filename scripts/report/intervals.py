"""Intervals for what an evaluation reports: means and rates.

Only numpy. Every random routine takes a seed, so the same numbers give the same interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import atan, cos, isnan, pi, sin, sqrt
from statistics import NormalDist

import numpy as np

from diffplan.errors import DiffplanError

# Resampling works in blocks of about this many draws, so that memory does not grow with the data.
_BLOCK = 2_000_000
FEW = 30
"""Values below which a percentile bootstrap is too narrow."""


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


def estimate_mean(
    values: Sequence[float] | np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Mean with its interval: Student's t below `FEW` values, else by a percentile bootstrap.

    The percentile bootstrap (Efron 1979) is too narrow for few values: it holds the mean of a
    normal 50 times in 100 at n = 2, 83 at 5. `python -m diffplan.scripts.checks.coverage` counts.

    Args:
        values: [n] independent observations, for example the returns of n episodes.
        level: Coverage aimed at.
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
    if n < FEW:
        return pooled_mean(list(data[:, None]), level=level)
    rng = np.random.default_rng(seed)
    means = _resampled_means(data, resamples, rng)
    low, high = np.quantile(means, _tails(level))
    # Rounding in the resampled means must not push the interval of equal values off their mean.
    return Estimate(mean, min(float(low), mean), max(float(high), mean), n)


def stratified_mean(
    strata: Sequence[Sequence[float] | np.ndarray], *, level: float = 0.95
) -> Estimate:
    """Mean over tasks that are taken as given: Student's t from the spread within them alone.

    With one value in each nothing is known of that spread. The interval is then that over the
    values, which counts how the tasks differ, too, and is the wider for it.

    Args:
        strata: For each task its observations [n_i]; every task weighs the same.
        level: Coverage aimed at.

    Returns:
        The mean of the tasks' means, the interval, and how many observations there are.

    Raises:
        DiffplanError: No tasks, an empty one, or a value that is not finite.
    """
    data = [_checked(values) for values in strata]
    count, freedom = sum(map(len, data)), sum(len(values) - 1 for values in data)
    means = _checked([values.mean() for values in data])
    if len(data) == 1 or freedom == 0:
        return estimate_mean(np.concatenate(data), level=level)
    variance = sum(float(np.square(v - v.mean()).sum()) for v in data) / freedom
    error = sqrt(variance * sum(1 / len(values) for values in data)) / len(data)
    half = t_quantile(_tails(level)[1], freedom) * error
    mean = float(means.mean())
    return Estimate(mean, mean - half, mean + half, count)


def wilson(successes: float, n: int, *, level: float = 0.95) -> Estimate:
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
    # the rates p with |rate - p| <= z sqrt(p (1 - p) / n), solved for p
    z = NormalDist().inv_cdf(0.5 + level / 2)
    rate = successes / n
    centre = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    # exactly the ends where they are reached, whatever the rounding
    low = 0.0 if successes == 0 else float(centre - half)
    high = 1.0 if successes == n else float(centre + half)
    return Estimate(rate, low, high, n)


def pooled_mean(groups: Sequence[Sequence[float] | np.ndarray], *, level: float = 0.95) -> Estimate:
    """Mean over groups of observations, with the groups as the independent units.

    Episodes of one trained model share that model, so their number says nothing about how
    training seeds differ: the interval is Student's t over the group means, with as many degrees
    of freedom as there are groups less one. It is wide for two or three groups, as it must be.

    Args:
        groups: For each group (training seed) its observations [n_i]; every group weighs the same.
        level: Coverage aimed at; exact where group means are normal.

    Returns:
        The mean of the group means, the interval, and how many groups there are. With one group
        the interval is NaN.

    Raises:
        DiffplanError: No groups, an empty one, or a value that is not finite.
    """
    means = _checked([_checked(group).mean() for group in groups])
    k, mean = len(means), float(means.mean())
    if k == 1:
        return Estimate(mean, float("nan"), float("nan"), 1)
    half = t_quantile(_tails(level)[1], k - 1) * float(means.std(ddof=1)) / sqrt(k)
    return Estimate(mean, mean - half, mean + half, k)


def runs_mean(runs: Sequence[Sequence[float] | np.ndarray]) -> Estimate:
    """`pooled_mean` over training seeds; of one alone the mean over its episodes."""
    return pooled_mean(runs) if len(runs) > 1 else estimate_mean(runs[0])


def interquartile_mean(values: Sequence[float] | np.ndarray) -> float:
    """Mean of the middle half, a quarter of the values cut off at each end.

    Agarwal et al. 2021 (arXiv 2108.13264); of n values int(n / 4) are cut, as theirs does it.
    """
    return float(_middle(np.sort(_checked(values))))


def stratified_interquartile(
    strata: Sequence[Sequence[float] | np.ndarray],
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Interquartile mean over the runs of several tasks, with a stratified bootstrap interval.

    Runs are drawn with replacement within each task (Agarwal et al. 2021, section 4.1). As few
    runs spread less than what they are drawn from, the interval is stretched about the estimate:
    by sqrt(N / (N - S)) for N runs of S tasks, and by Student's t over the normal's quantile.
    Tasks weigh the same: where they have different numbers of runs, so much less weighs a run.

    Args:
        strata: For each task the scores of its runs [n_i].
        level: Coverage aimed at.
        resamples: Bootstrap samples.
        seed: Of the resampling.

    Returns:
        The estimate, the interval, NaN where no task has two runs, and the number of tasks.

    Raises:
        DiffplanError: No tasks, one without runs, or a value that is not finite.
    """
    rng = np.random.default_rng(seed)
    drawn = np.concatenate(_redrawn(strata, resamples, rng), axis=1)
    runs = np.concatenate([_checked(runs) for runs in strata])
    if len(set(map(len, strata))) == 1:
        return _stretched(interquartile_mean(runs), _middle(np.sort(drawn)), strata, level)
    weights = np.concatenate([np.full(len(runs), 1 / len(runs)) for runs in strata])
    mean = float(_weighted_middle(runs, weights))
    return _stretched(mean, _weighted_middle(drawn, weights), strata, level)


def improvement(
    ours: Sequence[Sequence[float] | np.ndarray],
    theirs: Sequence[Sequence[float] | np.ndarray],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Probability that a run of ours scores above one of theirs, averaged over tasks.

    Ties count half (Agarwal et al. 2021, section 4.3); strata, drawing and errors as for
    `stratified_interquartile`. Where all or nothing is above, a bootstrap has no spread: the
    interval is the hull of it and of Wilson's over as many pairs as the rarer side has runs.
    """
    rng = np.random.default_rng(seed)
    drawn = _redrawn(ours, resamples, rng), _redrawn(theirs, resamples, rng)
    found = np.mean([_above(x, y) for x, y in zip(*drawn, strict=True)], axis=0)
    pairs = list(zip(ours, theirs, strict=True))
    mean = float(np.mean([_above(_checked(x)[None], _checked(y)[None]) for x, y in pairs]))
    fewer = [min(x, y, key=len) for x, y in pairs]
    between = _stretched(mean, found, fewer, level)
    count = sum(map(len, fewer))
    within = wilson(mean * count, count, level=level)
    low, high = np.nanmin([between.low, within.low]), np.nanmax([between.high, within.high])
    return Estimate(mean, max(float(low), 0.0), min(float(high), 1.0), len(ours))


def profile(
    strata: Sequence[Sequence[float] | np.ndarray], levels: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Share of runs that score above each of the levels, every task weighing the same.

    Performance profile of Agarwal et al. 2021, section 4.2.
    """
    thresholds = np.asarray(levels, np.float64)
    shares = [(_checked(runs)[:, None] > thresholds).mean(0) for runs in strata]
    return np.asarray(np.mean(shares, axis=0))


def _stretched(
    mean: float,
    resampled: np.ndarray,
    strata: Sequence[Sequence[float] | np.ndarray],
    level: float,
) -> Estimate:
    """The interval of resampled estimates, wider by what few runs in each task hide."""
    count, freedom = sum(map(len, strata)), sum(len(runs) - 1 for runs in strata)
    if freedom == 0:
        return Estimate(mean, float("nan"), float("nan"), len(strata))
    tails = _tails(level)
    low, high = np.quantile(resampled, tails)
    normal = NormalDist().inv_cdf(tails[1])
    factor = sqrt(count / freedom) * t_quantile(tails[1], freedom) / normal
    below, above = max(mean - float(low), 0.0), max(float(high) - mean, 0.0)
    return Estimate(mean, mean - factor * below, mean + factor * above, len(strata))


def _middle(ordered: np.ndarray) -> np.ndarray:
    """Mean of the middle half of sorted values [..., n]."""
    n = ordered.shape[-1]
    middle: np.ndarray = ordered[..., n // 4 : n - n // 4].mean(-1)
    return middle


def _weighted_middle(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of what lies between the quartiles of values [..., n] of weights [n]."""
    order = values.argsort(-1)
    share = weights[order] / weights.sum()
    ends = share.cumsum(-1)
    within = (np.minimum(ends, 0.75) - np.maximum(ends - share, 0.25)).clip(min=0)
    middle: np.ndarray = (within * np.take_along_axis(values, order, -1)).sum(-1) / within.sum(-1)
    return middle


def _redrawn(
    strata: Sequence[Sequence[float] | np.ndarray], resamples: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """For each task its runs drawn with replacement [resamples, n_i]."""
    data = [_checked(runs) for runs in strata]
    if not data:
        raise DiffplanError("an estimate needs at least one task, got none")
    return [runs[rng.integers(len(runs), size=(resamples, len(runs)))] for runs in data]


def _above(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Share of the pairs [..., n], [..., m] in which ours is above."""
    x, y = ours[..., :, None], theirs[..., None, :]
    share: np.ndarray = ((x > y) + 0.5 * (x == y)).mean((-2, -1))
    return share


def pooled_rate(groups: Sequence[Sequence[bool] | np.ndarray], *, level: float = 0.95) -> Estimate:
    """Mean rate over groups of successes, with an interval that covers both kinds of spread.

    Between 0 and 1 group means are not normal, and several groups without a failure have no spread
    at all: the interval is the hull of Student's t over the groups (see `pooled_mean`), kept
    within [0, 1], and Wilson's over all observations together.
    """
    between = pooled_mean([np.asarray(group, np.float64) for group in groups], level=level)
    together = np.concatenate([np.asarray(group, np.bool_) for group in groups])
    within = wilson(int(together.sum()), len(together), level=level)
    low, high = np.nanmin([between.low, within.low]), np.nanmax([between.high, within.high])
    return Estimate(between.mean, max(float(low), 0.0), min(float(high), 1.0), between.n)


def bounds(estimate: Estimate) -> list[float] | None:
    """The interval for JSON, None where the values are too few for one."""
    return None if isnan(estimate.low) else [estimate.low, estimate.high]


def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t with `freedom` degrees, for a probability of at least 1/2.

    By bisection of the distribution function, which is a finite sum for whole degrees
    (Abramowitz and Stegun, 26.7.3 and 26.7.4).
    """
    if not 0.5 <= probability < 1 or freedom < 1:
        raise DiffplanError(
            f"a t quantile needs 1/2 <= probability < 1 and freedom >= 1, got {probability} "
            f"and {freedom}"
        )
    # doubled until it holds the quantile, then halved to the last bit
    low, high = 0.0, 1.0
    while _t_within(high, freedom) < 2 * probability - 1:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        if _t_within(middle, freedom) < 2 * probability - 1:
            low = middle
        else:
            high = middle
    return high


def _t_within(t: float, freedom: int) -> float:
    """Probability that Student's t lies within -t and t."""
    angle = atan(t / sqrt(freedom))
    odd = freedom % 2
    term, total = (cos(angle), 0.0) if odd else (1.0, 0.0)
    for k in range(odd, freedom - 1, 2):  # terms in cos(angle) ** k
        total += term
        term *= (k + 1) / (k + 2) * cos(angle) ** 2
    return 2 / pi * (angle + sin(angle) * total) if odd else sin(angle) * total


def _resampled_means(data: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means [resamples] of as many draws with replacement from data [n]."""
    n = len(data)
    # n draws for each resample: a block of them fits the memory
    block = max(1, _BLOCK // n)
    return np.concatenate(
        [
            data[rng.integers(n, size=(min(block, resamples - done), n))].mean(axis=1)
            for done in range(0, resamples, block)
        ]
    )


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
