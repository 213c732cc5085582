"""A policy plans anew at the first observation of every episode, however environments reset."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from diffplan.agents import Policy
from diffplan.envs.rollouts import rollout
from diffplan.errors import DiffplanError

Make = Callable[..., Any]


class Drift(gym.Env):
    """Three numbers that drift from where the episode began; 5 + its number of steps, reward 1."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,))
    action_space = gym.spaces.Box(-2.0, 1.0, (2,))

    def __init__(self) -> None:
        self.count, self.length = 0, 5

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=kwargs.get("seed"))
        self.count, self.length = 0, self.length + 1
        self.place = np.float32(self.np_random.normal(size=3))
        self.first = self.place.copy()
        return self.place.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.count += 1
        self.place = self.place + np.float32(0.1)
        return self.place.copy(), 1.0, self.count == self.length, False, {}


class Steered(Drift):
    """The same, moved by its actions; what it earns is where it stands."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = super().step(action)
        self.place[:2] += 0.1 * action
        return self.place.copy(), float(observation.sum()), terminated, truncated, info


def gaps(agent: Any, mode: AutoresetMode) -> list[float]:
    """How far the plan in force at each episode's first decision is from its first state."""
    envs = SyncVectorEnv([Drift] * 3, autoreset_mode=mode)
    policy, found = Policy(agent, envs), []
    observation, _ = envs.reset(seed=0)
    for _ in range(40):
        places = np.stack([env.unwrapped.place for env in envs.envs])
        counts = np.array([env.unwrapped.count for env in envs.envs])
        action = policy(observation)
        planned = policy._state.plan.numpy().states[:, 0]
        first = counts == 0
        found += np.abs(planned - places).max(1)[first].tolist()
        step = envs.step(action)
        observation = policy.observe(step)
        ended = step[2] | step[3]
        if mode == AutoresetMode.DISABLED and ended.any():
            observation, _ = envs.reset(options={"reset_mask": ended})
    return found


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
def test_every_episode_begins_on_a_plan_of_its_own(make_agent: Make, mode: AutoresetMode) -> None:
    found = gaps(make_agent(rewards=True), mode)
    assert len(found) > 12
    assert max(found) < 1e-5


def test_rewards_reach_a_target_that_runs_down(make_agent: Make) -> None:
    agent = make_agent(rewards=True, target="decremented", target_return=5.0)
    envs = SyncVectorEnv([Drift] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)
    policy = Policy(agent, envs)
    observation, _ = envs.reset(seed=0)
    policy(observation)
    before = policy._state.target_return
    policy.observe(envs.step(envs.action_space.sample()))
    discount = agent.model.config.data.discount
    assert policy._state.target_return == pytest.approx((before - 1) / discount)


def test_one_environment_has_no_batch_axis(make_agent: Make) -> None:
    env = Drift()
    policy = Policy(make_agent(rewards=True), env)
    observation, _ = env.reset(seed=0)
    action = policy(observation)
    assert action.shape == (2,)
    policy.observe(env.step(action))
    assert not policy._begins.any()


def test_what_is_no_step_is_refused(make_agent: Make) -> None:
    policy = Policy(make_agent(rewards=True), Drift())
    with pytest.raises(DiffplanError, match="before the policy acted"):
        policy.observe((np.zeros(3), 0.0, False, False, {}))
    policy(np.zeros(3))
    with pytest.raises(DiffplanError, match="was given 3 parts"):
        policy.observe((np.zeros(3), 0.0, False))


def test_seeds_are_those_of_the_rows(make_agent: Make) -> None:
    agent = make_agent(rewards=True)
    seeds = np.array([7, 7, 9])
    policy = Policy(agent, SyncVectorEnv([Drift] * 3), seeds=seeds)
    action = policy(np.zeros((3, 3), np.float32))
    assert np.array_equal(action[0], action[1])
    state = agent.reset_rows(None, np.ones(3, bool), seeds)
    assert np.array_equal(action, agent.predict(np.zeros((3, 3), np.float32), state)[0])


def test_a_loop_by_hand_gets_the_returns_of_an_evaluation(make_agent: Make) -> None:
    agent = make_agent(rewards=True, detailed=False)
    found = rollout(agent, Steered, episodes=5, num_envs=1, seed=1000, progress=False)
    env, returns = Steered(), []
    for episode in range(5):
        observation, _ = env.reset(seed=1000 + episode)
        state = agent.reset_rows(None, np.array([True]), np.array([1000 + episode]))
        total, over = 0.0, False
        while not over:
            action, state = agent.predict(observation, state)
            observation, reward, over, _, _ = env.step(action)
            state = agent.observe(state, np.array([reward]), np.array([True]))
            total += reward
        returns.append(total)
    assert returns == found.returns.tolist()
