"""Where what a goal is about comes to rest: goals of data in which things are fetched and left."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diffplan.errors import DiffplanError

AFTER = 4  # steps over which the goal's columns move, or stand still
STILL, BRISK = 0.05, 0.9  # share of brisk motion that counts as none, and its quantile
_FASTEST, _NONE = 0.999, 0.1  # of what does not move at all brisk motion knows nothing
ROUNDING = 1e-5  # spread of a column that says nothing, beside its size
_SAMPLE = 1_000_000  # changes behind the quantiles


def arrivals(states: Tensor, columns: Sequence[int], starts: Tensor) -> Tensor:
    """The state [N] that each state's goal is: where what it leads to comes to rest.

    states: [N, D], which may lie on disk. columns: those that hold the achieved goal. starts: [E+1]
    offsets of the episodes. The goal's columns move where over 4 steps they change, in deviations,
    by more than 5 % of brisk motion, the 90 % quantile of what moves at all, in all tasks together.
    A shorter rest ends no motion. A state's goal is where the motion ends that is under way, or the
    next one: of several things one is moved, and the others stay where they are. Where nothing
    moves any more it is the episode's last state. Raises DiffplanError where no episode moves them.
    """
    goal = in_deviations(states[:, list(columns)].float())
    episode = torch.repeat_interleave(starts[1:] - starts[:-1])
    last = starts[1:][episode] - 1
    index = torch.arange(len(goal))
    change = (goal[torch.minimum(index + AFTER, last)] - goal).norm(dim=1)
    still = still_below(change)
    if still == math.inf:
        raise DiffplanError(
            "the columns of the goal never move in these data, so nothing arrives anywhere; "
            "use --data.relabel hindsight"
        )
    moving = torch.nonzero(change > still).squeeze(1)
    # of each motion the last step: what moves then is at rest so many steps later
    final = torch.ones_like(moving, dtype=torch.bool)
    final[:-1] = (moving.diff() > AFTER) | (episode[moving].diff() != 0)
    ends = torch.minimum(moving[final] + AFTER, last[moving[final]])
    found = torch.cat([ends, index[-1:]])[torch.searchsorted(ends, index, right=True)]
    following = torch.minimum(found, last)
    # what is there already, within the steps that a motion is seen over, goes on
    there = (goal[following] - goal).norm(dim=1) <= still
    return torch.where(there, following[following], following)


def still_below(change: Tensor) -> float:
    """Changes [n] over 4 steps up to this one are none: 5 % of brisk motion; inf if none moves."""
    sample = change[:: max(1, len(change) // _SAMPLE)].numpy()
    if not len(sample):
        return math.inf
    moves = sample[sample > _NONE * np.quantile(sample, _FASTEST)]
    return STILL * float(np.quantile(moves, BRISK)) if len(moves) else math.inf


def in_deviations(goal: Tensor) -> Tensor:
    """Goals [N, G] in the deviations of their columns, without those that only rounding moves."""
    spread = goal.std(0)
    told = spread > ROUNDING * goal.abs().amax(0)
    return goal[:, told] / spread[told]
