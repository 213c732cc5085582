"""Controllers and random actions: the known returns, and rows that do not know each other."""

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from diffplan.data.info import DatasetInfo
from diffplan.envs.makers.controllers import RandomPolicy, pointmaze_controllers
from diffplan.envs.rollouts.serial import rollout
from diffplan.envs.simulators.environments import evaluation_env_factory, make_env
from diffplan.errors import DiffplanError


def info(env_id: str, path_rule: str = "depth-first") -> DatasetInfo:
    kwargs = {"reset_target": False, "continuing_task": True}
    details = {"path_rule": path_rule}
    return DatasetInfo("maze", "minari", env_id, kwargs, (-1.0,) * 2, (1.0,) * 2, details)


MEDIUM = info("PointMaze_Medium-v3")
roll = partial(rollout, make_env=evaluation_env_factory(MEDIUM), seed=0, progress=False)


@pytest.mark.parametrize(
    ("name", "expected", "spread"), [("controller", 395.0, 125.0), ("shortest_path", 461.0, 75.0)]
)
def test_controllers_reach_their_known_returns(name: str, expected: float, spread: float) -> None:
    """Measured over 200 episodes: 400 and 461 of 600, standard deviations 123 and 71."""
    result = roll(pointmaze_controllers(MEDIUM)[name], episodes=24, num_envs=12)
    assert result.success is not None
    assert result.success.all()
    assert abs(result.returns.mean() - expected) < 3.0 * spread / np.sqrt(24)


@pytest.mark.parametrize("name", ["controller", "random"])
def test_results_do_not_depend_on_the_number_of_rows(name: str) -> None:
    policy: Any = RandomPolicy(make_env(MEDIUM).action_space, seed=1)
    if name == "controller":
        policy = pointmaze_controllers(MEDIUM, seed=1)["controller"]
    short = evaluation_env_factory(MEDIUM, max_episode_steps=60)
    runs = [
        rollout(policy, short, episodes=6, num_envs=m, seed=3, progress=False, record=6)
        for m in (1, 4)
    ]
    for alone, together in zip(runs[0].traces, runs[1].traces, strict=True):
        assert len(np.unique(alone.actions, axis=0)) > 40
        np.testing.assert_array_equal(alone.actions, together.actions)


def test_states_are_values() -> None:
    """Predicting twice from one state gives the same actions; other seeds give others."""
    envs = gym.vector.SyncVectorEnv([evaluation_env_factory(MEDIUM)] * 3)
    observation, _ = envs.reset(seed=7)
    for policy, other in (
        (pointmaze_controllers(MEDIUM, 0)["controller"], pointmaze_controllers(MEDIUM, 1)),
        (RandomPolicy(envs.single_action_space, 0), RandomPolicy(envs.single_action_space, 1)),
    ):
        first, state = policy.predict(observation)  # type: ignore[attr-defined]
        once, later = policy.predict(observation, state)  # type: ignore[attr-defined]
        twice, _ = policy.predict(observation, state)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(once, twice)
        start = np.array([True, False, False])
        again, _ = policy.predict(observation, later, start)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(again[0], first[0])
        assert (again[1:] != first[1:]).any()
        other = other["controller"] if isinstance(other, dict) else other
        different, _ = other.predict(observation)
        assert (different != first).any()
        assert first.dtype == np.float32
    envs.close()


def test_the_controller_rests_at_the_goal() -> None:
    controller = pointmaze_controllers(MEDIUM)["shortest_path"]
    controller.noise_std = 0.0
    result = roll(controller, episodes=2, num_envs=2, record=2)
    for trace in result.traces:
        last = trace.observations["observation"][-1]
        goal = trace.observations["desired_goal"][-1]
        assert np.linalg.norm(last[:2] - goal) < 0.02
        assert np.abs(last[2:]).max() < 0.05


def test_the_data_name_their_controller() -> None:
    assert pointmaze_controllers(MEDIUM)["controller"].path_rule == "depth-first"
    short = pointmaze_controllers(info("PointMaze_UMaze-v3", "shortest"))
    assert short["controller"].path_rule == "shortest"
    assert pointmaze_controllers(info("Hopper-v5")) == {}
    assert pointmaze_controllers(info("AntMaze_UMaze-v4")) == {}


def test_random_actions_fill_the_bounds() -> None:
    space = gym.spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, 5.0]), dtype=np.float64)
    actions, _ = RandomPolicy(space).predict(np.arange(4000.0)[:, None])
    assert (actions.min(axis=0) < [-0.95, 0.05]).all()
    assert (actions.max(axis=0) > [0.95, 4.95]).all()
    assert (actions.max(axis=0) <= space.high).all()
    with pytest.raises(DiffplanError, match=r"a Box space \[A\]"):
        RandomPolicy(gym.spaces.Discrete(3))


def test_random_actions_without_bounds_stay_within_one() -> None:
    largest = np.finfo(np.float32).max
    low, high = np.array([-np.inf, -largest, -3.0]), np.array([np.inf, largest, np.inf])
    policy = RandomPolicy(gym.spaces.Box(low.astype(np.float32), high.astype(np.float32)))
    assert policy.low.tolist() == [-1, -1, -3]
    assert policy.high.tolist() == [1, 1, 1]
    assert np.isfinite(policy.predict(np.zeros((2, 1)))[0]).all()


def test_random_actions_of_a_dataset() -> None:
    data = DatasetInfo("x", "arrays", None, {}, (-2.0, 0.0), (-1.0, 5.0), {})
    policy = RandomPolicy.of(data)
    assert (policy.low.tolist(), policy.high.tolist()) == ([-2, 0], [-1, 5])
