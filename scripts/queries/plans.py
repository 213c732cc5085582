"""How plausible a model's plans are, and the action they begin with, on held-out windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from diffplan.agents import PlannerAgent
from diffplan.engines.decision import Plan, PlanStep
from diffplan.envs.simulators.mazes import Maze, maze_of
from diffplan.scripts.queries.measures import Answer, Sample, context_in, rmse, weighted_mean
from diffplan.scripts.report.intervals import Estimate
from diffplan.scripts.report.pictures import positions

_ROWS = 256  # windows that are planned for at once
_LONGEST = 0.999  # quantile of the data's steps that plans should keep to


def plans(
    agent: PlannerAgent,
    sample: Sample,
    seen: Sample,
    against: PlannerAgent | None,
    mean_action: Tensor,
) -> list[Answer]:
    """Whole plans, made as the agent's settings say: their first action, steps and places.

    For the windows' goals or returns. seen: training windows, which set how long a step may be: in
    the agent's normalised states, between two plan states. against: an agent with separate
    networks, asked for the same. mean_action: [A], scaled.
    """
    told = [_planned(agent, sample)]
    if against is not None:
        told.append(_planned(against, sample))
    model = agent.model
    # plans are judged by what the windows' own actions and states show
    known, weights = sample.windows.mask.numpy(), (sample.weight * sample.acting[:, 0]).numpy()
    taken = sample.actions[:, 0, 0]
    # a high quantile, not the maximum: single jumps of the data allow nothing
    longest = float(_steps(seen.z)[seen.windows.mask > 0].quantile(_LONGEST))

    def first(action: Tensor) -> Estimate:
        return rmse((action - taken).square().mean(-1).numpy(), weights)

    def short(states: Tensor) -> np.ndarray:
        found: np.ndarray = (_steps(model.states(states)) <= longest).float().numpy()
        return found

    shown = sample.windows.states
    found = [
        _answer(
            "first action of a plan",
            "RMSE of actions in [-1, 1]",
            "low",
            [first(model.scaled_actions(action)) for _, action in told],
            first(mean_action.expand_as(taken)),
            "mean action",
        ),
        _answer(
            "plan",
            "share of steps no longer than the data's",
            "high",
            [share(short(states)) for states, _ in told],
            share(short(shown), known),
            "the data",
        ),
    ]
    # with several tasks there are several mazes or none
    maze = None if sample.task is not None else maze_of(agent.info.env_id, agent.info.env_kwargs)
    if maze is not None:

        def free(states: Tensor) -> np.ndarray:
            return in_free_cells(maze, positions(states[:, 1:].numpy(), agent.layout))

        found.append(
            _answer(
                "plan",
                "share of states in free cells",
                "high",
                [share(free(states)) for states, _ in told],
                share(free(shown), known),
                "the data",
            )
        )
    return found


def _planned(agent: PlannerAgent, sample: Sample) -> tuple[Tensor, Tensor]:
    """Plans [N, H+1, D] for the windows' first states, and the actions [N, A] they begin with.

    In environment units.
    """
    model, windows = agent.model, sample.windows
    make = PlanStep(model, agent.settings)
    goals = None if windows.goals is None else windows.goals.numpy()
    given = agent.context_at(windows.states[:, 0].numpy(), goals)
    # asked for what the windows themselves went on to reach, and told of their tasks in codes of
    # its own: another model's mean nothing to it
    own = windows.returns[:, 0] if model.use_returns else None
    given = replace(given, target_return=own, task=context_in(agent, sample).task)
    states, first = [], []
    for rows in torch.arange(len(sample.z)).split(_ROWS):
        context = given.rows(rows)
        made: Plan = make(context, make.draw(agent.seed + rows, torch.zeros_like(rows)))
        states.append(made.states)
        first.append(made.first)
    return torch.cat(states), torch.cat(first)


def _steps(z: Tensor) -> Tensor:
    """Lengths [N, H] of the steps between normalised states [N, H+1, D]."""
    return z.diff(dim=1).norm(dim=-1)


def in_free_cells(maze: Maze, xy: np.ndarray) -> np.ndarray:
    """1.0 where positions [..., 2] lie in free cells, else 0.0."""
    inside = [maze.is_free(maze.cell(point)) for point in xy.reshape(-1, 2)]
    return np.asarray(inside, float).reshape(xy.shape[:-1])


def share(right: np.ndarray, weights: np.ndarray | None = None) -> Estimate:
    """Mean of right [N, H], weighted by [N, H]; the windows are the units of the interval."""
    weights = np.ones_like(right) if weights is None else weights
    rows = weights.sum(1)
    return weighted_mean((right * weights).sum(1) / np.maximum(rows, 1), rows)


def _answer(
    question: str, unit: str, better: str, told: list[Estimate], simple: Estimate, name: str
) -> Answer:
    separate = told[1] if len(told) > 1 else None
    return Answer(question, unit, better, told[0], separate, simple, name)
