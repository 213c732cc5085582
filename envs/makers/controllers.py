"""Policies to compare with: the controllers that make PointMaze data, and random actions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from diffplan.data.info import DatasetInfo
from diffplan.envs.makers.pointmaze_data import GAIN, NOISE_STD, WAYPOINT_DISTANCE
from diffplan.envs.simulators.bounds import action_bounds
from diffplan.envs.simulators.mazes import Maze, PathRule, lay_waypoints, maze_of
from diffplan.errors import DiffplanError


@dataclass(frozen=True)
class NoiseState:
    """Where each row stands in its noise: keys [B], a number per episode; steps [B] int64."""

    keys: tuple[int, ...]
    steps: np.ndarray


@dataclass(frozen=True)
class WaypointState:
    """noise: see NoiseState. waypoints: B arrays [L, 2]. index: [B] int64, the one headed for."""

    noise: NoiseState
    waypoints: tuple[np.ndarray, ...]
    index: np.ndarray


class WaypointController:
    """The controller behind PointMaze data, as a batched policy.

    Each row lays its waypoints when its episode starts and holds at the goal afterwards. The
    noise of an episode follows from `seed` and its first observation, so results depend neither
    on the number of rows nor on their order.
    """

    def __init__(
        self,
        maze: Maze,
        path_rule: PathRule = "depth-first",
        noise_std: float = NOISE_STD,
        seed: int = 0,
    ) -> None:
        self.maze = maze
        self.path_rule: PathRule = path_rule
        self.noise_std = noise_std
        self.seed = seed

    def predict(
        self,
        observation: Mapping[str, np.ndarray],
        state: WaypointState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, WaypointState]:
        """Actions [B, 2] for observations {observation [B, 4], achieved_goal, desired_goal [B, 2]}.

        The noise is part of the controller: `deterministic` changes nothing.
        """
        position = np.asarray(observation["achieved_goal"], np.float64)
        velocity = np.asarray(observation["observation"], np.float64)[:, 2:4]
        goal = np.asarray(observation["desired_goal"], np.float64)
        rows = len(position)
        start = episode_starts(state, episode_start, rows)
        noise = next_noise_state(
            self.seed, observation, None if state is None else state.noise, start
        )
        waypoints = list(state.waypoints) if state is not None else [goal[:0]] * rows
        index = state.index.copy() if state is not None else np.zeros(rows, np.int64)
        for row in np.flatnonzero(start):
            # a stream of its own, so that the noise on actions is the same whatever the path
            rng = generator(noise.keys[row], 0, stream=1)
            waypoints[row] = lay_waypoints(self.maze, position[row], goal[row], self.path_rule, rng)
            index[row] = 0
        # routes differ in length
        last = np.array([len(path) - 1 for path in waypoints])
        target = np.stack([path[i] for path, i in zip(waypoints, index, strict=True)])
        arrived = np.linalg.norm(target - position, axis=1) <= WAYPOINT_DISTANCE
        # one waypoint a step at most
        index = np.where(arrived & (index < last), index + 1, index)
        target = np.stack([path[i] for path, i in zip(waypoints, index, strict=True)])
        # a damped spring towards the waypoint
        action = GAIN * (target - position) - velocity
        if self.noise_std:
            draws = [
                generator(key, step).standard_normal(2)
                for key, step in zip(noise.keys, noise.steps.tolist(), strict=True)
            ]
            action += self.noise_std * np.stack(draws)
        action = np.clip(action, -1.0, 1.0).astype(np.float32)
        return action, WaypointState(noise, tuple(waypoints), index)


class RandomPolicy:
    """Uniformly random actions of a Box action space [A], within [-1, 1] where it has no bound.

    The actions of an episode follow from `seed` and its first observation, as above.
    """

    def __init__(self, action_space: spaces.Space, seed: int = 0) -> None:
        if not isinstance(action_space, spaces.Box) or len(action_space.shape) != 1:
            raise DiffplanError(f"random actions need a Box space [A], got {action_space}")
        # no data: [-1, 1] where the space has no bound
        low, high = action_bounds(action_space, np.empty((0, *action_space.shape)))
        self.low, self.high = np.array(low), np.array(high)
        self.seed = seed

    @classmethod
    def of(cls, info: DatasetInfo, seed: int = 0) -> RandomPolicy:
        """Within the action bounds of a dataset, which are finite whatever its environment says."""
        low, high = np.array(info.action_low), np.array(info.action_high)
        return cls(spaces.Box(low, high, dtype=np.float64), seed)

    def predict(
        self,
        observation: Any,
        state: NoiseState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, NoiseState]:
        """Actions [B, A] for any batched observation; `deterministic` changes nothing."""
        rows = len(_parts(observation)[0])
        state = next_noise_state(
            self.seed, observation, state, episode_starts(state, episode_start, rows)
        )
        actions = [
            generator(key, step).uniform(self.low, self.high)
            for key, step in zip(state.keys, state.steps.tolist(), strict=True)
        ]
        return np.stack(actions).astype(np.float32), state


def pointmaze_controllers(info: DatasetInfo, seed: int = 0) -> dict[str, WaypointController]:
    """The controllers to set beside a planner on a PointMaze dataset, {} for other data.

    "controller" made the data (depth-first where the data do not say, as in the published sets);
    "shortest_path" takes shortest paths.
    """
    maze = maze_of(info.env_id, info.env_kwargs)
    if maze is None or info.env_id is None or not info.env_id.startswith("PointMaze_"):
        return {}
    # what made the data, as far as they say
    own: PathRule = "shortest" if info.details.get("path_rule") == "shortest" else "depth-first"
    return {
        "controller": WaypointController(maze, own, seed=seed),
        "shortest_path": WaypointController(maze, "shortest", seed=seed),
    }


def episode_starts(state: Any, episode_start: np.ndarray | None, rows: int) -> np.ndarray:
    """Which rows start an episode, [B] bool, from what `predict` was given."""
    if state is None:
        return np.ones(rows, np.bool_)
    if episode_start is None:
        return np.zeros(rows, np.bool_)
    return np.asarray(episode_start, np.bool_)


def next_noise_state(
    seed: int, observation: Any, state: NoiseState | None, start: np.ndarray
) -> NoiseState:
    """New keys for the rows that `start` [B], one step further for the others."""
    parts = _parts(observation)
    keys = list(state.keys) if state is not None else [0] * len(start)
    for row in np.flatnonzero(start):
        # the first observation stands for the episode, whichever row plays it
        text = str(seed).encode() + b"".join(part[row].tobytes() for part in parts)
        keys[row] = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
    before = state.steps if state is not None else np.zeros(len(start), np.int64)
    return NoiseState(tuple(keys), np.where(start, 0, before + 1))


def _parts(observation: Any) -> list[np.ndarray]:
    if isinstance(observation, Mapping):
        return [np.asarray(observation[key]) for key in sorted(observation)]
    return [np.asarray(observation)]


def generator(key: int, step: int, stream: int = 0) -> np.random.Generator:
    """Counter-based, so that the noise of any step can be drawn without carrying a generator."""
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, stream, step]))
