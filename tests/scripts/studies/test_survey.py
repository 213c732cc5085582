"""`diffplan survey` and `diffplan family`: cells that are done once, a summary of what is there."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffplan.config.config import replace_planning
from diffplan.config.planners import CONFIGS
from diffplan.config.presets import config_for
from diffplan.envs.makers.pointmaze_data import make_pointmaze
from diffplan.errors import DiffplanError
from diffplan.scripts.studies import survey as survey_module
from diffplan.scripts.studies import survey_beside
from diffplan.scripts.studies.family import Family
from diffplan.scripts.studies.survey import Survey
from diffplan.scripts.studies.survey_rows import GROUPS

FEW: dict[str, Any] = {"steps": 2, "episodes": 2, "tune_episodes": 1}
PNG = b"\x89PNG"


@pytest.fixture
def mine(minari_root: Path, tmp_path: Path) -> Survey:
    """Two rows that share a network, on a little maze data."""
    make_pointmaze("pointmaze-umaze", 2000, 0, progress=False)
    return Survey(
        ("pointmaze-umaze",),
        tmp_path / "survey",
        rows="processes",
        only=("proposal alone", "RDDM"),
        seeds=2,
        **FEW,
    )


@pytest.mark.slow
def test_a_survey_does_its_cells_once_and_sums_up_what_is_there(
    mine: Survey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, tables: Any
) -> None:
    # every interval is another graph to export
    rows = {
        label: dataclasses.replace(GROUPS["processes"][label], goal_strides=(8, 16))
        for label in mine.only
    }
    monkeypatch.setitem(GROUPS, "processes", rows)
    monkeypatch.setattr(survey_beside, "ROUNDS", 1)
    monkeypatch.setattr(survey_beside, "_PLANS_A_ROUND", 2)
    first, folder = mine.run(), next(p for p in mine.out.iterdir() if p.is_dir())
    found = first["survey"][folder.name]
    assert list(found["rows"]) == ["proposal alone", "RDDM"]
    runs = sorted(p.parent.name for p in folder.glob("*/seed-*"))
    assert runs == ["trajectory-diffuser", "trajectory-diffuser"]  # two seeds, one network
    row = found["rows"]["RDDM"]
    cells = [
        json.loads((folder / f"cells/processes/RDDM, seed {seed}.json").read_text())
        for seed in (0, 1)
    ]
    assert row["seed_means"] == [np.mean(cell["returns"]) for cell in cells]
    assert row["return_mean"] == pytest.approx(np.mean(row["seed_means"]))
    assert all(cell["planning"]["start"] == "process" for cell in cells)
    assert cells[0]["replan_every"] == int(max(cells[0]["tuning"], key=cells[0]["tuning"].get))
    assert row["network_calls"] == 16 + 5
    assert row["decision_ms"] <= row["replan_ms"]
    assert len(found["others"]) == 2  # both controllers
    for suffix in ("time", "calls"):
        assert (mine.out / f"processes-{suffix}.png").read_bytes().startswith(PNG)

    def refuse(*_: Any) -> None:
        raise AssertionError("trained or evaluated again")

    with monkeypatch.context() as patch:
        patch.setattr(survey_module.Train, "parse", refuse)
        patch.setattr(Survey, "_score", refuse)
        again = mine.run()
    assert again["survey"][folder.name]["rows"]["RDDM"]["seed_means"] == row["seed_means"]
    page = mine.out / "page.md"
    page.write_text("<!-- table: processes.json -->\n<!-- end -->\n")
    tables.update(mine.out)
    assert f"| {folder.name} | proposal alone |" in page.read_text()
    # other settings are other cells
    longer = Survey(mine.data, mine.out, "processes", ("RDDM",), 1, **FEW | {"steps": 99})
    with pytest.raises(DiffplanError, match=r"updates, and --steps is 99; give the same"):
        longer.run()
    changed = Survey(mine.data, mine.out, "processes", ("RDDM",), 1, **FEW | {"seed": 7})
    with monkeypatch.context() as patch:
        patch.setattr(Survey, "_score", refuse)
        with pytest.raises(AssertionError, match="evaluated again"):
            changed.run()
    out = Family(folder, tmp_path / "family.png", draws=2).run()
    assert out.read_bytes().startswith(PNG)
    capsys.readouterr()


def test_parts_share_the_cells(mine: Survey, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    done: list[tuple[str, int]] = []
    monkeypatch.setattr(
        Survey, "_cell", lambda self, data, folder, label, seed: done.append((label, seed))
    )
    for part in ("1/3", "2/3", "3/3"):
        given = Survey(mine.data, mine.out, mine.rows, mine.only, 2, part=part, **FEW)
        assert given.run() == {}
    assert sorted(done) == sorted((label, seed) for label in mine.only for seed in (0, 1))
    assert "cells are missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ()}, "name at least one dataset"),
        ({"seeds": 0}, "--seeds must be at least 1, got 0"),
        ({"only": ("ours", "theirs")}, "no row 'theirs' in planners; it has 'ours', "),
        ({"part": "3/2"}, "--part is '3/2', expected I/N"),
        ({"part": "half"}, "--part is 'half', expected I/N"),
        ({"tune_seed": 1010}, "overlap evaluation seeds"),
        ({"data": ("x", "x")}, "two of the datasets are called x"),
    ],
)
def test_what_cannot_be_surveyed_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DiffplanError, match=message):
        Survey(**{"data": ("x",), "out": tmp_path, **changes}).run()


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("goal", [True, False])
def test_every_row_is_a_configuration_that_can_be(group: str, goal: bool) -> None:
    for label, row in GROUPS[group].items():
        assert row.config in CONFIGS, label
        config = config_for(row.config, "hopper-medium-v2", has_goal=goal)
        sections: dict[str, dict[str, Any]] = {}
        for key, value in row.training.items():
            section, _, option = key.partition(".")
            sections.setdefault(section, {})[option] = value
        parts = {k: dataclasses.replace(getattr(config, k), **v) for k, v in sections.items()}
        config = dataclasses.replace(config, **parts)
        planned = replace_planning(config, **row.planning).planning
        own = config.planning.denoising_steps
        assert planned.denoising_steps == row.planning.get("denoising_steps", own)


def test_a_family_needs_its_runs(tmp_path: Path) -> None:
    with pytest.raises(DiffplanError, match="holds no run of trajectory-diffuser; make them with"):
        Family(tmp_path).run()
