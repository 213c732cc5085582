"""Tables of the documentation are what their JSON files say."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from diffplan.errors import DiffplanError
from diffplan.scripts.queries.measures import Answer
from diffplan.scripts.report.intervals import Estimate

tables = pytest.importorskip("diffplan.scripts.checks.tables", reason="of a checkout")
Tables, update = tables.Tables, tables.update

DOCS = Path(__file__).parents[3] / "docs"

COUNTS = {
    "command": "python -m diffplan.scripts.checks.pointmaze_counts",
    "mazes": {
        "umaze": {"episodes": 13304, "published": 13210.0},
        "large": {"episodes": 3323},
    },
}


def page(folder: Path) -> Path:
    (folder / "counts.json").write_text(json.dumps(COUNTS))
    path = folder / "page.md"
    path.write_text("before\n<!-- table: counts.json -->\nold\n<!-- end -->\nafter\n")
    return path


def test_a_table_is_written_between_its_markers_and_then_is_up_to_date(tmp_path: Path) -> None:
    path = page(tmp_path)
    assert update(tmp_path, check=True) == [path]
    assert "old" in path.read_text()  # checking writes nothing
    assert update(tmp_path) == [path]
    text = path.read_text()
    assert "| umaze | 13,304 | 13,210 | +0.7 % |" in text
    assert "| large | 3,323 | – | – |" in text
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert update(tmp_path, check=True) == []


def test_a_brief_table_has_scores_alone_and_the_readme_is_a_page(tmp_path: Path) -> None:
    rows = {
        "a": {"mean": 1.0, "mean_ci95": [0.5, 1.5], "seeds": [1, 2]},
        "b": {"mean": 2.0, "mean_ci95": [1.9, 2.1], "seeds": [1]},
        "c": {"mean": 1.5, "mean_ci95": [0.9, 2.1], "seeds": [1, 2, 3]},
        "d": {"mean": 1.8, "mean_ci95": [1.6, 2.0], "seeds": [1, 2, 3]},
        "e": {"mean": 1.7, "mean_ci95": [1.6, 1.8], "seeds": [1, 2, 3]},
    }
    study = {
        "x": {"rows": {key: rows[key] for key in "abc"}},
        "y": {"rows": {"a": rows["a"]}},
        "z": {"rows": {key: rows[key] for key in "cde"}},
    }
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/study.json").write_text(json.dumps({"study": study}))
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table: brief:docs/study.json -->\n<!-- end -->\n")
    assert update(tmp_path / "docs") == [readme]
    lines = [line for line in readme.read_text().splitlines() if line.startswith("|")]
    assert lines[0] == "| data | a | b | c | d | e |"
    # b is of one training seed, whose interval is over episodes
    assert lines[2] == "| x | 1.0 [0.5, 1.5] | **2.0** | 1.5 [0.9, 2.1] | – | – |"
    assert lines[3] == "| y | **1.0 [0.5, 1.5]** | – | – | – | – |"
    # a wide interval is no merit
    wanted = "1.5 [0.9, 2.1] | **1.8 [1.6, 2.0]** | **1.7 [1.6, 1.8]**"
    assert lines[4] == f"| z | – | – | {wanted} |"


def test_questions_are_rows_with_and_without_an_answer(tmp_path: Path) -> None:
    some = Estimate(0.25, 0.2, 0.3, 40)
    answers = [
        Answer("policy", "RMSE", "low", some, simple=some, simple_name="mean action"),
        Answer("forward model", "RMSE", "low", None, None, some, "nothing moves", "needs streams"),
    ]
    told = {"mean": 0.5, "low": 0.4, "high": 0.6}
    data = {
        "config": "multi-task",
        "updates": 4,
        "dataset": "x",
        "queries": [asdict(answer) for answer in answers],
        "task": {"sigma": [0.1], "accuracy": [told], "label_inside": [told], "chance": 0.5, "n": 9},
        "protocol": "",
        "command": "diffplan queries x",
        "machine": {"cpu": "a CPU", "versions": {"torch": "2"}},
    }
    (tmp_path / "queries.json").write_text(json.dumps(data))
    page = tmp_path / "page.md"
    page.write_text("<!-- table: queries.json -->\n<!-- end -->\n")
    assert update(tmp_path) == [page]
    text, mean = page.read_text(), "0.250 [0.200, 0.300]"
    assert f"| policy: RMSE | low | {mean} | – | {mean} (mean action) | 40 |" in text
    assert (
        f"| forward model: RMSE | low | – (needs streams) | – | {mean} (nothing moves) | 40 |"
        in text
    )
    assert "| label in the process | 50.0 % |" in text


def test_several_benchmarks_become_one_table_the_fastest_first(tmp_path: Path) -> None:
    machine = {"cpu": "a CPU", "threads": 1, "versions": {"torch": "2"}}
    for name, ms, kept in (("slow", 30.0, 30.0), ("fast", 2.0, 0.5)):
        own = {"batch": 1, "horizon": 8, "denoising_steps": 5, "candidates": 4}
        run = {
            "label": f"{name}, with changes at the sizes of hopper",
            "command": f"diffplan benchmark {name}",
            "engine": "eager",
            "machine": machine,
            "own": own,
            "cases": [own | {"batch": 64, "flops": 0}, own | {"flops": 2.5e6}],
            "replan_ms_median": ms,
            "amortised_ms": kept,
            "reference_matmul_ms": 20.0 + ms,
        }
        (tmp_path / f"sizes-{name}.json").write_text(json.dumps(run))
    page = tmp_path / "page.md"
    page.write_text("<!-- table: sizes-*.json -->\n<!-- end -->\n")
    update(tmp_path)
    text = page.read_text()
    first = "| fast | 8 | 5 | 4 | 2.5 | 2.00 | 1 | 0.50 | 1 |"
    assert f"{first}\n| slow | 8 | 5 | 4 | 2.5 | 30.00 | 15 | 30.00 | 60 |" in text
    assert "took 22.0 to 50.0 ms" in text and "- `diffplan benchmark slow`" in text
    assert update(tmp_path, check=True) == []
    for file in tmp_path.glob("sizes-*"):
        file.unlink()
    with pytest.raises(DiffplanError, match=r"sizes-\*\.json: there are none"):
        update(tmp_path)


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    page(tmp_path)
    (tmp_path / "counts.json").unlink()
    with pytest.raises(DiffplanError, match=r"counts\.json, which does not exist"):
        update(tmp_path)


def test_results_of_an_evaluation_become_a_table_with_their_command(tmp_path: Path) -> None:
    score = {"return_ci95": [450.04, 470.0], "success_ci95": [0.963, 1.0], "episodes": 100}
    data = {
        "config": "trajectory-diffuser",
        "dataset": "pointmaze/medium-v0",
        "train_seconds": 162.4,
        "env_id": "PointMaze_Medium-v3",
        "seed": 1000,
        "episodes": 100,
        "protocol": "How it was done.",
        "command": "diffplan evaluate runs/demo --episodes 100",
        "machine": {"cpu": "a CPU", "threads": 1, "versions": {"torch": "2", "mujoco": "3"}},
        "policies": {
            "planner": {
                **score, "return_mean": 460.04, "success_rate": 1.0, "decision_ms_median": 0.084,
            },
            "data": {
                **score, "return_mean": 2.0, "return_ci95": [None, None], "success_rate": None,
            },
        },
    }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(data))
    (tmp_path / "page.md").write_text("<!-- table: results.json -->\n<!-- end -->\n")
    update(tmp_path)
    text = (tmp_path / "page.md").read_text()
    assert "| planner | 460.0 [450.0, 470.0] | 100 % [96, 100] | 100 | 0.08 |" in text
    assert "| data | 2.0 | – | 100 | – |" in text
    assert "seeds 1000 to 1099" in text and "How it was done." not in text
    assert "Command: `diffplan evaluate runs/demo --episodes 100`. Machine: a CPU, 1 thread" in text


def test_checking_exits_with_1_until_the_tables_are_written(tmp_path: Path) -> None:
    page(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        Tables(check=True, folder=tmp_path).run()
    assert stopped.value.code == 1
    Tables(folder=tmp_path).run()
    Tables(check=True, folder=tmp_path).run()


@pytest.mark.skipif(not DOCS.is_dir(), reason="only a checkout has docs/")
def test_the_tables_in_docs_are_up_to_date() -> None:
    assert update(DOCS, check=True) == []
