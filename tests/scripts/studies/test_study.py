"""`diffplan study`: rows beside each other, cell by cell, without doing any twice."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest
import torch

from diffplan.config.config import config_to_dict, replace_planning
from diffplan.config.planners import get_config
from diffplan.config.presets import config_for
from diffplan.envs.makers.pointmaze_data import make_pointmaze
from diffplan.errors import DiffplanError, PartialResult
from diffplan.model.run_folder import list_checkpoints
from diffplan.scripts.cli import parsed
from diffplan.scripts.studies import beside as beside_module
from diffplan.scripts.studies import cells as cells_module
from diffplan.scripts.studies import on_gpu
from diffplan.scripts.studies.beside import NONE, _comparable, beside, scores
from diffplan.scripts.studies.cells import Cells, _same
from diffplan.scripts.studies.family import Family
from diffplan.scripts.studies.on_gpu import learn
from diffplan.scripts.studies.pictures import _score
from diffplan.scripts.studies.report import _row, _tasks_table
from diffplan.scripts.studies.rows import GROUPS, LEARNERS, Row
from diffplan.scripts.studies.sources import Source
from diffplan.scripts.studies.study import Study


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some random Hopper steps in D4RL's layout."""
    env = gym.make("Hopper-v5")
    env.action_space.seed(0)
    rows: dict[str, list[Any]] = {"observations": [], "actions": [], "rewards": []}
    terminals = []
    observation, _ = env.reset(seed=0)
    for _ in range(400):
        action = env.action_space.sample()
        following, reward, ended, _, _ = env.step(action)
        for key, value in zip(rows, (observation, action, reward), strict=True):
            rows[key].append(value)
        terminals.append(ended)
        observation = env.reset()[0] if ended else following
    terminals[-1] = True
    path = tmp_path_factory.mktemp("study") / "hopper-mine.hdf5"
    with h5py.File(path, "w") as file:
        for key, values in rows.items():
            file[key] = np.asarray(values, np.float32)
        file["terminals"] = np.asarray(terminals)
        file["timeouts"] = np.zeros(400, bool)
        file.attrs["env_id"] = "Hopper-v5"
    return path


FEW: dict[str, Any] = {"steps": 2, "updates": 8, "episodes": 2, "seeds": 2}


def test_every_group_of_rows_can_be_asked_for() -> None:
    for group in GROUPS:
        assert parsed(Study, ["--out", "x", "--rows", group], "study").rows == group


def test_success_of_several_tasks_is_told_task_by_task() -> None:
    cells = [
        {
            "returns": [1.0, 0.0, 1.0, 1.0],
            "success": success,
            "training_seed": seed,
            "train_cpu_seconds": 2.0,
            "evaluation_cpu_seconds": 1.0,
            "asked": {"updates": 3},
        }
        for seed, success in enumerate(([True, False, True, True], [False, False, True, True]), 1)
    ]
    row = _row(cells, cells, NONE, tasks=2)
    assert row["task_success"] == [0.25, 1.0] and row["success_rate"] == 0.625
    study = {"maze": {"rows": {"ours": row}}}
    last = _tasks_table(study).splitlines()[-1]
    assert last.startswith("| maze | ours | 62 % [") and last.endswith("| 25, 100 | 8 | 1, 2 |")
    assert "task_success" not in _row(cells, cells, NONE, tasks=1)


@pytest.mark.slow
def test_cells_that_learn_at_once_are_those_that_learn_one_by_one(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ("10 % cloning", "IQL, 0.999")
    alone, study = (
        Study(tmp_path / name, (str(data),), only=rows, **FEW) for name in ("alone", "at-once")
    )
    missing = study.cells.missing()
    with pytest.raises(DiffplanError, match="--updates is 8, and a GPU does 50 at a call"):
        learn(study.cells, missing, "cuda")
    learn(study.cells, missing, "cpu")
    assert not study.cells.missing()
    for cell, same in zip(study.cells.all, alone.cells.all, strict=True):
        alone.cells.do(same)
        found, wanted = study.cells.done(cell), alone.cells.done(same)
        assert found is not None and wanted is not None
        assert found["returns"] == pytest.approx(wanted["returns"], rel=1e-3)
        assert list(found["curve"]) == list(wanted["curve"])
    # one seed here, the other on a GPU
    name = "hopper-mine/cells/10 % cloning, seed 1.json"
    (study.out / name).write_bytes((alone.out / name).read_bytes())
    row = study.run()["study"]["hopper-mine"]["rows"]["10 % cloning"]
    assert len(row["trained_on"]) == 1 and row["train_cpu_seconds"] > 0
    told = f"'10 % cloning' and 'IQL, 0.999' on one cpu (PyTorch {torch.__version__}), 4 at once"
    assert told in capsys.readouterr().out


@pytest.mark.slow
def test_a_policy_that_cannot_be_scored_costs_no_other(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = Study(tmp_path, (str(data),), only=("cloning",), **FEW).cells
    asked = list[str]()

    def score(policy: Any, info: Any, budget: Any) -> dict[str, Any]:
        asked.append(info.id)
        if len(asked) == 2:  # after a quarter of the updates, of the second seed
            raise RuntimeError("no simulator")
        return {"returns": [0.0, 1.0], "success": None, "evaluation_cpu_seconds": 0.0}

    monkeypatch.setattr(on_gpu, "score", score)
    monkeypatch.setattr(on_gpu, "ProcessPoolExecutor", lambda *a, **k: ThreadPoolExecutor(1))
    with pytest.raises(PartialResult, match="1 of 2 cells could not be scored"):
        learn(cells, cells.missing(), "cpu")
    assert [cell.seed for cell in cells.missing()] == [2]


@pytest.mark.cuda
def test_a_study_trains_on_a_gpu_what_is_model_free(data: Path, tmp_path: Path) -> None:
    study = Study(tmp_path, (str(data),), only=("cloning", "TD3+BC"), **FEW | {"updates": 400})
    rows = study.run()["study"]["hopper-mine"]["rows"]
    for label in ("cloning", "TD3+BC"):
        assert rows[label]["trained_on"][0]["trainings"] == 4


@pytest.mark.slow
def test_a_study_does_its_cells_once_and_sums_up_what_is_there(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tables: Any,
) -> None:
    monkeypatch.setenv("DIFFPLAN_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "runs"
    study = Study(out, (str(data),), only=("ours", "10 % cloning", "IQL, 0.999"), **FEW)
    first = study.run()
    rows = first["study"]["hopper-mine"]["rows"]
    assert list(rows) == ["ours", "10 % cloning", "IQL, 0.999"]
    assert [p.name for p in list_checkpoints(out / "hopper-mine/ours/seed-2")] == [
        "checkpoint-00000002"
    ]
    cells = [
        json.loads((out / f"hopper-mine/cells/IQL, 0.999, seed {seed}.json").read_text())
        for seed in (1, 2)
    ]
    assert (
        list(cells[0]["curve"]) == ["2", "4", "8"] and cells[0]["curve"]["8"] == cells[0]["returns"]
    )
    assert cells[0]["asked"]["row"]["method"]["discount"] == 0.999
    found = [(np.mean(c["returns"]) + 20.272305) / (3234.3 + 20.272305) * 100 for c in cells]
    assert rows["IQL, 0.999"]["seed_scores"] == pytest.approx(found)
    assert rows["10 % cloning"]["updates"] == 4 and rows["ours"]["updates"] == 2
    assert rows["ours"]["train_cpu_seconds"] > 0 and first["common"] == ["hopper-mine"]
    assert json.loads((out / "study.json").read_text()) == first
    assert (out / "study.png").read_bytes().startswith(b"\x89PNG")
    text = capsys.readouterr().out
    assert "to do: 6 cells, about " in text and "6 of 6: " in text and "left: 1 cell, " in text
    assert "seeds 1000 to 1001, training seeds 1, 2; the command chose nothing." in text
    assert first["scored_on"]["range"] == "reporting"
    shares = first["profiles"]["rows"]["ours"]
    assert shares[0] == 1 and shares[-1] == 0 and (out / "study-profile.png").is_file()

    # done again are the cells that other settings ask for, and no others
    (out / "hopper-mine/cells/10 % cloning, seed 1.json").unlink()
    done: list[str] = []
    does = cells_module.do
    with monkeypatch.context() as patch:
        patch.setattr(cells_module, "do", lambda *a: done.append(a[1].identity) or does(*a))
        again = study.run()
        assert again["study"]["hopper-mine"]["rows"]["IQL, 0.999"] == rows["IQL, 0.999"]
        assert done == [LEARNERS["10 % cloning"].identity]
        replace(study, updates=12, only=("ours",)).run()
        study.run()
        assert len(done) == 1
    capsys.readouterr()
    page = out / "page.md"
    page.write_text("<!-- table: study.json -->\n<!-- end -->\n")
    tables.update(out)
    assert "| row | hopper-mine |" in page.read_text() and "| 10 % cloning | " in page.read_text()
    with pytest.raises(DiffplanError, match="holds no cells with these settings"):
        replace(study, seed=7, summary=True).run()


@pytest.fixture
def mine(minari_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Two rows that share a network, on a little maze data; of every interval a graph less."""
    make_pointmaze("pointmaze-umaze", 2000, 0, progress=False)
    only = ("proposal alone", "RDDM")
    rows = {k: replace(GROUPS["processes"][k], goal_strides=(8, 16)) for k in only}
    monkeypatch.setitem(GROUPS, "processes", rows)
    monkeypatch.setattr(beside_module, "ROUNDS", 1)
    monkeypatch.setattr(beside_module, "PLANS_A_ROUND", 2)
    few = {**FEW, "seeds": 1, "tune_episodes": 1}
    return Study(tmp_path / "study", ("pointmaze-umaze",), "processes", only, **few)


@pytest.mark.slow
def test_rows_that_share_a_network_choose_their_interval_on_seeds_of_their_own(
    mine: Study, tmp_path: Path, tables: Any
) -> None:
    study = replace(mine, choose=True)
    report = study.run()
    found = report["study"]["pointmaze-umaze"]
    folder = mine.out / "pointmaze-umaze"
    (run,) = (p for p in folder.glob("*/seed-*"))  # one network
    assert run.name == "seed-10" and run.parent.name == "trajectory-diffuser,heads.value=returns"
    assert report["scored_on"] == {
        "episode_seeds": [5000, 5001],
        "training_seeds": [10],
        "range": "choosing",
    }
    assert report["chosen_on"][0]["episode_seeds"] == [[50_000, 50_000]]
    row = found["rows"]["RDDM"]
    cell = json.loads((folder / "cells/processes/RDDM, seed 10.json").read_text())
    assert cell["planning"]["start"] == "process"
    assert row["replan_every"] == [int(max(cell["tuning"], key=lambda k: cell["tuning"][k][0]))]
    assert row["network_calls"] == 16 + 5 and row["decision_ms"] <= row["replan_ms"]
    assert len(found["others"]) == 3  # both controllers and chance
    for name in ("processes-choosing", "processes-choosing-time", "processes-choosing-calls"):
        assert (mine.out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = mine.out / "page.md"
    page.write_text("<!-- table: processes-choosing.json -->\n<!-- end -->\n")
    tables.update(mine.out)
    text = page.read_text()
    assert "| pointmaze-umaze | proposal alone |" in text and "no figures to report" in text
    with pytest.raises(DiffplanError, match="holds 2 updates, and --steps is 1; give the same"):
        replace(study, steps=1).run()
    out = Family(folder, tmp_path / "family.png", draws=2, train_seed=10).run()
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_tuned_row_plans_by_what_its_episodes_chose_and_the_other_as_trained(
    minari_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_pointmaze("pointmaze-umaze", 2000, 0, progress=False)
    rows = {"ours": Row(), "ours, tuned": Row(tuned=24)}
    monkeypatch.setitem(GROUPS, "tuned", rows)
    monkeypatch.setattr(beside_module, "ROUNDS", 1)
    monkeypatch.setattr(beside_module, "PLANS_A_ROUND", 2)
    study = Study(tmp_path / "study", ("pointmaze-umaze",), "tuned", steps=2, episodes=2, seeds=1)
    first = study.run()["study"]["pointmaze-umaze"]
    folder = study.out / "pointmaze-umaze"
    (checkpoint,) = list_checkpoints(folder / "ours/seed-1")
    tuned = json.loads((checkpoint / "tuning.json").read_text())
    assert tuned["budget"] == 24 and tuned["seeds"][0][0] == 200_000
    assert first["data"]["steps"] == 2000 and first["decided"]
    # what was chosen, and when it is there it is not chosen anew
    changed = tuned | {"planning": {"replan_every": 4}, "gain": [1.0, 0.5, 1.5]}
    (checkpoint / "tuning.json").write_text(json.dumps(changed))
    for label in rows:
        (folder / f"cells/tuned/{label}, seed 1.json").unlink()
    capsys.readouterr()
    report = study.run()
    cells = [
        json.loads((folder / f"cells/tuned/{label}, seed 1.json").read_text()) for label in rows
    ]
    assert [cell["planning"]["replan_every"] for cell in cells] == [16, 4]
    assert cells[1]["tuned"] == {"replan_every": 4} and "tuned" not in cells[0]
    chosen = {"what": "how tuned runs plan, 24 episodes each", "episode_seeds": tuned["seeds"]}
    assert report["chosen_on"] == [chosen]
    text = capsys.readouterr().out
    assert "- pointmaze-umaze, ours, tuned: training seed 1: replan_every 4" in text
    assert "- pointmaze-umaze, decided from the data: " in text
    assert "chosen on episode seeds 200000 to " in text
    # another tuning is not taken for this one, and a run of somebody's stays as it is
    (checkpoint / "tuning.json").write_text(json.dumps(changed | {"budget": 25}))
    (folder / "cells/tuned/ours, tuned, seed 1.json").unlink()
    with pytest.raises(DiffplanError, match=r"another tuning than --budget 24 .*tuning\.json"):
        study.run()
    run = replace(study, data=(str(folder / "ours/seed-1"),), only=("ours, tuned",))
    with pytest.raises(DiffplanError, match="would plan so from then on"):
        run.run()


def test_the_command_names_files_without_their_folder_and_ids_whole(
    data: Path, tmp_path: Path
) -> None:
    command = Study(tmp_path / "x", (str(data), "pointmaze/mine-v0")).command
    assert command.startswith("diffplan study hopper-mine.hdf5 pointmaze/mine-v0 --seeds 5 ")


def test_returns_of_different_tasks_have_no_mean_over_them() -> None:
    scaled, returns = {"scale": {"name": "D4RL's of hopper"}}, {"scale": NONE}
    assert _score([scaled, scaled]) == "score on D4RL's scale"
    assert _score([scaled, {"scale": {"name": "0: random actions, 100: x"}}]) == "score"
    assert _score([scaled, returns]) == "score, or return" and _score([returns]) == "return"


def test_goals_that_end_no_episode_leave_returns_to_compare_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = Source("mine")
    monkeypatch.setattr(Source, "has_goal", True)
    for lengths, ended, alike in (([5, 5], 0, True), ([5, 4], 0, False), ([5, 5], 1, False)):
        found = SimpleNamespace(
            lengths=np.array(lengths), terminations=np.array([False] * 9 + [bool(ended)])
        )
        monkeypatch.setattr(Source, "episodes", lambda _, found=found: found)
        assert _comparable(source) is alike
    monkeypatch.setattr(Source, "has_goal", False)
    assert _comparable(source)


def test_all_is_looked_at_before_the_first_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFPLAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cells_module, "do", lambda *_: pytest.fail("trained too early"))
    rng = np.random.default_rng(0)
    nowhere = tmp_path / "nowhere.npz"
    ends = np.arange(1, 101) % 20 == 0
    arrays = {"observations": rng.normal(size=(100, 3)), "actions": rng.uniform(-1, 1, (100, 2))}
    np.savez(nowhere, **arrays, rewards=np.ones(100), terminations=ends & False, truncations=ends)
    for words, message in (
        ({}, "nowhere.npz does not say in which environment .* give --env"),
        ({"env": "Hopper-v5"}, r"gives Box\(11,\) observations, .*nowhere.npz has \(3,\)"),
        ({"env": "NoSuch-v0"}, "NoSuch-v0"),
    ):
        with pytest.raises(DiffplanError, match=message):
            Study(tmp_path / "runs", (str(data), str(nowhere)), **FEW, **words).run()
    assert not list((tmp_path / "runs").glob("*/*"))


def test_rows_fit_their_data_and_parts_share_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {k: LEARNERS["ReBRAC"].on(k).method for k in ("hopper-medium-replay-v2", "mine")}
    assert found["hopper-medium-replay-v2"].penalties == (0.05, 0.5)
    assert found["mine"] == LEARNERS["ReBRAC"].method and LEARNERS["ours"].on("x") == Row()
    assert LEARNERS["IQL"].on("pointmaze-large").method.expectile == 0.9
    monkeypatch.setattr(Source, "header", None)
    monkeypatch.setattr(Source, "tasks", 1)
    monkeypatch.setattr(Source, "has_goal", property(lambda self: self.word == "goal"))
    monkeypatch.setattr(Cells, "asked", lambda *_: {})

    def parts(**options: Any) -> list[list[Any]]:
        return [
            Study(tmp_path, ("goal", "reward"), **options).cells.missing(part, 2)
            for part in range(2)
        ]

    done = [cell for part in parts() for cell in part]
    # five seeds of ours and cloning, three of the others; no 10 %, no other discount with goals
    of = {data: [c.label for c in done if c.source.word == data] for data in ("goal", "reward")}
    assert len(done) == len(set(map(str, done))) and set(of["reward"]) == set(LEARNERS)
    assert [of["reward"].count(row) for row in LEARNERS] == [5] * 3 + [3] * 5
    assert [of["goal"].count(row) for row in LEARNERS] == [5, 5, 0, 3, 3, 3, 0, 0]
    # rows of one network are in one part, which trains it
    cells = Study(tmp_path, ("goal", "reward")).cells
    first, second = ({cells.run(c) for c in part} for part in parts(rows="heads"))
    assert first and second and not first & second


def test_a_setting_that_came_later_is_as_it_was_at_its_default() -> None:
    settings = config_to_dict(get_config("trajectory-diffuser"))
    asked = {"updates": 3, "settings": settings}
    heads = {k: v for k, v in settings["heads"].items() if k != "width"}
    earlier = {"updates": 3, "settings": settings | {"heads": heads}}
    assert _same(asked, asked) and _same(earlier, asked)
    changed = asked | {"settings": settings | {"heads": settings["heads"] | {"width": 17}}}
    assert not _same(earlier, changed) and not _same(asked, changed)
    assert not _same(earlier | {"updates": 4}, asked)
    gone = settings | {"heads": settings["heads"] | {"height": 3}}
    assert not _same({"updates": 3, "settings": gone}, asked)


def test_scores_without_a_reference_lie_between_chance_and_the_controller(
    minari_root: Path, tmp_path: Path
) -> None:
    make_pointmaze("pointmaze-medium", 300, 0, progress=False)
    found = beside(Source("pointmaze-medium"), tmp_path / "x/beside.json", 2, 3)
    by = found["scale"]
    made, best, chance = (np.mean(each) for each in found["others"].values())
    assert (by["low"], by["high"]) == (chance, best) and made != best
    assert by["name"] == "0: random actions, 100: shortest-path controller"
    assert scores([by["low"], by["high"]], by).tolist() == [0, 100]
    assert scores([3234.3], {"reference": "hopper"}).tolist() == [100]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("goal", [True, False])
def test_every_row_is_a_configuration_that_can_be(group: str, goal: bool) -> None:
    for label, row in GROUPS[group].items():
        if row.method is not None:
            continue
        config = config_for(row.config, "hopper-medium-v2", has_goal=goal)
        sections: dict[str, dict[str, Any]] = {}
        for key, value in row.training.items():
            section, _, option = key.partition(".")
            sections.setdefault(section, {})[option] = value
        parts = {k: replace(getattr(config, k), **v) for k, v in sections.items()}
        config = replace(config, **parts)
        planned = replace_planning(config, **row.planned(goal)).planning
        own = config.planning.denoising_steps
        assert planned.denoising_steps == row.planned(goal).get("denoising_steps", own), label


def test_a_family_needs_its_runs(tmp_path: Path) -> None:
    with pytest.raises(DiffplanError, match="holds no run of trajectory-diffuser; make them with"):
        Family(tmp_path).run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ()}, "at least one dataset"),
        ({"seeds": 0}, "--seeds must be at least 1, got 0"),
        ({"updates": 3}, "--updates must be at least 4, got 3"),
        ({"only": ("theirs",)}, "no row 'theirs' in main; it has 'ours', 'cloning'"),
        ({"seeds": 10}, "--seeds is 10, expected at most 9: training seeds 10 to 19 choose"),
        ({"seed": 4990}, "seeds 4990 to 5039, and those from 5000 on choose; .* or --choose"),
        ({"seed": 1000, "choose": True}, "--seed is 1000: episode seeds below 5000 are held back"),
        ({"tune_seed": 900}, "--tune-seed is 900: episode seeds below 5000 are held back"),
        ({"choose": True, "tune_seed": 5049}, "5049 to 5058, which choose, overlap seeds 5000"),
        ({"part": "3/2"}, "--part is '3/2', expected I/N"),
        ({"data": ("a/x", "a-x")}, "two of the datasets are called a-x"),
    ],
)
def test_what_cannot_be_studied_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DiffplanError, match=message):
        Study(**{"out": tmp_path, "data": ("x",), **changes}).run()


def test_others_with_our_windows_differ_from_themselves_in_that_alone() -> None:
    for name, row in GROUPS["windows"].items():
        plain = GROUPS["planners"][name.removesuffix(", our windows")]
        assert plain.config != "trajectory-diffuser"
        assert row.training == plain.training | {"data.best_of_windows": 16}
        assert row.config == plain.config and row.planning == plain.planning
    assert len(GROUPS["windows"]) >= 4
