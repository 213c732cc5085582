"""Questions that one network answers beside planning, by what it is given and what is noise.

Policy, inverse dynamics, forward model, evaluation and task, of models whose denoiser tells more
than states (`heads.kind` shared or streams). Everything here is normalised, as in `planner`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from diffplan.diffusion.ddim import ddim
from diffplan.diffusion.forward import start_process
from diffplan.diffusion.grids import time_grid
from diffplan.errors import DiffplanError
from diffplan.model.context import Context
from diffplan.model.denoiser import Inputs
from diffplan.model.modalities import Telling
from diffplan.model.planner_model import PlannerModel
from diffplan.model.streams import Levels, schedule

_LEVEL = 1  # of the plain process: the least noise that the network knows


def policy(model: PlannerModel, context: Context, noise: Tensor) -> Tensor:
    """The action to take next [B, A], scaled, without a plan: the mean over all that fit.

    noise: [B, rows, D] standard normal, in place of a plan.
    """
    if model.streams is not None:
        given = {"returns": 0} if model.use_returns else {}
        levels = schedule(model.plain_process, 1, actions=(model.plain_process.T, 0), **given)
        returns = context.target_return if model.use_returns else None
        x = _streams(model, context, noise, levels, returns=returns)
        return model.planned_actions(x)[:, 0, 0]
    told = _told(model, context, noise, model.plain_process.T, {})
    return model.by_step(_asked(model, told, "actions"))[:, 0, 0]


def inverse_dynamics(model: PlannerModel, context: Context, x: Tensor, noise: Tensor) -> Tensor:
    """Actions [B, H, stride, A], scaled, that lead along the states of plan tensors x.

    Whatever goal and return the context has are not looked at.
    """
    if model.streams is not None:
        levels = schedule(model.plain_process, 1, states=0, actions=(model.plain_process.T, 0))
        found = _streams(model, context, noise, levels, states=x, blind=True)
        return model.planned_actions(found)
    told = _told(model, context, model.plain_process.a[_LEVEL] * x, _LEVEL, {}, blind=True)
    return model.by_step(_asked(model, told, "actions"))


def forward_model(
    model: PlannerModel, context: Context, actions: Tensor, noise: Tensor, steps: int
) -> Tensor:
    """Plan tensors [B, rows, D] whose states follow from scaled actions [B, H, stride, A].

    steps: reverse steps. DiffplanError where actions do not enter the forward process.
    """
    process = model.plain_process
    if model.streams is not None:
        levels = schedule(process, steps, states=(process.T, 0), actions=0)
        return _streams(model, context, noise, levels, actions=actions, blind=True)
    if not process.c or not model.config.has_head("actions"):
        raise DiffplanError(
            "a forward model needs the actions in the forward process: train with heads.kind "
            "streams, or with an actions head and --heads.aggregation above 0"
        )
    denoiser = model.multi_task
    assert denoiser is not None
    grid = time_grid(process.T, steps)
    known = {"actions": model.beside_rows(actions)}
    inputs = Inputs(telling=Telling(model.path_from(context.state), known))
    denoise = denoiser.bind(process, grid, _encoded(model, context, blind=True), inputs)
    x = start_process(process, grid[0], None, noise, None)
    return ddim(denoise, process, grid, x, proposal=None, scale=None, noise=None, eta=0.0)


def evaluation(model: PlannerModel, context: Context, x: Tensor) -> Tensor:
    """Mean return-to-go [B] of plan tensors x, whatever return the context asks for.

    Of streams x holds the actions, too; heads are given those that they tell themselves.
    """
    if model.streams is not None:
        process, told = model.plain_process, model.streams.columns.returns
        levels = schedule(process, 1, states=0, actions=0, returns=(process.T, 0))
        nothing = torch.zeros_like(x)
        found = _streams(
            model, context, nothing, levels, states=x, actions=model.planned_actions(x)
        )
        return found[..., told].mean((1, 2))
    process = model.plain_process
    said = _told(model, context, process.a[_LEVEL] * x, _LEVEL, {})
    raw = _asked(model, said, "returns")
    assert model.multi_task is not None
    return model.multi_task.heads.value("returns", raw).squeeze(-1)


def state_values(
    model: PlannerModel, states: Tensor, goals: Tensor, task: Tensor | None = None
) -> Tensor:
    """Return-to-go [B, n] of states [B, n, D] with goals [B, n, G], asked with a blank plan.

    task: codes [B, n, F]. Of a model with `PlannerModel.tells_of_states`.
    """
    denoiser, process = model.multi_task, model.plain_process
    assert denoiser is not None
    start = states.flatten(0, 1)
    codes = None if task is None else task.flatten(0, 1)
    context = Context(start, goals.flatten(0, 1), torch.zeros_like(start[:, 0]), task=codes)
    drop = {"target_return": torch.ones_like(start[:, 0], dtype=torch.bool)}
    blank = start.new_zeros(len(start), model.rows, model.plan_dim)
    path, encoded = model.path_from(start), denoiser.encode(context, drop)
    told = denoiser.tell(process, process.T, blank, encoded, path, ("returns",))
    return denoiser.heads.value("returns", told["returns"]).view(states.shape[:2])


def task(
    model: PlannerModel,
    context: Context,
    x: Tensor,
    level: int,
    noise: Tensor,
    label: Tensor | None = None,
) -> Tensor:
    """Probabilities [B, tasks] of the task that plans x noised to a level belong to.

    label: true tasks [B], int64, inside the forward process, where they must not show at high
    levels.
    """
    process = model.plain_process
    x_t = process.a[level] * x + process.sigma[level] * noise
    known = {} if label is None else {"task": label}
    raw = _asked(model, _told(model, context, x_t, level, known), "task")
    return raw.softmax(-1)


def _asked(model: PlannerModel, told: dict[str, Tensor], name: str) -> Tensor:
    if name not in told:
        raise DiffplanError(
            f"this model has no head for {name!r} (heads.kind {model.config.heads.kind}); train "
            f"config multi-task with --heads.modalities that have it"
        )
    return told[name]


def _encoded(model: PlannerModel, context: Context, blind: bool = False) -> Tensor:
    """Condition features [B, F] without the return; blind: nor the goal."""
    module = model.streams if model.streams is not None else model.denoiser
    assert module is not None
    goal, returns = context.goal, context.target_return
    if goal is None and model.spec.goal_dim:
        goal = context.state.new_zeros(len(context), model.spec.goal_dim)
        blind = True
    if returns is None:
        returns = context.state.new_zeros(len(context))
    everything = torch.ones(len(context), dtype=torch.bool, device=context.state.device)
    drop = {"target_return": everything} | ({"goal": everything} if blind else {})
    result: Tensor = module.encoder(replace(context, goal=goal, target_return=returns), drop)
    return result


def _told(
    model: PlannerModel,
    context: Context,
    x_t: Tensor,
    level: int,
    known: dict[str, Tensor],
    blind: bool = False,
) -> dict[str, Tensor]:
    """Raw outputs of the heads for noised plans x_t [B, rows, D]."""
    telling = Telling(model.path_from(context.state), known)
    if model.multi_task is not None:
        encoded = _encoded(model, context, blind)
        inputs = Inputs(telling=telling)
        model.multi_task.bind(model.plain_process, (level, 0), encoded, inputs)(x_t, level)
    return telling.said


def _streams(
    model: PlannerModel,
    context: Context,
    x: Tensor,
    levels: tuple[Levels, ...],
    *,
    states: Tensor | None = None,
    actions: Tensor | None = None,
    returns: Tensor | None = None,
    blind: bool = False,
) -> Tensor:
    """Denoise along the levels from noise x [B, rows, D] with what is given in its columns."""
    streams = model.streams
    assert streams is not None
    columns = streams.columns
    x = streams.noise(x)
    parts = [
        x[..., columns.states] if states is None else states[..., columns.states],
        x[..., columns.actions] if actions is None else actions.flatten(2),
        x[..., columns.returns],
    ]
    if returns is not None:
        parts[2] = returns.view(-1, 1, 1).expand_as(parts[2])
    time = streams.schedule_features(model.plain_process, levels)
    encoded = _encoded(model, context, blind)
    return streams.sample(model.plain_process, levels, torch.cat(parts, -1), encoded, time, None)
