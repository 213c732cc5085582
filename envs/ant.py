"""Ant with D4RL's 111 observation columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.mujoco.ant_v4 import AntEnv
from gymnasium.spaces import Box

_CONTACT_COLUMNS = 84


class AntWithoutContacts(AntEnv):
    """Ant-v4 followed by 84 columns of zeros, where Ant-v2 once had contact forces.

    D4RL's Ant was simulated by MuJoCo 2.0 or later, which no longer computed them, so they are
    zero in its files (issue 143 of Farama-Foundation/D4RL) and the reward lacks their cost. As in
    D4RL: columns, model, reward, end of the episode. Not as in D4RL: the MuJoCo version.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        width = len(self._get_obs())
        self.observation_space = Box(-np.inf, np.inf, (width,), np.float64)

    def _get_obs(self) -> np.ndarray:
        return np.concatenate([super()._get_obs(), np.zeros(_CONTACT_COLUMNS)])
