"""`diffplan study`: ours beside model-free policies, cell by cell, without doing any twice."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest

from diffplan.envs.datasets import load_dataset
from diffplan.envs.makers.pointmaze_data import make_pointmaze
from diffplan.errors import DiffplanError
from diffplan.model.run_folder import list_checkpoints
from diffplan.scripts.studies.study import Study
from diffplan.scripts.studies.study_report import _scores, scale
from diffplan.scripts.studies.study_rows import ROWS


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
    scores = [(np.mean(c["returns"]) + 20.272305) / (3234.3 + 20.272305) * 100 for c in cells]
    assert rows["IQL, 0.999"]["seed_scores"] == pytest.approx(scores)
    assert rows["10 % cloning"]["updates"] == 4 and rows["ours"]["updates"] == 2
    assert rows["ours"]["train_cpu_seconds"] > 0 and first["common"] == ["hopper-mine"]
    assert json.loads((out / "study.json").read_text()) == first
    assert (out / "study.png").read_bytes().startswith(b"\x89PNG")
    text = capsys.readouterr().out
    assert "6 of 6: " in text and "0 cells left" in text

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("trained or scored again")

    # done again are the cells that other settings ask for, and no others
    (out / "hopper-mine/cells/10 % cloning, seed 1.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Study, "_planner", refuse)
        again = study.run()
        assert again["study"]["hopper-mine"]["rows"]["IQL, 0.999"] == rows["IQL, 0.999"]
        patch.setattr(Study, "_score", refuse)
        study.run()
        with pytest.raises(AssertionError, match="again"):
            replace(study, updates=12).run()
    page = out / "page.md"
    page.write_text("<!-- table: study.json -->\n<!-- end -->\n")
    tables.update(out)
    assert "| hopper-mine | " in page.read_text() and "| 10 % cloning | " in page.read_text()
    with pytest.raises(DiffplanError, match="holds no cells with these settings"):
        replace(study, seed=7, summary=True).run()


def test_rows_fit_their_data_and_parts_share_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {name: ROWS["ReBRAC"].on(name).method for name in ("hopper-medium-replay-v2", "mine")}
    assert found["hopper-medium-replay-v2"].penalties == (0.05, 0.5)
    assert found["mine"] == ROWS["ReBRAC"].method and ROWS["ours"].on("x") == ROWS["ours"]
    assert ROWS["IQL"].on("pointmaze-large").method.expectile == 0.9
    done: list[tuple[str, str, int]] = []
    monkeypatch.setattr(Study, "_goal_dim", lambda _, data: data == "goal")
    monkeypatch.setattr(Study, "_cell", lambda _, *cell: done.append(cell))
    monkeypatch.setattr(Study, "_left", lambda *_: "")
    for part in ("1/2", "2/2"):
        with pytest.raises(DiffplanError, match="holds no cells"):
            Study(tmp_path, ("goal", "reward"), part=part).run()
    # five seeds of ours and cloning, three of the others; no 10 %, no other discount with goals
    of = {data: [row for name, row, _ in done if name == data] for data in ("goal", "reward")}
    assert len(done) == len(set(done)) and set(of["reward"]) == set(ROWS)
    assert [of["reward"].count(row) for row in ROWS] == [5] * 3 + [3] * 5
    assert [of["goal"].count(row) for row in ROWS] == [5, 5, 0, 3, 3, 3, 0, 0]


def test_scores_without_a_reference_lie_between_chance_and_the_controller(
    minari_root: Path, tmp_path: Path
) -> None:
    make_pointmaze("pointmaze-umaze", 300, 0, progress=False)
    episodes = load_dataset("pointmaze-umaze")
    found = scale(episodes, tmp_path / "scale.json", 1, 3)
    assert found["low"] < found["high"] and "shortest" in found["name"]
    assert _scores([found["low"], found["high"]], found).tolist() == [0, 100]
    assert _scores([3234.3], {"reference": "hopper"}).tolist() == [100]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ()}, "at least one dataset"),
        ({"seeds": 0}, "--seeds must be at least 1, got 0"),
        ({"updates": 3}, "--updates must be at least 4, got 3"),
        ({"only": ("theirs",)}, "no row 'theirs' in a study; it has 'ours', 'cloning'"),
        ({"part": "3/2"}, "--part is '3/2', expected I/N"),
        ({"data": ("a/x", "a-x")}, "two of the datasets are called a-x"),
    ],
)
def test_what_cannot_be_studied_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DiffplanError, match=message):
        Study(**{"out": tmp_path, "data": ("x",), **changes}).run()
