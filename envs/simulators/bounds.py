"""Bounds of actions: those of a space, or what the data show."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

# Some spaces write "no bound" as a huge number, up to the largest of float32.
_LARGEST_BOUND = 1e6
_TIMID = 0.1  # actions within this are in smaller units than [-1, 1]


def is_bound(bound: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Which bounds of actions [A] are meant as such; seen: [A] the largest action in the data.

    At most a million, or a million times the data where these have large units.
    """
    return np.asarray(np.abs(bound) <= _LARGEST_BOUND * np.maximum(np.abs(seen), 1.0))


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
    """Bounds per action dimension: those of the space where it has some, see `is_bound`.

    Elsewhere -1 and 1 if the data stay within, or else the extremes in the data; those on both
    sides of zero where the data stay within a tenth of -1 and 1. actions: [N, A].
    """
    width = actions.shape[1]
    low, high = np.full(width, -np.inf), np.full(width, np.inf)
    # a space of another shape is refused elsewhere, with its reason
    if isinstance(space, spaces.Box) and space.shape == (width,):
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    finite = np.where(np.isfinite(actions), actions, 0.0)
    largest = np.abs(finite).max(axis=0, initial=0.0)
    # at least [-1, 1]: data of a timid policy must not narrow what may be tried
    unit = np.where((largest > 0) & (largest < _TIMID), largest, 1.0)
    seen_low = np.minimum(finite.min(axis=0, initial=0.0), -unit)
    seen_high = np.maximum(finite.max(axis=0, initial=0.0), unit)
    low, high = (
        np.where(is_bound(low, largest), low, seen_low),
        np.where(is_bound(high, largest), high, seen_high),
    )
    return tuple(map(float, low)), tuple(map(float, high))
