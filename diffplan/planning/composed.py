"""Several wishes at once: the product of what a denoiser says under each of several conditions.

x0_hat = x0_u + sum_i w_i (x0_i - x0_u), eq. 9 of Ajay et al. 2023 (Decision Diffuser, arXiv
2211.15657), after Liu et al. 2022 (arXiv 2206.01714, eq. 11): with weights of 1 the score of
prod_i p(x | c_i) / p(x)^(n-1) where conditions are independent given the plan. Of noised plans it
is the product of the noised densities, which for Gaussians of one covariance is the noised product,
and for others is not (Du et al. 2023, arXiv 2302.11552).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffplan.config.sections import PlanningConfig
from diffplan.diffusion.guidance import product
from diffplan.diffusion.samplers import SAMPLERS
from diffplan.model.context import Context
from diffplan.model.denoiser import Inputs
from diffplan.model.planner_model import PlannerModel
from diffplan.model.proposer.base import Proposal
from diffplan.nn.embeddings import chosen_columns
from diffplan.planning.chains import Chain, StreamChain
from diffplan.planning.stages import Guided, Noise, held, walk_back


@dataclass(frozen=True)
class Aim:
    """One condition of several.

    goal: [G], environment units (`PlannerAgent.composed` takes the layout's offset from it).
    returns: the return-to-go that is asked for. None: what the plan would be made for without it.
    weight: of its direction; those of plans that are between aims sum to 1, of plans that are for
    all of them at once each is 1.
    """

    goal: Sequence[float] | None = None
    returns: float | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class Composed:
    """Plans for several aims at once: a `stages.Steering`."""

    aims: tuple[Aim, ...]

    constraints = ()
    differentiates = False

    def optimise(
        self,
        model: PlannerModel,
        context: Context,
        proposal: Proposal | None,
        noise: Noise,
        settings: PlanningConfig,
        chain: Chain | StreamChain | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`stages.optimise` for all aims: from the mean of their proposals, by weight."""
        assert isinstance(chain, Chain)
        told = [self._told(aim, model, context, settings) for aim in self.aims]
        x_hat = None if proposal is None else self._proposal(model, told)
        process, network = chain.process, chain.network
        shift = x_hat if any(process.r[t] for t in chain.grid) else None
        shown = network.use_proposal and process is model.main_process
        encoded = torch.cat([*map(network.encode, told), network.encode_nothing(context)])
        many = len(told) + 1
        inputs = Inputs(_times(x_hat if shown else None, many), _times(shift, many), chain.time)
        asked = SAMPLERS[settings.sampler].levels(chain.grid)
        bound = network.bind(process, asked, encoded, inputs)
        denoise = product(
            lambda x, t: bound(torch.cat([x] * many), t).chunk(many),
            [aim.weight for aim in self.aims],
        )
        denoise = held(denoise, model, context, settings)
        scale = model.noise_scale if process.scaled else None
        guided = Guided(denoise, x_hat, shift, scale, {})
        return walk_back(model, guided, noise, settings, chain), {}

    def choose(
        self, model: PlannerModel, context: Context, values: Tensor, candidates: Tensor
    ) -> Tensor:
        """The most valued candidate [B]; without values the first."""
        return torch.nan_to_num(values).argmax(1)

    def violations(self, model: PlannerModel, context: Context, candidates: Tensor) -> Tensor:
        """Of no constraint [B, 0]."""
        return candidates.new_zeros(len(candidates), 0)

    def _told(
        self, aim: Aim, model: PlannerModel, context: Context, settings: PlanningConfig
    ) -> Context:
        """What plans for one aim are made for, normalised."""
        goal, asked = context.goal, context.target_return
        if aim.goal is not None:
            assert goal is not None
            given = torch.stack([goal.new_full((len(goal),), value) for value in aim.goal], -1)
            if model.subgoals is not None and settings.subgoal_steps:
                states = model.environment_states(context.state)
                here = chosen_columns(states, model.spec.goal_columns)
                given = model.subgoals(here, given, float(settings.subgoal_steps))
            goal = model.goal(given)
        if aim.returns is not None:
            assert asked is not None
            asked = model.normalised_returns(torch.full_like(asked, aim.returns))
        return replace(context, goal=goal, target_return=asked)

    def _proposal(self, model: PlannerModel, told: Sequence[Context]) -> Tensor:
        """The weighted mean of the proposals for each aim [B, rows, D]."""
        assert model.proposer is not None
        total = sum(aim.weight for aim in self.aims)
        parts = []
        for aim, context in zip(self.aims, told, strict=True):
            states = model.proposer.propose(context, None).states
            parts.append(aim.weight / total * model.to_plan(context.state, states))
        return torch.stack(parts).sum(0)


def _times(x: Tensor | None, n: int) -> Tensor | None:
    return None if x is None else torch.cat([x] * n)
