"""Episodes of OGBench's maze data, by its public procedure.

A body is led through a maze cell by cell along shortest paths: its actor is told the unit direction
to the middle of the next cell, and Gaussian noise is added to its actions. navigate: from goal to
goal; stitch: to a goal four cells away; explore: no goal, a random direction every ten steps.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from importlib import resources
from typing import Any

import numpy as np

from diffplan.envs.makers.actors import load_actor
from diffplan.envs.makers.catalogue import MazeSet
from diffplan.envs.simulators.ogbench import make_simulator, seeded

_STITCH_CELLS = 4
_EXPLORE_STEPS = 10
_NEIGHBOURS = ((-1, 0), (0, -1), (1, 0), (0, 1))  # of equally short ways the first is taken

Cell = tuple[int, int]


@functools.cache
def _equipment(env_name: str) -> tuple[Any, _Cells, Callable[[np.ndarray], np.ndarray]]:
    """The simulator, its cells, and what acts on an observation without x and y, a unit direction
    behind it.
    """
    sim = make_simulator(env_name, terminate_at_goal=False)
    return sim, _Cells(sim), _actor(env_name.partition("-")[0])


def maze_episode(made: MazeSet, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One episode of a maze dataset: observations [T, D] and actions [T, A], float32."""
    sim, maze, actor = _equipment(made.env_name)
    start = maze.draw(maze.free, rng)
    goals = maze.at_distance(start, _STITCH_CELLS) if made.kind == "stitch" else maze.junctions
    goal = maze.draw(goals, rng) if goals else start
    options = {"task_info": {"init_ij": start, "goal_ij": goal}}
    observations, actions = [], []
    with seeded(sim, int(rng.integers(2**31))) as own:
        observation, _ = sim.reset(seed=own, options=options)
        direction = np.zeros(2)
        for step in range(made.steps):
            if made.kind != "explore":
                direction = maze.direction(sim.get_xy(), sim.cur_goal_xy)
            elif step % _EXPLORE_STEPS == 0:
                direction = _unit(rng.standard_normal(2))
            action = actor(np.concatenate([observation[2:], direction]))
            action = np.clip(action + made.noise * rng.standard_normal(len(action)), -1.0, 1.0)
            observations.append(observation.astype(np.float32))
            actions.append(action.astype(np.float32))
            observation, _, _, _, info = sim.step(action)
            if made.kind == "navigate" and info["success"]:
                sim.set_goal(maze.draw(maze.junctions, rng))
    return np.stack(observations), np.stack(actions)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / (np.linalg.norm(vector) + 1e-6)


class _Cells:
    """The free cells of a maze and the shortest ways between them."""

    def __init__(self, sim: Any) -> None:
        self._sim, self._open = sim, np.asarray(sim.maze_map) == 0
        self.free: list[Cell] = [(int(i), int(j)) for i, j in np.argwhere(self._open)]
        self.junctions = [cell for cell in self.free if not self._in_corridor(cell)]
        self._steps: dict[Cell, np.ndarray] = {}

    @staticmethod
    def draw(cells: list[Cell], rng: np.random.Generator) -> Cell:
        return cells[int(rng.integers(len(cells)))]

    def at_distance(self, start: Cell, steps: int) -> list[Cell]:
        """Free cells whose shortest way from `start` has so many steps."""
        found = np.argwhere(self._steps_to(start) == steps)
        return [(int(i), int(j)) for i, j in found]

    def direction(self, xy: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Unit vector from a position to the middle of the next cell on the way to a goal."""
        here, steps = self._sim.xy_to_ij(xy), self._steps_to(self._sim.xy_to_ij(goal))
        best = here
        for cell in self._beside(here):
            if steps[cell] < steps[best]:
                best = cell
        return _unit(np.asarray(self._sim.ij_to_xy(best)) - xy)

    def _steps_to(self, goal: Cell) -> np.ndarray:
        """Steps of the shortest way to `goal` from every cell, -1 where there is none."""
        if goal not in self._steps:
            steps = np.full(self._open.shape, -1)
            steps[goal] = 0
            frontier = deque([goal])
            while frontier:
                cell = frontier.popleft()
                for beside in self._beside(cell):
                    if steps[beside] < 0:
                        steps[beside] = steps[cell] + 1
                        frontier.append(beside)
            self._steps[goal] = steps
        return self._steps[goal]

    def _beside(self, cell: Cell) -> list[Cell]:
        around = ((cell[0] + i, cell[1] + j) for i, j in _NEIGHBOURS)
        return [beside for beside in around if self._open[beside]]  # walls all around the border

    def _in_corridor(self, cell: Cell) -> bool:
        i, j = cell
        across, along = self._open[[i - 1, i + 1], j], self._open[i, [j - 1, j + 1]]
        return bool((across.all() and not along.any()) or (along.all() and not across.any()))


def _actor(body: str) -> Callable[[np.ndarray], np.ndarray]:
    if body == "pointmaze":
        return lambda seen: seen[-2:]
    file = resources.files("diffplan.envs.makers") / "ant-direction.npz"
    with resources.as_file(file) as path:
        return load_actor(path)
