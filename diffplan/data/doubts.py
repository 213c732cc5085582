"""What looks wrong in data though it may be right: said, not refused."""

from __future__ import annotations

import numpy as np

from diffplan.data.episodes import Episodes
from diffplan.data.precision import Extent

_ROWS = 50_000  # looked at, from the beginning
_SHUFFLED = 0.9  # of the distance between any two states, between neighbours in time


def doubts(episodes: Episodes) -> list[str]:
    """A line for each doubt: rows that do not look ordered in time, columns too coarse to move."""
    starts = np.asarray(episodes.state_starts)
    states = np.asarray(episodes.states[:_ROWS], np.float64)
    inside = np.ones(max(len(states) - 1, 0), np.bool_)
    # the last state of an episode and the first of the next are no neighbours
    edges = starts[1:-1] - 1
    inside[edges[edges < len(inside)]] = False
    if not inside.any() or not np.isfinite(states).all():
        return []
    found, seen = [], Extent(states.shape[1])
    seen.add(states, inside)
    if len(coarse := seen.lost()):
        found.append(
            f"state column {coarse[0]} moves by hardly more than float32 rounds it by: give the "
            "numbers in float64, if they were"
        )
    varies = states.std(axis=0) > 0
    if varies.any():
        scaled = states[:, varies] / states[:, varies].std(axis=0)
        # the states of each episode in any order
        episode = np.searchsorted(starts, np.arange(len(states)), side="right")
        order = np.lexsort((np.random.default_rng(0).random(len(states)), episode))
        near, far = (
            np.abs(np.diff(rows, axis=0))[inside].mean() for rows in (scaled, scaled[order])
        )
        if near > _SHUFFLED * far > 0:
            found.append(
                "states that follow each other are as far apart as any two of their episode: are "
                "the rows shuffled?"
            )
    return found
