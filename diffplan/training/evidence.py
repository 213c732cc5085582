"""Measures of the data behind decisions: how fast states change, what ends episodes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from diffplan.config.config import Config
from diffplan.config.decisions import Decision
from diffplan.data.episodes import Episodes

_PAIRS = 20_000  # pairs of states behind a correlation: its error is below .01
_LONGEST_LAG = 1024
_CLOSE = 4  # plan states in a half-life, so that neighbours tell of each other
_COARSEST = 2  # steps; coarser plans did worse wherever they were tried
_LAST = 10  # steps at an episode's end
_HIGH = 0.75  # quantile of an episode's own rewards


def half_life(episodes: Episodes) -> int:
    """Environment steps in which states lose half of their correlation, at least 1.

    That is the least lag at which the correlation of a column, averaged over the columns that
    move, is below one half: 1 - |s_{t+lag} - s_t|^2 / (2 var). It knows no units. Capped at 1024
    and at what the longest episode shows.
    """
    states, starts = episodes.states, np.asarray(episodes.state_starts)
    rng = np.random.default_rng(0)
    counts = np.diff(starts)
    sample = states[np.sort(rng.integers(0, len(states), min(len(states), _PAIRS)))]
    variance = sample.var(0, dtype=np.float64)
    moving = variance > 1e-12 * np.square(np.abs(sample).max(0)).clip(min=1e-12)
    if not moving.any():
        return 1

    def correlation(lag: int) -> float:
        room = np.maximum(counts - lag, 0)
        ends = np.cumsum(room)
        drawn = np.sort(rng.integers(0, ends[-1], _PAIRS))
        episode = np.searchsorted(ends, drawn, side="right")
        first = starts[episode] + drawn - (ends[episode] - room[episode])
        change = states[first + lag].astype(np.float64) - states[first]
        return float((1 - np.square(change).mean(0)[moving] / (2 * variance[moving])).mean())

    longest = min(_LONGEST_LAG, int(counts.max()) - 1)
    low, high = 0, 1  # correlation(low) >= 1/2 > correlation(high)
    while correlation(high) >= 0.5:
        if high >= longest:
            return longest
        low, high = high, min(2 * high, longest)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if correlation(middle) >= 0.5 else (low, middle)
    return high


def time_scale_rule(config: Config, episodes: Episodes) -> Iterator[Decision]:
    """Plan states that still tell of each other, plans made anew before they are out of date."""
    if not config.is_open("plan.stride", "planning.replan_every"):
        return
    steps = half_life(episodes)
    measured = f"states keep half of their correlation for {steps} steps"
    stride = min(_COARSEST, max(1, steps // _CLOSE))
    yield Decision(
        "plan.stride", stride, f"{measured}; {_CLOSE} plan states in that time, at most 2 apart"
    )
    if not config.is_open("plan.stride"):
        stride = config.plan.stride
    horizon = config.plan.horizon or (16 if episodes.layout.goal_dim else 8)
    half_plan = stride * max(1, horizon // 2)
    if steps < half_plan:
        replan = max(stride, steps)
        yield Decision(
            "planning.replan_every",
            replan,
            f"{measured}; a plan is followed for as long, and not for {half_plan}",
        )


def ended_by_success(episodes: Episodes) -> float:
    """Share of episodes that were cut before the time limit, where their reward was highest.

    A cut is a truncation without termination; the time limit is the longest episode. The reward
    of the last 10 steps must be above the 75 % quantile of the episode's own.
    """
    starts = np.asarray(episodes.step_starts)
    steps, last = np.diff(starts), starts[1:] - 1
    cut = np.asarray(episodes.truncations)[last] & ~np.asarray(episodes.terminations)[last]
    early = np.flatnonzero(cut & (steps < steps.max()))
    found = 0
    for i in early:
        own = np.asarray(episodes.rewards[starts[i] : starts[i + 1]])
        high = np.quantile(own, _HIGH)
        found += bool(own[-_LAST:].mean() >= high > own.min())
    return found / len(steps)


def returns_rule(config: Config, episodes: Episodes) -> Iterator[Decision]:
    """Whether a high return is anything to ask for."""
    if episodes.layout.goal_dim:
        return
    if not config.is_open("data.condition_on_returns", "data.best_of_windows"):
        return
    share = ended_by_success(episodes)
    if share > 0.5:
        reason = (
            f"{share:.0%} of the episodes are cut before the time limit, where their reward is "
            "highest: they end by success, and a higher return means having lingered"
        )
        yield Decision("data.condition_on_returns", False, reason)
        yield Decision("data.best_of_windows", 1, reason)
