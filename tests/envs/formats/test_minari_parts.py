"""Nothing of a Minari dataset is dropped without a word: keys, steps, flags, digits, wrappers."""

import json
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from diffplan.data.episodes import Episodes
from diffplan.envs.datasets import as_episodes, load_dataset
from diffplan.envs.formats.minari import load_minari
from diffplan.errors import DiffplanError
from diffplan.scripts.datasets.summary import summary

STEPS = 6
ENDS = np.arange(STEPS) == STEPS - 1


def box(width: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (width,))


def write(space: spaces.Space, observations: Any, **changes: Any) -> Episodes:
    """Two alike episodes; `changes` of their arrays and of what is told beside them."""
    about = {key: changes.pop(key) for key in ("env",) if key in changes}
    parts = {
        "observations": observations,
        "actions": np.random.default_rng(0).uniform(-1, 1, (STEPS, 1)),
        "rewards": np.zeros(STEPS),
        "terminations": ENDS & False,
        "truncations": ENDS,
    }
    buffers = [EpisodeBuffer(**parts | changes) for _ in range(2)]
    minari.create_dataset_from_buffers(
        "parts-v0", buffers, observation_space=space, action_space=box(1), **about
    )
    return load_minari("parts-v0", progress=False)


def test_all_vectors_of_a_dict_are_the_state(minari_root: Path) -> None:
    rng = np.random.default_rng(0)
    given = {key: rng.normal(size=(STEPS + 1, 2)) for key in ("observation", "goal", "phase")}
    given["picture"] = np.zeros((STEPS + 1, 3, 3))
    space = spaces.Dict({key: box(2) for key in ("observation", "goal", "phase")})
    space["picture"] = spaces.Box(-1, 1, (3, 3))
    episodes = write(space, given).validate()
    assert episodes.layout.dict_keys == ("observation", "goal", "phase")
    states = np.concatenate([given[key] for key in episodes.layout.dict_keys], axis=1)
    np.testing.assert_array_equal(episodes.states[: STEPS + 1], states.astype(np.float32))
    first = {key: array[0] for key, array in given.items()}
    np.testing.assert_array_equal(episodes.layout.split(first)[0], episodes.states[0])
    assert ("not used", "picture (Box(3, 3))") in summary(episodes)


def test_a_goal_dict_may_hold_more(minari_root: Path) -> None:
    rng = np.random.default_rng(0)
    given = {"observation": rng.normal(size=(STEPS + 1, 3)), "phase": np.ones((STEPS + 1, 1))}
    given |= {"achieved_goal": given["observation"][:, :2], "desired_goal": 0 * np.ones((7, 2))}
    space = spaces.Dict({key: box(array.shape[1]) for key, array in given.items()})
    layout = write(space, given).layout
    assert (layout.dict_keys, layout.goal_columns) == (("observation", "phase"), (0, 1))


def test_an_end_without_a_flag_is_a_cut(minari_root: Path) -> None:
    episodes = write(box(1), np.ones((STEPS + 1, 1)), truncations=ENDS & False)
    assert np.flatnonzero(episodes.truncations).tolist() == [5, 11]
    with pytest.raises(DiffplanError, match="terminations hold 2 in episode 0, step 5, expected"):
        (minari_root / "parts-v0").rename(minari_root / "other")
        write(box(1), np.ones((STEPS + 1, 1)), terminations=2 * ENDS.astype(int))


def test_columns_far_from_zero_keep_their_movement(minari_root: Path) -> None:
    clock = 1.7e9 + 0.1 * np.arange(STEPS + 1)[:, None]
    episodes = write(spaces.Box(-np.inf, np.inf, (1,), np.float64), clock).validate()
    assert len(np.unique(episodes.states)) == STEPS + 1
    np.testing.assert_array_equal(episodes.layout.split(clock)[0], episodes.states[: STEPS + 1])
    assert any("column 0 less 17000000" in text for key, text in summary(episodes))


def test_what_its_reader_leaves_out_is_noticed(minari_root: Path) -> None:
    write(box(1), np.ones((STEPS + 1, 1)))
    about = minari_root / "parts-v0" / "data" / "metadata.json"
    text = about.read_text()
    about.write_text(json.dumps(json.loads(text) | {"total_episodes": 1}))
    with pytest.raises(DiffplanError, match="6 steps can be read, but it has 12 by its metadata"):
        load_minari("parts-v0", progress=False)
    about.write_text(text)
    with h5py.File(about.with_name("main_data.hdf5"), "a") as file:
        file["episode_1"].attrs["total_steps"] = 9
    with pytest.raises(DiffplanError, match="6 steps of episode 1 can be read, but it has 9"):
        load_minari("parts-v0", progress=False)
    with h5py.File(about.with_name("main_data.hdf5"), "a") as file:
        del file["episode_1/rewards"]
        file["episode_1/rewards"] = h5py.ExternalLink("/etc/elsewhere.hdf5", "rewards")
    with pytest.raises(DiffplanError, match="rewards is a link into another file"):
        load_minari("parts-v0", progress=False)


def test_wrappers_are_remade_or_the_data_need_an_environment(minari_root: Path) -> None:
    observations = np.zeros((STEPS + 1, 3), np.float32)
    space = gym.make("Pendulum-v1").observation_space
    env = gym.wrappers.ClipReward(gym.make("Pendulum-v1"), -1, 0)
    episodes = write(space, observations, env=env.spec).validate()
    evaluation = dict(summary(episodes))["evaluation"]
    assert "in the wrappers ClipReward(min_reward=-1, max_reward=0)" in evaluation
    about = minari_root / "parts-v0" / "data" / "metadata.json"
    about.write_text(re.sub(r"gymnasium\.wrappers[\w.]*:", "my_wrappers:", about.read_text()))
    told = dict(summary(load_minari("parts-v0", progress=False)))["evaluation"]
    assert "ClipReward, which is code of my_wrappers" in told
    with pytest.raises(DiffplanError, match="name that with --env"):
        load_dataset("parts-v0", progress=False)
    assert load_dataset("parts-v0", "Pendulum-v1", progress=False).info.env_id == "Pendulum-v1"


def test_a_dataset_object_brings_the_episodes_that_it_was_filtered_to(minari_root: Path) -> None:
    rng = np.random.default_rng(0)
    whole = write(box(2), rng.normal(size=(STEPS + 1, 2)), rewards=rng.normal(size=STEPS))
    dataset = minari.load_dataset("parts-v0")
    same = as_episodes(dataset, progress=False)
    np.testing.assert_array_equal(same.rewards, whole.rewards)
    second = as_episodes(dataset.filter_episodes(lambda episode: episode.id == 1), progress=False)
    assert second.num_episodes == 1 and second.info.details["filtered"] == "1 of 2 episodes"
    np.testing.assert_array_equal(second.states, whole.states[STEPS + 1 :])
