"""Plans of an agent for another goal, return or state: `diffplan.planning.editing` in its units."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffplan.agents.planner_agent import PlannerAgent
from diffplan.diffusion.inversion import METHODS, Code
from diffplan.engines.counter_rng import standard_normal
from diffplan.engines.decision import Plan, PlanStep
from diffplan.errors import DiffplanError
from diffplan.model.context import Context
from diffplan.planning.editing import Edited, Held, editing, encode
from diffplan.planning.wishes import Wishes

_MADE = -1  # in place of a number of plans: other noise than any plan of the seeds is made of


@dataclasses.dataclass(frozen=True)
class Asked:
    """What `PlannerAgent.edit` is asked for, as it was given."""

    goal: Any
    returns: Any
    states: Mapping[int, Any] | None
    had: Any


@torch.no_grad()
def edited(
    agent: PlannerAgent,
    plan: Plan | np.ndarray,
    observation: Any,
    asked: Asked,
    *,
    source: PlannerAgent | None,
    method: str,
    skip: float,
) -> Plan:
    """See `PlannerAgent.edit`."""
    own = _Maker(agent, agent.settings.start)
    if source is not None and not isinstance(source, PlannerAgent):
        raise DiffplanError(
            f"source is a {type(source).__name__}, expected the agent that plans are of"
        )
    # along the same kind of process: what is kept of one means nothing to another
    theirs = own if source is None else _Maker(source, agent.settings.start)
    _check(own, theirs, method, skip)
    skip = float(skip)
    was = theirs.agent.context(observation)
    states, actions = _given(own, plan, was)
    if asked.had is not None:
        was = _returning(theirs, was, asked.had, "had")
    code = theirs.code(states, actions, was, method, skip)
    context = was if source is None else own.agent.context(observation)
    if asked.goal is not None:
        context = _going(own, context, asked.goal)
    if asked.returns is not None:
        context = _returning(own, context, asked.returns, "returns")
    held = _held(own, context, asked.states)
    if held is not None:
        here = torch.where(held[:, 0].isnan(), context.state, held[:, 0])
        context = dataclasses.replace(context, state=here)
    return own.made(theirs.translated(code, own), states, context, held)


class _Maker:
    """An agent's model along every level of the process that plans are edited along."""

    def __init__(self, agent: PlannerAgent, start: Any) -> None:
        self.agent, self.model, self.wished = agent, agent.model, agent._wished
        self.settings = editing(agent.model, dataclasses.replace(agent.settings, start=start))
        self._step = PlanStep(agent.model, self.settings, routes=self.wished.get("routes"))

    @property
    def process(self) -> Any:
        """That of the chain."""
        assert self._step.chain is not None
        return self._step.chain.process

    def code(
        self, states: Tensor, actions: Tensor | None, was: Context, method: str, skip: float
    ) -> Code:
        """What plans are to this model that were made for a context."""
        model, levels, plan = self.model, self.settings.denoising_steps, self.model.config.plan
        z = model.states(model.planned_part(states))
        if actions is not None:
            actions = model.scaled_actions(actions).unflatten(1, (plan.horizon, plan.stride))
        x0 = model.to_plan(z[:, 0], z[:, 1:], actions)
        seeds = self.agent.seed + torch.arange(len(z), device=z.device)
        drawn = standard_normal(seeds, torch.full_like(seeds, _MADE), levels * x0[0].numel())
        noise = drawn.unflatten(1, (levels, *x0.shape[1:])).transpose(0, 1)
        context = model.normalised_context(self._step.aimed(was))
        return encode(model, context, x0, noise, self.settings, method=method, skip=skip)

    def translated(self, code: Code, other: _Maker) -> Code:
        """The code for another agent's size of noise."""
        mine, its = self.model.noise_scale, other.model.noise_scale
        if other is self or not self.process.scaled or mine is None or its is None:
            return code
        return code.rescaled(torch.where(mine > 0, its / mine, 1.0))

    def made(self, code: Code, states: Tensor, context: Context, held: Tensor | None) -> Plan:
        """The plans of a code for a context."""
        model, wishes = self.model, self.wished.get("steering")
        constraints = () if wishes is None else wishes.constraints
        if held is not None:  # after the others: what is given is exact
            constraints = (*constraints, Held(held))
        steering = Edited(code, model.states(model.planned_part(states)), constraints)
        routes = self.wished.get("routes")
        step = PlanStep(model, self.settings, steering=steering, routes=routes)
        seeds = torch.zeros(len(states), dtype=torch.long, device=states.device)
        plan: Plan = step(context, step.draw(seeds, seeds))
        if plan.violations is not None:  # of the agent's own constraints
            kept = None if wishes is None else plan.violations[:, : len(wishes.constraints)]
            plan = plan._replace(violations=kept)
        return plan.numpy()


# --- What is given -------------------------------------------------------------------------------


def _check(own: _Maker, theirs: _Maker, method: str, skip: float) -> None:
    """Raise DiffplanError for agents whose plans have no code, or none in common."""
    if method not in tuple(METHODS):  # by ==: lists have no hash
        raise DiffplanError(f"method is {method!r}, expected {' or '.join(METHODS)}")
    if not isinstance(skip, int | float | np.floating | np.integer) or not 0 <= skip <= 1:
        raise DiffplanError(f"skip is {skip!r}, expected a share of the levels, 0 to 1")
    for each in (own, theirs):
        steering = each.wished.get("steering")
        if steering is not None and not isinstance(steering, Wishes):
            raise DiffplanError(
                "plans for several aims (composed) are not edited; expected the agent as it was "
                "loaded, or under constraints"
            )
    for name in ("horizon", "stride", "space", "columns"):
        found, expected = (getattr(each.model.config.plan, name) for each in (theirs, own))
        if found != expected:
            raise DiffplanError(f"source has plan.{name} {found}, this agent {expected}")
    layouts = (theirs.agent.layout, own.agent.layout)
    if theirs.agent.layout.state_dim != own.agent.layout.state_dim:
        raise DiffplanError(
            f"source has states of {theirs.agent.layout.state_dim} columns, this agent of "
            f"{own.agent.layout.state_dim}"
        )
    less, expected = ([*layout.offset] or [0.0] * layout.state_dim for layout in layouts)
    if less != expected:
        raise DiffplanError(f"source has states less {less}, this agent less {expected}")
    if theirs.process != own.process or theirs.model.plan_dim != own.model.plan_dim:
        raise DiffplanError(
            f"source plans along {theirs.process.name} of {theirs.process.T} levels, this agent "
            f"along {own.process.name} of {own.process.T}; expected the same process, schedule and "
            "columns of a plan"
        )


def _given(own: _Maker, plan: Plan | np.ndarray, was: Context) -> tuple[Tensor, Tensor | None]:
    """States [B, H+1, D] and actions [B, H * stride, A] of what is edited, on the device."""
    model, agent = own.model, own.agent
    states, actions = (plan.states, plan.actions) if isinstance(plan, Plan) else (plan, None)
    shape = (len(was), agent.horizon + 1, agent.layout.state_dim)
    # a plan is less the offset already
    offset = None if isinstance(plan, Plan) else _offset(agent)
    found = _tensor(states, was.state, "plan", shape, offset=offset)
    if not bool(model.planned_part(found).isfinite().all()):
        raise DiffplanError("plan holds states that are no finite numbers")
    if not model.config.actions_in_plan:
        return found, None
    if actions is None:
        raise DiffplanError(
            f"plans of {agent.config_name} bring their actions, which states alone do not tell; "
            "expected what plan() returned"
        )
    width = (len(was), agent.horizon * agent.stride, model.spec.action_dim)
    return found, _tensor(actions, was.state, "plan.actions", width)


def _going(own: _Maker, context: Context, goal: Any) -> Context:
    if context.goal is None:
        raise DiffplanError(f"goal was given, but plans of {own.agent.config_name} have none")
    layout, like = own.agent.layout, context.state
    shape, offset = (len(context), layout.goal_dim), layout.goal_offset
    told = _tensor(goal, like, "goal", shape, alike=True, finite=True, offset=offset)
    aims = own.agent.first_aims(like.numpy(force=True), told.numpy(force=True))
    return dataclasses.replace(context, goal=torch.from_numpy(aims).to(told))


def _returning(own: _Maker, context: Context, returns: Any, name: str) -> Context:
    if context.target_return is None:
        raise DiffplanError(
            f"{name} was given, but plans of {own.agent.config_name} are made for no return"
        )
    shape = (len(context),)
    told = _tensor(returns, context.state, name, shape, alike=True, finite=True)
    return dataclasses.replace(context, target_return=told)


def _held(own: _Maker, context: Context, states: Mapping[int, Any] | None) -> Tensor | None:
    """The states [B, H+1, D] that are to be held, NaN elsewhere; None for none."""
    if states is None:
        return None
    planned, last, width = own.model.spec.planned, own.agent.horizon, own.agent.layout.state_dim
    if not isinstance(states, Mapping):
        raise DiffplanError(
            f"states is a {type(states).__name__}, expected a dict of places, 0 to {last}, to what "
            "is held there"
        )
    if not states:
        return None
    offset = _offset(own.agent)
    held = context.state.new_full((len(context), last + 1, width), torch.nan)
    for place, state in states.items():
        if not isinstance(place, int | np.integer) or not -last <= place <= last:
            raise DiffplanError(f"states has place {place!r}, expected 0 to {last}")
        name = f"states[{place}]"
        shape = (len(context), width)
        found = _tensor(state, context.state, name, shape, alike=True, offset=offset)
        if bool(found.isinf().any()):
            raise DiffplanError(f"{name} holds numbers that are not finite")
        held[:, place] = found
    beyond = [c for c in range(width) if planned and c not in planned]
    if beyond and not bool(held[:, 1:, beyond].isnan().all()):
        raise DiffplanError(
            f"states holds columns {beyond}, which plans of this model do not; they hold "
            f"{list(planned)} (plan.columns)"
        )
    return held


def _offset(agent: PlannerAgent) -> np.ndarray | None:
    """What states in environment units hold more than those of plans [D]."""
    return agent.layout.offset_of(slice(None))


def _tensor(
    value: Any,
    like: Tensor,
    name: str,
    shape: tuple[int, ...],
    *,
    alike: bool = False,
    finite: bool = False,
    offset: np.ndarray | None = None,
) -> Tensor:
    """An array of this shape, less an offset, on the device. alike: one for all rows will do."""
    try:
        found = np.asarray(value, np.float32 if offset is None else np.float64)
    except (TypeError, ValueError):
        raise DiffplanError(f"{name} is {value!r}, expected numbers") from None
    if found.shape != shape and not (alike and found.shape == shape[1:]):
        either = f" or {list(shape[1:])}" if alike else ""
        raise DiffplanError(f"{name} has shape {list(found.shape)}, expected {list(shape)}{either}")
    if offset is not None:  # before anything is rounded
        found = (found - offset).astype(np.float32)
    if finite and not np.isfinite(found).all():
        raise DiffplanError(f"{name} holds numbers that are not finite")
    return torch.from_numpy(found.copy()).to(like.device).expand(shape)
