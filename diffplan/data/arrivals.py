"""Where what a goal is about comes to rest: goals of data in which things are fetched and left."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diffplan.errors import DiffplanError

AFTER = 4  # steps over which the goal's columns move, or stand still
STILL, BRISK = 0.05, 0.9  # share of brisk motion that counts as none, and its quantile
_FASTEST, _NONE = 0.999, 0.1  # of what does not move at all brisk motion knows nothing
_ROUNDING = 1e-5  # spread of a column that says nothing, beside its size
_SAMPLE = 1_000_000  # changes behind the quantiles
_MORE, _MOST = 0.5, 7  # chance of a goal one motion later, and how many more there may be
_PART = 0.1  # of the column that a motion changes most: from so much on one is moved, too
_KEPT = 0.25  # of a motion's length: so far off what was left is still where it was left


class Arrivals:
    """Goals that what a window does leads to, and that is not undone before them.

    The goal's columns move where over 4 steps they change, in deviations, by more than 5 % of brisk
    motion, the 90 % quantile of what moves at all, in all tasks together. A shorter rest ends no
    motion. A state arrives where the motion ends that is under way, or the next one. Its goal is
    that state, or one some motions later (geometrically many, seven at most), as long as what the
    first of them moved stays where it was left: of several things to be moved one comes first,
    whichever it is. Where nothing moves any more it is the episode's last state.
    """

    def __init__(self, states: Tensor, columns: list[int], starts: Tensor) -> None:
        """states: [N, D], which may lie on disk. columns: those that hold the achieved goal.

        starts: [E+1] offsets of the episodes. Raises DiffplanError where no episode moves them.
        """
        self._goal = in_deviations(states[:, columns].float())
        episode = torch.repeat_interleave(starts[1:] - starts[:-1])
        last = starts[1:][episode] - 1
        index = torch.arange(len(self._goal))
        change = (self._goal[torch.minimum(index + AFTER, last)] - self._goal).norm(dim=1)
        every = max(1, len(change) // _SAMPLE)
        sample = change[::every].numpy()
        moves = sample[sample > _NONE * np.quantile(sample, _FASTEST)]
        if not len(moves):
            raise DiffplanError(
                "the columns of the goal never move in these data, so nothing arrives anywhere; "
                "use --data.relabel hindsight"
            )
        self._still = STILL * float(np.quantile(moves, BRISK))
        moving = torch.nonzero(change > self._still).squeeze(1)
        # of each motion the last step: what moves then is at rest so many steps later
        final = torch.ones_like(moving, dtype=torch.bool)
        final[:-1] = (moving.diff() > AFTER) | (episode[moving].diff() != 0)
        ends = torch.minimum(moving[final] + AFTER, last[moving[final]])
        found = torch.cat([ends, index[-1:]])[torch.searchsorted(ends, index, right=True)]
        self.next = torch.minimum(found, last)

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
            arrives = (self._goal[later] - self._goal[goal]).norm(dim=1) > self._still
            stays = ((self._goal[later] - left) * moved).norm(dim=1) <= allowed
            drawn = torch.rand(len(start), generator=generator, device=start.device)
            goes_on = goes_on & arrives & stays & (drawn < _MORE)
            goal = torch.where(goes_on, later, goal)
        return goal

    @property
    def nbytes(self) -> int:
        """Of its tables."""
        return self.next.nbytes + self._goal.nbytes

    def to(self, device: torch.device) -> None:
        """Answer for indices on the device from here on."""
        self.next, self._goal = self.next.to(device), self._goal.to(device)


def in_deviations(goal: Tensor) -> Tensor:
    """Goals [N, G] in the deviations of their columns, without those that only rounding moves."""
    spread = goal.std(0)
    told = spread > _ROUNDING * goal.abs().amax(0)
    return goal[:, told] / spread[told]
