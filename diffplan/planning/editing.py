"""Plans that are there made anew for another condition: `diffplan.diffusion.inversion` of plans."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffplan.config.sections import PlanningConfig
from diffplan.constraints.kinds import Constraint
from diffplan.diffusion.inversion import Code, invert, replay
from diffplan.errors import DiffplanError
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel
from diffplan.model.proposer.base import Proposal
from diffplan.planning.chains import Chain, StreamChain, chain_of
from diffplan.planning.stages import Noise, guide, propose
from diffplan.planning.wanted import Wanted


@dataclass(frozen=True)
class Held:
    """States that plans are to hold, a `Constraint` with values of their own for every plan.

    states: [B, H+1, D], environment units, NaN in what stays open.
    """

    states: Tensor

    columns = ()

    def excess(self, states: Tensor, clock: Tensor) -> Tensor:
        """How far states are off [B, H+1]."""
        return torch.nan_to_num(self.states - states).norm(dim=-1)

    def nearest(self, states: Tensor, clock: Tensor) -> Tensor:
        """The same states with those that are held."""
        return torch.where(self.states.isnan(), states, self.states)


def editing(model: PlannerModel, settings: PlanningConfig) -> PlanningConfig:
    """Settings whose chain visits every level of the process that plans are edited along.

    DiffplanError for a model whose plans have no such process.
    """
    if model.streams is not None:
        raise DiffplanError(
            "plans of heads.kind streams have a level for each stream, and no code; edit plans of "
            "another model"
        )
    if model.denoiser is None:
        raise DiffplanError(
            "plans are edited along a denoiser's levels, but this model was trained without one "
            "(config proposer-only)"
        )
    settings = replace(settings, sampler="ddim", grid="uniform", eta=1.0)
    settings = replace(settings, noise_scale=1.0, candidates=1)
    if settings.start == "process":
        return replace(settings, denoising_steps=model.main_process.T)
    levels = model.plain_process.T
    if settings.proposes:  # from the plan with noise
        return replace(settings, start="sdedit", start_level=levels, denoising_steps=levels)
    return replace(settings, start="noise", denoising_steps=levels)


def encode(
    model: PlannerModel,
    context: Context,
    x0: Tensor,
    noise: Tensor,
    settings: PlanningConfig,
    *,
    method: str,
    skip: float,
) -> Code:
    """What the plans x0 [B, rows, D] that were made for a context are to the model.

    noise: [T, B, rows, D] standard normal, of a process of T levels. settings: those of `editing`.
    method: one of `inversion.METHODS`. skip: share of the levels, the noisiest, that are left out.
    """
    chain = chain_of(model, settings)
    assert isinstance(chain, Chain)
    chain = below(chain, min(len(chain.grid) - 2, round(skip * (len(chain.grid) - 1))))
    guided = guide(model, context, propose(model, context, noise, settings), settings, chain)
    return invert(
        guided.denoise,
        chain.process,
        chain.grid,
        x0,
        noise,
        method=method,
        proposal=guided.shift,
        scale=guided.scale,
    )


@dataclass(frozen=True)
class Edited:
    """Plans of a code, under another condition: a `stages.Steering`.

    before: normalised states [B, H+1, D] that the code is of. constraints: what they are to meet.
    """

    code: Code
    before: Tensor
    constraints: tuple[Constraint, ...] = ()

    @property
    def differentiates(self) -> bool:
        """Whether it takes gradients of the networks."""
        return bool(self.constraints)

    def optimise(
        self,
        model: PlannerModel,
        context: Context,
        proposal: Proposal | None,
        noise: Noise,
        settings: PlanningConfig,
        chain: Chain | StreamChain | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`stages.optimise` from the code."""
        assert isinstance(chain, Chain)
        chain = below(chain, len(chain.grid) - len(self.code.grid))
        guided = guide(model, context, proposal, settings, chain)
        denoise, process = guided.denoise, chain.process
        old, here = self.before[:, 0], context.state
        states = self.before[:, 1:]
        was, wished = model.to_plan(old, states), model.to_plan(here, states)
        wanted = None
        if self.constraints:
            wanted = self._wanted(model, context)
            denoise = wanted.steered(denoise, process, chain.grid)
            wished = wanted.nearest(wished)
        # x_t holds so much of the plan: the same places seen from another start, others where asked
        moved = torch.nn.functional.pad(
            wished - was, (0, self.code.start.shape[-1] - was.shape[-1])
        )
        code = replace(self.code, start=self.code.start + process.a[chain.grid[0]] * moved)
        x = replay(denoise, process, code, proposal=guided.shift)
        return (x if wanted is None else wanted.nearest(x)), guided.said

    def choose(
        self, model: PlannerModel, context: Context, values: Tensor, candidates: Tensor
    ) -> Tensor:
        """The only candidate [B]."""
        return torch.zeros(len(values), dtype=torch.long, device=values.device)

    def violations(self, model: PlannerModel, context: Context, candidates: Tensor) -> Tensor:
        """Worst excess [B, C] of plans [B, H+1, S], in the constraints' units."""
        if not self.constraints:
            return candidates.new_zeros(len(candidates), 0)
        return self._wanted(model, context).excess(candidates).amax(-1)

    def _wanted(self, model: PlannerModel, context: Context) -> Wanted:
        clock = context.clock
        if clock is None:
            clock = torch.zeros_like(context.state[:, 0])
        return Wanted(self.constraints, "project", 1.0, model, context.state, clock)


def below(chain: Chain, skipped: int) -> Chain:
    """The chain without its first levels."""
    return replace(chain, grid=chain.grid[skipped:], time=chain.time[skipped:])
