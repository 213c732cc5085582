"""OGBench's environments with goals in the observation, and resets that a seed decides.

Park et al. 2024, arXiv 2410.20092; https://github.com/seohongpark/ogbench (MIT).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator

from diffplan.data.info import Task
from diffplan.envs.simulators.installed import require_simulator
from diffplan.envs.simulators.registration import OGBENCH_LIMIT
from diffplan.errors import DiffplanError

TASKS = 5
ENV_ID = "diffplan/ogbench-v0"


@dataclass(frozen=True)
class _Facts:
    """goal: columns of the observation in which success is judged. rest: zero at rest.

    limit: steps after which OGBench cuts an episode.
    """

    goal: tuple[int, ...]
    rest: tuple[int, ...] = ()
    limit: int = OGBENCH_LIMIT


_ARM = 19  # columns of arm and gripper, which every observation of the arm begins with
_ARM_SPEEDS = tuple(range(6, 12))


def _places(cubes: int) -> tuple[int, ...]:
    """The columns of cubes' positions, which stand in 9 each behind the arm."""
    return tuple(_ARM + 9 * cube + axis for cube in range(cubes) for axis in range(3))


def _pressed(buttons: int, first: int) -> tuple[int, ...]:
    """The columns that are 1 where a button is pressed: the second of 4 each."""
    return tuple(first + 4 * button + 1 for button in range(buttons))


def _speeds(buttons: int, first: int) -> tuple[int, ...]:
    return tuple(first + 4 * button + 3 for button in range(buttons))


# By an environment's name without its version, or the first word of that. What is judged of the arm
# is what OGBench's own short goals hold (use_oracle_rep), a button's state by one of its columns.
_FACTS = {
    "pointmaze": _Facts((0, 1)),
    "antmaze": _Facts((0, 1), tuple(range(15, 29))),
    "cube-single": _Facts(_places(1), _ARM_SPEEDS, 200),
    "cube-double": _Facts(_places(2), _ARM_SPEEDS, 500),
    # a cube, two buttons, drawer and window: a position and a speed each
    "scene": _Facts(
        (*_places(1), *_pressed(2, 28), 36, 38), (*_ARM_SPEEDS, *_speeds(2, 28), 37, 39), 750
    ),
    "puzzle-3x3": _Facts(_pressed(9, _ARM), (*_ARM_SPEEDS, *_speeds(9, _ARM)), 500),
}


class OGBench(gym.Env[Any, np.ndarray]):
    """An environment of OGBench as a goal-dict environment.

    Observation: {"observation": [D], the columns of the files; "achieved_goal": [G], those of
    `goal_columns`; "desired_goal": [G], the same columns of the goal}. Reward: 1 in the step that
    reaches the goal, which ends the episode (terminated), 0 before; `info["success"]` says so.
    `gymnasium.make` cuts episodes after 1,000 steps, OGBench's limit of the mazes, unless
    `max_episode_steps` says other (`time_limit`).

    task: 1 to 5, start and goal of one of the environment's tasks; None: one that the seed draws.
    OGBench draws the noise on both, and the steps before them, from NumPy's global generator and
    from unseeded spaces; here `reset(seed=)` decides them, and the global generator is left as it
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
        with seeded(sim, 0):  # the arm resets itself to see how wide an observation is
            width = sim.observation_space.shape
        unbounded = (-np.inf, np.inf)
        point = spaces.Box(*unbounded, (len(self._columns),), np.float64)
        self.observation_space = spaces.Dict(
            {
                "observation": spaces.Box(*unbounded, width, np.float64),
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
        if getattr(self.sim, "_teleport_info", None) is not None:
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a viewer that nobody opens looks for a display
        import ogbench.locomaze
        import ogbench.manipspace  # noqa: F401 - they register their ids

        known = [name for name in gym.registry if _facts(name) is not None]
        if env_name not in known:
            raise DiffplanError(
                f"OGBench environment '{env_name}' is not known; {', '.join(known)}"
            )
        spec = gym.spec(env_name)
        assert isinstance(spec.entry_point, str)
        creator: Any = load_env_creator(spec.entry_point)
    if isinstance(getattr(creator, "action_space", None), property):
        # the arm makes a new space at every look, whose draws no seed would reach
        box = spaces.Box(-1.0, 1.0, (5,), np.float32)
        creator = type(creator.__name__, (creator,), {"action_space": box})
    sim = creator(**{**spec.kwargs, **kwargs})
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


def environment_of(dataset: str) -> str:
    """OGBench's id of a dataset's environment: cube-single-v0 of cube-single-play-v0."""
    words = dataset.split("-")
    return "-".join([*words[:-2], words[-1]])


def goal_columns(env_name: str) -> tuple[int, ...]:
    """Columns of an observation in which its success is judged."""
    return _known(env_name).goal


def rest_columns(env_name: str) -> tuple[int, ...]:
    """Columns that are zero at rest: velocities, where there are any."""
    return _known(env_name).rest


def time_limit(env_name: str) -> int:
    """Steps after which OGBench cuts an episode."""
    return _known(env_name).limit


def _facts(env_name: str) -> _Facts | None:
    words = env_name.split("-")
    # a body and its maze: pointmaze-giant-v0
    return _FACTS.get(words[0] if len(words) == 3 and "maze" in words[0] else "-".join(words[:-1]))


def is_known(env_name: str) -> bool:
    """Whether it is an environment whose goals are known here."""
    return _facts(env_name) is not None


def _known(env_name: str) -> _Facts:
    facts = _facts(env_name)
    assert facts is not None, env_name
    return facts


def evaluation_tasks(env_name: str, state_dim: int) -> tuple[Task, ...]:
    """The five tasks of an environment, as they are scored."""
    return tuple(
        Task(
            f"task{task}",
            ENV_ID,
            {"env_name": env_name, "task": task, "max_episode_steps": time_limit(env_name)},
            state_dim,
        )
        for task in range(1, TASKS + 1)
    )
