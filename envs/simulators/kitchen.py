"""The kitchen with D4RL's 60 observation columns, over gymnasium-robotics' FrankaKitchen.

Facts from d4rl/kitchen (D4RL, Apache-2.0): kitchen_envs.py, adept_envs/franka/
kitchen_multitask_v0.py and robot/{franka_robot.py,franka_config.xml}.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from diffplan.envs.simulators.installed import require_simulator
from diffplan.errors import DiffplanError

_SLIDER = ("microwave", "kettle", "light switch", "slide cabinet")
TASKS: dict[str, tuple[str, ...]] = {
    "complete": _SLIDER,
    "partial": _SLIDER,
    "mixed": ("microwave", "kettle", "bottom burner", "light switch"),
}

_ROBOT, _OBJECTS = 9, 21
_NOISE_RATIO = 0.1
# Amplitudes of the 21 object columns in D4RL's order, before _NOISE_RATIO.
_OBJECT_NOISE = np.repeat([0.005, 0.0005, 0.005, 0.1, 0.005, 0.1, 0.005], [2, 6, 3, 3, 3, 3, 1])


class Kitchen(gym.Env[np.ndarray, np.ndarray]):
    """FrankaKitchen with the observation, noise, tasks and rewards of D4RL's kitchen.

    Observation [60], the columns of the files: 9 robot positions, 21 object positions, and 30
    goal positions, zero but for the objects of the tasks. (FrankaKitchen-v1 has 59: it adds the
    velocities and leaves the goal out.) Action [9] in [-1, 1]. A step's reward is the number of
    tasks completed in it, each counted once, so the return is 0 to 4; completing all four
    terminates. `info["success"]` says whether all four are.

    As in D4RL: tasks, goals and thresholds, the start, the noise on positions (a tenth of the
    amplitudes of its configuration), and the control by noisy positions. Not as in D4RL: the
    simulated model is gymnasium-robotics', on today's MuJoCo, which was not checked against D4RL's
    files; completion is judged by positions without noise.
    Raises DiffplanError where gymnasium-robotics is not installed.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["human", "rgb_array", "depth_array"],
        "render_fps": 12,
    }

    def __init__(self, tasks: str = "complete", render_mode: str | None = None) -> None:
        if tasks not in TASKS:
            raise DiffplanError(f"unknown kitchen tasks '{tasks}'; there are {', '.join(TASKS)}")
        require_simulator("robotics", "the kitchen")
        from gymnasium_robotics.envs.franka_kitchen.kitchen_env import (
            OBS_ELEMENT_GOALS,
            OBS_ELEMENT_INDICES,
            KitchenEnv,
        )

        self.render_mode = render_mode
        self.kitchen = KitchenEnv(
            tasks_to_complete=list(TASKS[tasks]),
            robot_noise_ratio=_NOISE_RATIO,
            # its amplitudes for objects are not D4RL's: the noise is added below
            object_noise_ratio=0.0,
            render_mode=render_mode,
        )
        self.observation_space = spaces.Box(-8.0, 8.0, (2 * (_ROBOT + _OBJECTS),), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (_ROBOT,), np.float64)
        self._goal = np.zeros(_ROBOT + _OBJECTS)
        for task in TASKS[tasks]:
            self._goal[OBS_ELEMENT_INDICES[task]] = OBS_ELEMENT_GOALS[task]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        observation, _ = self.kitchen.reset(seed=seed)
        return self._columns(observation), {"success": False}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, _, info = self.kitchen.step(action)
        done = [str(task) for task in info["episode_task_completions"]]
        details = {"success": bool(terminated), "completed": done}
        return self._columns(observation), float(reward), bool(terminated), False, details

    def render(self) -> Any:
        return self.kitchen.render()

    def close(self) -> None:
        self.kitchen.close()

    def _columns(self, observation: dict[str, Any]) -> np.ndarray:
        # positions, then velocities of the robot, then objects
        robot = observation["observation"][:_ROBOT]
        objects = observation["observation"][2 * _ROBOT :][:_OBJECTS]
        noise = _NOISE_RATIO * _OBJECT_NOISE * self.np_random.uniform(-1.0, 1.0, _OBJECTS)
        return np.concatenate([robot, objects + noise, self._goal])
