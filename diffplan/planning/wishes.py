"""Ways to make plans meet constraints that training never saw (`diffplan.constraints`).

All of them act on x0_hat or on the particles of the chain; the networks stay as they are.

- project: x0_hat goes to the nearest plan that meets them in every step, the last included: data
  consistency in each step. First it moves there along what the denoiser says goes together, the
  Jacobian's transpose times the way there, as far as that leads: bodies do not follow a plan whose
  places jump aside while its speeds stay. A differentiable cost takes a Gauss-Newton step to its 0.
- dps: x0_hat moves down the gradient of what is off, through the denoiser (Chung et al. 2023,
  arXiv 2209.14687, eq. 15, steps of weight over the norm).
- pigdm: the same with the way to the nearest plan in place of the gradient (Song et al. 2023,
  PiGDM, eq. 7 without noise in what is observed).
- red-diff: the proposal itself is optimised, drawn to where the denoiser would take it and away
  from what is off (Mardani et al. 2024, arXiv 2305.04391, algorithm 1; its weights make the pull
  lambda (mu - x0_hat)).
- smc: candidates are particles, weighed by what they are off and resampled (derivative-free,
  annealed by a_t^2).
- reject: nothing is steered; of the candidates one that meets them is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from diffplan.config.sections import PlanningConfig
from diffplan.constraints.kinds import Constraint
from diffplan.diffusion.ddim import ddim
from diffplan.diffusion.process import Process
from diffplan.diffusion.sampling import Denoise
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel
from diffplan.model.proposer.base import Proposal
from diffplan.planning.chains import Chain, StreamChain
from diffplan.planning.stages import Guided, Noise, guide, optimise, start_of, walk_back

Way = Literal["project", "dps", "pigdm", "red-diff", "smc", "reject"]
_THROUGH = ("project", "dps", "pigdm")  # ways that differentiate the denoiser

_TINY = 1e-12
_MET = 1e-4  # normalised units: what rounding leaves is not off
_LONGEST = 50.0  # times the gradient: at a level that says nothing of the plan it is all rounding
_PULL, _RATE = 0.25, 0.1  # of red-diff, as in its paper


@dataclass(frozen=True)
class Wishes:
    """Constraints on every plan, and the way to meet them: a `stages.Steering`.

    weight: of the gradients of dps, pigdm and red-diff; of smc one over the temperature.
    """

    constraints: tuple[Constraint, ...]
    way: Way = "project"
    weight: float = 1.0

    @property
    def differentiates(self) -> bool:
        """Whether it takes gradients of the networks."""
        return self.way in _THROUGH

    def optimise(
        self,
        model: PlannerModel,
        context: Context,
        proposal: Proposal | None,
        noise: Noise,
        settings: PlanningConfig,
        chain: Chain | StreamChain | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`stages.optimise` on the way to what is wished."""
        if self.way == "reject":
            return optimise(model, context, proposal, noise, settings, chain)
        wanted = self.wanted(model, context)
        if chain is None:  # nothing refines: the proposal is moved
            x, told = optimise(model, context, proposal, noise, settings, chain)
            return wanted.nearest(x), told
        assert isinstance(chain, Chain)
        if self.way == "smc":
            return _smc(wanted, context, proposal, noise, settings, chain)
        guided = guide(model, context, proposal, settings, chain)
        if self.way == "red-diff":
            return _reddiff(wanted, guided, noise, settings, chain), guided.said
        denoise = wanted.steered(guided.denoise, chain.process, chain.grid)
        guided = replace(guided, denoise=denoise)
        return walk_back(model, guided, noise, settings, chain), guided.said

    def choose(
        self, model: PlannerModel, context: Context, values: Tensor, candidates: Tensor
    ) -> Tensor:
        """The candidate that is followed: see `Wanted.choose`."""
        return self.wanted(model, context).choose(values, candidates, context.goal)

    def violations(self, model: PlannerModel, context: Context, candidates: Tensor) -> Tensor:
        """Worst excess [B, C] of plans [B, H+1, S], in the constraints' units."""
        return self.wanted(model, context).excess(candidates).amax(-1)

    def wanted(self, model: PlannerModel, context: Context) -> Wanted:
        """These wishes for the plans of a context."""
        clock = context.clock
        if clock is None:
            clock = torch.zeros_like(context.state[:, 0])
        return Wanted(self, model, context.state, clock)


class Wanted:
    """The wishes for some plans: their model, start and clock closed over.

    start: [B, D] normalised current states. clock: [B] environment steps since episodes began.
    """

    def __init__(self, wishes: Wishes, model: PlannerModel, start: Tensor, clock: Tensor) -> None:
        self.wishes, self.model, self.start = wishes, model, start
        rows = torch.arange(model.config.plan.horizon + 1, device=start.device)
        self.clock = clock[:, None] + model.config.plan.stride * rows

    # --- What is off -----------------------------------------------------------------------------

    def excess(self, states: Tensor) -> Tensor:
        """How far normalised states [B, H+1, S] are off [B, C, H], the current one left out."""
        there = self.model.environment_states(states)
        found = [each.excess(there, self.clock)[:, 1:] for each in self.wishes.constraints]
        return torch.stack(found, 1)

    def off(self, x: Tensor) -> Tensor:
        """Root of the squared distance [B] of plan tensors to what meets the constraints.

        In normalised units: a black box counts in its own.
        """
        states = self.model.from_plan(self.start, x)
        total = torch.zeros_like(states[:, 0, 0])
        there = self.model.environment_states(states)
        for each in self.wishes.constraints:
            nearest = each.nearest(there, self.clock)
            if nearest is None:
                gap = each.excess(there, self.clock)[:, 1:].square().sum(1)
            else:
                gap = self._gap(nearest, there).square().sum((1, 2))
            total = total + gap
        # no slope at 0
        return torch.where(total > 0, total + _TINY, _TINY).sqrt()

    def nearest(self, x: Tensor) -> Tensor:
        """Plan tensors [B, rows, D] moved to meet the constraints, one after the other."""
        model = self.model
        states = model.from_plan(self.start, x)
        for each in self.wishes.constraints:
            there = model.environment_states(states)
            found = each.nearest(there, self.clock)
            if found is not None:
                states = states + self._gap(found, there)
            elif getattr(each, "differentiable", False):
                states = self._newton(each, states)
        # where one stands is no wish
        moved = model.to_plan(self.start, states[:, 1:])
        before = model.to_plan(self.start, model.from_plan(self.start, x)[:, 1:])
        width = model.columns.states
        if moved.shape == x.shape:
            return x + (moved - before)
        return torch.cat([x[..., width] + (moved - before), x[..., width.stop :]], -1)

    def _gap(self, found: Tensor, there: Tensor) -> Tensor:
        """What to add to normalised states, for states in environment units."""
        moved = self.model.planned_part(found - there)
        return torch.nan_to_num(moved) / self.model.states.std

    def _newton(self, each: Constraint, states: Tensor) -> Tensor:
        found, slope = _slope(
            lambda at: each.excess(self.model.environment_states(at), self.clock), states
        )
        size = slope.square().sum(-1, keepdim=True).clamp(min=_TINY)
        return states - found.unsqueeze(-1) * slope / size

    # --- On the way ------------------------------------------------------------------------------

    def steered(self, denoise: Denoise, process: Process, grid: tuple[int, ...]) -> Denoise:
        """The denoiser, whose plans meet the wishes or are on the way there."""
        if self.wishes.way == "project":
            return self._carried(denoise)
        return self._through(denoise, process, grid)

    def _carried(self, denoise: Denoise) -> Denoise:
        def steered(x: Tensor, t: int) -> Tensor:
            with torch.enable_grad():
                at = x.detach().clone().requires_grad_()
                x0 = denoise(at, t)
                gap = (self.nearest(x0) - x0).detach()
                (way,) = torch.autograd.grad(x0, at, gap)
            # as long as closes the gap best, where there is one
            seen = way * (gap != 0)
            size = seen.square().sum((1, 2)).clamp(min=_TINY)
            length = ((seen * gap).sum((1, 2)) / size).clamp(0, _LONGEST)
            return self.nearest(x0.detach() + length[:, None, None] * way)

        return steered

    def _through(self, denoise: Denoise, process: Process, grid: tuple[int, ...]) -> Denoise:
        factors = {t: self.wishes.weight * f for t, f in _shares(process, grid).items()}
        after = dict(pairwise(grid))

        def steered(x: Tensor, t: int) -> Tensor:
            with torch.enable_grad():
                at = x.detach().clone().requires_grad_()
                x0 = denoise(at, t)
                if self.wishes.way == "pigdm":
                    pull = (self.nearest(x0) - x0).detach()
                    (way,) = torch.autograd.grad(x0, at, pull)
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
        found = self.excess(states) / self._units(states)
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

    def _units(self, states: Tensor) -> Tensor:
        """Size of one normalised unit [C, 1] of what each constraint looks at."""
        std = self.model.states.std
        units = []
        for each in self.wishes.constraints:
            planned = [self.place(column) for column in each.columns]
            units.append(
                torch.stack([std[column] for column in planned]).mean()
                if planned
                else std.new_ones(())
            )
        return torch.stack(units).unsqueeze(-1)

    def place(self, column: int) -> int:
        """Where plans hold a column of the observation."""
        planned = self.model.spec.planned
        return planned.index(column) if planned else column


# --- Walks of their own --------------------------------------------------------------------------


def _reddiff(
    wanted: Wanted, guided: Guided, noise: Noise, settings: PlanningConfig, chain: Chain
) -> Tensor:
    """Optimise plans from the proposal: one Adam step a level, always with the same noise.

    The gradient of the regulariser at a level is eps_hat - eps = a (mu - x0_hat) / sigma, weighed
    by sigma / a.
    """
    process, eps = chain.process, settings.noise_scale * noise.start.flatten(0, 1)
    if process.scaled and guided.scale is not None:
        eps = eps * guided.scale
    first = start_of(guided, noise, settings, chain) if guided.x_hat is None else guided.x_hat
    mu, mean, square = first, torch.zeros_like(first), torch.zeros_like(first)

    for step, (t, _) in enumerate(pairwise(chain.grid), 1):
        x_t = process.a[t] * mu + process.sigma[t] * eps
        if guided.shift is not None:
            x_t = x_t + process.r[t] * guided.shift
        _, away = _slope(lambda at: 0.5 * wanted.off(at).square(), mu)
        slope = _PULL * (mu - guided.denoise(x_t, t)) + wanted.wishes.weight * away
        mean, square = 0.9 * mean + 0.1 * slope, 0.99 * square + 0.01 * slope.square()
        size = (square / (1 - 0.99**step)).sqrt() + 1e-8
        mu = mu - _RATE * mean / (1 - 0.9**step) / size
    return mu


def _smc(
    wanted: Wanted,
    context: Context,
    proposal: Proposal | None,
    noise: Noise,
    settings: PlanningConfig,
    chain: Chain,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`particles` of whole plans: each keeps the proposal that it is drawn to."""
    parents = proposal

    def guided_of(index: Tensor | None) -> Guided:
        nonlocal parents
        if index is not None and parents is not None:
            parents = Proposal(parents.states[index], parents.returns[index])
        return guide(wanted.model, context, parents, settings, chain)

    first = guided_of(None)
    x = start_of(first, noise, settings, chain)
    steps = None if noise.steps is None else settings.noise_scale * noise.steps.flatten(1, 2)
    return particles(
        *(guided_of, first, chain.process, chain.grid, x, steps, settings.eta),
        potential=lambda x0: wanted.wishes.weight * wanted.off(x0).square(),
        k=settings.candidates,
    )


# many arguments: a chain and what weighs it
def particles(
    guided_of: Callable[[Tensor | None], Guided],
    guided: Guided,
    process: Process,
    grid: tuple[int, ...],
    x: Tensor,
    steps: Tensor | None,
    eta: float,
    *,
    potential: Callable[[Tensor], Tensor],
    k: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Annealed sequential Monte Carlo along a chain, without gradients: x_0 [B*k, rows, D].

    The potential at a level is a_t^2 times that of x0_hat, so that the log weights of a particle
    telescope to the potential of the finished plan. Resampled are rows of k particles each where
    fewer than half of them count, and all before the last step but one: after that copies would
    stay copies.
    guided_of: the denoiser of resampled rows [B*k], None for those at the start, which `guided` is.
    """
    logits = torch.zeros(len(x) // k, k, device=x.device)
    before, last = torch.zeros_like(logits), len(grid) - 2
    for i, (t, s) in enumerate(pairwise(grid)):
        x0 = guided.denoise(x, t)
        if i < last:
            now = process.a[t] ** 2 * potential(x0).view(-1, k)
            logits = logits - (now - before)
            index, poor = resampled(logits, always=i == last - 1)
            before = now.gather(1, index)
            logits = torch.where(poor[:, None], torch.zeros_like(logits), logits)
            if bool(poor.any()):
                rows = (index + k * torch.arange(len(index), device=x.device)[:, None]).flatten()
                x, x0, guided = x[rows], x0[rows], guided_of(rows)
        drawn = None if steps is None else steps[i : i + 1]
        x = _one_step(guided, process, (t, s), x, x0, drawn, eta)
    return x, guided.said


def _one_step(
    guided: Guided,
    process: Process,
    pair: tuple[int, int],
    x: Tensor,
    x0: Tensor,
    drawn: Tensor | None,
    eta: float,
) -> Tensor:
    """ddim's step between two levels, with x0_hat at hand."""
    if pair[1] == 0:
        return x0
    # a chain of its own that ends after this step: its last x0_hat is what the step left
    return ddim(
        lambda at, t: x0 if t == pair[0] else at,
        process,
        (*pair, 0),
        x,
        proposal=guided.shift,
        scale=guided.scale,
        noise=None if drawn is None else torch.cat([drawn, drawn]),
        eta=0.0 if drawn is None else eta,
    )


def resampled(logits: Tensor, always: bool = False) -> tuple[Tensor, Tensor]:
    """Systematic resampling of K particles, where fewer than half count: index [B, K], marked [B].

    logits: [B, K] log weights. always: mark all. The strata's middles are taken, so that nothing
    is drawn.
    """
    weights = logits.softmax(1)
    k = weights.shape[1]
    poor = (weights.square().sum(1).reciprocal() < k / 2) | always
    places = (torch.arange(k, device=logits.device) + 0.5) / k
    index = torch.searchsorted(weights.cumsum(1), places.expand(len(weights), k).contiguous())
    same = torch.arange(k, device=logits.device).expand_as(index)
    return torch.where(poor[:, None], index.clamp(max=k - 1), same), poor


def _shares(process: Process, grid: tuple[int, ...]) -> dict[int, float]:
    """One over the share of x0_hat in the mean of ddim's step from each level of a grid."""
    shares = {}
    for t, s in pairwise(grid):
        keep = process.sigma[s] / process.sigma[t] if process.noisy else process.r[s] / process.r[t]
        share = process.a[s] - keep * process.a[t]
        shares[t] = 1.0 / share if math.isfinite(1.0 / share) else 0.0
    return shares


def _slope(function: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, Tensor]:
    """What a function of rows gives at a tensor, and the gradient of its sum."""
    with torch.inference_mode(False), torch.enable_grad():
        at = at.detach().clone().requires_grad_()
        found = function(at)
        (slope,) = torch.autograd.grad(found.sum(), at)
    return found.detach(), slope
