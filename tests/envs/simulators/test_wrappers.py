"""Wrappers that data were recorded in: remade, or refused by their name."""

import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.envs.registration import WrapperSpec

from diffplan.data.info import DatasetInfo
from diffplan.envs.simulators.environments import env_from_spec, make_env
from diffplan.errors import DiffplanError


def remade(env: gym.Env) -> gym.Env:
    assert env.spec is not None
    spec = type(env.spec).from_json(env.spec.to_json())
    env_id, kwargs = env_from_spec(spec)
    return make_env(DatasetInfo("data", "minari", env_id, kwargs, (), (), {}))


def played(env: gym.Env) -> list[Any]:
    seen: list[Any] = [env.reset(seed=3)[0].tolist()]
    over = False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(env.action_space.low)
        seen.append((observation.tolist(), float(reward)))
        over = terminated or truncated
    return seen


def test_wrappers_are_remade_in_their_order() -> None:
    wrap = gym.wrappers
    env: gym.Env = gym.make("Pendulum-v1", max_episode_steps=12)
    env = wrap.ClipReward(wrap.MaxAndSkipObservation(wrap.RecordEpisodeStatistics(env), 3), -9, -1)
    again = remade(wrap.TimeAwareObservation(env))
    assert again.observation_space.shape == (4,)
    assert played(again) == played(wrap.TimeAwareObservation(env))
    # one that only watches is left out
    assert "RecordEpisodeStatistics" not in str(again)


@pytest.mark.parametrize(
    ("wrapper", "why"),
    [
        (WrapperSpec("Mine", "somebody.else:Mine", {}), "is code of somebody.else"),
        (WrapperSpec("Play", "gymnasium.utils.play:play", {}), "is code of gymnasium.utils.play"),
        (
            WrapperSpec("NormalizeReward", "gymnasium.wrappers:NormalizeReward", {}),
            "has running statistics",
        ),
        (WrapperSpec("Odd", "gymnasium.wrappers:Odd", None), "kept no arguments"),
    ],
)
def test_what_cannot_be_remade_is_refused(wrapper: WrapperSpec, why: str) -> None:
    spec = gym.spec("Pendulum-v1").__class__.from_json(gym.spec("Pendulum-v1").to_json())
    spec.additional_wrappers = (wrapper,)
    with pytest.raises(DiffplanError, match=f"inside the wrapper {wrapper.name}, which {why}"):
        env_from_spec(spec)
    # nor from a checkpoint that somebody edited
    asked = {"additional_wrappers": [{"name": "Mine", "entry_point": "os:system", "kwargs": {}}]}
    info = DatasetInfo("data", "minari", "Pendulum-v1", asked, (), (), {})
    with pytest.raises(DiffplanError, match="Mine, which is code of os"):
        make_env(info)


def test_a_wrapper_that_writes_files_is_left_out_whatever_it_is_called(tmp_path: Path) -> None:
    asked = {"name": "Nice", "entry_point": "gymnasium.wrappers.rendering:RecordVideo"}
    kwargs = {"additional_wrappers": [{**asked, "kwargs": {"video_folder": "videos"}}]}
    here = Path.cwd()
    try:
        os.chdir(tmp_path)
        make_env(DatasetInfo("data", "minari", "Pendulum-v1", kwargs, (), (), {})).close()
    finally:
        os.chdir(here)
    assert not list(tmp_path.iterdir())
