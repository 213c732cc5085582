"""Measures of the five questions, their picture and their table."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from diffplan.agents import load_agent
from diffplan.data.episodes import Episodes
from diffplan.data.windows import WindowSampler
from diffplan.envs.simulators.mazes import Maze
from diffplan.planning.queries import StreamAnswers
from diffplan.scripts.cli import main
from diffplan.scripts.queries import measures
from diffplan.scripts.queries.measures import rank_correlation, rmse, weighted_mean
from diffplan.scripts.queries.plans import in_free_cells, share

FEW = ["--windows", "40", "--mlp-updates", "20"]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_goal_episodes: Episodes, tiny_episodes: Episodes
) -> Path:
    """A folder with the data of a maze, the same again as another task, and data of rewards."""
    folder = tmp_path_factory.mktemp("queries")
    tiny_episodes.save(folder / "rewards")
    for name in ("a", "b"):
        info = dataclasses.replace(
            tiny_goal_episodes.info,
            id=f"maze-{name}",
            env_id="PointMaze_UMaze-v3",
            action_low=(-1.0, -1.0),
            action_high=(1.0, 1.0),
        )
        actions = np.clip(tiny_goal_episodes.actions, -1, 1)
        dataclasses.replace(tiny_goal_episodes, info=info, actions=actions).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def train(folder: Path, tiny_options: list[str]):
    """Trains a configuration for a few updates, once; returns the run."""

    def make(name: str, config: str, data: tuple[str, ...], *options: str) -> Path:
        run = folder / name
        if not run.is_dir():
            words = ["train", config, "--dataset", *(str(folder / part) for part in data)]
            words += ["--out", str(run), "--steps", "4", "--device", "cpu", "--preset", "none"]
            assert main([*words, *tiny_options, *options]) == 0
        return run

    return make


def test_of_the_truth_nothing_is_wrong_and_ranks_are_equal() -> None:
    values = np.random.default_rng(0).normal(size=200)
    found = rank_correlation(np.exp(values), values)
    assert found.mean == pytest.approx(1) and found.low == pytest.approx(1)
    assert rank_correlation(-values, values).mean == pytest.approx(-1)
    tied = rank_correlation(np.asarray([0.0, 0, 1, 1]), np.asarray([0.0, 1, 2, 3]))
    assert tied.mean == pytest.approx(2 / np.sqrt(5))
    assert rank_correlation(np.zeros(20), values[:20]).mean == 0
    assert rmse(np.zeros(10), np.ones(10)).mean == 0
    weighted = rmse(np.tile([4.0, 100.0], 30), np.tile([1.0, 0.0], 30))
    assert weighted.mean == pytest.approx(2) and weighted.high == pytest.approx(2)
    spread = rmse(values**2, np.ones(200))
    assert spread.low < spread.mean < spread.high and spread.n == 200
    assert spread.mean == pytest.approx(weighted_mean(values**2, np.ones(200)).mean ** 0.5)
    assert np.isnan(weighted_mean(np.ones(9), np.zeros(9)).mean)  # nothing is known


def test_the_share_of_states_in_free_cells_looks_at_the_maze_and_at_what_is_known() -> None:
    maze = Maze.from_map([[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]])
    xy = np.asarray([[[-0.5, 0.0], [0.5, 0.4]], [[0.5, 0.0], [0.5, 0.6]], [[1.1, 0.0], [9, 9]]])
    free = in_free_cells(maze, xy)
    assert free.tolist() == [[1, 1], [1, 0], [0, 0]]
    assert share(free).mean == pytest.approx(0.5)
    known = np.asarray([[1.0, 1], [1, 0], [0, 0]])
    found = share(np.tile(free, (15, 1)), np.tile(known, (15, 1)))
    assert (found.mean, found.low, found.high, found.n) == (1, 1, 1, 30)
    assert np.isnan(share(free, known).low)  # two windows have no interval


def test_who_tells_the_truth_makes_no_error(
    train, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = load_agent(train("streams", "streams", ("a",)))
    model = agent.model
    sampler = WindowSampler(Episodes.load(folder / "a"), model.config, seed=0)
    sample = measures.draw(agent, sampler, 40, 0, "held-out")
    bounds = sample.actions.abs() >= 1
    assert bounds.any() and sample.acting.any()
    beyond = sample.actions * (1 + 4 * bounds)  # executed as the bounds
    for name, truth in (
        ("inverse_dynamics", beyond),
        ("policy", beyond[:, 0, 0]),
        ("forward_model", sample.x),
        ("evaluation", sample.returns.exp()),
    ):
        monkeypatch.setattr(StreamAnswers, name, lambda *_, truth=truth: truth)
    mean = torch.zeros(model.spec.action_dim)
    for answer in (
        measures.inverse_dynamics(model, sample, None, mean),
        measures.policy(model, sample, mean),
        measures.forward_model(model, sample, 1, lambda sample: sample.z[:, 1:]),
    ):
        assert answer.model is not None and answer.simple is not None
        assert answer.model.mean < 1e-5 and answer.simple.mean > 0.01
    [ranked] = measures.evaluation(model, sample, None)
    assert ranked.model is not None and ranked.model.mean == pytest.approx(1)


@pytest.mark.parametrize("config", ["multi-task", "streams"])
def test_every_question_has_its_figures_and_a_picture(config: str, train, tmp_path: Path) -> None:
    run = train(config, config, ("a",))
    value = ("--heads.value", "returns")
    separate = train("with-value", "trajectory-diffuser", ("a",), *value)
    file = tmp_path / "answers.json"
    assert main(["queries", str(run), "--against", str(separate), "--json", str(file), *FEW]) == 0
    found = json.loads(file.read_text())
    assert file.with_suffix(".png").read_bytes().startswith(PNG)
    rows = {row["question"]: row for row in found["queries"]}
    expected = ["inverse dynamics", "policy", "first action of a plan", "plan", "plan"]
    expected += ["forward model", "evaluation of plans"]
    if config == "multi-task":
        expected += ["evaluation of states"]
        assert rows["forward model"]["model"] is None and rows["forward model"]["note"]
    else:
        assert rows["forward model"]["model"]["mean"] > 0
    assert [row["question"] for row in found["queries"]] == expected
    plans = [row for row in found["queries"] if row["question"] == "plan"]
    assert all(0 <= row[who]["mean"] <= 1 for row in plans for who in ("model", "separate"))
    assert plans[0]["simple"]["mean"] > 0.98  # the data keep to their own longest step
    for name in ("inverse dynamics", "first action of a plan", "evaluation of plans"):
        for who in ("model", "separate", "simple"):
            found_of = rows[name][who]
            if found_of["n"] >= 30:
                assert found_of["low"] <= found_of["mean"] <= found_of["high"]
            else:
                assert found_of["low"] is None is found_of["high"]
    assert found["task"] is None and found["updates"] == 4
    assert str(separate) in found["command"]
    again = tmp_path / "again.json"
    assert main(["queries", str(run), "--against", str(separate), "--json", str(again), *FEW]) == 0
    assert json.loads(again.read_text())["queries"] == found["queries"]  # seeded


@pytest.mark.parametrize("config", ["multi-task", "streams"])
def test_without_goals_the_returns_are_asked_for(config: str, train) -> None:
    run = train(f"{config}-rewards", config, ("rewards",))
    separate = train("separate-rewards", "trajectory-diffuser", ("rewards",))
    assert main(["queries", str(run), "--against", str(separate), *FEW]) == 0
    rows = {row["unit"]: row for row in json.loads((run / "queries.json").read_text())["queries"]}
    assert "share of states in free cells" not in rows  # there is no maze
    assert rows["share of steps no longer than the data's"]["separate"]["n"] == 40
    assert rows["rank correlation with the return-to-go"]["simple"] is None
    assert (run / "pictures" / "queries.png").read_bytes().startswith(PNG)


def test_the_task_is_asked_by_level_with_and_without_its_label(
    train, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ["--heads.modalities", "actions", "returns", "task", "--heads.aggregation", "0.5"]
    run = train("tasks", "multi-task", ("a", "b"), *told)
    assert main(["queries", str(run), *FEW]) == 0
    task = json.loads((run / "queries.json").read_text())["task"]
    assert task["levels"][0] == 1 and task["chance"] == 0.5 and task["n"] == 40
    assert len(task["accuracy"]) == len(task["label_inside"]) == len(task["levels"])
    # at the far level the label is gone from the process, inside or not
    assert task["accuracy"][-1] == pytest.approx(task["label_inside"][-1], abs=0.1)
    assert "label in the process" in capsys.readouterr().out
    assert (run / "pictures" / "queries.png").read_bytes().startswith(PNG)


def test_what_cannot_be_asked_is_refused(
    train, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    separate = train("separate", "trajectory-diffuser", ("a",))
    longer = train("longer", "trajectory-diffuser", ("a",), "--plan.stride", "3")
    run = train("streams", "streams", ("a",))
    for words, message in (
        ([str(separate)], "separate networks"),
        ([str(folder / "none")], "none"),
        ([str(run), "--windows", "1"], "--windows must be at least 2, got 1"),
        ([str(run), "--against", str(run)], "expected a run with separate networks"),
        ([str(run), "--against", str(longer)], "has plan.stride 3, expected that of RUN, 2"),
    ):
        assert main(["queries", *words]) == 2
        err = capsys.readouterr().err
        assert message in err and "Traceback" not in err
