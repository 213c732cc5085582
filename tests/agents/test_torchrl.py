"""TorchRL's rollouts run an agent, batched and not, with a plan of its own for every episode."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from diffplan.agents import PlannerAgent
from diffplan.data.episodes import Episodes

pytest.importorskip("torchrl")
from torchrl.envs import GymWrapper, InitTracker, SerialEnv, TransformedEnv

from diffplan.agents.torchrl import TorchRLPolicy


class Drift(gym.Env):
    """Three numbers that drift; episodes of 6 steps."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gym.spaces.Box(-2.0, 1.0, (2,), np.float32)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=kwargs.get("seed"))
        self.count = 0
        self.place = self.np_random.normal(size=3).astype(np.float32)
        return self.place, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.count += 1
        self.place = self.place + np.float32(0.1)
        return self.place, 1.0, False, self.count == 6, {}


@pytest.mark.parametrize("count", [0, 3], ids=["one environment", "a batch of 3"])
def test_a_rollout_plans_anew_in_every_episode(
    tiny_config: Callable[..., Any],
    tiny_model: Callable[..., Any],
    tiny_episodes: Episodes,
    count: int,
) -> None:
    data = tiny_episodes
    agent = PlannerAgent(tiny_model(tiny_config(), data), data.layout, data.info, config_name="x")
    starts: list[np.ndarray] = []
    predict = agent.predict

    def watched(observation: Any, state: Any, start: Any) -> Any:
        action, state = predict(observation, state, start)
        starts.append(np.abs(state.plan.numpy().states[:, 0] - observation).max(1)[start])
        return action, state

    agent.predict = watched  # type: ignore[method-assign, assignment]

    def make() -> Any:
        return TransformedEnv(GymWrapper(Drift()), InitTracker())

    env = (
        TransformedEnv(SerialEnv(count, lambda: GymWrapper(Drift())), InitTracker())
        if count
        else make()
    )
    rollout = env.rollout(20, policy=TorchRLPolicy(agent), break_when_any_done=False)
    assert rollout["action"].shape == ((count, 20, 2) if count else (20, 2))
    first = np.concatenate(starts)
    assert len(first) == 4 * max(count, 1)
    assert first.max() < 1e-5
