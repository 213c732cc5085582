"""Counterfactual questions to a recorded window, drawn: another goal or return, another start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from diffplan.agents import PlannerAgent
from diffplan.data.windows import WindowSampler
from diffplan.envs.simulators.mazes import Maze, maze_of
from diffplan.errors import DiffplanError
from diffplan.scripts.report import pictures

_WINDOWS = 512  # of which one is asked about
_OTHERS = 4  # goals or returns, and starts
_AWAY = 0.5  # standard deviations of the data that another start is off
_ASIDE = 0.25  # of a cell's side in a maze
_COLUMNS = 3  # of the state that are drawn over time
_COLOURS = (pictures.PLAN, pictures.EXECUTED, pictures.GOAL, pictures.AIM)


@dataclass(frozen=True)
class WhatIf:
    """A window and what it would have been, states in environment units.

    done: [H+1, D]. asked: [n, H+1, D] for other goals or returns. anew: [n, H+1, D], the agent's
    own plans for them. told: [n] their names. goals: [n, G], None without. moved: [n, H+1, D] from
    other starts.
    """

    done: np.ndarray
    asked: np.ndarray
    anew: np.ndarray
    told: list[str]
    goals: np.ndarray | None
    moved: np.ndarray


def what_if(agent: PlannerAgent, sampler: WindowSampler, seed: int) -> WhatIf:
    """Ask about a held-out window, hindsight telling what it was for.

    Raises DiffplanError where the agent's plans do not say what windows are.
    """
    model, layout = agent.model, agent.layout
    if model.spec.planned or model.config.actions_in_plan or model.tasks is not None:
        raise DiffplanError("what if: asked of plans of whole states alone, for one task")
    if layout.goal_dim and not layout.goal_columns:
        raise DiffplanError("what if: goals are no columns of the state")
    drawn = sampler.sample(_WINDOWS, torch.Generator().manual_seed(seed), "held-out")
    whole = drawn.mask.bool().all(1)
    if not bool(whole.any()):
        raise DiffplanError(f"what if: none of {_WINDOWS} held-out windows is whole")
    states, returns = drawn.states[whole].numpy(), drawn.returns[whole, 0].numpy()
    std = model.states.std.numpy(force=True)
    spread = np.abs(states[:, -1] - states[:, 0]) / std
    place = _telling(spread.mean(1), np.abs(states[:, 0, list(layout.rest_columns)]).sum(1))
    done, start, goals, had = states[place], states[place, 0], None, None
    offset = layout.offset_of(slice(None))
    acted = _told(done[None], offset)
    if layout.goal_dim:
        goals = _goals(agent, done)
        told = [f"goal {number + 1}" for number in range(len(goals))]
        instead: list[dict[str, Any]] = [
            {"goal": _told(goal, layout.goal_offset)} for goal in goals
        ]
        seen = layout.joined(start[None], done[None, -1, list(layout.goal_columns)])
        anew = [agent.plan(layout.joined(start[None], goal[None])).states for goal in goals]
    elif agent.uses_returns:
        had, seen = float(returns[place]), layout.joined(start[None])
        levels = np.quantile(returns, np.linspace(0.05, 0.95, _OTHERS)).astype(float)
        told = [f"return-to-go {level:.0f}, not {had:.0f}" for level in levels]
        instead = [{"returns": level} for level in levels]
        typical = agent.plan(seen)
        anew = [agent.edit(typical, seen, **each).states for each in instead]
    else:
        raise DiffplanError("what if: plans are made for neither a goal nor a return")
    columns = layout.goal_columns[:2] or tuple(np.argsort(-spread[place])[:2])
    maze = maze_of(agent.info.env_id, agent.info.env_kwargs)
    starts = np.repeat(start[None], 2 * len(columns), 0)
    for row, sign in enumerate((1, -1) * len(columns)):
        column = columns[row // 2]
        away = _AWAY * std[column] if maze is None else _ASIDE * maze.scale
        starts[row, column] += sign * away
    starts = _told(starts, offset)
    return WhatIf(
        done,
        np.concatenate([agent.edit(acted, seen, had=had, **each).states for each in instead]),
        np.concatenate(anew),
        told,
        goals,
        np.concatenate(
            [agent.edit(acted, seen, had=had, states={0: each}).states for each in starts]
        ),
    )


def _told(values: np.ndarray, offset: np.ndarray | None) -> np.ndarray:
    """What data hold, in environment units."""
    return values if offset is None else values + offset


def _telling(moved: np.ndarray, speed: np.ndarray) -> int:
    """The window that begins slowest of the half that moves most: it could have gone elsewhere."""
    far = np.argsort(-moved)[: max(1, len(moved) // 2)]
    return int(far[speed[far].argmin()]) if speed.any() else int(far[0])


def _goals(agent: PlannerAgent, done: np.ndarray) -> np.ndarray:
    """Other goals [n, G]: cells beside the start in a maze, else before and behind it."""
    columns = list(agent.layout.goal_columns)
    start, end = done[0, columns], done[-1, columns]
    maze = maze_of(agent.info.env_id, agent.info.env_kwargs)
    if maze is not None:
        centres = np.array([maze.centre(cell) for cell in maze.free_cells()])
        off = np.linalg.norm(centres - start[:2], axis=1) / maze.scale
        near = np.argsort(off + 1e3 * (off < 0.5))[:_OTHERS]
        goals = np.tile(end, (len(near), 1))
        goals[:, :2] = centres[near]
        return goals
    shares = np.linspace(-1, 0.5, _OTHERS)[:, None]
    found: np.ndarray = start + shares * (end - start)
    return found


# --- The picture ---------------------------------------------------------------------------------


def draw_what_if(path: Path, agent: PlannerAgent, found: WhatIf, title: str) -> None:
    """Write the picture: in a maze where there is one, else over time."""
    maze = maze_of(agent.info.env_id, agent.info.env_kwargs)
    with pictures.style():
        if maze is not None and found.goals is not None:
            figure = Figure(figsize=(8.4, 5.0), layout="constrained")
            _in_maze(figure, agent, found, maze)
        else:
            figure = Figure(figsize=(12.6, 6.0), layout="constrained")
            _over_time(figure, agent, found)
        lines = [
            Line2D([], [], color=pictures.START, linewidth=5, alpha=0.3, label="what was done"),
            Line2D([], [], color=pictures.PLAN, label="what would have been"),
            Line2D([], [], color=pictures.PLAN, linestyle=":", label="the agent's own plan for it"),
        ]
        figure.legend(handles=lines, loc="outside lower center", ncols=3, fontsize=9)
        figure.suptitle(title)
        pictures.save(figure, path)


def _in_maze(figure: Figure, agent: PlannerAgent, found: WhatIf, maze: Maze) -> None:
    assert found.goals is not None
    left, right = figure.subplots(1, 2)
    for axes, title in ((left, "another goal"), (right, "another start")):
        pictures.draw_maze(axes, maze)
        axes.set_title(f"what if: {title}")
        _wide(axes, *pictures.positions(found.done, agent.layout).T)
    for colour, asked, anew, goal in zip(
        _COLOURS, found.asked, found.anew, found.goals, strict=False
    ):
        left.plot(*pictures.positions(asked, agent.layout).T, color=colour, linewidth=1.6)
        left.plot(*pictures.positions(anew, agent.layout).T, ":", color=colour, linewidth=1.6)
        left.plot(*goal[:2], "*", color=colour, markersize=12, markeredgecolor="white", zorder=6)
    for colour, moved in zip(_COLOURS, found.moved, strict=False):
        xy = pictures.positions(moved, agent.layout)
        right.plot(*xy.T, color=colour, linewidth=1.6)
        right.plot(*xy[0], "o", color=colour, markersize=6, markeredgecolor="white", zorder=6)
    drawn = np.concatenate([found.done[None], found.asked, found.moved])
    points = pictures.positions(drawn, agent.layout).reshape(-1, 2)
    points = np.concatenate([points, found.goals[:, :2]])
    middle = (points.min(0) + points.max(0)) / 2
    half = 0.6 * max(float(np.ptp(points, axis=0).max()), maze.scale)
    for axes in (left, right):
        (x, y) = middle
        axes.set(xlim=(x - half, x + half), ylim=(y - half, y + half))


def _over_time(figure: Figure, agent: PlannerAgent, found: WhatIf) -> None:
    std = agent.model.states.std.numpy(force=True)
    columns = np.sort(np.argsort(-np.ptp(found.done, axis=0) / std)[:_COLUMNS])
    times = agent.stride * np.arange(len(found.done))
    panels = figure.subplots(2, len(columns), squeeze=False)
    for place, column in enumerate(columns):
        for row, others in enumerate((found.asked, found.moved)):
            axes = panels[row, place]
            _wide(axes, times, found.done[:, column])
            for number, (colour, states) in enumerate(zip(_COLOURS, others, strict=False)):
                label = found.told[number] if row == 0 and place == 0 else None
                axes.plot(times, states[:, column], color=colour, linewidth=1.6, label=label)
                if row == 0:
                    axes.plot(times, found.anew[number, :, column], ":", color=colour)
            axes.set_ylabel(f"state {column}")
        panels[1, place].set_xlabel("environment step")
    panels[0, 0].set_title("what if: another goal or return", loc="left")
    panels[1, 0].set_title("what if: another start", loc="left")
    panels[0, 0].legend(fontsize=8)


def _wide(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    axes.plot(x, y, color=pictures.START, linewidth=6, alpha=0.25, solid_capstyle="round")
