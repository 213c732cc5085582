"""Own data: what does not fit is named, and every kind does the same.

The environment is that of docs/own_data.md, whose commands tests/test_docs.py runs.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from diffplan.agents import load_agent
from diffplan.scripts.cli import main

_FILE = Path(__file__).parents[2] / "docs" / "own_data.md"
PAGE = _FILE.read_text() if _FILE.is_file() else ""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files of the page; what they register is forgotten again."""
    if not PAGE:
        pytest.skip("only a checkout has docs/")
    for name, code in re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_env", raising=False)
    monkeypatch.delitem(gym.registry, "Tank-v0", raising=False)
    return tmp_path


def write(folder: Path, actions: float = 1.0, columns: int = 2) -> None:
    rng = np.random.default_rng(0)
    np.savez(
        folder / "mine.npz",
        observations=rng.normal(size=(60, columns)),
        actions=np.full((60, 1), actions),
        rewards=np.zeros(60),
        terminations=np.zeros(60),
        truncations=np.arange(60) % 20 == 19,
    )


def test_the_planner_keeps_to_uneven_bounds(folder: Path, tiny_options: list[str]) -> None:
    write(folder)
    data = ["--dataset", "mine.npz", "--env", "my_env:Tank-v0"]
    assert (
        main(["train", "trajectory-diffuser", *data, "--out=run", "--steps=4", *tiny_options]) == 0
    )
    agent = load_agent("run")
    assert agent.info.action_low == (-2.0,) and agent.info.action_high == (3.0,)
    asked = np.random.default_rng(0).normal(scale=50.0, size=(200, 2))
    actions, _ = agent.predict(asked)
    assert actions.shape == (200, 1)
    assert actions.min() >= -2.0 and actions.max() <= 3.0
    assert actions.min() < -1.0 or actions.max() > 1.0  # not squeezed into [-1, 1]


@pytest.mark.parametrize(
    ("data", "env", "message"),
    [
        ({"columns": 3}, "my_env:Tank-v0", r"Tank-v0 gives Box(2,) observations, dataset mine.npz"),
        ({"actions": -2.5}, "my_env:Tank-v0", "action -2.5 in episode 0, step 0, column 0, is out"),
        ({}, "CartPole-v1", "CartPole-v1 gives Box(4,) observations, dataset mine.npz has (2,)"),
        ({"columns": 4}, "CartPole-v1", "CartPole-v1 takes Discrete(2) actions, expected a Box"),
        ({}, "PointMaze_UMaze-v3", "gives dict observations with achieved_goal, desired_goal, obs"),
        ({}, "my_env:Tank-v9", "importing my_env registers no environment Tank-v9"),
        ({}, "my_env2:Tank-v0", "module 'my_env2' cannot be imported"),
    ],
)
def test_data_that_do_not_fit_the_environment_are_named_before_training(
    folder: Path,
    data: dict[str, Any],
    env: str,
    message: str,
    tiny_options: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(folder, **data)
    words = [
        "train",
        "proposer-only",
        "--dataset",
        "mine.npz",
        "--env",
        env,
        "--out",
        "run",
        *tiny_options,
        "--steps=4",
    ]
    assert main(words) == 2
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.strip().splitlines()) == 1
    assert "training" not in captured.out and not (folder / "run").exists()


def test_another_environment_is_checked_before_evaluation(
    folder: Path, tiny_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder)
    train = [
        "train",
        "proposer-only",
        "--dataset",
        "mine.npz",
        "--out",
        "run",
        *tiny_options,
        "--steps=4",
    ]
    assert main(train) == 0  # without an environment training needs none
    capsys.readouterr()
    assert main(["evaluate", "run"]) == 2
    assert "name one with --env" in capsys.readouterr().err
    assert main(["evaluate", "run", "--env", "Pendulum-v1"]) == 2
    assert "Pendulum-v1 gives Box(3,) observations" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::UserWarning")  # Minari wants authors and the like
@pytest.mark.parametrize("kind", ["hdf5", "minari"])
def test_other_kinds_of_data_do_the_same(
    kind: str, folder: Path, minari_root: Path, tiny_options: list[str]
) -> None:
    rng = np.random.default_rng(0)
    observations, actions = rng.normal(size=(41, 2)), rng.uniform(-2, 3, (40, 1))
    ends = np.arange(40) % 20 == 19
    env = ["--env", "my_env:Tank-v0"]
    if kind == "hdf5":
        dataset = "tank.hdf5"
        with h5py.File(dataset, "w") as file:
            file["observations"], file["actions"] = observations[:-1], actions
            file["rewards"] = np.zeros((40, 1))
            file["terminals"], file["timeouts"] = np.zeros(40), ends
    else:
        dataset = "mine/tank-v0"
        buffers = [
            EpisodeBuffer(
                observations=observations[first : first + 21],
                actions=actions[first : first + 20],
                rewards=np.zeros(20),
                terminations=np.zeros(20, bool),
                truncations=ends[:20],
            )
            for first in (0, 20)
        ]
        minari.create_dataset_from_buffers(
            dataset,
            buffers,
            observation_space=gym.spaces.Box(-np.inf, np.inf, (2,)),
            action_space=gym.spaces.Box(-2.0, 3.0, (1,)),
        )
    train = ["train", "proposer-only", "--dataset", dataset, "--out", "run", "--steps=2"]
    assert main([*train, *env, *tiny_options]) == 0
    assert main(["evaluate", "run", "--episodes=2", "--time-limit=7", "--no-pictures"]) == 0
    results = json.loads((folder / "run/results-time_limit-7.json").read_text())
    assert results["policies"]["planner"]["lengths"] == [7, 7]
    assert len(results["policies"]["data"]["returns"]) == 2
    agent = load_agent("run")
    assert (agent.info.action_low, agent.info.action_high) == ((-2.0,), (3.0,))
