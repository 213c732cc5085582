"""Rewards that count the tasks so far, and what the environment would have paid instead."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from diffplan.data.episodes import Episodes
from diffplan.envs.formats.d4rl import load_d4rl
from diffplan.envs.formats.data_returns import TASKS_SO_FAR, comparable_returns
from diffplan.envs.rollouts.references import normalised_score, reference_key

SO_FAR = np.repeat([0, 1, 3, 0, 0, 2, 4], [50, 100, 50, 40, 60, 90, 10])  # 200 steps, 200 steps
PAID_ONCE = np.where(np.isin(np.arange(400), [50, 150, 160, 300, 320]), 1.0, 0.0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFPLAN_CACHE", str(tmp_path / "cache"))


def kitchen(path: Path, rewards: np.ndarray) -> Episodes:
    steps = len(rewards)
    with h5py.File(path, "w") as file:
        file["observations"] = np.zeros((steps, 60), np.float32)
        file["actions"] = np.zeros((steps, 9), np.float32)
        file["rewards"] = rewards.astype(np.float32)
        file["terminals"] = np.isin(np.arange(steps), [199, 399])
        file.attrs["rewards_are"] = "whatever the file says"
    return load_d4rl(path, progress=False).validate()


def test_a_kitchen_s_running_count_is_scored_by_the_tasks_completed(tmp_path: Path) -> None:
    episodes = kitchen(tmp_path / "kitchen-mixed-v0.hdf5", SO_FAR)
    assert episodes.info.details["rewards_are"] == TASKS_SO_FAR
    np.testing.assert_array_equal(episodes.rewards, SO_FAR)  # for training, as in the file
    assert episodes.returns.tolist() == [250.0, 220.0]
    assert comparable_returns(episodes).tolist() == [3.0, 4.0]
    scores = normalised_score(reference_key(episodes.info), comparable_returns(episodes))
    assert scores is not None and scores.tolist() == [75.0, 100.0]


@pytest.mark.parametrize("name", ["kitchen-mixed-v0", "mine"])
def test_rewards_of_the_environment_are_added_up(tmp_path: Path, name: str) -> None:
    rewards = PAID_ONCE if name == "kitchen-mixed-v0" else SO_FAR
    episodes = kitchen(tmp_path / f"{name}.hdf5", rewards)
    assert "rewards_are" not in episodes.info.details
    np.testing.assert_array_equal(comparable_returns(episodes), episodes.returns)
