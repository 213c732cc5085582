"""Meta-World's tasks one by one, with resets that a seed decides (Yu et al. 2019, 1910.10897)."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from diffplan.data.info import DatasetInfo
from diffplan.envs.simulators.installed import require_simulator
from diffplan.errors import DiffplanError

AFTER_SUCCESS = 10
_COLUMNS = 39


class MetaWorld(gym.Env):
    """A task of Meta-World 3 with the goal in the observation (its last three columns).

    Observation: 39 columns, hand, gripper and objects now, the same a step before, the goal.
    Action: 4 in [-1, 1]. Reward: the task's own, 0 to 10 a step. `info["success"]`: 1 in the steps
    where the task is done. An episode is cut (truncated) `after_success` steps after the first of
    these, if not before by its time limit: what follows shows nothing new.

    `reset(seed=)` decides where goal and objects are. Meta-World/MT1, from which this differs in
    nothing else, leaves that to generators that the seed does not reach, among 50 places drawn
    when it is made.
    """

    def __init__(
        self, env_name: str, after_success: int = AFTER_SUCCESS, render_mode: str | None = None
    ) -> None:
        """Make the simulator. Raises DiffplanError for a task that Meta-World does not have."""
        require_simulator("metaworld", f"task {env_name}")
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        if env_name not in ALL_V3_ENVIRONMENTS:
            raise DiffplanError(
                f"Meta-World has no task '{env_name}'; there are {', '.join(ALL_V3_ENVIRONMENTS)}"
            )
        kind: Any = ALL_V3_ENVIRONMENTS[env_name]
        sim = kind(render_mode=render_mode, reward_function_version="v2")
        # what its goal-observable environments set too
        sim._partially_observable = False
        sim.seeded_rand_vec = True
        sim._set_task_called = True
        # cached while the goal was still hidden, it would clip the goal to zero
        sim.__dict__.pop("sawyer_observation_space", None)
        self.sim, self.after_success = sim, after_success
        self.render_mode = render_mode
        self.metadata = sim.metadata
        shape = sim.sawyer_observation_space.shape
        self.observation_space = spaces.Box(-np.inf, np.inf, shape, np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, sim.action_space.shape, np.float32)
        self._left: int | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        # one draw of our generator decides the places, also in an episode that has no seed
        self.sim.seed(int(self.np_random.integers(2**31)))
        self._left = None
        # A reset arranges everything twice, and what is observed of some objects is still the first
        # arrangement: both must be the same.
        self.sim._freeze_rand_vec = False
        self.sim.reset_model()
        self.sim._freeze_rand_vec = True
        observation, info = self.sim.reset()
        return np.array(observation, np.float64), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, _, _, info = self.sim.step(np.clip(action, -1.0, 1.0))
        # counts down from the first success, whatever happens after it
        if self._left is not None:
            self._left -= 1
        elif info["success"]:
            self._left = self.after_success
        return observation, float(reward), False, self._left == 0, info

    def render(self) -> Any:
        return self.sim.render()

    def close(self) -> None:
        self.sim.close()


class ScriptedPolicy:
    """Meta-World's own policy of a task, without noise, for observations [B, 39 or more].

    Its actions [B, 4] follow from the observation alone; it keeps no state.
    """

    def __init__(self, env_name: str) -> None:
        require_simulator("metaworld", f"the scripted policy of {env_name}")
        from metaworld.policies import ENV_POLICY_MAP

        kind: Any = ENV_POLICY_MAP[env_name]
        self.policy = kind()

    def predict(
        self,
        observation: Any,
        state: None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, None]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that some actions are clipped
            rows = [self.policy.get_action(row[:_COLUMNS]) for row in np.asarray(observation)]
        return np.clip(np.stack(rows), -1.0, 1.0).astype(np.float32), None


def scripted_policies(info: DatasetInfo) -> dict[str, ScriptedPolicy]:
    """The policy that made the data of a Meta-World task, as "controller"; {} for other data."""
    if info.env_id != "diffplan/metaworld-v3":
        return {}
    return {"controller": ScriptedPolicy(info.env_kwargs["env_name"])}
