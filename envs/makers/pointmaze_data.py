"""PointMaze data made by the published procedure, saved as genuine local Minari datasets.

The procedure is that of the D4RL/pointmaze/*-v2 sets: one ball is driven from goal to goal for
all the steps; action = clip(10 (waypoint - xy) - velocity + 0.5 N(0, 1), -1, 1); the next
waypoint is taken at a distance of 0.1 or less; reaching the goal (0.45) ends the episode as a
truncation and draws a new random goal, without moving the ball.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_dataset import parse_dataset_id
from minari.storage import get_dataset_path
from tqdm import tqdm

from diffplan.envs.formats.minari_write import already_made, software_versions, write_minari
from diffplan.envs.makers.catalogue import POINTMAZES
from diffplan.envs.simulators.installed import require_simulator
from diffplan.envs.simulators.mazes import Maze, PathRule, lay_waypoints
from diffplan.errors import DiffplanError
from diffplan.limits import require_disk, require_memory

GAIN = 10.0
NOISE_STD = 0.5
WAYPOINT_DISTANCE = 0.1
_STEP_BYTES, _DISK_BYTES = 57, 340  # of a step, in arrays and in Minari's files
_RECIPE_KEYS = ("maze", "steps", "seed", "path_rule", "maze_map")


@dataclass(frozen=True)
class PointMazeRun:
    """One uninterrupted run of N steps of the controller.

    states: [N+1, 4] float64, x, y and their velocities. goals: [N, 2] float64, the goal in force
    at each step. actions: [N, 2] float32. success: [N] bool, true where step t reached the goal
    (it ends an episode there).
    """

    states: np.ndarray
    goals: np.ndarray
    actions: np.ndarray
    success: np.ndarray

    @property
    def episode_starts(self) -> np.ndarray:
        """Offsets [E+1] of the episodes; the last one may be unfinished."""
        ends = np.flatnonzero(self.success) + 1
        return np.unique(np.concatenate([[0], ends, [len(self.actions)]]))


def run_pointmaze(
    env_id: str,
    steps: int,
    seed: int,
    *,
    maze_map: Sequence[Sequence[int | str]] | None = None,
    path_rule: PathRule = "depth-first",
    progress: bool = True,
) -> PointMazeRun:
    """Drive the controller through a PointMaze environment for `steps` steps.

    The same arguments give the same arrays on one MuJoCo version, and a shorter run is the
    beginning of a longer one. Raises DiffplanError where gymnasium-robotics is not installed.
    """
    require_simulator("robotics", f"environment {env_id}")
    kwargs: dict[str, Any] = {} if maze_map is None else {"maze_map": maze_map}
    env = gym.make(
        env_id, continuing_task=True, reset_target=True, max_episode_steps=steps, **kwargs
    )
    # The wrappers only count steps and check types; without them a step costs half as much.
    sim: Any = env.unwrapped
    maze = Maze.from_map(sim.maze.maze_map)
    # two streams: how often the controller plans must not shift the noise on its actions
    noise_rng, waypoint_rng = (np.random.default_rng([seed, stream]) for stream in (1, 2))
    noise = NOISE_STD * noise_rng.standard_normal((steps, 2))
    states, goals = np.empty((steps + 1, 4)), np.empty((steps, 2))
    actions, success = np.empty((steps, 2), np.float32), np.zeros(steps, np.bool_)

    observation, _ = sim.reset(seed=seed)
    states[0], goal = observation["observation"], observation["desired_goal"]
    # plain floats: arithmetic on NumPy scalars is several times slower
    x, y, vx, vy = states[0].tolist()
    waypoints: list[list[float]] = []
    replan = True
    bar = tqdm(total=steps, desc=env_id, unit="step", disable=not progress)
    with contextlib.closing(env), bar:
        for t in range(steps):
            if replan:
                replan = False
                path = lay_waypoints(maze, states[t, :2], goal, path_rule, waypoint_rng)
                waypoints = path[::-1].tolist()  # the last entry is the one to head for
            wx, wy = waypoints[-1]
            # the goal itself stays: the ball is driven at it until the environment says success
            if len(waypoints) > 1 and (wx - x) ** 2 + (wy - y) ** 2 <= WAYPOINT_DISTANCE**2:
                waypoints.pop()
                wx, wy = waypoints[-1]
            ax, ay = GAIN * (wx - x) - vx + noise[t, 0], GAIN * (wy - y) - vy + noise[t, 1]
            actions[t] = min(1.0, max(-1.0, ax)), min(1.0, max(-1.0, ay))
            goals[t] = goal
            observation, _, _, _, step_info = sim.step(actions[t])
            states[t + 1] = observation["observation"]
            x, y, vx, vy = states[t + 1].tolist()
            # The observation that reports success still shows the old goal, so the published
            # controller heads there for one more step, the first of the next episode; without
            # that step UMaze has 1.5 % more episodes.
            replan = t > 0 and bool(success[t - 1])
            if step_info["success"]:
                success[t], goal = True, sim.goal.copy()
            # in thousands: the bar must not slow the steps
            if t % 1000 == 999:
                bar.update(1000)
        bar.update(steps % 1000)
    return PointMazeRun(states, goals, actions, success)


def pointmaze_id(name: str) -> str:
    """The Minari id of a NAME: pointmaze-medium is pointmaze/medium-v0."""
    return f"pointmaze/{name.removeprefix('pointmaze-')}-v0"


def make_pointmaze(
    name: str,
    steps: int,
    seed: int,
    *,
    maze_map: Sequence[Sequence[int | str]] | None = None,
    path_rule: PathRule = "depth-first",
    dataset_id: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> str:
    """Make a PointMaze dataset and return its Minari id.

    name: pointmaze-open, -umaze, -medium or -large; with a `maze_map` any other name.
    maze_map: rows of 0 (free), 1 (wall), "r" (start), "g" (goal), "c" (both).
    path_rule: "depth-first" as the published data, or "shortest".
    dataset_id: Minari id to save under, by default `pointmaze_id(name)`.
    overwrite: replace a dataset of that id that was made otherwise.

    A dataset of the same id, steps, seed and rule is kept as it is. An interrupted call leaves
    nothing behind. Raises DiffplanError for unknown names, bad maps, ids already in use, and
    where gymnasium-robotics is not installed.
    """
    dataset_id = _checked_id(name, maze_map is not None, dataset_id)
    if steps < 1 or seed < 0:
        raise DiffplanError(f"steps {steps} and seed {seed}: expected steps >= 1 and seed >= 0")
    require_simulator("robotics", f"making {name}")
    grid = None if maze_map is None else [list(row) for row in Maze.from_map(maze_map).rows]
    recipe = {
        "maze": name,
        "steps": steps,
        "seed": seed,
        "path_rule": path_rule,
        "maze_map": grid,
        "noise_std": NOISE_STD,
        "versions": software_versions(),
    }
    if already_made(dataset_id, recipe, _RECIPE_KEYS, _describe, overwrite):
        return dataset_id
    # any of the ids will do for a map of one's own, which replaces the maze
    env_id = POINTMAZES["pointmaze-umaze"] if grid is not None else POINTMAZES[name]
    require_memory(_STEP_BYTES * steps, f"{steps:,} steps", "make fewer")
    # HDF5 does not survive a disk that fills up while it writes
    require_disk(get_dataset_path(), _DISK_BYTES * steps, f"{steps:,} steps", "make fewer")
    run = run_pointmaze(env_id, steps, seed, maze_map=grid, path_rule=path_rule, progress=progress)
    kwargs: dict[str, Any] = {"continuing_task": True}
    if grid is not None:
        kwargs["maze_map"] = grid
    # data go on from goal to goal, evaluation has one goal an episode, as in the published sets
    collected = _spec(env_id, reset_target=True, max_episode_steps=steps, **kwargs)
    # Registered mazes keep their own time limit; this formula gives 300 and 600 for UMaze and
    # Medium too.
    limit = {} if grid is None else {"max_episode_steps": 50 * (len(grid) + len(grid[0]) - 4)}
    evaluation = _spec(env_id, reset_target=False, **kwargs, **limit)
    write_minari(
        dataset_id,
        _buffers(run),
        len(run.episode_starts) - 1,
        recipe,
        progress=progress,
        env=collected,
        eval_env=evaluation,
        algorithm_name=f"waypoint controller, {path_rule} paths",
        description="PointMaze navigation made by the procedure of D4RL/pointmaze/*-v2.",
    )
    return dataset_id


def _checked_id(name: str, has_map: bool, dataset_id: str | None) -> str:
    if not has_map and name not in POINTMAZES:
        raise DiffplanError(
            f"unknown dataset name '{name}'; can be made: {', '.join(sorted(POINTMAZES))}"
        )
    if has_map and name in POINTMAZES:
        raise DiffplanError(f"{name} has a map of its own; give your maze_map another name")
    dataset_id = dataset_id or pointmaze_id(name)
    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError):  # TypeError: minari's answer to a missing version
        raise DiffplanError(
            f"'{dataset_id}' is no Minari id; expected for example mine/maze-v0"
        ) from None
    return dataset_id


def _describe(recipe: dict[str, Any]) -> str:
    grid = ", its own maze map" if recipe.get("maze_map") else ""
    mujoco = recipe.get("versions", {}).get("mujoco", "unknown")
    return (
        f"{recipe.get('steps')} steps, seed {recipe.get('seed')}, "
        f"{recipe.get('path_rule')} paths, MuJoCo {mujoco}{grid}"
    )


def _spec(env_id: str, **kwargs: Any) -> gym.envs.registration.EnvSpec:
    with contextlib.closing(gym.make(env_id, **kwargs)) as env:
        spec = env.spec
    assert spec is not None
    return spec


def _buffers(run: PointMazeRun) -> Iterator[EpisodeBuffer]:
    starts = run.episode_starts
    for start, end in itertools.pairwise(starts.tolist()):
        states = run.states[start : end + 1]
        length = end - start
        last = np.arange(length) == length - 1
        yield EpisodeBuffer(
            observations={
                "observation": states,
                "achieved_goal": states[:, :2],
                # the state after success is still under the goal that was reached
                "desired_goal": np.repeat(run.goals[start : start + 1], length + 1, axis=0),
            },
            actions=run.actions[start:end],
            rewards=run.success[start:end].astype(np.float64),
            terminations=np.zeros(length, np.bool_),
            truncations=last,
        )
