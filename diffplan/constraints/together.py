"""Obstacles that lie apart, as one: a plan with many of them costs little more than with one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from diffplan.constraints.kinds import Avoid, Constraint, chosen, replaced
from diffplan.constraints.shapes import Disc, vector

_TINY = 1e-12


@dataclass(frozen=True)
class Apart:
    """Discs in the same columns of which no point, margins included, lies in two.

    It moves plans as its discs would one after the other.
    """

    discs: tuple[Avoid, ...]

    @property
    def columns(self) -> tuple[int, ...]:
        return self.discs[0].columns

    @cached_property
    def _reach(self) -> list[float]:
        return [_disc(each).radius + each.margin for each in self.discs]

    def each(self, states: Tensor, clock: Tensor) -> Tensor:
        """How far states [..., D] are off each [..., n]."""
        return self._off(states)[0]

    def nearest(self, states: Tensor, clock: Tensor) -> Tensor:
        """The nearest states [..., D] that are in none."""
        off, away, far = self._off(states)
        moved = (away * (off / far.clamp(min=_TINY)).unsqueeze(-1)).sum(-2)
        return replaced(states, self.columns, chosen(states, self.columns) + moved)

    def _off(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How far states are off [..., n], what they are from the centres, and how far."""
        points = chosen(states, self.columns)
        centres = torch.stack([vector(_disc(each).centre, points) for each in self.discs])
        away = points.unsqueeze(-2) - centres
        far = away.norm(dim=-1)
        return (vector(self._reach, far) - far).clamp(min=0), away, far


@dataclass(frozen=True)
class One:
    """A constraint by itself, as a group."""

    only: Constraint

    def each(self, states: Tensor, clock: Tensor) -> Tensor:
        """How far states [..., D] are off [..., 1]."""
        return self.only.excess(states, clock).unsqueeze(-1)

    def nearest(self, states: Tensor, clock: Tensor) -> Tensor | None:
        """As the constraint."""
        return self.only.nearest(states, clock)


def together(constraints: Sequence[Constraint]) -> list[Apart | One]:
    """The same constraints in the same order, neighbours that can be met at once in one group."""
    groups: list[list[Constraint]] = []
    for each in constraints:
        if groups and all(_apart(other, each) for other in groups[-1]):
            groups[-1].append(each)
        else:
            groups.append([each])
    return [One(g[0]) if len(g) == 1 else Apart(tuple(g)) for g in groups]  # type: ignore[arg-type]


def _apart(first: Constraint, second: Constraint) -> bool:
    if not (_is_disc(first) and _is_disc(second) and first.columns == second.columns):
        return False
    assert isinstance(first, Avoid) and isinstance(second, Avoid)
    gap = math.dist(_disc(first).centre, _disc(second).centre)
    return gap >= sum(_disc(each).radius + each.margin for each in (first, second))


def _is_disc(constraint: Constraint) -> bool:
    return isinstance(constraint, Avoid) and isinstance(constraint.shape, Disc)


def _disc(avoid: Avoid) -> Disc:
    assert isinstance(avoid.shape, Disc)
    return avoid.shape
