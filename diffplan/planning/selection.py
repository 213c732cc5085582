"""Stage 3 of a plan: what each candidate is worth, and which one is followed."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from diffplan.config.sections import PlanningConfig
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel
from diffplan.model.value import Value
from diffplan.planning.queries import answers_of

_CHECK_EVERY = 4  # plan states between two looks at a plan's progress
_EXCESS_WEIGHT = 2.0  # above 1: gaining by a jump must not pay
_RELEASED_UNIT = 1000.0  # of returns in Trajectory Diffuser's code
_LEAST_RETURN = 1e-3  # the value network resolves no less


def evaluate(
    model: PlannerModel, context: Context, candidates: Tensor, x: Tensor, told: Mapping[str, Tensor]
) -> Tensor:
    """Value of each candidate [B*K, H+1, D] -> [B*K], in normalised returns-to-go.

    x: [B*K, rows, D], the plan tensors. told: what the denoiser's heads said of them, raw. Of
    streams the return is denoised given states and actions. With a value head and without a goal
    it is what the head told, asked once more where the target return was an input; with a goal the
    head is asked of states, as a value network.

    Without a goal, V averaged over the plan's future states; with the published critic, Q of the
    current state and first action; with a goal, see `_goal_value` (undiscounted: V of the last
    state).
    """
    value, goal = model.value, context.goal
    if value is not None and value.uses_action:
        return _critic_value(model, value, context, candidates, told)
    if goal is not None and model.streams is None:
        if model.config.data.discount < 1:
            return _goal_value(model, goal, candidates, context.task)
        return _values(model, candidates[:, -1:], goal, context.task)[:, 0]
    if value is not None:
        # one state's error would decide which of many similar plans looks best
        later = candidates[:, 1:]
        average: Tensor = value(later, None, task=_along(context.task, later)).mean(1)
        return average
    if model.multi_task is not None and not model.use_returns:
        return model.multi_task.heads.value("returns", told["returns"]).squeeze(-1)
    # plans were made for a return, which heads would repeat: asked again without it
    return answers_of(model).evaluation(context, x)


def _critic_value(
    model: PlannerModel,
    value: Value,
    context: Context,
    candidates: Tensor,
    told: Mapping[str, Tensor],
) -> Tensor:
    """Q of the current state and the plan's first action [B*K]."""
    if model.inverse_dynamics is not None:
        lag = torch.ones(len(candidates), device=candidates.device)
        action = model.inverse_dynamics.lead(candidates[:, 0], candidates[:, 1], lag)
    else:
        assert model.multi_task is not None and model.multi_task.heads.acting is not None
        acting, kept = model.multi_task.heads.acting, told["kept"]
        ahead = acting.lookahead
        lag = torch.full_like(candidates[:, 0, 0], ahead)
        action = acting(kept[:, ahead - 1], candidates[:, 0], candidates[:, ahead], lag)
    result: Tensor = value(candidates[:, 0], context.goal, action.clamp(-1, 1), context.task)
    return result


def _along(task: Tensor | None, states: Tensor) -> Tensor | None:
    """Codes [B, F] for states [B, n, D]: [B, n, F]."""
    return None if task is None else task[:, None].expand(-1, states.shape[1], -1)


def _values(model: PlannerModel, states: Tensor, goal: Tensor, task: Tensor | None) -> Tensor:
    """Normalised returns-to-go [B, n] of states [B, n, D] with goals [B, G]."""
    goals, told = goal[:, None].expand(-1, states.shape[1], -1), _along(task, states)
    if model.value is None:
        return answers_of(model).state_values(states, goals, told)
    result: Tensor = model.value(states, goals, task=told)
    return result


def _goal_value(
    model: PlannerModel, goal: Tensor, candidates: Tensor, task: Tensor | None
) -> Tensor:
    """V of the last state, less twice what the plan gains faster than time passes.

    With a goal V = discount^(steps to go), and no real motion saves more steps than it takes. A
    plan that does jumps somewhere, through a wall for instance: the very plans that a maximum over
    candidates would otherwise pick.
    """
    plan = model.config.plan
    states = torch.cat([candidates[:, : plan.horizon : _CHECK_EVERY], candidates[:, -1:]], 1)
    values = _values(model, states, goal, task)
    returns = model.returns.inverse(values.unsqueeze(-1)).squeeze(-1)
    discount = model.config.data.discount
    steps = returns.clamp(_LEAST_RETURN, 1.0).log() / math.log(discount)
    saved = steps[:, :-1] - steps[:, 1:]
    rest = plan.horizon % _CHECK_EVERY
    excess = _excess(saved[:, :-1] if rest else saved, plan.stride * _CHECK_EVERY)
    if rest:
        excess = excess + _excess(saved[:, -1:], plan.stride * rest)
    return model.normalised_returns(discount ** (steps[:, -1] + _EXCESS_WEIGHT * excess))


def _excess(saved: Tensor, elapsed: int) -> Tensor:
    """What saved steps to go [B, n] exceed the steps they took by, in sum: [B]."""
    return (saved - elapsed).clamp(min=0).sum(1)


def weighed(model: PlannerModel, values: Tensor) -> Tensor:
    """Values as a softmax takes them: the published critic's in thousands of return."""
    if model.value is None or not model.value.uses_action:
        return values
    return values * (model.returns.std[0] / _RELEASED_UNIT)


def select(values: Tensor, gumbel: Tensor, settings: PlanningConfig) -> Tensor:
    """Stage 3: one candidate per row from values [B, K]: index [B]."""
    if values.shape[1] == 1:
        return torch.zeros(len(values), dtype=torch.long, device=values.device)
    if settings.select == "softmax":
        # the Gumbel maximum is a draw from the softmax
        return (values + gumbel).argmax(1)
    return values.argmax(1)
