"""Rows and end flags over time become states and episodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffplan.data.precision import Extent
from diffplan.errors import DiffplanError

# next_observations of a step and observations of the next one may differ by rounding: this share of
# what a column spans, and some of float32's
_ROUNDING = 1e-3
_FLOAT32 = 2.0**-21


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


def leaps(rows: np.ndarray, later: np.ndarray) -> np.ndarray:
    """[N] bool, steps whose next observation is not the following row; the last one is.

    rows, later: [N, D] observations and next observations, finite or not.
    """
    exact = rows.astype(np.float64)
    span = np.nanmax(exact, axis=0) - np.nanmin(exact, axis=0)
    tolerance = _ROUNDING * span + _FLOAT32 * np.nanmax(np.abs(exact), axis=0)
    found = np.ones(len(rows), np.bool_)
    with np.errstate(invalid="ignore"):
        found[:-1] = (np.abs(later[:-1] - exact[1:]) > tolerance).any(axis=1)
    return found


class Jumps:
    """Steps whose next observation is not the following row, though no flag ends the episode there.

    The rows are shuffled then, as in a sampled replay buffer, or an end is not marked.
    """

    def __init__(self, path: Path, seen: Extent) -> None:
        """seen: what the observations span."""
        self._path = path
        self._tolerance = _ROUNDING * seen.span + _FLOAT32 * seen.largest
        self.count, self._first = 0, 0

    def look(self, start: int, rows: np.ndarray, later: np.ndarray, inside: np.ndarray) -> None:
        """Compare a piece from step `start` on.

        rows: its observations [n, D], and one row more but at the end. later: [n, D] its next
        observations. inside: [n] bool, steps that the following row goes on from.
        """
        following = rows[1:].astype(np.float64)
        found = later[: len(following)].astype(np.float64)
        with np.errstate(invalid="ignore"):
            near = np.abs(found - following) <= self._tolerance
        # what is not finite in the observations is refused with its place later
        far = (~near & np.isfinite(following)).any(axis=1)
        at = np.flatnonzero(far & inside[: len(following)])
        # counted to the end, so that the message tells a slip from shuffled rows
        self._first = self._first if self.count or not len(at) else start + int(at[0])
        self.count += len(at)

    def refuse(self, steps: int, few: float = 0.0) -> None:
        """Raise DiffplanError where there were some, more than the share `few` of the steps."""
        if self.count > few * steps:
            raise DiffplanError(
                f"{self._path}: next_observations of step {self._first} is not observations of "
                f"step {self._first + 1}, though no flag ends the episode there; keep the rows in "
                "order of time and mark the last step of every episode "
                f"({self.count} such steps of {steps})"
            )
