"""Where what a goal is about comes to rest: goals of data in which things are fetched and left."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diffplan.errors import DiffplanError

AFTER = 4  # steps over which the goal's columns move, or stand still
STILL, BRISK = 0.05, 0.9  # share of brisk motion, and its quantile
_SAMPLE = 1_000_000  # changes behind the quantile
_MORE, _MOST = 0.5, 7  # chance of a goal one motion later, and how many more there may be
_PART, _KEPT = 0.1, 0.25  # of a motion: what of it counts as moved, and how well that stays


class Arrivals:
    """Goals that what a window does leads to, and that is not undone before them.

    The goal's columns move where over 4 steps they change, in deviations, by more than 5 % of brisk
    motion, the 90 % quantile of their changes; motions at most 4 steps apart are one. A state
    arrives where the motion ends that is under way, or the next one. Its goal is that state, or one
    some motions later (geometrically many, seven at most), as long as what the first of them moved
    stays where it was left: of several things to be moved one comes first, whichever it is.
    """

    def __init__(self, states: Tensor, columns: list[int], starts: Tensor) -> None:
        """states: [N, D], which may lie on disk. columns: those that hold the achieved goal.

        starts: [E+1] offsets of the episodes. Raises DiffplanError where the columns never move.
        """
        goal = states[:, columns].float()
        spread = goal.std(0)
        if not (spread > 0).any():
            raise DiffplanError(
                "the columns of the goal never move in these data, so nothing arrives anywhere; "
                "use --data.relabel hindsight"
            )
        self._goal = goal[:, spread > 0] / spread[spread > 0]
        self.next, self._still = _next(self._goal, starts)

    def aim(self, start: Tensor, generator: torch.Generator) -> Tensor:
        """States [B] whose goals are those of states `start` [B]."""
        here, first = self._goal[start], self.next[start]
        # what is there already, within the steps that a motion is seen over, goes on
        there = (self._goal[first] - here).norm(dim=1) <= self._still
        first = torch.where(there, self.next[first], first)
        left = self._goal[first]
        change = (left - here).abs()
        moved = change > _PART * change.amax(1, keepdim=True)
        allowed = _KEPT * (change * moved).norm(dim=1)
        goes_on = torch.ones_like(start, dtype=torch.bool)
        goal = first
        for _ in range(_MOST):
            later = self.next[goal]
            stays = ((self._goal[later] - left) * moved).norm(dim=1) <= allowed
            drawn = torch.rand(len(start), generator=generator, device=start.device)
            goes_on = goes_on & stays & (drawn < _MORE)
            goal = torch.where(goes_on, later, goal)
        return goal

    @property
    def nbytes(self) -> int:
        """Of its tables."""
        return self.next.nbytes + self._goal.nbytes

    def to(self, device: torch.device) -> None:
        """Answer for indices on the device from here on."""
        self.next, self._goal = self.next.to(device), self._goal.to(device)


def _next(goal: Tensor, starts: Tensor) -> tuple[Tensor, float]:
    """For every state [N] the one in which its motion, or the next one, ends; and a change at rest.

    A later one of its episode, the last where no motion comes. goal: [N, G], in deviations.
    """
    index = torch.arange(len(goal))
    episode = torch.repeat_interleave(starts[1:] - starts[:-1])
    last = starts[1:][episode] - 1
    change = (goal[torch.minimum(index + AFTER, last)] - goal).norm(dim=1)
    every = max(1, len(change) // _SAMPLE)
    still = STILL * float(np.quantile(change[::every].numpy(), BRISK))
    moving = torch.nonzero(change > still).squeeze(1)
    # of each motion the last step: what moves then is at rest so many steps later
    last_of_its = torch.ones_like(moving, dtype=torch.bool)
    last_of_its[:-1] = (moving.diff() > AFTER) | (episode[moving].diff() != 0)
    final = moving[last_of_its]
    ends = torch.minimum(final + AFTER, last[final])
    found = torch.cat([ends, index[-1:]])[torch.searchsorted(ends, index, right=True)]
    return torch.minimum(found, last), still
