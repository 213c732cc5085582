"""Ways to make plans meet constraints that training never saw (`diffplan.constraints`).

All of them act on x0_hat or on the particles of the chain; the networks stay as they are.

- project: x0_hat goes to the nearest plan that meets them in every step: data consistency in each
  step. In the last it first moves there along what the denoiser says goes together, the Jacobian's
  transpose times the way there, as far as that leads: bodies do not follow a plan whose places jump
  aside while its speeds stay. A differentiable cost takes a Gauss-Newton step to its 0.
- dps: x0_hat moves down the gradient of what is off, through the denoiser (Chung et al. 2023,
  arXiv 2209.14687, eq. 15, steps of weight over the norm).
- pigdm: the same with the way to the nearest plan in place of the gradient (Song et al. 2023,
  PiGDM, eq. 7 without noise in what is observed).
- red-diff: the proposal itself is optimised, drawn to where the denoiser would take it and away
  from what is off (Mardani et al. 2024, arXiv 2305.04391, algorithm 1; its weights make the pull
  lambda (mu - x0_hat)).
- smc: candidates are particles, weighed by what they are off and resampled (derivative-free,
  annealed by a_t^2). smc-gradient: they also drift down the gradient (ensemble SMC, AFDPS).
- reject: nothing is steered; of the candidates one that meets them is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffplan.config.sections import PlanningConfig
from diffplan.constraints.kinds import Constraint, closed
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel
from diffplan.model.proposer.base import Proposal
from diffplan.planning.chains import Chain, StreamChain
from diffplan.planning.stages import Noise, guide, optimise, walk_back
from diffplan.planning.walks import reddiff, smc
from diffplan.planning.wanted import THROUGH, Wanted, Way

SAMPLED = ("smc", "smc-gradient")
"""Ways whose candidates are particles: with noise in every step."""

_EXPORTED = ("project", "pigdm", "reject")


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
        return self.way in THROUGH

    @property
    def exports(self) -> bool:
        """Whether a graph can hold it: no branch by what particles are worth, no code of others."""
        return self.way in _EXPORTED and all(map(closed, self.constraints))

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
        if self.way in SAMPLED:
            return smc(wanted, context, proposal, noise, settings, chain)
        guided = guide(model, context, proposal, settings, chain)
        if self.way == "red-diff":
            return reddiff(wanted, guided, noise, settings, chain), guided.said
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
        own = (self.constraints, self.way, self.weight)
        return Wanted(*own, model, context.state, clock)
