"""The kinds of constraints: how far a plan is off, and where the nearest one is that is not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from diffplan.constraints.shapes import (
    Box,
    Disc,
    SignedDistance,
    check_place,
    distance_and_slope,
    vector,
)
from diffplan.errors import DiffplanError

_TINY = 1e-12


class Constraint(Protocol):
    """What a plan is asked to keep to. `clock` [B, N] has the environment steps of its states."""

    @property
    def columns(self) -> tuple[int, ...]:
        """Those of the observation that it looks at; () for all."""
        ...

    def excess(self, states: Tensor, clock: Tensor) -> Tensor:
        """How far each of the states [B, N, D] is off [B, N], 0 where it is not."""
        ...

    def nearest(self, states: Tensor, clock: Tensor) -> Tensor | None:
        """The nearest states [B, N, D] that are not off; None where there is no closed form."""
        ...


@dataclass(frozen=True)
class Avoid:
    """Stay out of an obstacle.

    shape: a `Disc`, a `Box`, or any signed distance, points [..., C] -> [...], negative inside.
    columns: C observation columns that the shape lies in. margin: distance to be kept.
    """

    shape: SignedDistance
    columns: tuple[int, ...] = (0, 1)
    margin: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.margin):
            raise DiffplanError(f"margin is {self.margin!r}, expected a finite distance")

    def excess(self, states: Tensor, clock: Tensor) -> Tensor:
        return (self.margin - self.shape(chosen(states, self.columns))).clamp(min=0)

    def nearest(self, states: Tensor, clock: Tensor) -> Tensor:
        points = chosen(states, self.columns)
        distance, slope = distance_and_slope(self.shape, points)
        off = (self.margin - distance).clamp(min=0).unsqueeze(-1)
        # a signed distance grows by 1 along its gradient; what is none takes a Newton step
        step = slope / slope.square().sum(-1, keepdim=True).clamp(min=_TINY)
        return replaced(states, self.columns, points + off * torch.where(off > 0, step, 0.0))


@dataclass(frozen=True)
class Limit:
    """Keep a column, or its change per environment step, within bounds.

    column: of the observation. low, high: the bounds, None for none. change: bound the change.
    """

    column: int
    low: float | None = None
    high: float | None = None
    change: bool = False

    def __post_init__(self) -> None:
        low, high = self._bounds
        if (self.low is None and self.high is None) or not low <= high:
            raise DiffplanError(
                f"Limit({self.column}, low={self.low}, high={self.high}): expected a low, a high, "
                "or both with the low below"
            )

    @property
    def columns(self) -> tuple[int, ...]:
        return (self.column,)

    @property
    def _bounds(self) -> tuple[float, float]:
        return (
            -math.inf if self.low is None else self.low,
            math.inf if self.high is None else self.high,
        )

    def excess(self, states: Tensor, clock: Tensor) -> Tensor:
        low, high = self._bounds
        values = states[..., self.column]
        if self.change:
            values = _steps(values) / _steps(clock)
        off = torch.maximum(low - values, values - high).clamp(min=0)
        return torch.nn.functional.pad(off, (1, 0)) if self.change else off

    def nearest(self, states: Tensor, clock: Tensor) -> Tensor:
        low, high = self._bounds
        values = states[..., self.column]
        if not self.change:
            return replaced(states, self.columns, values.clamp(low, high).unsqueeze(-1))
        # in the order of time: what is ahead gives way to what is already there
        rows, elapsed = [values[:, 0]], _steps(clock)
        for row in range(1, values.shape[1]):
            spent = elapsed[:, row - 1]
            least, most = rows[-1] + low * spent, rows[-1] + high * spent
            rows.append(torch.minimum(torch.maximum(values[:, row], least), most))
        return replaced(states, self.columns, torch.stack(rows, 1).unsqueeze(-1))


@dataclass(frozen=True)
class Waypoint:
    """Pass through a place, at a time or at any.

    at: [C] of the columns. step: environment step of the episode at which to be there; None: on
    the way to the goal, of several in the order given (`PlannerAgent.constrained`), which takes a
    model that plans to goals and its goal columns. within: how near is there; on the way to the
    goal 0 means half a stride of the data's brisk motion.
    """

    at: Sequence[float]
    step: int | None = None
    columns: tuple[int, ...] = (0, 1)
    within: float = 0.0

    def __post_init__(self) -> None:
        _check_target(self.at, self.within)

    def excess(self, states: Tensor, clock: Tensor) -> Tensor:
        if self.step is None:
            return torch.zeros_like(clock)
        gap = (chosen(states, self.columns) - vector(self.at, states)).norm(dim=-1)
        return torch.where(self._due(clock), (gap - self.within).clamp(min=0), 0.0)

    def nearest(self, states: Tensor, clock: Tensor) -> Tensor:
        points = chosen(states, self.columns)
        off = self.excess(states, clock).unsqueeze(-1)
        way = vector(self.at, states) - points
        step = way / way.norm(dim=-1, keepdim=True).clamp(min=_TINY)
        return replaced(states, self.columns, points + off * step)

    def _due(self, clock: Tensor) -> Tensor:
        """The state of each plan that is nearest to the step in time, if the plan reaches it."""
        assert self.step is not None
        gap = (clock - self.step).abs()
        # half a stride: of two states as near the earlier
        stride = clock[:, 1:2] - clock[:, :1]
        first = torch.arange(clock.shape[1], device=clock.device) == gap.argmin(1, keepdim=True)
        return first & (2 * gap <= stride)


@dataclass(frozen=True)
class Reach:
    """End somewhere: the goal, in place of the environment's; without goals, the plan's last state.

    at: [C] of the columns. within: how near is there.
    """

    at: Sequence[float]
    columns: tuple[int, ...] = (0, 1)
    within: float = 0.0

    def __post_init__(self) -> None:
        _check_target(self.at, self.within)

    def excess(self, states: Tensor, clock: Tensor) -> Tensor:
        gap = (chosen(states[:, -1], self.columns) - vector(self.at, states)).norm(dim=-1)
        off = (gap - self.within).clamp(min=0).unsqueeze(1)
        return torch.nn.functional.pad(off, (clock.shape[1] - 1, 0))

    def nearest(self, states: Tensor, clock: Tensor) -> Tensor:
        points = chosen(states, self.columns)
        way = vector(self.at, states) - points
        step = way / way.norm(dim=-1, keepdim=True).clamp(min=_TINY)
        return replaced(
            states, self.columns, points + self.excess(states, clock).unsqueeze(-1) * step
        )


@dataclass(frozen=True)
class Custom:
    """Keep a cost at 0.

    cost: states [B, N, D], environment units -> [B, N], 0 where there is nothing to object to.
    columns: those that it reads, () for all. differentiable: whether gradients lead out of it; a
    black box can choose among plans and weigh them, not change them.
    """

    cost: Callable[[Tensor], Tensor]
    columns: tuple[int, ...] = ()
    differentiable: bool = True
    name: str = field(default="cost", kw_only=True)

    def excess(self, states: Tensor, clock: Tensor) -> Tensor:
        found = self.cost(states)
        if found.shape != states.shape[:2]:
            raise DiffplanError(
                f"the cost {self.name!r} of states {list(states.shape)} has shape "
                f"{list(found.shape)}, expected {list(states.shape[:2])}"
            )
        return found.clamp(min=0)

    def nearest(self, states: Tensor, clock: Tensor) -> None:
        return None


def _check_target(at: Sequence[float], within: float) -> None:
    """Raise DiffplanError for what is no place, or no distance to one."""
    check_place(at, "at")
    if not 0 <= within < math.inf:
        raise DiffplanError(f"within is {within!r}, expected a finite distance of at least 0")


def closed(constraint: Constraint) -> bool:
    """Whether nothing in it is code of a user's, which a graph would hold as it was once."""
    if isinstance(constraint, Avoid):
        return isinstance(constraint.shape, Box | Disc)
    return isinstance(constraint, Limit | Waypoint | Reach)


def chosen(states: Tensor, columns: tuple[int, ...]) -> Tensor:
    """These columns [..., C] of states [..., D]."""
    if (run := _run(columns)) is not None:
        return states[..., run]
    # no index tensor, which would have to cross to the device
    return torch.stack([states[..., column] for column in columns], -1)


def replaced(states: Tensor, columns: tuple[int, ...], values: Tensor) -> Tensor:
    """States [..., D] with others [..., C] in these columns."""
    if (run := _run(columns)) is not None:
        return torch.cat([states[..., : run.start], values, states[..., run.stop :]], -1)
    parts = list(states.unbind(-1))
    for place, column in enumerate(columns):
        parts[column] = values[..., place]
    return torch.stack(parts, -1)


def _steps(values: Tensor) -> Tensor:
    """Differences [B, N-1] of what follows one another [B, N]; `diff` is no operation of ONNX."""
    return values[:, 1:] - values[:, :-1]


def _run(columns: tuple[int, ...]) -> slice | None:
    """Columns that follow one another, as a slice."""
    whole = range(columns[0], columns[0] + len(columns))
    return slice(whole.start, whole.stop) if columns == tuple(whole) else None
