"""What looks wrong in data though it may be right: said, not refused."""

from __future__ import annotations

import numpy as np

from diffplan.data.episodes import Episodes
from diffplan.data.precision import Extent

_ROWS = 50_000  # looked at, from the beginning
_SHUFFLED = 0.9  # of the distance between any two states, between neighbours in time
_LEAP = (3.0, 5.0)  # times what nine of ten steps stay below: the mean over columns, each at most
_TINY = 1e-10  # of what most columns vary by


def doubts(episodes: Episodes) -> list[str]:
    """A line for each doubt.

    Episodes of one step, columns too coarse or too fine to move, rows that do not look ordered in
    time, ends that seem not to be marked where they are.
    """
    starts = np.asarray(episodes.state_starts)
    states = np.asarray(episodes.states[:_ROWS], np.float64)
    inside = np.ones(max(len(states) - 1, 0), np.bool_)
    # the last state of an episode and the first of the next are no neighbours
    edges = starts[1:-1] - 1
    inside[edges[edges < len(inside)]] = False
    if not len(states) or not np.isfinite(states).all():
        return []
    found, std = [], states.std(axis=0)
    if episodes.num_episodes > 1 and episodes.lengths.max() == 1:
        found.append("every episode has one step: do the flags mark ends?")
    if len(states) > 1 and not std.any():
        found.append("no column of the states ever moves")
    found += _coarse(episodes, states, inside)
    varied = np.sort(std[std > 0])
    # the lower median, as normalisers take it
    fine = np.flatnonzero((std > 0) & (std <= _TINY * varied[(len(varied) - 1) // 2 :][:1].sum()))
    if len(fine):
        found.append(
            f"state column {fine[0]} varies by next to nothing beside the others and is taken for "
            "constant: give it in smaller units, if it tells something"
        )
    if inside.any() and std.any():
        found += _order(states[:, std > 0] / std[std > 0], starts, inside)
    return found


def _coarse(episodes: Episodes, states: np.ndarray, inside: np.ndarray) -> list[str]:
    """Columns whose movement was lost before they came here."""
    found = []
    rewards = np.asarray(episodes.rewards[:_ROWS]).reshape(-1, 1)
    for name, rows, steps in (
        ("state", states, inside),
        ("action", np.asarray(episodes.actions[:_ROWS]), None),
        ("reward", rewards, None),
    ):
        seen = Extent(rows.shape[1])
        seen.add(rows, steps)
        if len(lost := seen.lost()):
            found.append(
                f"{name} column {lost[0]} moves by hardly more than float32 rounds it by: give the "
                "numbers in float64, if they were"
            )
    return found


def _order(scaled: np.ndarray, starts: np.ndarray, inside: np.ndarray) -> list[str]:
    """scaled: states [n, D] in units of what they vary by. inside: [n - 1], as of `Extent`."""
    moved = np.abs(np.diff(scaled, axis=0))
    # the states of each episode in any order
    episode = np.searchsorted(starts, np.arange(len(scaled)), side="right")
    order = np.lexsort((np.random.default_rng(0).random(len(scaled)), episode))
    far = np.abs(np.diff(scaled[order], axis=0))[inside].mean()
    if moved[inside].mean() > _SHUFFLED * far > 0:
        return [
            "states that follow each other are as far apart as any two of their episode: are "
            "the rows shuffled?"
        ]
    usual = np.quantile(moved[inside], 0.9, axis=0)
    if not (usual > 0).any():
        return []
    least, most = _LEAP
    times = np.minimum(moved[:, usual > 0] / usual[usual > 0], most).mean(axis=1)
    leaps = np.flatnonzero((times > least) & inside)
    if len(leaps) < 2:
        return []
    last = np.isin(leaps + 1, starts[1:] - 1).sum()
    where = "into the last step of episodes" if 2 * last > len(leaps) else "inside episodes"
    return [
        f"{len(leaps):,} steps {where} leap as no others do (the first to state {leaps[0] + 1}): "
        "do the flags mark the last step of every episode?"
    ]
