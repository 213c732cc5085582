"""Own data: the example of docs/own_data.md runs as it stands, and mistakes are named."""

import json
import re
import shlex
import subprocess
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


def test_the_documented_example_runs(
    folder: Path, tiny_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = (folder / "collect.py").read_text()
    assert len([line for line in code.splitlines() if line and not line.startswith("import")]) <= 10
    found = re.search(r"<!-- commands -->\n```\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    commands = [shlex.split(line) for line in found[1].splitlines()]
    tiny = {
        "train": ["--steps=4", *tiny_options],
        "evaluate": ["--episodes=3", "--num-envs=3", "--no-pictures"],
    }
    for program, *words in commands:
        if program == "python":
            subprocess.run([sys.executable, *words], check=True, cwd=folder, timeout=60)
        else:
            assert main([*words, *tiny.get(words[0], [])]) == 0, words
    results = json.loads((folder / "runs/tank/results.json").read_text())
    assert results["env_id"] == "my_env:Tank-v0" and results["episodes"] == 3
    assert results["policies"]["data"]["episodes"] == 100  # the data's own returns
    assert results["policies"]["planner"]["lengths"] == [50] * 3
    assert results["reference"] is None and "normalised_score" not in results
    out = capsys.readouterr().out
    assert re.search(r"^planning: start \w+, denoising_steps \d+", out, re.MULTILINE)

    # the block for Python, briefly
    found = re.search(r"<!-- from Python -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    brief = found[1].replace("steps=2000", "steps=2, evaluate_episodes=1, progress=False")
    exec(brief.replace("evaluate_every=500", "evaluate_every=2"), {})
    assert re.search(r"^2 -\d+\.\d+\nruns/python/checkpoint-0+2 ", capsys.readouterr().out)

    # The planner keeps to the environment's uneven bounds, whatever it is asked.
    agent = load_agent("runs/tank")
    assert agent.info.action_low == (-2.0,) and agent.info.action_high == (3.0,)
    asked = np.random.default_rng(0).normal(scale=50.0, size=(200, 2))
    actions, _ = agent.predict(asked)
    assert actions.shape == (200, 1)
    assert actions.min() >= -2.0 and actions.max() <= 3.0
    assert actions.min() < -1.0 or actions.max() > 1.0  # not squeezed into [-1, 1]


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
