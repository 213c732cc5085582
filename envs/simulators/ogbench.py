"""OGBench's environments with goals in the observation, and resets that a seed decides.

Park et al. 2024, arXiv 2410.20092; https://github.com/seohongpark/ogbench (MIT).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from diffplan.data.info import Task
from diffplan.envs.simulators.installed import require_simulator
from diffplan.errors import DiffplanError

TASKS = 5
ENV_ID = "diffplan/ogbench-v0"

# Columns of the observation that say where the goal is reached: x and y of the mazes' bodies.
_GOAL_COLUMNS: dict[str, tuple[int, ...]] = {"pointmaze": (0, 1), "antmaze": (0, 1)}
_REST_COLUMNS: dict[str, tuple[int, ...]] = {"antmaze": tuple(range(15, 29))}


class OGBench(gym.Env[Any, np.ndarray]):
    """An environment of OGBench as a goal-dict environment.

    Observation: {"observation": [D], the columns of the files; "achieved_goal": [G], those of
    `goal_columns`; "desired_goal": [G], the same columns of the goal}. Reward: 1 in the step that
    reaches the goal, which ends the episode (terminated), 0 before; `info["success"]` says so.
    `gymnasium.make` cuts episodes after OGBench's own limit.

    task: 1 to 5, start and goal of one of the environment's tasks; None: one that the seed draws.
    OGBench draws the noise on both, and the steps before the start, from NumPy's global generator
    and unseeded spaces; here `reset(seed=)` decides them, and the global generator is left as it
    was. Raises DiffplanError where OGBench is not installed.
    """

    def __init__(
        self, env_name: str, task: int | None = None, render_mode: str | None = None
    ) -> None:
        """Make the simulator. env_name: OGBench's id, "pointmaze-giant-v0"."""
        sim = make_simulator(env_name)
        if task is not None and not 1 <= task <= TASKS:
            raise DiffplanError(f"{env_name} has tasks 1 to {TASKS}, got {task}")
        self.sim, self.task, self.render_mode = sim, task, render_mode
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 30}
        self._columns = list(goal_columns(env_name))
        unbounded = (-np.inf, np.inf)
        point = spaces.Box(*unbounded, (len(self._columns),), np.float64)
        self.observation_space = spaces.Dict(
            {
                "observation": spaces.Box(*unbounded, sim.observation_space.shape, np.float64),
                "achieved_goal": point,
                "desired_goal": point,
            }
        )
        self.action_space = sim.action_space
        self._goal = np.zeros(len(self._columns))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        task = self.task or int(self.np_random.integers(1, TASKS + 1))
        with seeded(self.sim, int(self.np_random.integers(2**31))) as own:
            observation, info = self.sim.reset(seed=own, options={"task_id": task})
        self._goal = np.asarray(info["goal"], np.float64)[self._columns]
        return self._dict(observation), {"success": False, "task": task}

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        # teleports alone draw from the global generator, and seeding costs as much as a step
        drawing: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self.sim._teleport_info is not None:
            drawing = seeded(self.sim, int(self.np_random.integers(2**31)))
        with drawing:
            observation, reward, terminated, _, info = self.sim.step(action)
        success = bool(info["success"])
        return self._dict(observation), float(reward), terminated, False, {"success": success}

    def render(self) -> Any:
        return self.sim.render()

    def close(self) -> None:
        self.sim.close()

    def _dict(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "observation": observation,
            "achieved_goal": observation[self._columns],
            "desired_goal": self._goal.copy(),
        }


def make_simulator(env_name: str, **kwargs: Any) -> Any:
    """OGBench's own environment without Gymnasium's wrappers; kwargs: as its constructor's."""
    require_simulator("ogbench", f"environment {env_name}")
    import ogbench.locomaze  # noqa: F401 - registers its ids

    if env_name not in gym.registry or domain_of(env_name) not in _GOAL_COLUMNS:
        known = [name for name in gym.registry if domain_of(name) in _GOAL_COLUMNS]
        raise DiffplanError(f"OGBench environment '{env_name}' is not known; {', '.join(known)}")
    sim = gym.make(env_name, **kwargs).unwrapped
    # it leaves the file of every maze behind that it has loaded
    if written := getattr(sim, "fullpath", None):
        Path(written).unlink(missing_ok=True)
    return sim


@contextlib.contextmanager
def seeded(sim: Any, seed: int) -> Iterator[int]:
    """Everything that OGBench draws from, seeded: yields the seed for `reset`."""
    before = np.random.get_state()  # noqa: NPY002 - OGBench draws from it
    np.random.seed(seed)  # noqa: NPY002
    sim.action_space.seed(seed)
    try:
        yield seed
    finally:
        np.random.set_state(before)  # noqa: NPY002


def domain_of(name: str) -> str:
    """First word of an id or of a dataset's name: pointmaze, antmaze, ..."""
    return name.partition("-")[0]


def goal_columns(name: str) -> tuple[int, ...]:
    """Columns of an observation in which its success is judged."""
    return _GOAL_COLUMNS[domain_of(name)]


def rest_columns(name: str) -> tuple[int, ...]:
    """Columns that are zero at rest: velocities, where there are any."""
    return _REST_COLUMNS.get(domain_of(name), ())


def evaluation_tasks(env_name: str, state_dim: int, limit: int) -> tuple[Task, ...]:
    """The five tasks of an environment, as they are scored; limit: steps of an episode."""
    return tuple(
        Task(
            f"task{task}",
            ENV_ID,
            {"env_name": env_name, "task": task, "max_episode_steps": limit},
            state_dim,
        )
        for task in range(1, TASKS + 1)
    )
