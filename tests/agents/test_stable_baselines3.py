"""Stable-Baselines3's own evaluation runs our agents unchanged (skipped where it is missing)."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from diffplan.agents import PlannerAgent
from diffplan.data.episodes import Episodes

evaluation = pytest.importorskip("stable_baselines3.common.evaluation")
vec_env = pytest.importorskip("stable_baselines3.common.vec_env")


class Walk(gym.Env):
    """A point that drifts with its actions; episodes of 7, 8, 9, ... steps, reward 1 each."""

    observation_space = gym.spaces.Dict(
        {
            "observation": gym.spaces.Box(-np.inf, np.inf, (4,)),
            "achieved_goal": gym.spaces.Box(-np.inf, np.inf, (2,)),
            "desired_goal": gym.spaces.Box(-np.inf, np.inf, (2,)),
        }
    )
    action_space = gym.spaces.Box(-2.0, 1.0, (2,))

    def __init__(self) -> None:
        self.length, self.step_count = 6, 0
        self.place = np.zeros(2, np.float32)

    def observe(self) -> dict[str, np.ndarray]:
        state = np.concatenate([self.place, np.zeros(2, np.float32)])
        return {
            "observation": state,
            "achieved_goal": self.place.copy(),
            "desired_goal": np.ones(2, np.float32),
        }

    def reset(self, **kwargs: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(**kwargs)
        self.length, self.step_count = self.length + 1, 0
        self.place = np.zeros(2, np.float32)
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        assert self.action_space.contains(action)
        self.place = self.place + 0.1 * action
        self.step_count += 1
        return self.observe(), 1.0, self.step_count >= self.length, False, {}


def test_evaluate_policy_runs_a_planner(
    tiny_config: Callable[..., Any], tiny_model: Callable[..., Any], tiny_goal_episodes: Episodes
) -> None:
    data = tiny_goal_episodes
    agent = PlannerAgent(tiny_model(tiny_config(), data), data.layout, data.info, config_name="x")
    starts: list[tuple[list[bool], list[int]]] = []
    predict = agent.predict

    class Watched:
        def predict(
            self, observation: Any, state: Any, episode_start: Any, deterministic: bool
        ) -> Any:
            actions, after = predict(observation, state, episode_start, deterministic)
            starts.append((episode_start.tolist(), after.age.tolist()))
            return actions, after

    envs = vec_env.DummyVecEnv([Walk, Walk])
    rewards, lengths = evaluation.evaluate_policy(
        Watched(), envs, n_eval_episodes=4, return_episode_rewards=True, warn=False
    )
    assert sorted(lengths) == [7, 7, 8, 8]
    assert rewards == lengths
    for fresh, ages in starts:  # a row that begins an episode has a new plan
        assert all(age == 0 for begins, age in zip(fresh, ages, strict=True) if begins)
    assert any(fresh == [True, True] for fresh, _ in starts[1:])
