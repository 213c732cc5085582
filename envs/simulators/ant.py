"""Ant with D4RL's 111 observation columns."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from diffplan.envs.simulators.installed import require_simulator

_CONTACT_COLUMNS = 84


class AntWithoutContacts(gym.Env[np.ndarray, np.ndarray]):
    """Ant-v4 followed by 84 columns of zeros, where Ant-v2 once had contact forces.

    D4RL's Ant was simulated by MuJoCo 2.0 or later, which no longer computed them, so they are
    zero in its files (issue 143 of Farama-Foundation/D4RL) and the reward lacks their cost. As in
    D4RL: columns, model, reward, end of the episode. Not as in D4RL: the MuJoCo version.

    kwargs: those of Ant-v4. Raises DiffplanError where MuJoCo is not installed.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"],
        "render_fps": 20,
    }

    def __init__(self, **kwargs: Any) -> None:
        require_simulator("mujoco", "Ant")
        from gymnasium.envs.mujoco.ant_v4 import AntEnv

        self.ant = AntEnv(**kwargs)
        self.render_mode = self.ant.render_mode
        self.action_space = self.ant.action_space
        columns = gym.spaces.flatdim(self.ant.observation_space) + _CONTACT_COLUMNS
        self.observation_space = Box(-np.inf, np.inf, (columns,), np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        # seeds our own generator, which Gymnasium's checker looks at; the ant has another
        super().reset(seed=seed)
        observation, info = self.ant.reset(seed=seed, options=options)
        return self._columns(observation), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.ant.step(action)
        return self._columns(observation), float(reward), terminated, truncated, info

    def render(self) -> Any:
        return self.ant.render()

    def close(self) -> None:
        self.ant.close()

    @staticmethod
    def _columns(observation: np.ndarray) -> np.ndarray:
        return np.concatenate([observation, np.zeros(_CONTACT_COLUMNS)])
