"""Bounds of actions: those of a space, or what the data show."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

# Some spaces write "no bound" as a huge number, up to the largest of float32.
LARGEST_BOUND = 1e6


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
    # a space of another shape is refused elsewhere, with its reason
    if isinstance(space, spaces.Box) and space.shape == (width,):
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    finite = np.where(np.isfinite(actions), actions, 0.0)
    # at least [-1, 1]: data of a timid policy must not narrow what may be tried
    seen_low, seen_high = finite.min(axis=0, initial=-1.0), finite.max(axis=0, initial=1.0)
    low, high = (
        np.where(np.abs(low) <= LARGEST_BOUND, low, seen_low),
        np.where(np.abs(high) <= LARGEST_BOUND, high, seen_high),
    )
    return tuple(map(float, low)), tuple(map(float, high))
