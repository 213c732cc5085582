"""`diffplan evaluate`: what it measures, what it writes, and how it refuses bad input."""

import json
import re
import shlex
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import tyro

from diffplan.config import get_config
from diffplan.data.episodes import Episodes, fingerprint
from diffplan.data.info import DatasetInfo, ObservationLayout
from diffplan.envs import datasets
from diffplan.envs.datasets import load_dataset
from diffplan.envs.makers.controllers import pointmaze_controllers
from diffplan.envs.rollouts.serial import rollout
from diffplan.envs.simulators.environments import evaluation_env_factory
from diffplan.errors import DiffplanError
from diffplan.scripts import planning_options
from diffplan.scripts.evaluate import runs
from diffplan.scripts.evaluate.command import Evaluate
from diffplan.scripts.planning_options import PlanningOptions

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def loads(monkeypatch):
    """Makes load_agent give a certain agent; returns the keyword arguments it was called with."""

    def install(agent, trained_on=""):
        given = {}

        def load_agent(folder, **kwargs):
            given.update(kwargs, folder=folder)
            return agent

        monkeypatch.setattr(runs, "load_agent", load_agent)
        config = get_config("trajectory-diffuser")
        header = SimpleNamespace(
            seed=4, step=60, fingerprint=trained_on, config=config, decisions=()
        )
        monkeypatch.setattr(planning_options, "read_header", lambda checkpoint: header)
        monkeypatch.setattr(runs, "read_header", lambda folder, checkpoint: header)
        return given

    return install


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoint-00000060").mkdir(parents=True)
    lines = [{"step": s, "seconds": s / 10, "loss/denoiser": 1 / s} for s in range(1, 50)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_everything_for_a_maze(maze_agent, loads, run_folder, capsys):
    given = loads(maze_agent)
    threads = torch.get_num_threads()
    options = tyro.cli(
        Evaluate,
        args=[str(run_folder), "--episodes", "5", "--num-envs", "2", "--seed", "7", "--video"],
    )
    results = options.run()
    assert torch.get_num_threads() == threads
    expected = {"folder": run_folder, "checkpoint": "last", "device": "cpu", "engine": "auto"}
    assert given == {**expected, "detailed": True, "tuned": True}

    on_disk = json.loads((run_folder / "results.json").read_text())
    assert on_disk["episodes"] == 5 and on_disk["seed"] == 7 and on_disk["train_seconds"] == 12.5
    planner = on_disk["policies"]["planner"]
    assert on_disk["return_mean"] == pytest.approx(np.mean(planner["returns"]))
    assert on_disk["success_rate"] == pytest.approx(np.mean(planner["success"]))
    assert on_disk["return_ci95"][0] <= on_disk["return_mean"] <= on_disk["return_ci95"][1]
    assert on_disk["replan_ms_median"] > 0 and on_disk["decision_ms_p95"] > 0
    assert on_disk["machine"]["threads"] == 1 and "seed + e" in on_disk["protocol"]
    assert results["return_mean"] == on_disk["return_mean"]

    # The controllers ran the planner's own seeds.
    for key in ("controller", "shortest_path"):
        controller = pointmaze_controllers(maze_agent.info, seed=7)[key]
        factory = evaluation_env_factory(maze_agent.info)
        again = rollout(controller, factory, episodes=5, num_envs=5, seed=7, progress=False)
        assert on_disk["policies"][key]["returns"] == again.returns.tolist()
        assert on_disk[f"{key}_return_mean"] == pytest.approx(again.returns.mean())

    for name in ("plans", "returns", "training"):
        assert (run_folder / "pictures" / f"{name}.png").read_bytes().startswith(PNG)
    assert list((run_folder / "pictures").glob("video.*"))

    out = capsys.readouterr().out
    header, *rows = [line for line in out.splitlines() if re.search(r"  +\S", line)]
    assert header.split()[0] == "policy" and "normalised" not in header
    assert [row.split("  ")[0] for row in rows] == [
        "planner",
        "depth-first controller (made the data)",
        "shortest-path controller",
        "random actions",
    ]
    assert len({len(line) for line in (header, *rows)}) == 1  # aligned


def test_overrides_reach_the_agent_and_baselines_and_pictures_can_be_left_out(
    maze_agent, loads, run_folder, tmp_path
):
    given = loads(maze_agent)
    target = tmp_path / "elsewhere" / "x.json"
    Evaluate(
        (run_folder,), episodes=2, num_envs=2, json=target,
        planning=PlanningOptions(replan_every=3, candidates=4, denoising_steps=0),
        checkpoint="60", baselines=False, pictures=False,
    ).run()  # fmt: skip
    assert given["replan_every"] == 3 and given["denoising_steps"] == 0
    assert given["checkpoint"] == "60"
    results = json.loads(target.read_text())
    assert results["overrides"] == {"replan_every": 3, "candidates": 4, "denoising_steps": 0}
    words = shlex.split(results["command"])
    assert words[:2] == ["diffplan", "evaluate"]
    again = tyro.cli(Evaluate, args=words[2:])
    assert again.planning == PlanningOptions(replan_every=3, candidates=4, denoising_steps=0)
    assert (again.runs, again.episodes, again.num_envs) == ((run_folder,), 2, 2)
    assert again.checkpoint == "60"
    assert results["controller_return_mean"] is None and list(results["policies"]) == ["planner"]
    left = sorted(path.name for path in run_folder.iterdir())
    assert left == ["checkpoint-00000060", "metrics.jsonl"]


@pytest.mark.parametrize(
    "words, planning, stem",
    [
        ("--target by-step", {"target": "by-step"}, "target-by-step"),
        ("--target-quantile 0.5", {"target_quantile": 0.5}, "target_quantile-0.5"),
        (
            "--target decremented --target-return -300",
            {"target": "decremented", "target_return": -300.0},
            "target-decremented-target_return--300.0",
        ),
    ],
)
def test_the_return_that_is_asked_for_can_be_changed(
    words, planning, stem, hopper_agent, loads, run_folder
):
    given = loads(hopper_agent("hopper-medium-v2"))
    few = "--episodes 1 --num-envs 1 --no-baselines --no-pictures"
    options = tyro.cli(Evaluate, args=[str(run_folder), *words.split(), *few.split()])
    options.run()
    assert planning.items() <= given.items()
    assert not {"target", "target_quantile", "target_return"} & given.keys() - planning.keys()
    results = json.loads((run_folder / f"results-{stem}.json").read_text())
    assert results["overrides"] == planning
    again = tyro.cli(Evaluate, args=shlex.split(results["command"])[2:])
    assert again.planning == PlanningOptions(**planning)


def test_without_a_maze_the_returns_of_the_data_stand_beside_the_planner(
    hopper_agent, loads, run_folder, tmp_path, capsys
):
    store = tmp_path / "data"
    info = DatasetInfo("x", "arrays", "Hopper-v5", {}, (-1.0,) * 3, (1.0,) * 3, {})
    episodes = Episodes(
        states=np.zeros((7, 11), np.float32),
        goals=None,
        actions=np.zeros((5, 3), np.float32),
        rewards=np.array([1, 2, 3, 10, 20], np.float32),
        terminations=np.array([0, 0, 1, 0, 1], bool),
        truncations=np.zeros(5, bool),
        state_starts=np.array([0, 4, 7]),
        step_starts=np.array([0, 3, 5]),
        layout=ObservationLayout(11),
        info=info,
    )
    episodes.save(store)
    loads(hopper_agent(str(store)), fingerprint(episodes))
    results = Evaluate((run_folder,), episodes=3, num_envs=3).run()
    assert results["policies"]["data"]["returns"] == [6.0, 30.0]
    assert results["data_return_mean"] == 18.0
    assert results["success_rate"] is None and results["reference"] == "D4RL hopper"
    expected = 100 * (results["return_mean"] + 20.272305) / (3234.3 + 20.272305)
    assert results["normalised_score"] == pytest.approx(expected)
    assert (run_folder / "pictures" / "plans.png").is_file()
    out = capsys.readouterr().out
    assert "D4RL hopper scale" in out and "success" not in out


def test_data_that_have_changed_since_training_are_left_out(
    hopper_agent, loads, run_folder, tmp_path, capsys
):
    rewards, flags = np.ones(4), np.array([0, 1, 0, 1])
    path = tmp_path / "mine.npz"
    arrays = {"observations": np.zeros((4, 11)), "actions": np.zeros((4, 3)), "rewards": rewards}
    np.savez(path, terminations=flags, truncations=np.zeros(4), **arrays)
    then = fingerprint(load_dataset(str(path)))
    loads(hopper_agent(str(path)), then)
    options = Evaluate((run_folder,), episodes=2, num_envs=2, pictures=False)
    assert options.run()["data_return_mean"] == 2.0
    np.savez(path, terminations=flags, truncations=np.zeros(4), **arrays | {"rewards": rewards + 1})
    now = fingerprint(load_dataset(str(path)))
    capsys.readouterr()
    results = options.run()
    assert results["data_return_mean"] is None and "data" not in results["policies"]
    captured = capsys.readouterr()
    line = f"left out: {path} now holds other data ({now}) than the run saw ({then})"
    assert line in captured.out + captured.err


def test_data_that_are_gone_are_left_out_with_a_note(hopper_agent, loads, run_folder, capsys):
    loads(hopper_agent("no-such-data"))
    results = Evaluate((run_folder,), episodes=2, num_envs=2, pictures=False).run()
    assert results["data_return_mean"] is None and "random" in results["policies"]
    captured = capsys.readouterr()
    assert "left out: unknown dataset 'no-such-data'" in captured.out + captured.err


@pytest.mark.parametrize("name", ["hopper-medium-v2", "mujoco/hopper/medium-v0"])
def test_data_that_would_be_downloaded_are_left_out(
    name, hopper_agent, loads, run_folder, monkeypatch, capsys
):
    def load_dataset(*_, **__):
        raise AssertionError("an evaluation downloads no data")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    loads(hopper_agent(name))
    results = Evaluate((run_folder,), episodes=2, num_envs=2, pictures=False).run()
    assert "data" not in results["policies"]
    captured = capsys.readouterr()
    assert f"left out: {name} is not on this machine" in captured.out + captured.err


def test_one_episode_has_no_interval_and_json_stays_valid(maze_agent, loads, run_folder):
    loads(maze_agent)
    Evaluate((run_folder,), episodes=1, num_envs=9, baselines=False).run()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    results = json.loads((run_folder / "results.json").read_text(), parse_constant=refuse)
    assert results["return_ci95"] == [None, None] and results["return_std"] is None


@pytest.mark.parametrize(
    "options, message",
    [
        ({"episodes": 0}, "--episodes must be at least 1, got 0"),
        ({"num_envs": -2}, "--num-envs must be at least 1, got -2"),
        ({"seed": -1}, "--seed must not be negative"),
        ({"time_limit": 0}, "--time-limit must be at least 1, got 0"),
        ({"runs": ()}, "give at least one RUN"),
        ({"checkpoint": "first"}, "--checkpoint is 'first', expected last, best or a number"),
        (
            {"checkpoint": "best", "select_seed": 1090},
            "--select-seed is 1090: episode seeds below 5000 are held back for scores",
        ),
        (
            {"checkpoint": "best", "select_seed": 6000, "seed": 5950},
            "seeds 6000 to 6039, which choose, overlap seeds 5950 to 6049, which score",
        ),
        ({"env": "Hoper-v5"}, "Gymnasium knows no environment Hoper-v5"),
        (
            {"planning": PlanningOptions(target_return=3000.0, target_quantile=0.5)},
            "--target-return 3000 and --target-quantile 0.5 are both given",
        ),
    ],
)
def test_bad_options_are_named_in_one_line(options, message, maze_agent, loads, run_folder):
    loads(maze_agent)
    with pytest.raises(DiffplanError, match=message) as caught:
        Evaluate(**{"runs": (run_folder,), **options}).run()
    assert "\n" not in str(caught.value)


def test_bad_folders_are_named_and_left_alone(maze_agent, loads, run_folder, tmp_path):
    with pytest.raises(DiffplanError, match=r"no folder .*nowhere"):
        Evaluate((tmp_path / "nowhere",)).run()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    with pytest.raises(DiffplanError):
        Evaluate((foreign,)).run()
    assert not list(foreign.iterdir())
    loads(maze_agent)
    with pytest.raises(DiffplanError, match="is a folder; give the name of a file"):
        Evaluate((run_folder,), json=tmp_path).run()
    below_a_file = run_folder / "metrics.jsonl" / "x.json"
    with pytest.raises(DiffplanError, match=r"metrics.jsonl/x.json cannot be written"):
        Evaluate((run_folder,), json=below_a_file).run()
