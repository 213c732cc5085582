"""`diffplan study`: several datasets and seeds into one table, without doing anything twice."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import pytest

from diffplan.errors import DiffplanError
from diffplan.model.run_folder import list_checkpoints
from diffplan.scripts.studies import study as study_module
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


@pytest.mark.slow
def test_a_study_scores_every_way_and_is_not_done_twice(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tables: Any,
) -> None:
    monkeypatch.setenv("DIFFPLAN_CACHE", str(tmp_path / "cache"))
    study = Study((str(data),), tmp_path / "runs", seeds=2, steps=2, episodes=2)
    first = study.run()
    found = first["datasets"]["hopper-mine"]
    assert list(found["rows"]) == ["ours", "proposer only", "from noise"]
    assert found["rows"]["proposer only"]["planning"]["start"] == "none"
    assert found["rows"]["from noise"]["planning"]["start"] == "noise"
    assert found["rows"]["ours"]["planning"]["start"] == "raw"  # the preset of such data
    for row in found["rows"].values():
        assert row["episodes"] == 4 and len(row["runs"]) == 2
    assert found["others"]["data"]["return_mean"] > 0
    assert json.loads((tmp_path / "runs/study.json").read_text()) == first

    def refuse(*_: Any) -> None:
        raise AssertionError("trained or evaluated again")

    with monkeypatch.context() as patch:
        patch.setattr(study_module.Train, "run", refuse)
        patch.setattr(study_module.Evaluate, "run", refuse)
        assert study.run() == first
    # another dataset joins the summary; more updates are done on top of those there
    other = tmp_path / "hopper-other.hdf5"
    other.write_bytes(data.read_bytes())
    summary = Study(
        (str(other),), tmp_path / "runs", steps=3, episodes=1, ways=False, json=study_json(tmp_path)
    ).run()
    assert list(summary["datasets"]) == ["hopper-mine", "hopper-other"]
    assert list(summary["datasets"]["hopper-other"]["rows"]) == ["ours"]
    assert [p.name for p in list_checkpoints(tmp_path / "runs/hopper-other/seed-0")] == [
        "checkpoint-00000003"
    ]
    elsewhere = tmp_path / "elsewhere" / data.name
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(data.read_bytes())
    with pytest.raises(
        DiffplanError, match=r"holds trajectory-diffuser trained on .*choose another"
    ):
        Study((str(elsewhere),), tmp_path / "runs", seeds=2, steps=2).run()
    page = tmp_path / "runs" / "page.md"
    page.write_text("<!-- table: study.json -->\n<!-- end -->\n")
    tables.update(tmp_path / "runs")
    text = page.read_text()
    assert "| hopper-mine |" in text and "2 × 2" in text and "| proposer only |" in text
    capsys.readouterr()


def study_json(folder: Path) -> Path:
    return folder / "runs" / "study.json"


def test_nothing_to_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DiffplanError, match="at least one dataset"):
        Study((), tmp_path).run()
    with pytest.raises(DiffplanError, match="--seeds must be at least 1, got 0"):
        Study(("x",), tmp_path, seeds=0).run()


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    files = [tmp_path / folder / "x.hdf5" for folder in "ab"]
    for file in files:
        file.parent.mkdir()
        file.touch()
    with pytest.raises(DiffplanError, match="two of the datasets are called x"):
        Study(tuple(map(str, files)), tmp_path / "out").run()
