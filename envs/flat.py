"""Shared by the loaders: rows and end flags over time become states, episodes and bounds."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

# Some spaces write "no bound" as a huge number, up to the largest of float32.
LARGEST_BOUND = 1e6


def flags_with_time_limit(terminals: np.ndarray, limit: int | None) -> np.ndarray:
    """Timeouts [N] for a file that records none: every `limit` steps after the last end.

    terminals: [N] bool. A step that is also terminal is no timeout.
    """
    timeouts = np.zeros(len(terminals), np.bool_)
    if limit is None:
        return timeouts
    starts = np.concatenate([[0], np.flatnonzero(terminals) + 1])
    ends = np.concatenate([starts[1:], [len(terminals)]])
    for start, end in zip(starts, ends, strict=True):
        timeouts[start + limit - 1 : end : limit] = True
    return timeouts & ~terminals


def interleave(
    here: np.ndarray, later: np.ndarray, steps: np.ndarray, after: np.ndarray
) -> np.ndarray:
    """Rows of `here` where `steps`, each followed by that of `later` where `after`.

    here, later: [N, D]. steps, after: [N] bool. This is how observations and next observations
    become the states of episodes, in pieces of any size.
    """
    picks = np.stack([steps, after], axis=1).reshape(-1)
    rows = np.flatnonzero(picks) // 2
    later_rows = np.flatnonzero(picks) % 2 == 1
    merged = here[rows]
    merged[later_rows] = later[rows[later_rows]]
    return merged


def offsets(ends: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets of the episodes into their steps and into their states, each [E + 1] int64.

    ends: [N] bool over the steps, the last of each episode; ends[-1] must be true. after: [E]
    bool, whether the episode has a state after its last step.
    """
    starts = np.concatenate([[0], np.flatnonzero(ends) + 1]).astype(np.int64)
    return starts, starts + np.concatenate([[0], np.cumsum(after)]).astype(np.int64)


def widened(extremes: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """The least and the greatest of each action dimension so far, [2, A], with more actions.

    actions: [n, A]; entries that are not finite count as 0, with which `extremes` should start.
    """
    finite = np.where(np.isfinite(actions), actions, 0.0)
    low, high = finite.min(axis=0, initial=0.0), finite.max(axis=0, initial=0.0)
    return np.stack([np.minimum(extremes[0], low), np.maximum(extremes[1], high)])


def action_bounds(
    space: spaces.Space | None, actions: np.ndarray
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Bounds per action dimension: those of the space where it has some of at most 1e6.

    Elsewhere -1 and 1 if the data stay within, or else the extremes in the data.
    actions: [N, A].
    """
    width = actions.shape[1]
    low, high = np.full(width, -np.inf), np.full(width, np.inf)
    if isinstance(space, spaces.Box) and space.shape == (width,):
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    finite = np.where(np.isfinite(actions), actions, 0.0)
    seen_low, seen_high = finite.min(axis=0, initial=-1.0), finite.max(axis=0, initial=1.0)
    low, high = (
        np.where(np.abs(low) <= LARGEST_BOUND, low, seen_low),
        np.where(np.abs(high) <= LARGEST_BOUND, high, seen_high),
    )
    return tuple(map(float, low)), tuple(map(float, high))
