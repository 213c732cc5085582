"""Shared by the loaders of flat files: arrays over time with end flags become Episodes."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from diffplan.data.episodes import DatasetInfo, Episodes, ObservationLayout
from diffplan.errors import DiffplanError

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


def episodes_from_flags(
    *,
    observations: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray,
    terminations: np.ndarray,
    truncations: np.ndarray,
    next_observations: np.ndarray | None,
    goals: np.ndarray | None,
    layout: ObservationLayout,
    info: DatasetInfo,
) -> Episodes:
    """Cut flat arrays over N steps into episodes at every true flag.

    observations [N, D], actions [N, A], rewards [N], flags [N], goals [N, G] or None. With
    next_observations [N, D] the last one of each episode becomes its state T + 1 (under the goal
    of its last step); without them an episode has as many states as steps.
    Steps after the last flag are an unfinished episode, cut short, and count as truncated.
    Raises DiffplanError where no flag is true: one long episode is nearly always a mistake.
    """
    steps = len(actions)
    if not (terminations.any() or truncations.any()):
        raise DiffplanError(
            f"dataset {info.id}: no step of {steps} ends an episode, neither terminated nor "
            "truncated; mark the last step of each episode (if it really is a single one, too)"
        )
    truncations = truncations.copy()
    truncations[-1] |= not terminations[-1]
    ends = np.flatnonzero(terminations | truncations) + 1
    step_starts = np.concatenate([[0], ends]).astype(np.int64)
    state_starts, states = step_starts, observations
    if next_observations is not None:
        state_starts = step_starts + np.arange(len(step_starts))
        # Row t of the steps moves on by one for every episode that ended before it.
        rows = np.arange(steps) + np.repeat(np.arange(len(ends)), np.diff(step_starts))
        states = np.empty((steps + len(ends), observations.shape[1]), np.float32)
        states[rows] = observations
        states[state_starts[1:] - 1] = next_observations[ends - 1]
        if goals is not None:
            wide = np.empty((len(states), goals.shape[1]), np.float32)
            wide[rows] = goals
            wide[state_starts[1:] - 1] = goals[ends - 1]
            goals = wide
    return Episodes(
        states=states,
        goals=goals,
        actions=actions,
        rewards=rewards,
        terminations=terminations,
        truncations=truncations,
        state_starts=state_starts,
        step_starts=step_starts,
        layout=layout,
        info=info,
    )


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
