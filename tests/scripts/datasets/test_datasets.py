"""`diffplan datasets make`, `list`, `download` and `show`."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import tyro

from diffplan.data.episodes import Episodes
from diffplan.data.info import DatasetInfo, ObservationLayout
from diffplan.envs.datasets import load_dataset
from diffplan.envs.formats import minari_remote
from diffplan.envs.makers import locomotion_data
from diffplan.errors import DiffplanError
from diffplan.scripts.datasets.command import Download, List, Make, Show
from diffplan.scripts.datasets.summary import summary


def test_make_list_and_show(
    minari_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tyro.cli(Make, args=["pointmaze-umaze", "--env-steps", "1500", "--seed", "3"]).run()
    assert "pointmaze/umaze-v0" in capsys.readouterr().out
    tyro.cli(List, args=[]).run()
    listed = capsys.readouterr().out
    assert "1,500 steps" in listed
    assert "\nadroit\n" in listed
    assert "  pen-human-v1 " in listed
    tyro.cli(List, args=["large"]).run()
    listed = capsys.readouterr().out
    assert "  antmaze-large-play-v2 " in listed
    assert "pointmaze-umaze" not in listed
    with pytest.raises(DiffplanError, match="no dataset with 'hoper' in its name"):
        List("hoper").run()
    picture = tmp_path / "pictures" / "umaze.png"
    tyro.cli(Show, args=["pointmaze-umaze", "--plot", str(picture)]).run()
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line)
    assert shown["steps"] == "1,500"
    assert "goal" in shown
    assert shown["evaluation"].startswith("PointMaze_UMaze-v3, at most 300 steps")
    assert "PROBLEM" not in shown
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_download_says_where_things_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    for name in ("hopper_medium-v2.hdf5", "pen-human-v1.hdf5"):
        (tmp_path / name).write_text("there already")
    tyro.cli(Download, args=["hopper-medium-v2", "pen-human-v1"]).run()
    assert capsys.readouterr().out.splitlines() == [
        f"hopper-medium-v2: {tmp_path}/hopper_medium-v2.hdf5",
        f"pen-human-v1: {tmp_path}/pen-human-v1.hdf5",
    ]
    with pytest.raises(DiffplanError, match="no dataset named"):
        tyro.cli(Download, args=[]).run()
    with pytest.raises(DiffplanError, match="D4RL's own is walker2d-medium-v2"):
        Download(("walker2d-medium",)).run()


def test_show_tells_where_rewards_and_data_come_from(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "maze2d-umaze-dense-v1.hdf5", "w") as file:
        file["observations"] = np.arange(24, dtype=np.float32).reshape(6, 4)
        file["actions"] = np.zeros((6, 2), np.float32)
        file["rewards"] = np.ones(6, np.float32)
        file["terminals"] = np.zeros(6, np.bool_)
        file["timeouts"] = np.arange(6) == 2
    lines = dict(summary(load_dataset(str(tmp_path / "maze2d-umaze-dense-v1.hdf5"))))
    assert lines["origin"] == "not D4RL's file"  # six steps of a million
    assert lines["rewards are for"].startswith("the fixed evaluation goal")
    assert lines["normalised score"].startswith("none")


def test_show_tells_how_returns_spread() -> None:
    returns = [100.0] * 15 + [300.0] * 5  # a fifth of another kind
    few = dict(summary(reward_episodes(returns)))
    assert few["return deciles"] == "100, 100, 100, 100, 100, 100, 100, 300, 300"
    assert few["best tenth"] == "mean return 300"
    assert "best tenth" not in dict(summary(reward_episodes([1.0] * 20)))  # nothing spreads
    assert "best tenth" not in dict(summary(reward_episodes(returns[-6:])))  # too few for tenths


def reward_episodes(returns: list[float]) -> Episodes:
    """Episodes of two steps with these returns."""
    steps = 2 * len(returns)
    rewards = np.repeat(np.array(returns, np.float32) / 2, 2)
    ends = np.arange(steps) % 2 == 1
    starts = np.arange(0, steps + 1, 2)
    return Episodes(
        states=np.arange(steps, dtype=np.float32)[:, None],
        goals=None,
        actions=np.zeros((steps, 1), np.float32),
        rewards=rewards,
        terminations=np.zeros(steps, np.bool_),
        truncations=ends,
        state_starts=starts,
        step_starts=starts,
        layout=ObservationLayout(1),
        info=DatasetInfo("made-up", "npz", None, {}, (-1.0,), (1.0,), {}),
    )


def test_show_scores_a_kitchen_by_its_tasks(tmp_path: Path) -> None:
    """D4RL's kitchen files count the tasks so far at every step; the score counts each once."""
    path = tmp_path / "kitchen-mixed-v0.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"] = np.zeros((200, 60), np.float32)
        file["actions"] = np.zeros((200, 9), np.float32)
        file["rewards"] = np.repeat([0, 2, 3], [50, 100, 50]).astype(np.float32)
        file["terminals"] = np.arange(200) == 199
    lines = dict(summary(load_dataset(str(path))))
    assert lines["return"] == "min 350, mean 350, max 350"
    assert lines["as scored"] == "min 3, mean 3, max 3"
    assert lines["rewards are"] == "the number of tasks completed so far, at every step"
    assert lines["normalised score"] == "mean 75.0 (reference kitchen)"


@pytest.mark.parametrize("name", ["maze2d-foo", "pointmaze-foo", "hopper-medium-v2"])
def test_make_names_all_that_can_be_made(name: str, minari_root: Path) -> None:
    with pytest.raises(DiffplanError, match=f"cannot make '{name}'") as caught:
        Make(name).run()
    for known in ("pointmaze-umaze", "maze2d-umaze", "maze2d-large-dense"):
        assert known in str(caught.value)


def test_a_set_of_two_halves_has_as_many_steps_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    made: dict[str, int] = {}
    monkeypatch.setattr(
        locomotion_data, "make_locomotion", lambda name, steps, *_, **__: made.update({name: steps})
    )
    for command in (Make("hopper-medium"), Make("hopper-medium-expert")):
        command.run()
    Make("walker2d-medium-expert", env_steps=500).run()
    assert list(made.values()) == [200_000, 400_000, 500]


def test_the_list_has_minari_s_remote_where_there_is_a_network(
    minari_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    List("pen-human").run()
    left_out = "Minari's remote datasets are left out: HF_HUB_OFFLINE is set"
    assert f"{left_out}.\n" in capsys.readouterr().out
    with pytest.raises(DiffplanError, match=re.escape(f"domain ({left_out}); all: ")):
        List("D4RL/pen/human").run()
    there = {"D4RL/pen/human-v2": {"total_steps": 5000, "total_episodes": 25}}
    monkeypatch.setattr(minari_remote, "remote_datasets", lambda: (there, ""))
    List("D4RL/pen/human").run()
    listed = capsys.readouterr().out
    assert "  D4RL/pen/human-v2  remote       5,000 steps, 25 episodes\n" in listed
    assert "left out" not in listed


def test_show_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    observations = np.random.default_rng(0).normal(size=(8, 3))
    observations[5, 1] = np.nan
    observations[:, 2] = 4.0
    np.savez(
        tmp_path / "a.npz",
        observations=observations,
        actions=np.zeros((8, 2)),
        rewards=np.ones(8),
        terminations=np.arange(8) == 3,
        truncations=np.arange(8) == 7,
    )
    Show(str(tmp_path / "a.npz"), plot=tmp_path / "a.svg").run()
    out = capsys.readouterr().out
    lines = {line[:18].strip(): line[18:] for line in out.splitlines()}
    assert lines["NaN or infinite"] == "1 in states"
    assert lines["constant columns"] == "state 2, action 0, action 1, reward (all 1)"
    assert lines["length"] == "min 4, median 4, mean 4.0, max 4"
    assert lines["ends"].startswith("1 terminated, 1 truncated; final observation missing")
    assert lines["evaluation"] == "unknown: name the environment with --env"
    assert "states hold nan in episode 1, step 1, column 1" in lines["PROBLEM"]
    with pytest.raises(DiffplanError, match="cannot write the picture"):
        Show(str(tmp_path / "a.npz"), plot=tmp_path / "a.doc").run()
