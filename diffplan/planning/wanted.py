"""How far plans are off their constraints, and the denoiser that leads to where they are not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from diffplan.constraints.kinds import Constraint
from diffplan.constraints.together import One, together
from diffplan.diffusion.process import Process
from diffplan.diffusion.sampling import Denoise
from diffplan.model.planner_model import PlannerModel

Way = Literal["project", "dps", "pigdm", "red-diff", "smc", "smc-gradient", "reject"]
THROUGH = ("project", "dps", "pigdm", "smc-gradient")
"""Ways that differentiate the denoiser."""

_TINY = 1e-12
_MET = 1e-4  # normalised units: what rounding leaves is not off
_LONGEST = 50.0  # times the gradient: at a level that says nothing of the plan it is all rounding


class Wanted:
    """The constraints on some plans: their model, start and clock closed over.

    way, weight: see `diffplan.planning.wishes`. start: [B, D] normalised current states. clock: [B]
    environment steps since episodes began.
    """

    def __init__(
        self,
        constraints: tuple[Constraint, ...],
        way: Way,
        weight: float,
        model: PlannerModel,
        start: Tensor,
        clock: Tensor,
    ) -> None:
        self.constraints, self.way, self.weight = constraints, way, weight
        self.groups = together(constraints)
        self.model, self.start = model, start
        rows = torch.arange(model.config.plan.horizon + 1, device=start.device)
        self.clock = clock[:, None] + model.config.plan.stride * rows

    # --- What is off -----------------------------------------------------------------------------

    def excess(self, states: Tensor) -> Tensor:
        """How far normalised states [B, H+1, S] are off [B, C, H], the current one left out."""
        there = self.model.environment_states(states)
        found = [each.each(there, self.clock)[:, 1:] for each in self.groups]
        return torch.cat(found, -1).transpose(1, 2)

    def off(self, x: Tensor) -> Tensor:
        """Root of the squared distance [B] of plan tensors to what meets the constraints.

        In normalised units: a black box counts in its own.
        """
        states = self.model.from_plan(self.start, x)
        total = torch.zeros_like(states[:, 0, 0])
        there = self.model.environment_states(states)
        for group in self.groups:
            nearest = group.nearest(there, self.clock)
            if nearest is None:
                gap = group.each(there, self.clock)[:, 1:].square().sum((1, 2))
            else:
                gap = self._gap(nearest, there).square().sum((1, 2))
            total = total + gap
        # no slope at 0
        return torch.where(total > 0, total + _TINY, _TINY).sqrt()

    def nearest(self, x: Tensor) -> Tensor:
        """Plan tensors [B, rows, D] moved to meet the constraints, one after the other."""
        return x + self.gap(x)

    def gap(self, x: Tensor) -> Tensor:
        """The way there [B, rows, D], exactly 0 where nothing is off."""
        model = self.model
        before = there = model.environment_states(model.from_plan(self.start, x))
        for group in self.groups:
            found = group.nearest(there, self.clock)
            if found is not None:
                there = found
            elif isinstance(group, One) and getattr(group.only, "differentiable", False):
                there = self._newton(group.only, there)
        moved = self._gap(there, before)
        # where one stands is no wish, and a plan is linear in the states after it
        change = model.to_plan(torch.zeros_like(self.start), moved[:, 1:])
        return torch.nn.functional.pad(change, (0, x.shape[-1] - change.shape[-1]))

    def _gap(self, found: Tensor, there: Tensor) -> Tensor:
        """What to add to normalised states, for states in environment units."""
        moved = self.model.planned_part(found - there)
        if self.model.spec.planned:  # 0 in what plans do not hold
            moved = torch.nan_to_num(moved)
        return moved / self.model.states.std

    def _newton(self, each: Constraint, there: Tensor) -> Tensor:
        model = self.model
        states = model.states(model.planned_part(there))
        found, slope = slope_of(
            lambda at: each.excess(model.environment_states(at), self.clock), states
        )
        size = slope.square().sum(-1, keepdim=True).clamp(min=_TINY)
        moved = states - found.unsqueeze(-1) * slope / size
        # exactly nothing where nothing is off
        return there + (model.environment_states(moved) - model.environment_states(states))

    # --- On the way ------------------------------------------------------------------------------

    def steered(self, denoise: Denoise, process: Process, grid: tuple[int, ...]) -> Denoise:
        """The denoiser, whose plans meet the wishes or are on the way there."""
        if self.way == "project":
            return self._carried(denoise, grid)
        return self._through(denoise, process, grid)

    def _carried(self, denoise: Denoise, grid: tuple[int, ...]) -> Denoise:
        last = grid[-2]  # what is carried along at the levels before is denoised anew

        def steered(x: Tensor, t: int) -> Tensor:
            if t != last:
                return self.nearest(denoise(x, t))
            with torch.enable_grad():
                at = x.detach().clone().requires_grad_()
                x0 = denoise(at, t)
                gap = self.gap(x0.detach())
                way = _back(x0, at, gap)
            # as long as closes the gap best, where there is one
            seen = way * (gap != 0)
            size = seen.square().sum((1, 2)).clamp(min=_TINY)
            length = ((seen * gap).sum((1, 2)) / size).clamp(0, _LONGEST)
            return self.nearest(x0.detach() + length[:, None, None] * way)

        return steered

    def _through(self, denoise: Denoise, process: Process, grid: tuple[int, ...]) -> Denoise:
        factors = {t: self.weight * f for t, f in _shares(process, grid).items()}
        after = dict(pairwise(grid))

        def steered(x: Tensor, t: int) -> Tensor:
            with torch.enable_grad():
                at = x.detach().clone().requires_grad_()
                x0 = denoise(at, t)
                if self.way == "pigdm":
                    pull = self.gap(x0.detach())
                    way = _back(x0, at, pull)
                    return (x0 + factors[t] * process.a[t] * process.a[after[t]] * way).detach()
                off = self.off(x0)
                (away,) = torch.autograd.grad(off.square().sum(), at)
                return (x0 - factors[t] * away / off[:, None, None]).detach()

        return steered

    # --- In the end ------------------------------------------------------------------------------

    def choose(self, values: Tensor, states: Tensor, goal: Tensor | None) -> Tensor:
        """One candidate per row [B], of states [B*K, H+1, S]: the least off, then the best.

        Of those that are not off the most valued one; without values the one that ends nearest to
        its goal, else the first. values: [B, K].
        """
        found = self.excess(states) / self._units()
        off = found.amax(-1).sum(-1)
        off = torch.where(off > _MET, off, 0.0).view(values.shape)
        best = torch.nan_to_num(values, nan=0.0)
        if goal is not None:
            columns = self.model.spec.planned_goal_columns
            last = torch.stack([states[:, -1, column] for column in columns], -1)
            best = torch.where(values.isnan(), -(last - goal).norm(dim=-1).view(values.shape), best)
        best = best - best.amin(1, keepdim=True)
        best = best / best.amax(1, keepdim=True).clamp(min=_TINY)
        # off by rounding is off by less than the best is worth
        return (best - off / _MET).argmax(1)

    def _units(self) -> Tensor:
        """Size of one normalised unit [C, 1] of what each constraint looks at."""
        std = self.model.states.std
        units = []
        for each in self.constraints:
            planned = [self._place(column) for column in each.columns]
            units.append(
                torch.stack([std[column] for column in planned]).mean()
                if planned
                else std.new_ones(())
            )
        return torch.stack(units).unsqueeze(-1)

    def _place(self, column: int) -> int:
        """Where plans hold a column of the observation."""
        planned = self.model.spec.planned
        return planned.index(column) if planned else column


def _shares(process: Process, grid: tuple[int, ...]) -> dict[int, float]:
    """One over the share of x0_hat in the mean of ddim's step from each level of a grid."""
    shares = {}
    for t, s in pairwise(grid):
        keep = process.sigma[s] / process.sigma[t] if process.noisy else process.r[s] / process.r[t]
        share = process.a[s] - keep * process.a[t]
        shares[t] = 1.0 / share if share else 0.0  # a step that looks at no x0_hat is not moved
    return shares


def _back(x0: Tensor, at: Tensor, gap: Tensor) -> Tensor:
    """The transpose of the denoiser's Jacobian times a gap, as of a scalar, which traces well."""
    (way,) = torch.autograd.grad((x0 * gap).sum(), at)
    return way


def slope_of(function: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, Tensor]:
    """What a function of rows gives at a tensor, and the gradient of its sum."""
    with torch.inference_mode(False), torch.enable_grad():
        at = at.detach().clone().requires_grad_()
        found = function(at)
        (slope,) = torch.autograd.grad(found.sum(), at)
    return found.detach(), slope
