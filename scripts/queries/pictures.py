"""The five questions as a picture: in a maze where there is one, else told against true."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from diffplan.agents import Queries
from diffplan.envs.simulators.mazes import Maze, maze_of
from diffplan.errors import DiffplanError
from diffplan.scripts.queries.measures import Sample
from diffplan.scripts.report import pictures

_GRID = 3  # positions along the side of a cell
_PLANS = 6
_PATHS = 5
_DOTS = 1500
_EVERY = 4  # states of a path whose action is drawn

Learned = Callable[[Sample], Tensor]


def draw_queries(
    path: Path,
    asked: Queries,
    sample: Sample,
    learned: Learned,
    task: dict[str, Any] | None,
    seed: int,
) -> None:
    """One panel per question, and one of the told task where there are several."""
    info = asked.agent.info
    maze = None if task is not None else maze_of(info.env_id, info.env_kwargs)
    with pictures.style():
        columns = 3
        figure = Figure(figsize=(4.2 * columns, 8.6), layout="constrained")
        panels = figure.subplots(2, columns).flatten()
        if maze is not None and asked.model.spec.goal_dim >= 2:
            _in_maze(panels, asked, sample, learned, maze, seed)
        else:
            _told_against_true(panels, asked, sample, learned)
        if task is not None:
            _task(panels[5], task)
        else:
            panels[5].set_axis_off()
        pictures.save(figure, path)


# --- In a maze -----------------------------------------------------------------------------------


def _in_maze(
    panels: Any, asked: Queries, sample: Sample, learned: Learned, maze: Maze, seed: int
) -> None:
    for axes in panels[:5]:
        pictures.draw_maze(axes, maze)
    goal = _far_goal(maze)
    rng = np.random.default_rng(seed)
    _plan(panels[0], asked, maze, goal)
    _policy(panels[1], asked, maze, goal)
    index = _long_paths(sample, rng)
    _inverse_dynamics(panels[2], asked, sample, index)
    _forward_model(panels[3], asked, sample, learned, index)
    _evaluation(panels[4], asked, sample, maze, goal)


def _far_goal(maze: Maze) -> tuple[float, float]:
    """Centre of the last free cell, row by row from the top."""
    return maze.centre(maze.free_cells()[-1])


def _positions(maze: Maze, grid: int) -> np.ndarray:
    """[n, 2] positions on a grid in every free cell."""
    offsets = (np.arange(grid) + 0.5) / grid - 0.5
    dx, dy = np.meshgrid(offsets * maze.scale, offsets * maze.scale)
    inner = np.stack([dx.ravel(), dy.ravel()], -1)
    return np.concatenate([np.asarray(maze.centre(c)) + inner for c in maze.free_cells()])


def _states_at(asked: Queries, xy: np.ndarray) -> np.ndarray:
    """States [n, D] at rest at positions [n, 2]."""
    # at rest: all but the position is zero
    columns = asked.agent.layout.goal_columns[:2]
    states = np.zeros((len(xy), asked.model.spec.state_dim), np.float32)
    states[:, list(columns)] = xy
    return states


def _towards(asked: Queries, states: np.ndarray, goal: tuple[float, float]) -> Any:
    goals = np.tile(np.asarray(goal, np.float32), (len(states), 1))
    return asked.agent.layout.joined(states, goals)


def _mark(axes: Axes, goal: tuple[float, float]) -> None:
    axes.plot(*goal, "*", color=pictures.GOAL, markersize=14, zorder=6)


def _plan(axes: Axes, asked: Queries, maze: Maze, goal: tuple[float, float]) -> None:
    free = maze.free_cells()
    starts = np.asarray([maze.centre(c) for c in free[:: max(1, len(free) // _PLANS)]])[:_PLANS]
    plans = asked.plan(_towards(asked, _states_at(asked, starts), goal)).states
    for xy in pictures.positions(plans, asked.agent.layout):
        axes.plot(*xy.T, "-", color=pictures.PLAN, linewidth=1.8)
        axes.plot(*xy[0], "o", color=pictures.START, markersize=5)
    _mark(axes, goal)
    axes.set_title("plan: the next states on the way to the star")


def _policy(axes: Axes, asked: Queries, maze: Maze, goal: tuple[float, float]) -> None:
    xy = _positions(maze, 2)
    actions = asked.policy(_towards(asked, _states_at(asked, xy), goal))
    axes.quiver(*xy.T, *actions[:, :2].T, color=pictures.EXECUTED, angles="xy", width=0.005)
    _mark(axes, goal)
    axes.set_title("policy: the force to apply at rest")


def _long_paths(sample: Sample, rng: np.random.Generator) -> np.ndarray:
    """Windows that move far and whose actions are all known."""
    moved = (sample.windows.states[:, -1] - sample.windows.states[:, 0]).norm(dim=-1)
    known = sample.acting.bool().all(1)
    # among the longest, so that arrows are told apart; at random among these
    score = (moved * known).numpy()
    best = np.argsort(-score)[: 20 * _PATHS]
    chosen: np.ndarray = rng.permutation(best)[:_PATHS]
    return chosen


def _inverse_dynamics(axes: Axes, asked: Queries, sample: Sample, index: np.ndarray) -> None:
    states = sample.windows.states[index].numpy()
    true = sample.taken[index][:, :, 0].numpy()
    stride = asked.model.config.plan.stride
    told = asked.inverse_dynamics(states)[:, ::stride]
    xy = pictures.positions(states, asked.agent.layout)
    for path in xy:
        axes.plot(*path.T, "-", color=pictures.CANDIDATE, linewidth=0.8)
    at = xy[:, :-1:_EVERY].reshape(-1, 2)
    true, told = true[:, ::_EVERY], told[:, ::_EVERY]
    look: Any = {"angles": "xy", "scale": 16, "zorder": 4}
    axes.quiver(
        *at.T,
        *true[..., :2].reshape(-1, 2).T,
        color=pictures.START,
        width=0.009,
        alpha=0.45,
        **look,
    )
    axes.quiver(*at.T, *told[..., :2].reshape(-1, 2).T, color=pictures.PLAN, width=0.004, **look)
    axes.set_title("inverse dynamics: true wide, told thin")


def _forward_model(
    axes: Axes, asked: Queries, sample: Sample, learned: Learned, index: np.ndarray
) -> None:
    states = sample.windows.states[index].numpy()
    layout = asked.agent.layout
    true = pictures.positions(states, layout)
    for place, path in enumerate(true):
        axes.plot(
            *path.T, color=pictures.START, alpha=0.35, linewidth=5, label="" if place else "true"
        )
        axes.plot(*path[0], "o", color=pictures.START, markersize=5)
    mlp = pictures.positions(asked.model.states.inverse(learned(sample)).numpy()[index], layout)
    for place, (path, first) in enumerate(zip(mlp, true, strict=True)):
        path = np.concatenate([first[:1], path])
        axes.plot(*path.T, "--", color=pictures.EXECUTED, label="" if place else "MLP")
    try:
        told = asked.forward_model(states[:, 0], sample.taken[index].flatten(1, 2).numpy())
    except DiffplanError:
        axes.set_title("forward model: not asked of this model")
    else:
        for place, path in enumerate(pictures.positions(told, layout)):
            axes.plot(*path.T, color=pictures.PLAN, label="" if place else "this model")
        axes.set_title("forward model: where true actions lead")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3, fontsize=9)


def _evaluation(
    axes: Axes, asked: Queries, sample: Sample, maze: Maze, goal: tuple[float, float]
) -> None:
    xy = _positions(maze, _GRID)
    states = _states_at(asked, xy)
    plans = asked.plan(_towards(asked, states, goal)).states
    goals = np.tile(np.asarray(goal, np.float32), (len(xy), 1))
    values = asked.evaluate(plans, goals=goals)
    dots = axes.scatter(
        xy[:, 0], xy[:, 1], c=values, cmap="viridis", marker="s", s=85, linewidths=0
    )
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    # below, not beside, where it would take width from the column on its right
    bar = figure.colorbar(dots, ax=axes, location="bottom", shrink=0.75, pad=0.02)
    bar.set_label("return-to-go, normalised as in training")
    _mark(axes, goal)
    axes.set_title("evaluation: the return of plans from here")


# --- Elsewhere -----------------------------------------------------------------------------------


def _told_against_true(panels: Any, asked: Queries, sample: Sample, learned: Learned) -> None:
    from diffplan.planning.queries import answers_of

    model = asked.model
    context = sample.context(target_return=model.use_returns)
    blind = sample.context(goal=False)
    known = sample.acting.bool()
    _scatter(
        panels[0],
        "policy: first action",
        "in [-1, 1]",
        sample.actions[:, 0, 0][known[:, 0]],
        answers_of(model).policy(context, sample.noise)[known[:, 0]],
    )
    led = answers_of(model).inverse_dynamics(blind, sample.x, sample.noise)[:, :, 0]
    unit = "in [-1, 1]"
    _scatter(
        panels[1], "inverse dynamics: actions", unit, sample.actions[:, :, 0][known], led[known]
    )
    last = known.all(1)
    moved = (sample.z[:, -1] - sample.z[:, 0])[last]
    try:
        steps = asked.agent.settings.denoising_steps
        ahead = answers_of(model).forward_model(blind, sample.actions, sample.noise, steps)
        told, who = model.from_plan(sample.z[:, 0], ahead)[:, -1], "this model"
    except DiffplanError:
        told, who = learned(sample)[:, -1], "an MLP, not asked of this model"
    title = f"forward model: change over the plan\n({who})"
    _scatter(panels[2], title, "in standard deviations", moved, (told - sample.z[:, 0])[last])
    if model.config.tells_returns:
        worth = answers_of(model).evaluation(sample.context(), sample.x)
        unit = "normalised as in training"
        _scatter(panels[3], "evaluation: return-to-go", unit, sample.returns, worth)
    else:
        panels[3].set_axis_off()
    observation = asked.agent.layout.joined(
        sample.windows.states[:_PATHS, 0].numpy(),
        None if sample.windows.goals is None else sample.windows.goals[:_PATHS].numpy(),
    )
    axes = panels[4]
    plans = model.states(torch.from_numpy(asked.plan(observation).states))
    for place in range(len(plans)):
        true, plan = sample.z[place].numpy(), plans[place].numpy()
        axes.plot(true[:, 0], "-", color=pictures.CANDIDATE, alpha=0.5, linewidth=4)
        axes.plot(plan[:, 0], "-", color=pictures.PLAN)
    axes.set(xlabel="plan state", ylabel="first column, in standard deviations")
    axes.set_title("plan: planned thin, the data wide")


def _scatter(axes: Axes, title: str, unit: str, true: Tensor, told: Tensor) -> None:
    true, told = true.flatten(), told.flatten()
    # more dots than this only darken the picture
    index = torch.linspace(0, len(true) - 1, min(_DOTS, len(true))).long()
    axes.plot(true[index], told[index], ".", color=pictures.EXECUTED, markersize=3, alpha=0.35)
    low, high = float(true.min()), float(true.max())
    axes.plot([low, high], [low, high], color=pictures.CANDIDATE, linewidth=1)
    axes.set(title=title, xlabel=f"true, {unit}", ylabel=f"told, {unit}")


def _task(axes: Axes, task: dict[str, Any]) -> None:
    for key, label, color in (
        ("accuracy", "from the plan", pictures.EXECUTED),
        ("label_inside", "label in the process", pictures.PLAN),
    ):
        if key in task:
            mean = [each["mean"] for each in task[key]]
            low, high = ([each[k] for each in task[key]] for k in ("low", "high"))
            axes.plot(task["sigma"], mean, "o-", color=color, label=label)
            axes.fill_between(task["sigma"], low, high, color=color, alpha=0.2, linewidth=0)
    axes.axhline(task["chance"], color=pictures.CANDIDATE, linestyle=":", label="chance")
    axes.set(
        title="task: told rightly", xlabel="noise σ", ylabel="share of windows", ylim=(0, 1.03)
    )
    axes.legend(fontsize=9)
