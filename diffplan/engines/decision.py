"""One decision as pure functions of tensors, in environment units, with fixed settings.

What engines run: no shape, branch or number in here depends on the data, nothing waits for the
device, and whatever settings and weights alone decide was computed when the module was made.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from diffplan.config.sections import PlanningConfig
from diffplan.diffusion.samplers import SAMPLERS
from diffplan.engines.counter_rng import standard_normal, uniform
from diffplan.errors import DiffplanError
from diffplan.model.acting_head import FEATURES
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel
from diffplan.model.subgoals import Subgoals
from diffplan.nn.embeddings import chosen_columns
from diffplan.planning.chains import StreamChain, chain_of
from diffplan.planning.stages import Noise, Steering, decode, make_plan


class Draws(NamedTuple):
    """The random numbers of B plans; see `stages.Noise`. Those not needed have no columns.

    propose: [B, K * H * (D + 1)]. start: [B, K * rows * D]. steps: [B, n * K * rows * D]. select:
    [B, K] Gumbel.
    """

    propose: Tensor
    start: Tensor
    steps: Tensor
    select: Tensor


@lru_cache(maxsize=64)
def _no_draws(rows: int, device: torch.device) -> Draws:
    """Those of plans that draw nothing, made once."""
    with torch.inference_mode(False):
        empty = torch.empty(rows, 0, device=device)
    return Draws(empty, empty, empty, empty)


Array = Any
"""A tensor on the model's device or, after `Plan.numpy`, an array."""


class Plan(NamedTuple):
    """B plans in environment units; states are a stride of environment steps apart.

    states: [B, H+1, D], the chosen candidates; index 0 is the state a plan was made in; columns
    that a plan does not hold are NaN. first:
    [B, A], the action taken there. actions: [B, H * stride, A], one for every environment step,
    None where plans hold none. features: [B, H, F], of the denoiser, which a head of actions reads
    on the way, None without one. The rest is None but in detailed plans: proposal, candidates:
    [B, K, H+1, D], before and after optimisation. values: [B, K] in units of the return-to-go, NaN
    where nobody asked for them and there was nothing to choose. chosen: [B] index into K.
    violations: [B, C], by how much a plan is off each constraint at worst, in its units; None where
    there are none.
    """

    states: Array
    first: Array
    actions: Array | None = None
    features: Array | None = None
    proposal: Array = None
    candidates: Array = None
    values: Array = None
    chosen: Array = None
    violations: Array = None

    def row(self, index: int) -> Plan:
        """One plan, without the first axis of every field."""
        return Plan(*(None if part is None else part[index] for part in self))

    def numpy(self) -> Plan:
        """Copies on the host."""
        return Plan(*(None if part is None else part.numpy(force=True).copy() for part in self))

    def replaced(self, index: Tensor, new: Plan) -> Plan:
        """A copy whose rows at the index [b] are those of `new`."""
        pairs = zip(self, new, strict=True)
        return Plan(
            *(old if old is None else old.index_copy(0, index, made) for old, made in pairs)
        )


class Handed:
    """The part of an engine that makes new tensors in every call: they are the caller's."""

    def keep(self, plan: Plan) -> Plan:
        """The plans, which later calls do not change."""
        return plan

    def read(self, made: Tensor) -> np.ndarray:
        """What the last call made, on the host."""
        result: np.ndarray = made.numpy(force=True)
        return result


class PlanStep(nn.Module):
    """Propose, optimise and select: what happens at a replan."""

    def __init__(
        self,
        model: PlannerModel,
        settings: PlanningConfig,
        *,
        reuse: bool = False,
        detailed: bool = False,
        valued: bool = False,
        steering: Steering | None = None,
        routes: Subgoals | None = None,
    ) -> None:
        """reuse: for plans that go on from the one before. detailed: give proposals, candidates
        and their values. valued: give values also where they choose nothing, instead of NaN.
        steering: what plans are to meet besides. routes: ways to goals in place of the model's.

        Raises DiffplanError for settings that the model was not trained for.
        """
        super().__init__()
        self.reuse, self.detailed, self.valued = reuse, detailed, valued
        self.model = model
        self.steering, self.routes = steering, model.subgoals if routes is None else routes
        self.settings = settings
        self.chain = chain_of(model, settings, reuse)
        stride = model.config.plan.stride
        proposed = settings.replan_every // stride if reuse else model.config.plan.horizon
        k, rows, dim = settings.candidates, model.rows, model.plan_dim
        many = k > 1 and settings.temperature > 0 and settings.proposes
        stochastic = SAMPLERS[settings.sampler].eta(settings.eta) > 0
        steps = len(self.chain.grid) - 1 if stochastic and self.chain is not None else 0
        raw = self.chain is not None and self.chain.start == "raw"
        noised = self.chain is not None and (not raw or isinstance(self.chain, StreamChain))
        self.sizes = (
            k * proposed * (model.spec.planned_dim + 1) if many else 0,
            k * rows * dim if noised else 0,
            steps * k * rows * dim,
        )
        self.steps = steps
        # copies need no choice: whoever makes decisions makes one of them
        if k > 1 and self.draws_anything and not model.ranks and steering is None:
            raise DiffplanError(
                f"planning.candidates is {k}, but this model has no value to choose by, as its own "
                "planning reads none; expected 1, or a run trained with --heads.value returns"
            )

    @property
    def draws_anything(self) -> bool:
        """Whether a plan depends on random numbers at all: else its candidates are copies."""
        return sum(self.sizes) > 0

    @property
    def fields(self) -> tuple[str, ...]:
        """Which fields of a `Plan` it fills, in order."""
        config = self.model.config
        acts = ("actions",) if config.actions_in_plan else ()
        reads = ("features",) if config.has_head("actions") else ()
        details = ("proposal", "candidates", "values", "chosen") if self.detailed else ()
        steered = ("violations",) if self.steering is not None else ()
        return ("states", "first", *acts, *reads, *details, *steered)

    @property
    def flat(self) -> nn.Module:
        """The step as a function of tensors alone, in the order of `example`."""
        return FlatPlanStep(self)

    @torch.inference_mode()
    def example(self, size: int) -> list[Tensor | None]:
        """Inputs of the shapes that batches of this size have: a context's, then its draws."""
        numbers = torch.zeros(size, dtype=torch.long, device=self.model.plan_scale.device)
        return [*self.context(size).tensors, *self.draw(numbers, numbers)]

    def context(self, size: int) -> Context:
        """Zeros of the shapes that this many rows of what plans are made for have."""
        model, spec = self.model, self.model.spec
        like = model.plan_scale
        plan = model.config.plan
        left = plan.horizon - self.settings.replan_every // plan.stride
        return Context(
            like.new_zeros(size, spec.state_dim),
            like.new_zeros(size, spec.goal_dim) if spec.goal_dim else None,
            like.new_zeros(size) if model.use_returns else None,
            like.new_zeros(size, left, spec.state_dim) if self.reuse else None,
            like.new_zeros(size, model.task_dim) if model.tasks is not None else None,
            like.new_zeros(size) if self.steering is not None else None,
        )

    def draw(self, seeds: Tensor, counts: Tensor) -> Draws:
        """The random numbers of plan number counts [B] of rows with these seeds [B] (int64)."""
        if not self.draws_anything and self.settings.select != "softmax":
            return _no_draws(len(seeds), seeds.device)
        # all at once: a call costs more than its numbers
        normal = standard_normal(seeds, counts, sum(self.sizes))
        gumbel = normal[:, :0]
        if self.settings.select == "softmax":
            # other counts, so that the choice does not depend on the plans' noise
            gumbel = -(-uniform(seeds, ~counts, self.settings.candidates).log()).log()
        propose, start, steps = normal.split(self.sizes, 1)
        return Draws(propose, start, steps, gumbel)

    def forward(self, given: Context, draws: Draws) -> Plan:
        """Plans for B rows of what they are made for, in environment units.

        With `reuse` it must hold the M < H states left of the plan before, [B, M, D].
        """
        model, settings = self.model, self.settings
        context = model.normalised_context(self.aimed(given))
        propose, start, steps, select = draws
        k, state_dim = settings.candidates, model.spec.planned_dim
        shape = (k, model.rows, model.plan_dim)
        noise = Noise(
            propose.unflatten(1, (k, -1, state_dim + 1)) if self.sizes[0] else propose,
            start.unflatten(1, shape) if self.sizes[1] else start,
            steps.unflatten(1, (self.steps, *shape)).transpose(0, 1) if self.steps else None,
            select,
        )
        valued, steering = self.valued, self.steering
        plan = make_plan(
            *(model, context, noise, settings, self.chain), valued=valued, steering=steering
        )
        states = model.environment_states(plan.states)
        actions = None
        if plan.actions is not None:
            actions = model.environment_actions(plan.actions.flatten(1, 2))
            first = actions[:, 0]
        else:
            strides = model.config.heads.lookahead
            ahead = model.states(model.planned_part(states[:, strides]))
            lag = torch.full_like(ahead[:, 0], strides)
            told = None if plan.features is None else plan.features[:, strides - 1]
            first = decode(model, model.observed(given.state), ahead, lag, told)
        if not self.detailed:
            return Plan(states, first, actions, plan.features, violations=plan.violations)
        return Plan(
            states,
            first,
            actions,
            plan.features,
            model.environment_states(plan.proposal),
            model.environment_states(plan.candidates),
            model.returns.inverse(plan.values.unsqueeze(-1)).squeeze(-1),
            plan.chosen,
            plan.violations,
        )

    def aimed(self, given: Context) -> Context:
        """The same with a subgoal within reach, where the data know the way to the goal."""
        subgoals, reach = self.routes, self.settings.subgoal_steps
        if subgoals is None or given.goal is None or not reach:
            return given
        here = chosen_columns(given.state, self.model.spec.goal_columns)
        return replace(given, goal=subgoals(here, given.goal, float(reach)))


class FlatPlanStep(nn.Module):
    """A `PlanStep` whose arguments are tensors alone, as graphs take them."""

    def __init__(self, step: PlanStep) -> None:
        super().__init__()
        self.step = step

    def forward(self, *inputs: Tensor) -> Plan:
        """inputs: those of a `Context`, then those of its `Draws`, None where there is none."""
        count = len(Draws._fields)
        planned: Plan = self.step(Context(*inputs[:-count]), Draws(*inputs[-count:]))
        return planned


class ActStep(nn.Module):
    """Decode: what happens at every environment step."""

    def __init__(self, model: PlannerModel) -> None:
        super().__init__()
        self.model = model

    @property
    def flat(self) -> nn.Module:
        """The step as a function of tensors alone: itself."""
        return self

    @torch.inference_mode()
    def example(self, size: int) -> list[Tensor | None]:
        """Inputs of the shapes that batches of this size have."""
        model, like, dim = self.model, self.model.plan_scale, self.model.spec.state_dim
        horizon = model.config.plan.horizon
        plan = like.new_zeros(size, horizon + 1, dim)
        place = torch.ones(size, dtype=torch.long, device=like.device)
        reads = model.config.has_head("actions")
        features = like.new_zeros(size, horizon, FEATURES) if reads else None
        return [like.new_zeros(size, dim), plan, place, like.new_ones(size), features]

    def forward(
        self,
        states: Tensor,
        plan: Tensor,
        place: Tensor,
        lag: Tensor,
        features: Tensor | None = None,
    ) -> Tensor:
        """Actions [B, A] at states [B, D] towards plan[b, place[b]], due in lag [B].

        plan: [B, H+1, D], environment units. place: int64 [B]. lag: in strides. features:
        [B, H, F], the plan's.
        """
        model = self.model
        ahead = model.states(model.planned_part(_row(plan, place)))
        told = None if features is None else _row(features, place - 1)
        return decode(model, model.observed(states), ahead, lag, told)


def _row(x: Tensor, place: Tensor) -> Tensor:
    """x[b, place[b]] of x [B, n, D]: [B, D]."""
    return x.gather(1, place[:, None, None].expand(-1, 1, x.shape[2])).squeeze(1)
