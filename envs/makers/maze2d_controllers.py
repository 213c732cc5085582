"""D4RL's waypoint controller for maze2d: the one that made its data and its reference scores.

Facts from d4rl/pointmaze/waypoint_controller.py (D4RL, Apache-2.0): shortest paths over the grid,
waypoints moved by up to 0.2 towards the origin, action = 10 (waypoint - xy) - velocity, the next
waypoint is taken within 0.1. It plans when the CELL of the goal changes. D4RL measured its
reference maxima with one controller over 100 episodes and one goal, so it planned once and ran
straight at the goal from every later start, through walls where need be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

import gymnasium as gym
import numpy as np

from diffplan.data.info import DatasetInfo
from diffplan.envs.makers.controllers import NoiseState, episode_starts, generator, next_noise_state
from diffplan.envs.simulators.maze2d import GridPoint, free_points

GAIN = 10.0
NEAR = 0.1
_WAYPOINT_SPREAD = 0.2
# D4RL takes the first of equally good moves in this order of (i, j).
_MOVES = ((0, -1), (0, 1), (-1, 0), (1, 0))


@dataclass(frozen=True)
class Route:
    """Waypoints (x, y) to the cell `target`, the last one is that cell; index: the next one."""

    target: GridPoint
    waypoints: tuple[tuple[float, float], ...]
    index: int = 0


class Grid:
    """Shortest paths between the free cells of a maze, by D4RL's order of moves."""

    def __init__(self, maze: str) -> None:
        self.free = set(free_points(maze))
        self._distances: dict[GridPoint, dict[GridPoint, int]] = {}

    def cell_of(self, xy: np.ndarray) -> GridPoint:
        """The free cell whose point is nearest to xy [2]; D4RL rounds, which may hit a wall."""
        rounded = (round(float(xy[0])), round(float(xy[1])))
        if rounded in self.free:
            return rounded
        return min(self.free, key=lambda cell: (cell[0] - xy[0]) ** 2 + (cell[1] - xy[1]) ** 2)

    def route(self, xy: np.ndarray, target: GridPoint, rng: np.random.Generator) -> Route:
        """Plan from xy [2] to a free cell."""
        distances = self._distances_to(target)
        # downhill on the distances, the first of equally good moves, up to the target's cell
        cell, waypoints = self.cell_of(xy), list[tuple[float, float]]()
        while cell != target:
            near = ((cell[0] + i, cell[1] + j) for i, j in _MOVES)
            cell = next(step for step in near if distances.get(step) == distances[cell] - 1)
            if cell != target:
                dx, dy = rng.uniform(0.0, _WAYPOINT_SPREAD, 2)
                waypoints.append((cell[0] - dx, cell[1] - dy))
        return Route(target, (*waypoints, (float(target[0]), float(target[1]))))

    def _distances_to(self, target: GridPoint) -> dict[GridPoint, int]:
        if target not in self._distances:
            # breadth-first from the target: one search serves every start
            found, frontier = {target: 0}, deque([target])
            while frontier:
                cell = frontier.popleft()
                for i, j in _MOVES:
                    step = (cell[0] + i, cell[1] + j)
                    if step in self.free and step not in found:
                        found[step] = found[cell] + 1
                        frontier.append(step)
            self._distances[target] = found
        return self._distances[target]


def steer(route: Route, state: np.ndarray) -> tuple[np.ndarray, Route, bool]:
    """One decision at state [4]: unclipped action [2], the route afterwards, and "arrived".

    Arrived means within 0.1 of the goal's cell. (D4RL also asks for less than 0.1 of movement
    since the last step, which the speed limit grants.)
    """
    xy = state[:2]
    arrived = bool(np.hypot(*(xy - route.target)) < NEAR)
    # on arrival it holds at the cell's point, wherever in the cell the goal is
    aim = np.array(route.target if arrived else route.waypoints[route.index], np.float64)
    action = GAIN * (aim - xy) - state[2:]
    if not arrived and np.hypot(*(aim - xy)) < NEAR:
        route = replace(route, index=route.index + 1)
    return action, route, arrived


@dataclass(frozen=True)
class Maze2DState:
    """noise: see NoiseState. routes: one per row."""

    noise: NoiseState
    routes: tuple[Route, ...]


class Maze2DController:
    """The controller as a batched policy, without noise on its actions.

    replan: plan at the start of each episode. Without, as D4RL did for its reference maxima: only
    when the goal moves to another cell, so a row's later episodes follow the route of its first.
    The waypoints of an episode follow from `seed` and its first observation.
    name: for tables.
    """

    def __init__(self, maze: str, replan: bool = True, seed: int = 0) -> None:
        self.name = (
            "waypoint controller, shortest paths" if replan else "D4RL's reference controller"
        )
        self.grid = Grid(maze)
        self.replan = replan
        self.seed = seed

    def predict(
        self,
        observation: Mapping[str, np.ndarray],
        state: Maze2DState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Maze2DState]:
        """Actions [B, 2] for observations {observation [B, 4], desired_goal [B, 2], ...}."""
        states = np.asarray(observation["observation"], np.float64)
        goals = np.asarray(observation["desired_goal"], np.float64)
        start = episode_starts(state, episode_start, len(states))
        noise = next_noise_state(
            self.seed, observation, None if state is None else state.noise, start
        )
        actions, routes = np.empty((len(states), 2)), list[Route]()
        for row, (now, goal) in enumerate(zip(states, goals, strict=True)):
            target = self.grid.cell_of(goal)
            route = None if state is None else state.routes[row]
            if route is None or route.target != target or (self.replan and start[row]):
                rng = generator(noise.keys[row], int(noise.steps[row]), stream=1)
                route = self.grid.route(now[:2], target, rng)
            actions[row], route, _ = steer(route, now)
            routes.append(route)
        return np.clip(actions, -1.0, 1.0).astype(np.float32), Maze2DState(noise, tuple(routes))


def maze2d_controllers(info: DatasetInfo, seed: int = 0) -> dict[str, Maze2DController]:
    """The controllers to set beside a planner on maze2d in D4RL's frame, {} for other data.

    "controller" made the data, but without the noise on its actions; "reference_controller" is
    the one behind D4RL's reference scores (give it one row: each row plans once).
    """
    if info.env_id not in gym.registry or not str(info.env_id).startswith("diffplan/maze2d-"):
        return {}
    maze = gym.spec(str(info.env_id)).kwargs["maze"]
    return {
        "controller": Maze2DController(maze, seed=seed),
        "reference_controller": Maze2DController(maze, replan=False, seed=seed),
    }
