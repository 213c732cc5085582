"""Rollouts: fair counting, seeds, independence of the batch size, traces and timing."""

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import gymnasium_robotics
import numpy as np
import pytest
import torch

from diffplan.engines.decision import Plan
from diffplan.envs.rollouts.serial import rollout, time_decisions
from diffplan.errors import DiffplanError

gym.register_envs(gymnasium_robotics)


class Countdown(gym.Env):
    """Ends after a number of steps drawn at reset; the last reward is 100, the others 1."""

    observation_space = gym.spaces.Box(-1e6, 1e6, (2,), np.float64)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(2, 9))
        self.terminates = bool(self.np_random.integers(2))
        self.seed, self.drawn, self.closed = seed, self.left, False
        return np.array([seed, self.left], np.float64), {}

    def step(self, action):
        self.left -= 1
        over = self.left == 0
        reward = 100.0 if over else 1.0
        # Success flashes in the second step only.
        info = {"success": self.left == self.drawn - 2}
        observation = np.array([self.seed, self.left], np.float64)
        return observation, reward, over and self.terminates, over and not self.terminates, info

    def close(self):
        self.closed = True


class Still:
    """Actions of zero; remembers what it was given."""

    def __init__(self):
        self.starts, self.observations = [], []

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        self.starts.append(episode_start.copy())
        self.observations.append(observation)
        return np.zeros((len(observation), 1), np.float32), (state or 0) + 1


class SeededWalk:
    """A random walk whose noise belongs to the episode: one generator per row, reset by seed."""

    def reset_rows(self, state, rows, seeds):
        state = [None] * len(rows) if state is None else list(state)
        for row in np.flatnonzero(rows):
            state[row] = np.random.default_rng(seeds[row])
        return state

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        noise = np.stack([generator.uniform(-1, 1, 2) for generator in state])
        return noise.astype(np.float32), state


@dataclass
class PlannerState:
    plan: Plan
    age: np.ndarray


class FakePlanner:
    """Replans each row every `keep` steps, plans marked with the position they start from."""

    def __init__(self, keep):
        self.keep = keep

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        here = observation["observation"]
        rows = len(here)
        old = np.full(rows, self.keep) if state is None else state.age + 1
        fresh = (old >= self.keep) | episode_start
        states = np.repeat(here[:, None], 4, axis=1)
        if state is not None:
            states[~fresh] = state.plan.states.numpy()[~fresh]
        candidates = np.repeat(states[:, None], 3, axis=1)
        fields = {
            "states": states,
            "first": np.zeros((rows, 2)),
            "proposal": candidates + 1,
            "candidates": candidates,
            "values": np.zeros((rows, 3)),
            "chosen": np.full(rows, 2),
        }
        plan = Plan(**{name: torch.from_numpy(value) for name, value in fields.items()})
        return np.zeros((rows, 2), np.float32), PlannerState(plan, np.where(fresh, 0, old))


def umaze(steps=12, **kwargs):
    return gym.make("PointMaze_UMaze-v3", max_episode_steps=steps, reset_target=False, **kwargs)


def test_each_episode_runs_once_with_its_own_seed_and_keeps_its_last_reward():
    policy = Still()
    result = rollout(policy, Countdown, episodes=7, num_envs=3, seed=50, progress=False)
    env = Countdown()
    drawn = []
    for e in range(7):
        env.reset(seed=50 + e)
        drawn.append((env.left, env.terminates))
    lengths = np.array([left for left, _ in drawn])
    np.testing.assert_array_equal(result.lengths, lengths)
    np.testing.assert_array_equal(result.returns, lengths - 1 + 100.0)
    np.testing.assert_array_equal(result.terminated, [terminates for _, terminates in drawn])
    assert result.returns.dtype == np.float64
    # Rows are fixed: row i runs episodes i, i + 3, ...
    begun = {row: [] for row in range(3)}
    for start, observation in zip(policy.starts, policy.observations, strict=True):
        for row in np.flatnonzero(start):
            begun[row].append(int(observation[row, 0]) - 50)
    assert begun == {0: [0, 3, 6], 1: [1, 4], 2: [2, 5]}
    # Every step of every live row is one decision.
    assert result.live_rows.sum() == lengths.sum()
    assert result.call_ms.shape == result.live_rows.shape == result.decision_ms.shape


def test_success_at_any_step_counts():
    result = rollout(Still(), Countdown, episodes=12, num_envs=4, seed=0, progress=False, record=12)
    assert result.success.all()
    assert {trace.success_step for trace in result.traces} == {2}


def test_success_is_none_where_the_environment_reports_none():
    class Silent(Countdown):
        def step(self, action):
            return *super().step(action)[:4], {}

    assert rollout(Still(), Silent, episodes=2, num_envs=2, seed=0, progress=False).success is None


@pytest.fixture(scope="module")
def alone():
    return rollout(SeededWalk(), umaze, episodes=9, num_envs=1, seed=3, record=9, progress=False)


@pytest.mark.parametrize("num_envs", [3, 8, 50])
def test_results_do_not_depend_on_the_number_of_environments(alone, num_envs):
    batched = rollout(
        SeededWalk(), umaze, episodes=9, num_envs=num_envs, seed=3, record=9, progress=False
    )
    np.testing.assert_array_equal(batched.returns, alone.returns)
    np.testing.assert_array_equal(batched.success, alone.success)
    for one, other in zip(alone.traces, batched.traces, strict=True):
        assert one.episode == other.episode and one.seed == other.seed == 3 + one.episode
        np.testing.assert_array_equal(one.actions, other.actions)
        for key in one.observations:
            np.testing.assert_array_equal(one.observations[key], other.observations[key])


def test_the_hook_names_exactly_the_rows_that_start_and_their_seeds():
    class Hooked(Still):
        calls: ClassVar[list[list[tuple[int, int]]]] = []

        def reset_rows(self, state, rows, seeds):
            assert (state is None) == (not self.calls)
            self.calls.append([(row, int(seeds[row])) for row in np.flatnonzero(rows).tolist()])
            return state

    policy = Hooked()
    rollout(policy, Countdown, episodes=7, num_envs=3, seed=50, progress=False)
    assert policy.calls[0] == [(0, 50), (1, 51), (2, 52)]
    flat = sorted(pair for call in policy.calls for pair in call)
    assert flat == [(0, 50), (0, 53), (0, 56), (1, 51), (1, 54), (2, 52), (2, 55)]


def test_other_seeds_give_other_episodes(alone):
    other = rollout(SeededWalk(), umaze, episodes=9, num_envs=3, seed=12, record=1, progress=False)
    first = other.traces[0].observations["observation"]
    assert not np.array_equal(first, alone.traces[0].observations["observation"])


def test_traces_hold_whole_episodes_and_the_reward_of_each_action(alone):
    env = umaze()
    trace = alone.traces[4]
    observation, _ = env.reset(seed=trace.seed)
    np.testing.assert_array_equal(trace.observations["observation"][0], observation["observation"])
    for t, action in enumerate(trace.actions):
        observation, reward, _, truncated, _ = env.step(action)
        assert reward == trace.rewards[t]
        seen = trace.observations["observation"][t + 1]
        np.testing.assert_array_equal(seen, observation["observation"])
    assert truncated and len(trace.rewards) == alone.lengths[4] == 12
    assert trace.plans == {}


def test_plans_are_recorded_when_they_are_made_and_only_for_recorded_episodes():
    result = rollout(
        FakePlanner(keep=5), umaze, episodes=4, num_envs=3, seed=0, record=2, progress=False
    )
    assert [trace.episode for trace in result.traces] == [0, 1]
    for trace in result.traces:
        assert list(trace.plans) == [0, 5, 10]
        for step, plan in trace.plans.items():
            here = trace.observations["observation"][step]
            np.testing.assert_array_equal(plan.states, np.repeat(here[None], 4, axis=0))
            np.testing.assert_array_equal(plan.proposal, plan.candidates + 1)
            assert plan.candidates.shape == (3, 4, 4)
            assert plan.chosen == 2 and plan.values.shape == (3,)


def test_single_decisions_are_timed_apart_for_replanning():
    planner = FakePlanner(keep=5)
    times = time_decisions(planner, umaze, seed=0, steps=30, warmup=4)
    assert times.ms.shape == (30,) and (times.ms > 0).all()
    # Episodes of 12 steps replan at 0, 5, 10; the first counted call is call 4.
    expected = [(call % 12) % 5 == 0 for call in range(4, 34)]
    assert times.replanned.tolist() == expected
    assert time_decisions(SeededWalk(), umaze, seed=0, steps=3, warmup=0).replanned is None


def test_environments_are_closed_also_after_an_error():
    made: list[Any] = []

    def make():
        made.append(Countdown())
        return made[-1]

    class Broken(Still):
        def predict(self, observation, state=None, episode_start=None, deterministic=True):
            return np.full((len(observation), 1), np.nan), None

    with pytest.raises(DiffplanError, match="Broken gave actions with NaN"):
        rollout(Broken(), make, episodes=3, num_envs=3, seed=0, progress=False)
    assert len(made) == 3 and all(env.closed for env in made)


def test_wrong_requests_are_named():
    class Wide(Still):
        def predict(self, observation, state=None, episode_start=None, deterministic=True):
            return np.zeros((len(observation), 2)), None

    with pytest.raises(DiffplanError, match=r"shape \(2, 2\).*expected finite.*\(2, 1\)"):
        rollout(Wide(), Countdown, episodes=3, num_envs=2, seed=0, progress=False)
    with pytest.raises(DiffplanError, match="at least one episode"):
        rollout(Still(), Countdown, episodes=0, num_envs=2, seed=0, progress=False)


class Listener(Still):
    """Keeps, per row, the sum of the rewards it was told of since the row's episode began."""

    def __init__(self):
        super().__init__()
        self.told = []

    def reset_rows(self, state, rows, seeds):
        sums = np.zeros(len(rows)) if state is None else state
        return np.where(rows, 0.0, sums)

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        self.observations.append((observation, state.copy()))
        return np.zeros((len(observation), 1), np.float32), state

    def observe(self, state, rewards, rows):
        assert rewards.dtype == np.float64 and rows.dtype == bool
        assert not rewards[~rows].any()
        self.told.append((rewards.copy(), rows.copy()))
        return state + rewards


def test_policies_are_told_the_rewards_of_the_rows_that_were_stepped():
    policy = Listener()
    result = rollout(policy, Countdown, episodes=7, num_envs=3, seed=50, progress=False)
    assert sum(rewards.sum() for rewards, _ in policy.told) == result.returns.sum()
    assert [int(rows.sum()) for _, rows in policy.told] == result.live_rows.tolist()
    # What a decision is made on are the rewards of its own episode so far.
    for observation, sums in policy.observations[:3]:
        drawn = result.lengths[(observation[:, 0] - 50).astype(int)]
        np.testing.assert_array_equal(sums, drawn - observation[:, 1])


def test_time_spent_on_observing_counts_as_the_decision():
    class Slow(Listener):
        def observe(self, state, rewards, rows):
            time.sleep(0.02)
            return super().observe(state, rewards, rows)

    policy = Slow()
    result = rollout(policy, Countdown, episodes=2, num_envs=2, seed=0, progress=False)
    assert result.call_ms.min() >= 20
    times = time_decisions(policy, Countdown, seed=3, steps=4, warmup=1)
    assert times.ms.shape == (4,) and times.ms.min() >= 20
    assert policy.told[-1][1].tolist() == [True]
