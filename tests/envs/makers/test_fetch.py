"""Data of the Fetch arm: controllers that do their task, seeded episode by episode."""

from pathlib import Path

import numpy as np
import pytest

from diffplan.envs.datasets import load_dataset
from diffplan.envs.makers.catalogue import FETCH
from diffplan.envs.makers.fetch_data import _pick_and_place, make_fetch
from diffplan.errors import DiffplanError

pytest.importorskip("gymnasium_robotics")


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MINARI_DATASETS_PATH", "DIFFPLAN_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))


@pytest.mark.parametrize("name", FETCH)
def test_the_controllers_do_their_task(name: str) -> None:
    make_fetch(name, episodes=8, workers=1, progress=False)
    episodes = load_dataset(name, progress=False)
    assert episodes.info.env_id == FETCH[name][0]
    # where the gripper is, or the box
    columns = (0, 1, 2) if name == "fetch-reach" else (3, 4, 5)
    assert episodes.layout.goal_columns == columns
    assert not episodes.terminations.any() and episodes.truncations.sum() == 8
    # 0 at the goal, else -1
    assert (episodes.rewards.reshape(8, 50)[:, -1] == 0).sum() >= 6


def test_the_box_is_come_at_from_six_centimetres_above_with_an_open_gripper() -> None:
    seen, box = np.zeros(25), np.array([1.4, 0.7, 0.42])
    seen[:3], seen[9:11] = box - (0.1, 0, -0.06), 0.05
    move = _pick_and_place({"observation": seen, "achieved_goal": box, "desired_goal": box})
    assert move == pytest.approx([1.2, 0, 0, 1])


def test_the_first_episodes_are_those_of_a_smaller_set() -> None:
    def made(episodes: int, seed: int = 0) -> np.ndarray:
        make_fetch(
            "fetch-reach", episodes=episodes, seed=seed, workers=1, overwrite=True, progress=False
        )
        return load_dataset("fetch-reach", progress=False).actions[:100]

    few = made(2)
    assert np.array_equal(few, made(3))
    assert not np.array_equal(few, made(2, seed=1))
    with pytest.raises(DiffplanError, match="--overwrite"):
        make_fetch("fetch-reach", episodes=3, workers=1, progress=False)
    with pytest.raises(DiffplanError, match="at least one episode"):
        make_fetch("fetch-reach", episodes=0, progress=False)
