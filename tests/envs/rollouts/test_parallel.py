"""Rollouts over processes give what one process gives."""

import functools
import os

import gymnasium as gym
import numpy as np
import pytest

from diffplan.envs.makers.controllers import RandomPolicy
from diffplan.envs.rollouts.parallel import rollout_in_processes
from diffplan.envs.rollouts.serial import rollout
from diffplan.errors import DiffplanError

PENDULUM = functools.partial(gym.make, "Pendulum-v1", max_episode_steps=7)


def test_the_episodes_are_those_of_one_process() -> None:
    policy = RandomPolicy(gym.spaces.Box(-2.0, 2.0, (1,)), seed=3)
    options = {"episodes": 5, "num_envs": 4, "seed": 11, "progress": False}
    one = rollout(policy, PENDULUM, record=4, **options)
    two = rollout_in_processes(policy, PENDULUM, workers=2, record=4, **options)
    for name in ("returns", "lengths", "terminated"):
        np.testing.assert_array_equal(getattr(two, name), getattr(one, name))
    assert two.success is None
    # a process for two episodes, two rows each, and one for three
    assert two.live_rows.tolist() == [2] * 7 + [2] * 7 + [1] * 7
    assert len(two.call_ms) == len(two.live_rows)
    assert len(two.traces) == 4
    for found, expected in zip(two.traces, one.traces, strict=True):
        assert (found.episode, found.seed) == (expected.episode, expected.seed)
        np.testing.assert_array_equal(found.actions, expected.actions)
        np.testing.assert_array_equal(found.observations, expected.observations)


class Vanish:
    """Ends its process at the first decision."""

    def __reduce__(self):
        return os._exit, (3,)


def test_a_process_that_dies_is_one_line() -> None:
    with pytest.raises(DiffplanError, match="was killed or died") as error:
        rollout_in_processes(
            Vanish(), PENDULUM, episodes=2, num_envs=2, seed=0, workers=2, progress=False
        )
    assert "--workers" in str(error.value)


def test_one_worker_runs_here() -> None:
    class Local:  # no process could be sent it
        def predict(self, observation, state=None, episode_start=None, deterministic=True):
            return np.zeros((len(observation), 1), np.float32), None

    found = rollout_in_processes(
        Local(), PENDULUM, episodes=1, num_envs=8, seed=0, workers=4, progress=False
    )
    assert found.lengths.tolist() == [7]
