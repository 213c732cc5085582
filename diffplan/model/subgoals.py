"""How far along the shortest way of the data a plan aims, instead of at a goal far off."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diffplan.data.landmarks import NEIGHBOURS, LandmarkGraph


class Subgoals(nn.Module):
    """The landmark graph of the training data (`diffplan.data.landmarks`), for planning.

    A plan of 30 steps towards a goal 500 steps away needs to know the way there from everywhere;
    towards the landmark that is nearest to the goal among those within its reach it needs to know
    its surroundings, and the graph knows the way.

    centres: buffer [M, G], environment units. distances: [M, M] steps. speed: [] units per step.
    """

    centres: Tensor
    distances: Tensor
    speed: Tensor

    def __init__(self, landmarks: int, goal_dim: int) -> None:
        super().__init__()
        self.register_buffer("centres", torch.zeros(landmarks, goal_dim))
        self.register_buffer("distances", torch.zeros(landmarks, landmarks))
        self.register_buffer("speed", torch.ones(()))

    def fit(self, graph: LandmarkGraph) -> None:
        """Take over a graph of as many landmarks."""
        self.centres.copy_(graph.centres)
        self.distances.copy_(graph.distances)
        self.speed.fill_(graph.speed)

    def forward(self, here: Tensor, goal: Tensor, reach: float) -> Tensor:
        """Where plans from `here` [B, G] to `goal` [B, G] aim: [B, G], all in environment units.

        The goal itself where it is at most `reach` steps away, or where no way to it is known.
        """
        near, gaps = self._locate(here)
        at, left = self._locate(goal)
        there = (self.distances[near] + gaps.unsqueeze(-1)).amin(1)
        onward = (self.distances.t()[at] + left.unsqueeze(-1)).amin(1)
        whole = (there.gather(1, at) + left).amin(1)
        best, aims = self._best(here, there, onward, whole, reach)
        return torch.where(aims.unsqueeze(1), self.centres[best], goal)

    def _best(
        self, here: Tensor, there: Tensor, onward: Tensor, whole: Tensor, reach: float
    ) -> tuple[Tensor, Tensor]:
        """Which landmark [B] to aim at, and whether to: by steps to each and on from it [B, M]."""
        best = torch.where(there <= reach, onward, math.inf).argmin(1)
        # of none within reach the first is as good as any, and not aimed at
        aims = (whole > reach) & (there.gather(1, best.unsqueeze(1)).squeeze(1) <= reach)
        # a landmark without a way on is no nearer than where one stands
        return best, aims & (onward.gather(1, best.unsqueeze(1)).squeeze(1) < whole)

    def _locate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest landmarks [B, k] and the steps to them [B, k]."""
        distance = (points.unsqueeze(1) - self.centres).square().sum(-1).sqrt()
        found = distance.topk(min(NEIGHBOURS, len(self.centres)), largest=False)
        return found.indices, found.values / self.speed
