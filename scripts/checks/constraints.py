"""What plans under constraints cost and keep: obstacles and waypoints that training never saw.

    python -m diffplan.scripts.checks.constraints RUN [RUN ...] --out FOLDER

RUN: of a point maze. Every layout has discs in the corridors and a place to pass, at random, clear
of the starts and goals of its episodes; a free way of 0.4 of a cell's side joins all.
Every way of `diffplan.planning.wishes` plays the same episodes, beside no constraint. FOLDER gets
constraints.json, a picture and a video.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from diffplan.agents import PlannerAgent, load_agent
from diffplan.constraints import Avoid, Disc, Waypoint
from diffplan.envs.rollouts.serial import rollout
from diffplan.envs.rollouts.traces import Trace
from diffplan.envs.simulators.environments import evaluation_env_factory
from diffplan.envs.simulators.mazes import Maze, maze_of
from diffplan.errors import DiffplanError
from diffplan.scripts.checks import main
from diffplan.scripts.evaluate.video import maze_video
from diffplan.scripts.report import pictures
from diffplan.scripts.report.intervals import wilson
from diffplan.scripts.report.results import aligned, interval

_RADIUS, _DISCS = 0.25, 6  # of a cell's side; discs of a layout
_PASSED, _REACHED = 0.3, 0.45  # of a cell's side: how near a waypoint, a goal
_CLEAR = 0.2  # of a cell's side, between discs and starts, goals and waypoints
_MARGIN = 0.1  # of a cell's side: a plan keeps clear by what following it may be off
_FREE, _STEPS = 0.4, 20  # of a cell's side: the way that discs leave; points of a side looked at
_ROWS: dict[str, dict[str, Any] | None] = {
    "no constraint": None,
    "rejection, 64 candidates": {"way": "reject", "candidates": 64},
    "projection, 1 candidate": {"way": "project", "candidates": 1},
    "projection": {"way": "project"},
    "DPS": {"way": "dps"},
    "PiGDM": {"way": "pigdm"},
    "RED-Diff": {"way": "red-diff"},
    "sequential Monte Carlo": {"way": "smc"},
    "the same with gradients": {"way": "smc-gradient"},
}


@dataclass(frozen=True)
class Constraints:
    """Play mazes with obstacles and waypoints that training never saw, by every way."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Runs of point mazes."""
    out: Path
    """Folder of the results."""
    layouts: int = 5
    """Layouts, of twenty episodes each."""
    seed: int = 1000
    """Of the first episode."""
    only: tuple[str, ...] = ()
    """Rows to play, where not all."""

    def run(self) -> None:
        """Write results and print their table."""
        self.out.mkdir(parents=True, exist_ok=True)
        found = []
        for run in self.runs:
            # many layouts of few plans: no graph of them is worth its export
            agent, timed = load_agent(run, engine="eager", detailed=True), load_agent(run)
            info = agent.info.public
            maze = maze_of(info.env_id, info.env_kwargs)
            if maze is None:
                raise DiffplanError(f"{run}: {info.env_id} is no maze; give a run of a point maze")
            layouts = [_layout(self, maze, info, number) for number in range(self.layouts)]
            for name, options in _ROWS.items():
                if not self.only or name in self.only:
                    found.append(self._row(name, options, (agent, timed), maze, layouts))
        path = self.out / "constraints.json"
        path.write_text(json.dumps({"seed": self.seed, "rows": found}, indent=1) + "\n")
        print(aligned([_TITLES, *map(_line, found)]))

    def _row(
        self,
        name: str,
        options: dict[str, Any] | None,
        agents: tuple[PlannerAgent, PlannerAgent],
        maze: Maze,
        layouts: Sequence[_Layout],
    ) -> dict[str, Any]:
        played: list[_Played] = []
        agent, timed = agents  # one that keeps what pictures show, one that is timed
        milliseconds = float("nan")
        for number, layout in enumerate(layouts):
            asked = [] if options is None else layout.constraints(maze)
            under = agent.constrained(*asked, **options) if options is not None else agent
            result = rollout(
                under,
                evaluation_env_factory(agent.info),
                episodes=_EPISODES,
                num_envs=_EPISODES,
                seed=self.seed + _EPISODES * number,
                record=_EPISODES,
                description=f"{agent.info.id}, {name}, layout {number + 1} of {len(layouts)}",
            )
            played += [layout.judged(trace, maze) for trace in result.traces]
            if number == 0:
                fast = timed.constrained(*asked, **options) if options is not None else timed
                milliseconds = _plan_ms(fast, result.traces[0])
            if name == "projection" and layout is max(layouts, key=lambda each: len(each.discs)):
                stem = self.out / f"constraints-{agent.info.id.split('/')[-1]}"
                _draw(stem.with_suffix(".png"), layout, result.traces[:3], agent, maze)
                maze_video(
                    stem, result.traces[:1], agent.layout, maze, partial(_draw_layout, layout, maze)
                )
        reached = [p for p in played if p.reached]
        return {
            "data": agent.info.id,
            "row": name,
            "episodes": len(played),
            "reached": len(reached),
            "both": sum(p.reached and p.passed for p in played),
            "violations": float(np.mean([p.inside for p in played])),
            "worst": float(np.quantile([p.deepest for p in played], 0.95)),
            "length": float(np.mean([p.length for p in reached])) if reached else float("nan"),
            "plan_ms": milliseconds,
        }


_EPISODES = 20
_TITLES = ["data", "way", "n", "reached and passed", "steps inside", "depth, 95 %", "cells", "ms"]


def _line(row: dict[str, Any]) -> list[str]:
    return [
        row["data"],
        row["row"],
        str(row["episodes"]),
        interval(wilson(row["both"], row["episodes"]), 100, " %"),
        f"{row['violations']:.1%}",
        f"{row['worst']:.2f}",
        f"{row['length']:.1f}",
        f"{row['plan_ms']:.1f}",
    ]


@dataclass(frozen=True)
class _Played:
    """What came of an episode. length: of the way to the goal, in cells."""

    reached: bool
    passed: bool
    inside: float
    deepest: float
    length: float


@dataclass(frozen=True)
class _Layout:
    """discs: [n, 2] centres. place: [2] to pass."""

    discs: np.ndarray
    place: np.ndarray

    def constraints(self, maze: Maze) -> list[Avoid | Waypoint]:
        """As the agent is told."""
        radius, side = _RADIUS * maze.scale, maze.scale
        avoid = [Avoid(Disc(tuple(at), radius), margin=_MARGIN * side) for at in self.discs]
        return [*avoid, Waypoint(tuple(self.place), within=_PASSED * side)]

    def judged(self, trace: Trace, maze: Maze) -> _Played:
        """One episode, until it has passed and reached, or all of it."""
        at = trace.observations["observation"][:, :2]
        goal = trace.observations["desired_goal"][0]
        near = np.linalg.norm(at - self.place, axis=1) <= _PASSED * maze.scale
        passed = int(near.argmax()) if near.any() else None
        there = np.linalg.norm(at - goal, axis=1) <= _REACHED * maze.scale
        there[: passed or 0] = False
        end = int(there.argmax()) if there.any() else len(at) - 1
        walked = at[: end + 1]
        depth = _RADIUS * maze.scale - np.linalg.norm(walked[:, None] - self.discs, axis=2).min(1)
        return _Played(
            bool(there.any()),
            passed is not None,
            float((depth > 0).mean()),
            max(0.0, float(depth.max())),
            float(np.linalg.norm(np.diff(walked, axis=0), axis=1).sum()) / maze.scale,
        )


def _layout(options: Constraints, maze: Maze, info: Any, number: int) -> _Layout:
    """Discs beside the middle of corridors, and a place to pass, clear of starts and goals."""
    rng = np.random.default_rng([7, number])
    first = options.seed + _EPISODES * number
    env = evaluation_env_factory(info)()
    ends = []
    for seed in range(first, first + _EPISODES):
        observation, _ = env.reset(seed=seed)
        ends += [observation["observation"][:2], observation["desired_goal"]]
    env.close()
    cells = [np.array(maze.centre(cell)) for cell in maze.free_cells()]
    place = cells[rng.integers(len(cells))]
    taken = [*ends, place]
    discs: list[np.ndarray] = []
    for cell in rng.permutation(len(cells)):
        at = cells[cell] + maze.scale * rng.uniform(-0.4, 0.4, 2)
        clear = (_RADIUS + _MARGIN + _CLEAR) * maze.scale
        apart = all(np.linalg.norm(at - disc) > 1.2 * maze.scale for disc in discs)
        near = min(float(np.linalg.norm(at - other)) for other in taken)
        if apart and near > clear and _passable(maze, [*discs, at], taken):
            discs.append(at)
        if len(discs) == _DISCS:
            break
    return _Layout(np.array(discs), place)


def _passable(maze: Maze, discs: Sequence[np.ndarray], ends: Sequence[np.ndarray]) -> bool:
    """Whether a way of `_FREE` of a cell's side joins all these places.

    On a grid of `_STEPS` points to a cell's side: what keeps half the width from walls and discs.
    """
    height, width = len(maze.rows), len(maze.rows[0])
    x, y = np.meshgrid(
        maze.middle[0] + (np.arange(width * _STEPS) / _STEPS - width / 2) * maze.scale,
        maze.middle[1] + (height / 2 - np.arange(height * _STEPS) / _STEPS) * maze.scale,
    )
    points, half = np.stack([x, y], -1), _FREE / 2 * maze.scale
    free = np.ones(x.shape, bool)
    for cell in ((i, j) for i in range(height) for j in range(width)):
        if not maze.is_free(cell):
            beyond = np.abs(points - maze.centre(cell)) - maze.scale / 2
            free &= np.linalg.norm(beyond.clip(min=0), axis=-1) > half
    for disc in discs:
        free &= np.linalg.norm(points - disc, axis=-1) > _RADIUS * maze.scale + half
    at = [np.unravel_index(np.linalg.norm(points - end, axis=-1).argmin(), x.shape) for end in ends]
    reached, before = np.zeros_like(free), -1
    reached[at[0]] = True
    while reached.sum() != before:
        before = reached.sum()
        for _ in range(_STEPS):
            grown = reached.copy()
            for axis in (0, 1):
                for shift in (-1, 1):
                    grown |= np.roll(reached, shift, axis)
            reached = grown & free
    return all(reached[place] for place in at)


def _plan_ms(agent: PlannerAgent, trace: Trace) -> float:
    """Median milliseconds of a core for a new plan for one environment."""
    rows = {key: np.asarray(value) for key, value in trace.observations.items()}
    times = []
    for step in range(20):
        observation = {key: value[step : step + 1] for key, value in rows.items()}
        began = time.thread_time()  # other work does not count
        agent.predict(observation)
        times.append(1e3 * (time.thread_time() - began))
    return statistics.median(times[5:])


def _draw(
    path: Path, layout: _Layout, traces: Sequence[Trace], agent: PlannerAgent, maze: Maze
) -> None:
    with pictures.style():
        figure = Figure(figsize=(3.7 * len(traces), 4.2), layout="constrained")
        panels = figure.subplots(1, len(traces), squeeze=False)[0]
        for axes, trace in zip(panels, traces, strict=True):
            pictures.draw_episode(axes, trace, agent.layout, maze)
            _draw_layout(layout, maze, axes)
        pictures.save(figure, path)


def _draw_layout(layout: _Layout, maze: Maze, axes: Axes) -> None:
    for disc in layout.discs:
        axes.add_patch(Circle(disc, _RADIUS * maze.scale, color="#b33", alpha=0.6))
    axes.plot(*layout.place, "D", color="#b33", markersize=8, markeredgecolor="white")


if __name__ == "__main__":
    sys.exit(main(Constraints, "diffplan.scripts.checks.constraints", sys.argv[1:]))
