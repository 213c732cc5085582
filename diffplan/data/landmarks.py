"""Steps-to-goal by shortest paths over a graph of landmarks.

Offline goal-reaching data rarely contain the whole way from a state to a goal, but pieces of it.
Landmarks spread over the goal space are joined wherever an episode went from one to another
within a few steps; all-pairs shortest paths (Floyd-Warshall) then join pieces of different
episodes. This is dynamic programming over the data's own transitions, the same idea as a
goal-conditioned value function, for goals of few dimensions.

Three details keep the estimate nearly unbiased. An edge also pays for the gap between the visited
state and the landmark's centre, at the data's own speed; otherwise each hop would jump a
landmark's width for free. A query looks at the nearest few landmarks, not at one. And edges are no
longer than brisk motion lasts: a reach of four steps, after which the data rest, would seem to take
as long as the edge.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffplan.data.rows import Rows
from diffplan.errors import DiffplanError

NEIGHBOURS = 3  # landmarks considered around a point
_PACES = (2, 4, 8, 16)  # steps over which the speed is measured
_KEPT = 0.5  # share of the speed over the fewest steps that is kept over a pace
_EDGES = (0.25, 0.5, 1, 2)  # paces spanned by an edge
_BRISK, _FASTEST = 0.9, 0.99  # quantiles of the speed
_STILL = 0.1  # share of the fastest that counts as none
_SUBSAMPLE = 20_000  # points among which landmarks are chosen
_CHUNK = 200_000  # states at once
UNREACHABLE = 1e9  # steps where no path is known
_CENTRED = 8  # times that landmarks move to the middle
_FAR = 64  # times what the landmarks spread over
_EXACT, _QUICK = "donot_use_mm_for_euclid_dist", "use_mm_for_euclid_dist_if_necessary"


@dataclass(frozen=True)
class LandmarkGraph:
    """Landmarks in goal space and the steps between them.

    centres: [M, G] goal units. distances: [M, M] environment steps, more where others leapt by
    chance on the way, at least 1e8 where no path is known. speed: goal units per environment step
    of brisk motion in the data.
    """

    centres: Tensor
    distances: Tensor
    speed: float

    def locate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest landmarks of points [N, G]: indices [N, k] int32 and gaps in steps [N, k]."""
        k = min(NEIGHBOURS, len(self.centres))
        indices = torch.empty(len(points), k, dtype=torch.int32)
        gaps = torch.empty(len(points), k)
        # far from zero the quick way, by |a|^2 - 2ab + |b|^2, loses all digits
        spread = (self.centres.amax(0) - self.centres.amin(0)).max()
        far = bool(self.centres.abs().max() > _FAR * spread)
        mode = _EXACT if far else _QUICK
        for first in range(0, len(points), _SUBSAMPLE):
            part = slice(first, first + _SUBSAMPLE)
            gap = torch.cdist(points[part], self.centres, compute_mode=mode)
            near = gap.topk(k, largest=False)
            indices[part] = near.indices
            gaps[part] = near.values / self.speed
        return indices, gaps

    def steps_between(self, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
        """Environment steps from located points a to b, broadcasting: [..., k] each -> [...]."""
        path = self.distances[a[0].long()[..., :, None], b[0].long()[..., None, :]]
        return (a[1][..., :, None] + path + b[1][..., None, :]).flatten(-2).amin(-1)


# many arguments: the data, how landmarks are laid, and what ends the episodes
def fit_landmarks(
    points: Tensor,
    starts: Tensor,
    count: int,
    seed: int,
    centred: bool = False,
    leapt: Tensor | None = None,
) -> LandmarkGraph:
    """Fit the graph.

    points: [M, G] achieved goals of all states in time order. starts: [E+1] offsets of the
    episodes. count: landmarks; fewer if the data have fewer distinct points. centred: each in the
    middle of the points nearest to it, and not, as many are, at the edge of what was visited.
    leapt: [E] bool, episodes cut where they leap by chance (`leaps`), None for none. From where
    more than elsewhere leapt within an edge's time it costs, besides, their share of the longest
    way: steps are then more than it takes.
    Raises DiffplanError if nothing in the data moves.
    """
    generator = torch.Generator().manual_seed(seed)
    if len(points) > _SUBSAMPLE:
        order = torch.randint(len(points), (_SUBSAMPLE,), generator=generator)
    else:
        order = torch.randperm(len(points), generator=generator)
    centres = _spread(points[order], count)
    if centred:
        centres = _centred(points[order], centres)

    brisk, speed = pace(points, starts)
    if speed <= 0:
        raise DiffplanError(
            "the achieved goals never move, so no steps-to-goal can be found; "
            "use --data.relabel hindsight"
        )
    graph = LandmarkGraph(centres, torch.empty(0), speed)
    located = graph.locate(points)
    lags = sorted({math.ceil(brisk * share) for share in _EDGES})
    free = torch.zeros(len(centres))
    distances = _shortest(_edges(*located, starts, lag, free) for lag in lags)
    if leapt is not None and leapt.any():
        longest = distances[distances < UNREACHABLE].max()
        price = {lag: longest * _risk(located[0][:, 0], starts, leapt, lag, free) for lag in lags}
        distances = _shortest(_edges(*located, starts, lag, price[lag]) for lag in lags)
    return LandmarkGraph(centres, distances, speed)


def _edges(near: Tensor, gap: Tensor, starts: Tensor, lag: int, price: Tensor) -> Tensor:
    """Steps [M, M] of edges over so many steps; `near` and `gap` as `LandmarkGraph.locate` says.

    price: [M] of leaving a landmark, also for another one beside it: none is passed for free.
    """
    count = len(price)
    flat = torch.full((count * count,), UNREACHABLE)
    for start in Rows(starts[:-1], starts.diff() - lag).split(_CHUNK):
        here, there = near[start].long(), near[start + lag].long()
        left, arrived = price[here], price[there[:, 0]]
        for i in range(near.shape[1]):
            leave = torch.maximum(left[:, i], left[:, 0]) + lag + gap[start, i]
            for j in range(near.shape[1]):
                cost = leave + gap[start + lag, j] + arrived * (j > 0)
                flat.scatter_reduce_(0, here[:, i] * count + there[:, j], cost, "amin")
    return flat.view(count, count)


def _risk(nearest: Tensor, starts: Tensor, leapt: Tensor, lag: int, none: Tensor) -> Tensor:
    """Share [M] of the states nearest to each landmark that leap so soon, above that of all.

    none: [M], of no states.
    """
    counts = starts.diff()
    end = torch.repeat_interleave(starts[1:] - 1, counts)
    soon = end - torch.arange(len(nearest)) < lag
    leaps = soon & torch.repeat_interleave(leapt, counts)
    known = ~soon | leaps  # of what other ends cut off nobody knows
    states = nearest.long()
    seen, risky = (none.index_add(0, states, each.float()) for each in (known, leaps))
    # what befalls one everywhere alike, such as resets that no flag marks, speaks for no way
    return (risky / seen.clamp(min=1) - risky.sum() / seen.sum().clamp(min=1)).clamp(min=0)


def _shortest(edges: Iterable[Tensor]) -> Tensor:
    """Steps [M, M] of the shortest ways over edges [M, M]: Floyd-Warshall."""
    distances = torch.stack(list(edges)).amin(0).fill_diagonal_(0)
    for via in range(len(distances)):
        distances = torch.minimum(distances, distances[:, via : via + 1] + distances[via])
    return distances


def pace(points: Tensor, starts: Tensor) -> tuple[int, float]:
    """Steps that brisk motion keeps on for, 16 at most, and its speed over them.

    points: [M, G] in time order. starts: [E+1] offsets of the episodes.
    """
    lags = [lag for lag in _PACES if lag < int(starts.diff().max())] or [1]
    found = {lag: brisk_speed(points, starts, lag) for lag in lags}
    least = _KEPT * found[lags[0]]
    return max((lag, speed) for lag, speed in found.items() if speed >= least)


def brisk_speed(points: Tensor, starts: Tensor, lag: int) -> float:
    """Goal units per step that brisk motion covers over so many steps, 0 where nothing moves.

    points, starts: as of `pace`.
    """
    # torch.quantile takes at most 2**24 entries
    start = next(Rows(starts[:-1], starts.diff() - lag).split(1_000_000), None)
    if start is None:
        return 0.0
    moved = (points[start + lag] - points[start]).norm(dim=-1)
    # of what moves at all: data may rest for most of the time
    moving = moved[moved >= _STILL * moved.quantile(_FASTEST)]
    return float(moving.quantile(_BRISK)) / lag


class StepsBetween:
    """Steps between any two states of a dataset, by a graph over each of its tasks alone.

    Coordinates of one task mean nothing in another, so no path joins two.
    """

    def __init__(self, states: Tensor, columns: list[int]) -> None:
        """states: [M, D]. columns: G of them, the achieved goal. Nothing is known before `add`."""
        self._states, self._columns = states, torch.tensor(columns)
        self._near = torch.zeros(len(states), NEIGHBOURS, dtype=torch.int32)
        self._gap = torch.zeros(len(states), NEIGHBOURS)
        self.graph = LandmarkGraph(torch.empty(0, len(columns)), torch.empty(0, 0), 0.0)
        self._speeds = torch.empty(0)  # of the task of each landmark

    # many arguments: those of `fit_landmarks`, and whose states they are
    def add(
        self,
        known: Rows,
        starts: Tensor,
        members: Rows,
        count: int,
        seed: int,
        centred: bool = False,
        leapt: Tensor | None = None,
    ) -> None:
        """Fit a graph to one task and locate its states.

        known: the states it may learn from, episode by episode. starts: [E+1] offsets of these
        episodes among them. members: all states of the task. count, seed, centred, leapt: of
        `fit_landmarks`.
        """
        points = torch.cat([self._points(index) for index in known.split(_CHUNK)])
        own = fit_landmarks(points, starts, count, seed, centred, leapt)
        before = len(self.graph.centres)
        for index in members.split(_CHUNK):
            near, gap = own.locate(self._points(index))
            # fewer landmarks than neighbours: the nearest again
            again = torch.arange(NEIGHBOURS) % near.shape[1]
            self._near[index], self._gap[index] = near[:, again] + before, gap[:, again]
        centres = torch.cat([self.graph.centres, own.centres])
        distances = torch.full((len(centres), len(centres)), UNREACHABLE)
        distances[:before, :before] = self.graph.distances
        # two blocks: between tasks no path exists
        distances[before:, before:] = own.distances
        self._speeds = torch.cat([self._speeds, torch.full((len(own.centres),), own.speed)])
        # states are located in the graphs of their tasks: the joint speed is never asked for
        self.graph = LandmarkGraph(centres, distances, max(self.graph.speed, own.speed))

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Steps from states `a` to states `b`, indices that broadcast; at least 1e8 if unknown."""
        here, there = (self._near[a], self._gap[a]), (self._near[b], self._gap[b])
        return self.graph.steps_between(here, there)

    def come_to_rest(self, start: Tensor, end: Tensor, stride: int, span: int) -> Tensor:
        """Steps [B] after which windows from states `start` [B] stay where they are at `end` [B].

        That is within a stride of brisk motion, in windows of a stride within a quarter. 0: they
        never left. span: steps of a window at most.
        """
        rows = span // stride + 1
        place = torch.arange(rows, device=start.device)
        at = torch.minimum(start[:, None] + stride * place, end[:, None])
        gap = (self._points(at) - self._points(end)[:, None]).norm(dim=-1)
        near = stride * self._speeds[self._near[start, 0].long()]
        near = torch.where(end - start > stride, near, near / 4)
        last = ((gap > near[:, None]) * (place + 1)).amax(1)
        # the stride that leads there is under way
        return torch.minimum(stride * (last + (last > 0)), end - start)

    def index(self, states: Tensor) -> None:
        """Prepare `within`: states [N] to draw from."""
        nearest = self._near[states, 0].long()
        order = nearest.argsort(stable=True)
        self._members = states[order]
        self._counts = torch.bincount(nearest, minlength=len(self.graph.centres))
        self._offsets = self._counts.cumsum(0) - self._counts

    def within(self, start: Tensor, reach: float, count: int, generator: torch.Generator) -> Tensor:
        """States [B, count] at most `reach` steps from states `start` [B], spread evenly.

        Evenly over landmarks, not over states: data dwell where a plan's goal need not be.
        """
        near = self._near[start].long()
        steps = (self.graph.distances[near] + self._gap[start].unsqueeze(-1)).amin(1)
        # where nothing is that near, what is nearest
        limit = steps.masked_fill(self._counts == 0, UNREACHABLE).amin(1, keepdim=True)
        reached = (steps <= limit.clamp(min=reach)) & (self._counts > 0)
        chosen = _drawn(reached, count, generator)
        share = torch.rand(chosen.shape, generator=generator, device=generator.device)
        place = (share * self._counts[chosen]).long().clamp(max=self._counts[chosen] - 1)
        return self._members[self._offsets[chosen] + place]

    def to(self, device: torch.device, states: Tensor) -> None:
        """Answer for indices on the device from here on. states: those it was made for, there."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and name != "_states":
                setattr(self, name, value.to(device))
        graph = self.graph
        centres, distances = graph.centres.to(device), graph.distances.to(device)
        self._states, self.graph = states, LandmarkGraph(centres, distances, graph.speed)

    @property
    def nbytes(self) -> int:
        """Of its tables, without the states."""
        own = [value for name, value in vars(self).items() if name != "_states"]
        own += [self.graph.centres, self.graph.distances]
        return sum(value.nbytes for value in own if isinstance(value, Tensor))

    def _points(self, index: Tensor) -> Tensor:
        return self._states[index][..., self._columns]


def _drawn(marked: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Columns [B, count] that are marked [B, M], each as likely as any other."""
    if marked.device.type == "cpu":
        return torch.multinomial(marked.float(), count, replacement=True, generator=generator)
    return _by_rank(marked, count, generator)


def _by_rank(marked: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The same on a GPU, where `multinomial` waits for what it is given, to check it."""
    upto = marked.cumsum(1)
    share = torch.rand(len(marked), count, generator=generator, device=marked.device)
    rank = torch.minimum((share * upto[:, -1:]).long(), upto[:, -1:] - 1)
    return torch.searchsorted(upto, rank, right=True)


def _spread(points: Tensor, count: int) -> Tensor:
    """Farthest-point selection: `count` rows of points [N, G] that cover them evenly."""
    chosen = [points[0]]
    gap = (points - chosen[0]).square().sum(-1)
    for _ in range(count - 1):
        far = int(gap.argmax())
        # fewer distinct points than landmarks asked for
        if gap[far] <= 0:
            break
        chosen.append(points[far])
        gap = torch.minimum(gap, (points - points[far]).square().sum(-1))
    return torch.stack(chosen)


def _centred(points: Tensor, centres: Tensor) -> Tensor:
    """Centres [M, G] in the middle of the points [N, G] nearest to them (Lloyd 1982)."""
    for _ in range(_CENTRED):
        nearest = torch.cdist(points, centres, compute_mode=_EXACT).argmin(1)
        held = torch.bincount(nearest, minlength=len(centres)).unsqueeze(1)
        total = torch.zeros_like(centres).index_add_(0, nearest, points)
        centres = torch.where(held > 0, total / held.clamp(min=1), centres)
    return centres
