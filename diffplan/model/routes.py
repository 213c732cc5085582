"""Ways of the data that lead around what is to be avoided."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffplan.data.landmarks import UNREACHABLE
from diffplan.model.subgoals import Subgoals

_BETWEEN = 12  # points of an edge that are looked at
_STRAIGHT = 1.3  # times brisk motion straight on: no wall lies between
_CLOSE = 2.0  # times its length that an edge costs more where it keeps no margin
_NEIGHBOURS = 6  # landmarks considered around a point: some lie behind an obstacle
_LOOKS = (0.25, 0.5, 0.75, 1.0)  # of the way to them
_SLACK = 1.001  # of a way that is as short through another landmark
_ALONG = 1.1  # of an edge's length: by way of a point that lies on it
_STAYS = 0.25  # of the reach: a landmark that near is no way on


Depth = Callable[[Tensor], Tensor]
"""Points [..., G] -> how far each lies within the obstacles and their margin [...]."""


class Detours(Subgoals):
    """Subgoals whose landmarks lie in sight: none is reached through an obstacle."""

    def __init__(self, subgoals: Subgoals, depth: Depth, margin: float) -> None:
        super().__init__(*subgoals.centres.shape)
        self.to(subgoals.centres.device)
        self.load_state_dict(subgoals.state_dict())
        self.depth, self.margin = depth, margin

    def _locate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        distance = (points.unsqueeze(1) - self.centres).square().sum(-1).sqrt()
        found = distance.topk(min(_NEIGHBOURS, len(self.centres)), largest=False)
        to = self.centres[found.indices]
        here = points[:, None, None]
        looks = torch.stack([to.new_full((1,), share) for share in _LOOKS])
        hidden = self.depth(here + looks * (to.unsqueeze(2) - here)).amax(-1)
        gaps = found.values / self.speed
        return found.indices, torch.where(hidden > self.margin, UNREACHABLE, gaps)

    def _best(
        self, here: Tensor, there: Tensor, onward: Tensor, whole: Tensor, reach: float
    ) -> tuple[Tensor, Tensor]:
        best, aims = super()._best(here, there, onward, whole, reach)
        # where the next edge is longer than the reach, as all is gone that would have parted it:
        # the landmark at its end
        way = (there > reach) & (there + onward <= _SLACK * whole.unsqueeze(1))
        ahead = torch.where(way, there, math.inf).min(1)
        at, end = self.centres[best], self.centres[ahead.indices]
        # that far already, or on the edge: to turn back is no way on
        near = there.gather(1, best.unsqueeze(1)).squeeze(1) < _STAYS * reach
        edge = (end - at).norm(dim=-1)
        along = (here - at).norm(dim=-1) + (end - here).norm(dim=-1) < _ALONG * edge
        known = (whole > reach) & (whole < UNREACHABLE / 10)
        goes_on = known & (~aims | near | along) & (ahead.values < UNREACHABLE / 10)
        return torch.where(goes_on, ahead.indices, best), aims | goes_on


def around(subgoals: Subgoals, depth: Depth, margin: float) -> Detours:
    """The same landmarks with the ways between them that lead around obstacles.

    margin: how much of the depth is margin, which ways keep where they can. Edges are the pairs of
    landmarks that the data join nearly straight on, or by no third landmark; one whose straight
    line enters an obstacle is gone. Shortest ways are found anew.
    """
    centres, distances = subgoals.centres, subgoals.distances
    m = len(centres)
    straight = _STRAIGHT * torch.cdist(centres, centres) / subgoals.speed
    edges = (distances <= straight) | _alone(distances)
    start, end = edges.fill_diagonal_(False).nonzero(as_tuple=True)
    inside = torch.zeros(len(start), device=centres.device)
    close = torch.zeros_like(inside)
    for share in torch.linspace(0, 1, _BETWEEN).tolist():
        deep = depth(torch.lerp(centres[start], centres[end], share))
        inside += deep > margin
        close += deep > 0
    free = inside == 0
    cost = distances[start, end] * (1 + _CLOSE * close / _BETWEEN)
    found = torch.full_like(distances, UNREACHABLE)
    found[start[free], end[free]] = cost[free]
    found.fill_diagonal_(0)
    for via in range(m):  # Floyd-Warshall
        found = torch.minimum(found, found[:, via : via + 1] + found[via])
    result = Detours(subgoals, depth, margin)
    result.distances.copy_(found)
    return result


def _alone(distances: Tensor) -> Tensor:
    """Pairs [M, M] with a way between them that is shorter than any by a third landmark."""
    alone = distances < UNREACHABLE / 10
    others = torch.ones(len(distances), dtype=torch.bool, device=distances.device)
    for via in range(len(distances)):
        others[via] = False
        through = distances[:, via : via + 1] + distances[via]
        alone &= ~((through <= _SLACK * distances) & others[:, None] & others)
        others[via] = True
    return alone
