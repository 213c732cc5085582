"""What goals are about where something has to be fetched: which things, and how they are held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffplan.data.arrivals import AFTER, ROUNDING, still_below

_TOGETHER = 0.5  # share of the lesser one's motion from which on two columns are one thing's
_BUSY = 0.5  # share of all steps from which on a column is what does the fetching
_HELD = 0.1  # of a column's variance at most is left, once it is known where what it moves is
_FEWEST = 100  # steps of motion that say anything
_MOVES = 10_000  # that are kept
_SAMPLE = 200_000  # steps of motion behind what holds a thing


@dataclass(frozen=True)
class Things:
    """The things that goals are about, and what holds them.

    of: [G] the thing of each of the goal's columns, counted from 0, -1 for what never moves.
    holds: [N] things and columns of the state that take part in moving them. Where one does, weight
    [N, D] times the state plus offset [N] is near 0, in deviations of the column. moved: [M], the
    things of moves, at most 10,000 of them. start, end: [M, G], where all things were before a move
    and when it was over.
    """

    of: tuple[int, ...]
    holds: tuple[tuple[int, int], ...]
    weight: Tensor
    offset: Tensor
    moved: Tensor
    start: Tensor
    end: Tensor


def things(states: Tensor, columns: Sequence[int], starts: Tensor) -> Things:
    """states: [N, D], which may lie on disk. columns: the goal's. starts: [E+1], of episodes.

    The goal's columns are one thing where they move together, over 4 steps by more than 5 % of
    brisk motion, in more than half of the time in which the lesser one moves: a drawer, or the
    three coordinates of a cube. What moves most of the time is a body; those of its columns that
    follow from where a thing is, linearly, whenever that thing is moved, have to be brought there
    first, as a hand that grasps. Of them 10 % of their variance may be left.
    """
    last = torch.repeat_interleave(starts[1:] - 1, starts.diff())
    index = torch.arange(len(states))
    index = index[index + AFTER <= last]
    moving = torch.stack([_moving(column, index) for column in states.t()], 1)
    of = _grouped(moving[:, list(columns)])
    rest = [
        column
        for column in range(states.shape[1])
        if column not in columns and moving[:, column].float().mean() > _BUSY
    ]
    parts = [[columns[place] for place in places] for places in members(of)]
    spreads = torch.stack([column.double().std() for column in states.t()])
    holds, weights, offsets = [], [], []
    moved, first, final = [], [], []
    for thing, own in enumerate(parts):
        under_way = index[moving[:, own].any(1)]
        begins, ends = _stretches(under_way, last)
        moved.append(torch.full_like(begins, thing))
        first.append(begins)
        final.append(ends)
        at = under_way[:: max(1, len(under_way) // _SAMPLE)] + AFTER // 2
        if len(at) < _FEWEST or not rest:
            continue
        here, body = states[at][:, own].double(), states[at][:, rest].double()
        spread = spreads[rest]
        known = torch.cat([here, torch.ones_like(here[:, :1])], 1)
        fit = torch.linalg.lstsq(known, body, driver="gelsd").solution
        left = (body - known @ fit).std(0) / spread
        for j in torch.nonzero(left.square() < _HELD).flatten().tolist():
            weight = torch.zeros(states.shape[1], dtype=torch.float64)
            weight[own], weight[rest[j]] = -fit[:-1, j], 1.0
            holds.append((thing, rest[j]))
            weights.append((weight / spread[j]).float())
            offsets.append(float(-fit[-1, j] / spread[j]))
    weight = torch.stack(weights) if weights else torch.zeros(0, states.shape[1])
    moves = [torch.cat([torch.zeros(0, dtype=torch.long), *each]) for each in (moved, first, final)]
    kept = torch.linspace(0, len(moves[0]) - 1, min(_MOVES, len(moves[0]))).long()
    thing_of, before, after = (each[kept] for each in moves)
    where = [states[at][:, list(columns)].float() for at in (before, after)]
    return Things(of, tuple(holds), weight, torch.tensor(offsets), thing_of, *where)


def members(of: Sequence[int]) -> list[list[int]]:
    """The places of each thing among the goal's columns, from the thing of each of them."""
    every = range(max(of, default=-1) + 1)
    return [[place for place, other in enumerate(of) if other == thing] for thing in every]


def _stretches(under_way: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """First and last states [M] of moves, from the states [n] at which a thing moves.

    A shorter rest than a motion is seen over ends none. last: [N], of the episodes.
    """
    new = torch.ones(len(under_way) + 1, dtype=torch.bool)
    pairs = under_way[:-1], under_way[1:]
    new[1:-1] = (pairs[1] - pairs[0] > AFTER) | (last[pairs[0]] != last[pairs[1]])
    return under_way[new[:-1]], under_way[new[1:]] + AFTER


def _moving(column: Tensor, index: Tensor) -> Tensor:
    """Where a column of states [N] moves over the steps that follow: bool [n]."""
    values = column.float()
    change = (values[index + AFTER] - values[index]).abs()
    told = values.std() > ROUNDING * values.abs().max()
    return (change > still_below(change)) & told


def _grouped(moving: Tensor) -> tuple[int, ...]:
    """The thing of each column, from where they move [n, G]."""
    told = moving.float()
    count = told.sum(0)
    shared = told.t() @ told > _TOGETHER * torch.minimum(count[:, None], count).clamp(min=1)
    return _connected(shared.numpy(), (count > 0).tolist())


def _connected(shared: np.ndarray, moves: Sequence[bool]) -> tuple[int, ...]:
    """Components of a graph, numbered in the order of their first members; -1 for what rests."""
    found = [-1] * len(moves)
    for first, known in enumerate(moves):
        if not known or found[first] >= 0:
            continue
        number, waiting = max(found) + 1, [first]
        while waiting:
            place = waiting.pop()
            if found[place] < 0 and moves[place]:
                found[place] = number
                waiting += np.flatnonzero(shared[place]).tolist()
    return tuple(found)
