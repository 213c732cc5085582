"""Questions that one network answers beside planning, by what it is given and what is noise.

Policy, inverse dynamics, forward model, evaluation and task, of models whose denoiser tells more
than states. How it does is settled once, by `answers_of`: heads on its features, or streams.
Everything here is normalised, as in `stages`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from diffplan.diffusion.ddim import ddim
from diffplan.diffusion.forward import start_process
from diffplan.diffusion.grids import time_grid
from diffplan.errors import DiffplanError
from diffplan.model.conditions import ConditionEncoder
from diffplan.model.context import Context
from diffplan.model.denoiser import Inputs
from diffplan.model.modalities import Telling
from diffplan.model.multi_task import MultiTaskDenoiser
from diffplan.model.planner_model import PlannerModel
from diffplan.model.streams import Levels, StreamDenoiser, schedule

_LEVEL = 1  # of the plain process: the least noise that the network knows


class Answers(Protocol):
    """What one network says beside plans. All raise DiffplanError for what it was not taught."""

    def policy(self, context: Context, noise: Tensor) -> Tensor:
        """The action to take next [B, A], scaled, without a plan: the mean over all that fit.

        noise: [B, rows, D] standard normal, in place of a plan.
        """
        ...

    def inverse_dynamics(self, context: Context, x: Tensor, noise: Tensor) -> Tensor:
        """Actions [B, H, stride, A], scaled, that lead along the states of plan tensors x.

        Whatever goal and return the context has are not looked at.
        """
        ...

    def forward_model(self, context: Context, actions: Tensor, noise: Tensor, steps: int) -> Tensor:
        """Plan tensors [B, rows, D] whose states follow from scaled actions [B, H, stride, A].

        steps: reverse steps.
        """
        ...

    def evaluation(self, context: Context, x: Tensor) -> Tensor:
        """Mean return-to-go [B] of plan tensors x, whatever return the context asks for.

        Of streams x holds the actions, too; heads are given those that they tell themselves.
        """
        ...

    def state_values(self, states: Tensor, goals: Tensor, task: Tensor | None = None) -> Tensor:
        """Return-to-go [B, n] of states [B, n, D] with goals [B, n, G], asked with a blank plan.

        task: codes [B, n, F]. Of a model with `PlannerModel.tells_of_states`.
        """
        ...

    def task(
        self, context: Context, x: Tensor, level: int, noise: Tensor, label: Tensor | None = None
    ) -> Tensor:
        """Probabilities [B, tasks] of the task that plans x noised to a level belong to.

        label: true tasks [B], int64, inside the forward process, where they must not show at high
        levels.
        """
        ...


def answers_of(model: PlannerModel) -> Answers:
    """How this model answers. DiffplanError where it has neither heads nor streams."""
    if model.streams is not None:
        return StreamAnswers(model, model.streams)
    if model.multi_task is not None:
        return HeadAnswers(model, model.multi_task)
    raise DiffplanError(
        f"this model has separate networks (heads.kind {model.config.heads.kind}) and answers no "
        "queries; train config multi-task or streams"
    )


class HeadAnswers:
    """Heads on a denoiser's features, asked at the level of noise that a question leaves."""

    def __init__(self, model: PlannerModel, denoiser: MultiTaskDenoiser) -> None:
        self.model, self.denoiser = model, denoiser
        self.process = model.plain_process

    def policy(self, context: Context, noise: Tensor) -> Tensor:
        return self.model.by_step(self._asked("actions", context, noise, self.process.T))[:, 0, 0]

    def inverse_dynamics(self, context: Context, x: Tensor, noise: Tensor) -> Tensor:
        x_t = self.process.a[_LEVEL] * x  # the mean of x_t: any noise would only blur it
        return self.model.by_step(self._asked("actions", context, x_t, _LEVEL, blind=True))

    def forward_model(self, context: Context, actions: Tensor, noise: Tensor, steps: int) -> Tensor:
        process = self.process
        if not process.c or "actions" not in self.denoiser.heads.names:
            raise DiffplanError(
                "a forward model needs the actions in the forward process: train with heads.kind "
                "streams, or with an actions head and --heads.aggregation above 0"
            )
        grid = time_grid(process.T, steps)
        known = {"actions": self.model.beside_rows(actions)}
        inputs = Inputs(telling=Telling(self.model.path_from(context.state), known))
        encoded = _encoded(self.model, self.denoiser.encoder, context, blind=True)
        denoise = self.denoiser.bind(process, grid, encoded, inputs)
        x = start_process(process, grid[0], None, noise, None)
        return ddim(denoise, process, grid, x, proposal=None, scale=None, noise=None, eta=0.0)

    def evaluation(self, context: Context, x: Tensor) -> Tensor:
        raw = self._asked("returns", context, self.process.a[_LEVEL] * x, _LEVEL)
        return self.denoiser.heads.value("returns", raw).squeeze(-1)

    def state_values(self, states: Tensor, goals: Tensor, task: Tensor | None = None) -> Tensor:
        model, denoiser, process = self.model, self.denoiser, self.process
        start = states.flatten(0, 1)
        codes = None if task is None else task.flatten(0, 1)
        context = Context(start, goals.flatten(0, 1), torch.zeros_like(start[:, 0]), task=codes)
        drop = {"target_return": torch.ones_like(start[:, 0], dtype=torch.bool)}
        # at the last level, where a plan says nothing, as in training
        blank = start.new_zeros(len(start), model.rows, model.plan_dim)
        path, encoded = model.path_from(start), denoiser.encode(context, drop)
        told = denoiser.tell(process, process.T, blank, encoded, path, ("returns",))
        return denoiser.heads.value("returns", told["returns"]).view(states.shape[:2])

    def task(
        self, context: Context, x: Tensor, level: int, noise: Tensor, label: Tensor | None = None
    ) -> Tensor:
        x_t = self.process.a[level] * x + self.process.sigma[level] * noise
        known = {} if label is None else {"task": label}
        return self._asked("task", context, x_t, level, known).softmax(-1)

    def _asked(
        self,
        name: str,
        context: Context,
        x_t: Tensor,
        level: int,
        known: dict[str, Tensor] | None = None,
        blind: bool = False,
    ) -> Tensor:
        """Raw output of a head for noised plans x_t [B, rows, D]."""
        heads = self.denoiser.heads
        if name not in heads.names:
            raise DiffplanError(
                f"this model has no head for {name!r} (heads.modalities "
                f"{', '.join(heads.names)}); train config multi-task with --heads.modalities that "
                "have it"
            )
        telling = Telling(self.model.path_from(context.state), known or {}, (name,))
        encoded = _encoded(self.model, self.denoiser.encoder, context, blind)
        inputs = Inputs(telling=telling)
        self.denoiser.bind(self.process, (level, 0), encoded, inputs)(x_t, level)
        return telling.said[name]


class StreamAnswers:
    """Streams of which some are given and clean, one is asked for, and the rest are noise."""

    def __init__(self, model: PlannerModel, streams: StreamDenoiser) -> None:
        self.model, self.streams = model, streams
        self.process = model.plain_process

    def policy(self, context: Context, noise: Tensor) -> Tensor:
        given = {"returns": 0} if self.model.use_returns else {}
        levels = schedule(self.process, 1, actions=(self.process.T, 0), **given)
        returns = context.target_return if self.model.use_returns else None
        x = self._denoised(context, noise, levels, returns=returns)
        return self.model.planned_actions(x)[:, 0, 0]

    def inverse_dynamics(self, context: Context, x: Tensor, noise: Tensor) -> Tensor:
        levels = schedule(self.process, 1, states=0, actions=(self.process.T, 0))
        found = self._denoised(context, noise, levels, states=x, blind=True)
        return self.model.planned_actions(found)

    def forward_model(self, context: Context, actions: Tensor, noise: Tensor, steps: int) -> Tensor:
        levels = schedule(self.process, steps, states=(self.process.T, 0), actions=0)
        return self._denoised(context, noise, levels, actions=actions, blind=True)

    def evaluation(self, context: Context, x: Tensor) -> Tensor:
        levels = schedule(self.process, 1, states=0, actions=0, returns=(self.process.T, 0))
        nothing, actions = torch.zeros_like(x), self.model.planned_actions(x)
        found = self._denoised(context, nothing, levels, states=x, actions=actions)
        return found[..., self.streams.columns.returns].mean((1, 2))

    def state_values(self, states: Tensor, goals: Tensor, task: Tensor | None = None) -> Tensor:
        raise DiffplanError("streams (heads.kind streams) are taught to judge plans, not states")

    def task(
        self, context: Context, x: Tensor, level: int, noise: Tensor, label: Tensor | None = None
    ) -> Tensor:
        raise DiffplanError(
            "this model has no head for 'task' (heads.kind streams); train config multi-task with "
            "--heads.modalities that have it"
        )

    def _denoised(
        self,
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
        streams, columns = self.streams, self.streams.columns
        x = streams.noise(x)  # what is given replaces it column by column
        parts = [
            x[..., columns.states] if states is None else states[..., columns.states],
            x[..., columns.actions] if actions is None else actions.flatten(2),
            x[..., columns.returns],
        ]
        if returns is not None:
            parts[2] = returns.view(-1, 1, 1).expand_as(parts[2])
        time = streams.schedule_features(self.process, levels)
        encoded = _encoded(self.model, streams.encoder, context, blind)
        return streams.sample(self.process, levels, torch.cat(parts, -1), encoded, time, None)


def _encoded(
    model: PlannerModel, encoder: ConditionEncoder, context: Context, blind: bool
) -> Tensor:
    """Condition features [B, F] without the return; blind: nor the goal."""
    goal, returns = context.goal, context.target_return
    if goal is None and model.spec.goal_dim:
        goal = context.state.new_zeros(len(context), model.spec.goal_dim)
        blind = True
    if returns is None:
        returns = context.state.new_zeros(len(context))
    everything = torch.ones(len(context), dtype=torch.bool, device=context.state.device)
    drop = {"target_return": everything} | ({"goal": everything} if blind else {})
    result: Tensor = encoder(replace(context, goal=goal, target_return=returns), drop)
    return result
