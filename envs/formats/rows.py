"""Rows and end flags over time become states and episodes."""

from __future__ import annotations

import numpy as np


def flags_with_time_limit(terminals: np.ndarray, limit: int | None) -> np.ndarray:
    """Timeouts [N] for a file that records none: every `limit` steps after the last end.

    terminals: [N] bool. A step that is also terminal is no timeout.
    """
    timeouts = np.zeros(len(terminals), np.bool_)
    if limit is None:
        return timeouts
    starts = np.concatenate([[0], np.flatnonzero(terminals) + 1])
    ends = np.concatenate([starts[1:], [len(terminals)]])
    # the limit counts anew after every end
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
    # two slots a row: the row itself, then what followed it
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
    # every episode with a state after its last step moves the later ones by one
    starts = np.concatenate([[0], np.flatnonzero(ends) + 1]).astype(np.int64)
    return starts, starts + np.concatenate([[0], np.cumsum(after)]).astype(np.int64)
