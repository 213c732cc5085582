"""Ends of episodes that look like a time limit's, though the data call them terminations.

Nothing follows a termination, while a task that was cut goes on: returns-to-go, values and targets
differ, and a planner that takes one for the other fails without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from diffplan.data.episodes import Episodes

AS_RECORDED = "as-recorded"
AS_TRUNCATIONS = "as-truncations"
_SHARE = 0.05  # of the terminations: falls at exactly the limit are rarer
_MOST = 0.25  # of them at the longest length, the limit not being known
_FEW_STEPS = 10  # episodes up to here are of one length by chance


@dataclass(frozen=True)
class LimitEnds:
    """Terminations that look like a time limit's.

    episodes: [E] bool, which. text: what was seen, for people.
    """

    episodes: np.ndarray
    text: str


def ends_at_limit(episodes: Episodes, limits: Sequence[int | None]) -> LimitEnds | None:
    """The terminations that a time limit explains, None where there are none.

    limits: steps, of each task or of all, None where not known. Those at a known limit, if they
    are more than chance. Without a limit all, if all have one length and no episode is
    longer, or those of the longest length, if they are many.
    """
    last = np.asarray(episodes.step_starts)[1:] - 1
    lengths, ended = episodes.lengths, np.asarray(episodes.terminations)[last]
    found, texts = np.zeros(len(last), np.bool_), []
    for index, limit in enumerate(limits):
        own = np.ones(len(last), np.bool_)
        if episodes.tasks is not None and len(limits) > 1:
            own = np.asarray(episodes.tasks) == index
        ends = own & ended
        count = int(ends.sum())
        if not count:
            continue
        at = ends & (lengths == limit)
        if limit is not None and limit > 1 and at.sum() > _SHARE * count:
            found |= at
            texts.append(
                f"{int(at.sum()):,} of the {count:,} episodes that terminate do so exactly at the "
                f"time limit of {limit} steps"
            )
        elif _of_one_length(lengths[ends], lengths[own]):
            found |= ends
            texts.append(
                f"all {count:,} episodes that terminate have exactly {lengths[ends][0]} steps, as "
                "at a time limit"
            )
        elif (at := _at_longest(ends, lengths, own)).any():
            found |= at
            texts.append(
                f"{int(at.sum()):,} of the {count:,} episodes that terminate have exactly "
                f"{lengths[at][0]} steps, and none is longer, as at a time limit"
            )
    return LimitEnds(found, "; ".join(texts)) if texts else None


def _of_one_length(ended: np.ndarray, every: np.ndarray) -> bool:
    length = int(ended[0])
    return len(ended) > 1 and length > 1 and bool((ended == length).all() and every.max() == length)


def _at_longest(ends: np.ndarray, lengths: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The ends [E] at the longest length of all, none where they are few or that is short."""
    longest = lengths[own].max()
    at = ends & (lengths == longest)
    few = at.sum() <= max(2, _MOST * ends.sum())
    return np.zeros_like(at) if few or longest <= _FEW_STEPS else at


def as_truncations(episodes: Episodes, which: np.ndarray) -> Episodes:
    """The same data, the ends of the marked episodes [E] cut instead of terminated."""
    last = np.asarray(episodes.step_starts)[1:][which] - 1
    terminations = np.array(episodes.terminations)
    truncations = np.array(episodes.truncations)
    terminations[last], truncations[last] = False, True
    return replace(episodes, terminations=terminations, truncations=truncations)
