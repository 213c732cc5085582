"""Intervals: coverage on known distributions, hand-computed values, degenerate input."""

import math

import numpy as np
import pytest

from diffplan.errors import DiffplanError
from diffplan.scripts.report.intervals import (
    Estimate,
    estimate_mean,
    improvement,
    interquartile_mean,
    pooled_mean,
    pooled_rate,
    profile,
    runs_mean,
    stratified_interquartile,
    stratified_mean,
    t_quantile,
    wilson,
)


@pytest.mark.parametrize(
    "draw, truth",
    [
        (lambda rng: rng.normal(3.0, 2.0, size=40), 3.0),
        (lambda rng: rng.exponential(1.5, size=60), 1.5),
    ],
    ids=["normal", "exponential"],
)
def test_bootstrap_interval_covers_the_true_mean_about_95_times_in_100(draw, truth):
    rng = np.random.default_rng(7)
    trials = 400
    inside = 0
    for trial in range(trials):
        estimate = estimate_mean(draw(rng), resamples=1_000, seed=trial)
        inside += estimate.low <= truth <= estimate.high
    # 95 % nominal, a percentile bootstrap of this size is known to reach 92..95 %;
    # the bounds are three standard errors of 400 trials around that.
    assert 0.885 <= inside / trials <= 0.98


def test_bootstrap_width_matches_the_standard_error():
    values = np.random.default_rng(0).normal(size=400)
    estimate = estimate_mean(values)
    expected = 2 * 1.96 * values.std() / math.sqrt(len(values))
    assert estimate.high - estimate.low == pytest.approx(expected, rel=0.05)
    assert estimate.mean == pytest.approx(values.mean())
    assert estimate.n == 400


def test_bootstrap_is_seeded_and_blocks_do_not_matter_for_size():
    values = np.random.default_rng(0).normal(size=30)
    assert estimate_mean(values, seed=3) == estimate_mean(values, seed=3)
    assert estimate_mean(values, seed=3) != estimate_mean(values, seed=4)
    # Several blocks (n * resamples above the block size) still give every resample.
    wide = estimate_mean(np.random.default_rng(1).normal(size=50_000), resamples=200)
    assert wide.low < wide.mean < wide.high


def test_bootstrap_of_one_value_has_no_interval_and_of_equal_values_no_width():
    single = estimate_mean([4.0])
    assert single.mean == 4.0 and single.n == 1
    assert math.isnan(single.low) and math.isnan(single.high)
    assert estimate_mean([0.1] * 7) == Estimate(pytest.approx(0.1), *[pytest.approx(0.1)] * 2, 7)


@pytest.mark.parametrize(
    "successes, n, low, high",
    [
        (98, 100, 0.929988, 0.994498),
        (50, 100, 0.403832, 0.596168),
        (0, 10, 0.0, 0.277533),
        (100, 100, 0.963005, 1.0),
    ],
)
def test_wilson_equals_values_computed_by_hand(successes, n, low, high):
    estimate = wilson(successes, n)
    assert estimate.mean == successes / n and estimate.n == n
    assert estimate.low == pytest.approx(low, abs=2e-6)
    assert estimate.high == pytest.approx(high, abs=2e-6)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: estimate_mean([]), "at least one value"),
        (lambda: estimate_mean([1.0, float("nan")]), "value 1 is nan"),
        (lambda: estimate_mean([1.0, 2.0], level=1.5), "level"),
        (lambda: wilson(3, 2), "3 of 2"),
        (lambda: wilson(0, 0), "0 of 0"),
    ],
)
def test_wrong_input_is_named(call, words):
    with pytest.raises(DiffplanError, match=words):
        call()


@pytest.mark.parametrize(
    "freedom, expected", [(1, 12.7062), (2, 4.30265), (3, 3.18245), (9, 2.26216), (30, 2.04227)]
)
def test_t_quantiles_are_those_of_the_tables(freedom, expected):
    assert t_quantile(0.975, freedom) == pytest.approx(expected, abs=5e-5)
    assert t_quantile(0.5, freedom) == pytest.approx(0.0, abs=1e-12)


def test_runs_are_the_units_of_a_pooled_mean():
    groups = [np.array([1.0, 3.0]), np.array([4.0, 4.0, 4.0]), np.array([6.0])]
    estimate = pooled_mean(groups)
    assert estimate.mean == 4.0 and estimate.n == 3  # of the means 2, 4 and 6
    assert estimate.high - estimate.mean == pytest.approx(4.30265 * 2 / math.sqrt(3), rel=1e-5)
    assert estimate.low == pytest.approx(8 - estimate.high)
    assert math.isnan(pooled_mean(groups[:1]).low)


def test_a_pooled_interval_covers_the_mean_over_seeds_where_one_over_episodes_does_not():
    rng = np.random.default_rng(3)
    trials, pooled, naive = 400, 0, 0
    for trial in range(trials):
        runs = rng.normal(0.0, 10.0, size=(3, 1)) + rng.normal(0.0, 3.0, size=(3, 50))
        estimate = pooled_mean(list(runs))
        pooled += estimate.low <= 0.0 <= estimate.high
        flat = estimate_mean(runs.reshape(-1), resamples=200, seed=trial)
        naive += flat.low <= 0.0 <= flat.high
    assert 0.915 <= pooled / trials <= 0.985  # three standard errors around 0.95
    assert naive / trials < 0.4


def test_pooled_rates_keep_an_interval_where_no_run_fails():
    rate = pooled_rate([np.ones(20, bool)] * 3)
    assert rate.mean == rate.high == 1.0 and rate.n == 3
    assert rate.low == pytest.approx(wilson(60, 60).low)
    spread = pooled_rate([np.ones(20, bool), np.zeros(20, bool)])
    assert (spread.mean, spread.low, spread.high) == (0.5, 0.0, 1.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: pooled_mean([]),
        lambda: pooled_mean([[1.0], []]),
        lambda: t_quantile(0.3, 4),
        lambda: t_quantile(0.9, 0),
    ],
)
def test_pooling_refuses_what_has_no_answer(call):
    with pytest.raises(DiffplanError):
        call()


def test_tasks_with_more_runs_weigh_no_more() -> None:
    few = stratified_interquartile([[1.0], [2.0], [4.0], [9.0]], resamples=9)
    more = stratified_interquartile([[1.0] * 5, [2.0], [4.0], [9.0] * 3], resamples=9)
    assert few.mean == more.mean == 3 and (more.low, more.high) == (3, 3)
    # a quarter of a task's weight is cut with the runs that hold it
    found = stratified_interquartile([[0.0, 8.0], [4.0, 4.0, 4.0]], resamples=9)
    assert found.mean == pytest.approx(4)


def test_the_interquartile_mean_cuts_a_quarter_at_each_end() -> None:
    assert interquartile_mean([100, 1, 2, 3, 4, 5, 6, -100]) == 3.5
    assert interquartile_mean([0, 1, 2, 3, 99]) == 2  # int(5 / 4) at each end
    assert interquartile_mean([7]) == 7


def test_runs_are_drawn_within_their_tasks() -> None:
    # every resample of either task is that task's: nothing varies
    found = stratified_interquartile([[1, 1, 1, 1], [3, 3, 3, 3]], resamples=50)
    assert (found.mean, found.low, found.high, found.n) == (2, 2, 2, 2)
    spread = stratified_interquartile([[0, 2, 0, 2]], resamples=500)
    assert spread.low < 1 < spread.high
    with pytest.raises(DiffplanError, match="at least one task"):
        stratified_interquartile([])


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_few_values_have_an_interval_as_wide_as_they_know_little(n: int) -> None:
    rng = np.random.default_rng(n)
    values = rng.normal(1.0, 2.0, size=(400, n))
    estimates = [estimate_mean(each) for each in values]
    # 0.95 less three standard errors; a percentile bootstrap holds 0.51, 0.75, 0.83 and 0.89
    assert np.mean([e.low <= 1.0 <= e.high for e in estimates]) >= 0.917
    offsets = np.linspace(0, 60, 4)
    runs = offsets[:, None] + rng.normal(0, 3.0, size=(200, 4, n))
    middles = [stratified_interquartile(each, resamples=300) for each in runs]
    truth = interquartile_mean((offsets[:, None] + rng.normal(0, 3.0, (4, 20_000))).reshape(-1))
    assert np.mean([e.low <= truth <= e.high for e in middles]) >= 0.86  # as drawn: 0.7 at n = 2


def test_the_spread_within_tasks_counts_and_that_between_them_does_not() -> None:
    found = stratified_mean([[0.0, 2.0], [100.0, 102.0, 101.0]])
    # variance (2 + 2) / 3 of 3 degrees, error sqrt(4 / 3 (1 / 2 + 1 / 3)) / 2
    half = 3.18245 * math.sqrt(4 / 3 * 5 / 6) / 2
    assert (found.mean, found.n) == (51.0, 5)
    assert found.high - 51.0 == pytest.approx(half, rel=1e-5) == 51.0 - found.low
    # one value each: nothing is known of the spread within, so that between stands for it
    alone = stratified_mean([[0.0], [100.0]])
    assert alone == estimate_mean([0.0, 100.0]) and alone.high > 500
    assert math.isnan(stratified_mean([[3.0]]).low)
    assert math.isnan(stratified_interquartile([[1.0], [2.0]], resamples=9).low)


def test_episodes_are_the_units_of_one_run_and_runs_those_of_several() -> None:
    runs = [[1.0, 3.0, 5.0], [4.0, 6.0, 8.0]]
    assert runs_mean(runs) == pooled_mean(runs) and runs_mean(runs[:1]) == estimate_mean(runs[0])


def test_a_profile_is_the_share_of_runs_above_each_level() -> None:
    found = profile([[1, 2, 3, 4], [10, 10]], [0, 2, 5, 10])
    assert found.tolist() == [1.0, 0.75, 0.5, 0.0]


def test_the_probability_of_improvement_counts_pairs_within_tasks() -> None:
    found = improvement([[1, 2], [5]], [[0, 1], [9]], resamples=200)
    assert found.mean == (3.5 / 4 + 0) / 2
    assert 0 <= found.low < 0.25 and 0.5 < found.high <= 1
    assert improvement([[1, 1]], [[1, 1]], resamples=10).mean == 0.5
    # ahead in every pair of few: no reason to be certain
    surely = improvement([[5, 6, 7]], [[1, 2, 3]], resamples=50)
    assert surely.mean == surely.high == 1 and surely.low == pytest.approx(wilson(3, 3).low)
