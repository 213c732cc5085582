"""Steps-to-goal by shortest paths over a graph of landmarks.

Offline goal-reaching data rarely contain the whole way from a state to a goal, but pieces of it.
Landmarks spread over the goal space are joined wherever an episode went from one to another
within a few steps; all-pairs shortest paths (Floyd-Warshall) then join pieces of different
episodes. This is dynamic programming over the data's own transitions, the same idea as a
goal-conditioned value function, for goals of few dimensions.

Two details keep the estimate nearly unbiased. An edge also pays for the gap between the visited
state and the landmark's centre, at the data's own speed; otherwise each hop would jump a
landmark's width for free. And a query looks at the nearest few landmarks, not at one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffplan.errors import DiffplanError

_LAGS = (4, 8, 16, 32)  # steps spanned by an edge
_NEIGHBOURS = 3  # landmarks considered around a point
_SPEED_LAG = 16
_SUBSAMPLE = 20_000  # points among which landmarks are chosen
_UNREACHABLE = 1e9


@dataclass(frozen=True)
class LandmarkGraph:
    """Landmarks in goal space and the steps between them.

    centres: [M, G] goal units. distances: [M, M] environment steps, at least 1e8 where no path
    is known. speed: goal units per environment step of brisk motion in the data.
    """

    centres: Tensor
    distances: Tensor
    speed: float

    def locate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest landmarks of points [N, G]: indices [N, k] and gaps in steps [N, k]."""
        indices, gaps = [], []
        for chunk in points.split(_SUBSAMPLE):
            near = torch.cdist(chunk, self.centres).topk(
                min(_NEIGHBOURS, len(self.centres)), largest=False
            )
            indices.append(near.indices)
            gaps.append(near.values / self.speed)
        return torch.cat(indices), torch.cat(gaps)

    def steps_between(self, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
        """Environment steps from located points a to b, broadcasting: [..., k] each -> [...]."""
        path = self.distances[a[0][..., :, None], b[0][..., None, :]]
        return (a[1][..., :, None] + path + b[1][..., None, :]).flatten(-2).amin(-1)


def fit_landmarks(points: Tensor, last: Tensor, count: int, seed: int) -> LandmarkGraph:
    """Fit the graph.

    points: [M, G] achieved goals of all states in time order. last: [M] index of the last state
    of each state's episode. count: landmarks; fewer if the data have fewer distinct points.
    Raises DiffplanError if nothing in the data moves.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(points), generator=generator)[:_SUBSAMPLE]
    centres = _spread(points[order], count)
    index = torch.arange(len(points))

    lag = min(_SPEED_LAG, int((last - index).max()))
    start = index[index + lag <= last] if lag else index[:0]
    moved = (points[start + lag] - points[start]).norm(dim=-1) / max(lag, 1)
    # torch.quantile takes at most 2**24 entries
    speed = float(moved[:1_000_000].quantile(0.9)) if len(moved) else 0.0
    if speed <= 0:
        raise DiffplanError(
            "the achieved goals never move, so no steps-to-goal can be found; "
            "use --data.relabel hindsight"
        )
    graph = LandmarkGraph(centres, torch.empty(0), speed)
    near, gap = graph.locate(points)
    m, k = len(centres), near.shape[1]
    flat = torch.full((m * m,), _UNREACHABLE)
    for lag in _LAGS:
        start = index[index + lag <= last]
        for i in range(k):
            for j in range(k):
                edge = near[start, i] * m + near[start + lag, j]
                cost = lag + gap[start, i] + gap[start + lag, j]
                flat.scatter_reduce_(0, edge, cost, "amin")
    distances = flat.view(m, m).fill_diagonal_(0)
    for via in range(m):  # Floyd-Warshall
        distances = torch.minimum(distances, distances[:, via : via + 1] + distances[via])
    return LandmarkGraph(centres, distances, speed)


def _spread(points: Tensor, count: int) -> Tensor:
    """Farthest-point selection: `count` rows of points [N, G] that cover them evenly."""
    chosen = [points[0]]
    gap = (points - chosen[0]).square().sum(-1)
    for _ in range(count - 1):
        far = int(gap.argmax())
        if gap[far] <= 0:
            break
        chosen.append(points[far])
        gap = torch.minimum(gap, (points - points[far]).square().sum(-1))
    return torch.stack(chosen)
