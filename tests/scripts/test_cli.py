"""The command line: overview, unknown words, one-line errors, training and the demo end to end."""

import json
import os
import re
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffplan.scripts.cli import COMMANDS, main, warnings_in_a_line
from diffplan.scripts.datasets import Make
from diffplan.scripts.studies import beside, rows
from diffplan.scripts.studies import cells as cells_module

TRAIN = ["train", "proposer-only", "--dataset", "x", "--out", "y"]


def test_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    for words in COMMANDS:
        assert f"  {' '.join(words)} " in out


@pytest.mark.parametrize("ask", ["-h", "--help"])
def test_a_group_lists_its_own_commands(ask: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", ask]) == 0
    out = capsys.readouterr().out
    assert "usage: diffplan datasets COMMAND" in out
    listed = [line.split()[:2] for line in out.splitlines() if line.startswith("  ")]
    assert [tuple(words) for words in listed] == [w for w in COMMANDS if w[0] == "datasets"]


@pytest.mark.parametrize("words", list(COMMANDS), ids=" ".join)
def test_every_command_has_help(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert stop.value.code == 0
    assert f"usage: diffplan {words[0]}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["trian"], "did you mean 'train'"),
        (["datasets"], "given 'nothing', expected one of: make, list, download, show"),
        (["datasets", "mak"], "given 'mak'"),
        (["train"], "needs a config and --dataset, e.g. diffplan train trajectory-diffuser"),
        (["evaluate"], "RUN"),
        (["train", "trajectory-difuser"], "unknown config 'trajectory-difuser'"),
        (["train", "--dataset", "x"], "expected a config"),
        (
            ["train", "proposer-only", "--dataset", "no-such-data", "--out", "x"],
            "no-such-data",
        ),
        (["evaluate", "no-such-run"], "no-such-run"),
        ([*TRAIN, "--threads", "0"], "--threads is 0, expected 1 to"),
        ([*TRAIN, "--seed", "9" * 23], "--seed must be at most 2,147,483,647"),
        ([*TRAIN, "--checkpoint-every", "-3"], "--checkpoint-every is -3"),
        ([*TRAIN, "--steps", "0"], "--steps is 0"),
        ([*TRAIN, "--steps", "many"], "--steps: 'many', expected INT; see diffplan train"),
        ([*TRAIN, "--stepz", "3"], "--stepz, 3; did you mean --steps?"),
        ([*TRAIN, "--step", "3"], "--step, 3; did you mean --steps?"),
        ([*TRAIN, "--steps"], "Missing value for argument '--steps'"),
        ([*TRAIN, "--preset", "best"], "invalid choice 'best' for argument '--preset'"),
        (["train", "proposer-only"], "missing: --dataset ID [ID ...], --out DIR; see"),
        (["datasets", "show"], "missing: NAME; see diffplan datasets show --help"),
        (["benchmark", "proposer-only", "--wide"], "--wide; see diffplan benchmark --help"),
        (["train", "proposer-only", "--dataset", "x", "--out", "a-file"], "a-file is a file"),
        (["train", "proposer-only", "--dataset", "x", "--out", "a-file/x"], "cannot be written"),
        (["train", "proposer-only", "--dataset", "x", "--out", "a-run"], "add --resume"),
        (["datasets", "show", "x", "--plot", "a-file/x.png"], "cannot be written"),
        ([*TRAIN, "--out", ""], "--out was given nothing (''); give it a value"),
        ([*TRAIN, "--out="], "--out was given nothing"),
        (["evaluate", ""], "an argument was given nothing"),
        (
            [
                "train",
                "proposer-only",
                "--dataset",
                "x",
                "--out",
                "x",
                "--plan.horizon",
                "8",
                "--plan.stride",
                "2",
                "--planning.replan-every",
                "99",
            ],
            "planning.replan_every is 99",
        ),
    ],
)
def test_a_mistake_is_one_line(
    args: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a-file").write_text("")
    Path("a-run/checkpoint-00000001").mkdir(parents=True)
    assert main(args) == 2
    captured = capsys.readouterr()
    assert not captured.out
    error = captured.err.strip().splitlines()
    assert len(error) == 1
    assert error[0].startswith("error: ")
    assert expected in error[0]


def test_warnings_of_ours_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    with warnings.catch_warnings():
        warnings.showwarning = lambda *args: shown.append(args[2])  # type: ignore[assignment]
        with warnings_in_a_line():
            places = ("diffplan/agents/planner_agent.py", "gymnasium/logger.py", "torch/nn/x.py")
            for place in places:
                warnings.warn_explicit("two copies", UserWarning, f"/site/{place}", 7)
    assert capsys.readouterr().err == "note: two copies\n"
    assert shown == ["/site/torch/nn/x.py"]  # as ever, but for the simulators'


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("pointmaze-medium", "stopped by SIGTERM; nothing half-done is left"),
        ("cube-single-play-v0", "go on with: diffplan datasets make cube-single-play-v0"),
    ],
)
def test_a_stopped_making_says_what_is_kept(
    name: str, end: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Make, "run", stop)
    assert main(["datasets", "make", name]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err.rstrip().endswith(end)


def test_in_a_log_a_bar_is_a_few_lines(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "diffplan.scripts.cli", "datasets", "make", "pointmaze-medium"]
    unset = {key: value for key, value in os.environ.items() if not key.startswith("TQDM_")}
    done = subprocess.run(
        [*words, "--env-steps", "4000"],
        env={**unset, "MINARI_DATASETS_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert 1 <= done.stderr.count("step/s") <= 3
    # PyTorch imports tqdm, which reads its intervals then
    asks = "import diffplan.scripts.cli, tqdm; print(tqdm.tqdm([]).mininterval)"
    told = subprocess.run(
        [sys.executable, "-c", asks], env=unset, capture_output=True, text=True, check=True
    )
    assert float(told.stdout) == 30


def test_make_train_resume_evaluate_study(
    minari_root: Path,
    tmp_path: Path,
    tiny_options: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["datasets", "make", "pointmaze-umaze", "--env-steps", "3000", "--seed", "1"]) == 0
    run = tmp_path / "run"
    train = ["train", "trajectory-diffuser", "--dataset", "pointmaze-umaze", "--out", str(run)]
    tiny_options = [*tiny_options, "--heads.value", "returns"]
    assert main([*train, "--steps", "6", "--checkpoint-every", "3", *tiny_options]) == 0
    assert [p.name for p in sorted(run.glob("checkpoint-*"))] == [
        "checkpoint-00000003",
        "checkpoint-00000006",
    ]
    assert main([*train, "--steps", "8", *tiny_options]) == 2  # occupied
    assert "--resume" in capsys.readouterr().err
    assert main([*train, "--steps", "8", "--resume", *tiny_options]) == 0
    assert (run / "checkpoint-00000008" / "training.safetensors").is_file()

    results = tmp_path / "results.json"
    evaluate = ["evaluate", str(run), "--episodes", "2", "--num-envs", "2", "--json", str(results)]
    assert main([*evaluate, "--candidates", "2", "--start", "sdedit"]) == 0
    data = json.loads(results.read_text())
    assert data["episodes"] == 2
    assert data["overrides"] == {"candidates": 2, "start": "sdedit"}
    assert re.search(r"controller", capsys.readouterr().out)

    best = ["--checkpoint", "best", "--select-episodes", "1", "--select-seed", "5007"]
    small = ["--episodes", "2", "--time-limit", "9", "--no-baselines", "--no-pictures"]
    assert main(["evaluate", str(run), *small, *best]) == 0
    data = json.loads((run / "results-checkpoint-best-time_limit-9.json").read_text())
    assert set(data["runs"][0]["selection"]["scores"]) == {"3", "6", "8"}
    second = [word if word != str(run) else str(tmp_path / "second") for word in train]
    assert main([*second, "--steps", "8", "--seed", "5", *tiny_options]) == 0
    assert main(["evaluate", str(run), str(tmp_path / "second"), *small]) == 0
    data = json.loads((tmp_path / "results-run-second-time_limit-9.json").read_text())
    assert [row["training_seed"] for row in data["runs"]] == [0, 5]
    assert data["return_ci95"][0] <= data["return_mean"] <= data["return_ci95"][1]
    assert main(["evaluate", str(run), str(run), *small]) == 2
    assert "both have the training seed 0" in capsys.readouterr().err

    ways = {
        name: replace(rows.WAYS[name], goal_strides=(2, 16))
        for name in ("proposer only", "from noise, 10 steps")
    }
    monkeypatch.setitem(rows.GROUPS, "ways", ways)
    monkeypatch.setattr(beside, "ROUNDS", 1)
    study = ["study", str(run), "--rows", "ways", "--out", str(tmp_path / "ways")]
    study += ["--episodes", "2", "--tune-episodes", "1"]
    capsys.readouterr()
    assert main(study) == 0
    out = capsys.readouterr().out
    assert "to do: 2 cells, about " in out and "left: 1 cell, about " in out
    found = json.loads((tmp_path / "ways/ways.json").read_text())
    assert found["scored_on"]["training_seeds"] == [0]  # the run's own
    assert found["chosen_on"][0]["episode_seeds"] == [[50_000, 50_000]]
    row = found["study"]["run"]["rows"]["from noise, 10 steps"]
    cells = [
        json.loads((tmp_path / f"ways/run/cells/ways/{name}, seed 0.json").read_text())
        for name in ways
    ]
    assert set(cells[1]["tuning"]) == {"4", "8"}  # capped by the horizon
    best = max(cells[1]["tuning"], key=lambda every: cells[1]["tuning"][every][0])
    assert row["replan_every"] == [int(best)] and row["decision_ms"] <= row["replan_ms"]
    by = found["study"]["run"]["scale"]
    apart = np.subtract(cells[1]["returns"], cells[0]["returns"]) / (by["high"] - by["low"])
    assert row["difference"][0] == pytest.approx(100 * apart.mean())

    # finished cells are not done again
    monkeypatch.setattr(cells_module, "do", lambda *_: pytest.fail("a finished cell ran again"))
    assert main(study) == 0
    for seeds in (["--tune-seed", "1001"], ["--seed", "4999"]):
        assert main([*study, *seeds]) == 2
        assert "5000" in capsys.readouterr().err


@pytest.mark.slow
def test_the_demo_runs_and_resumes(
    minari_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    demo = ["demo", "--maze", "umaze", "--env-steps", "3000", "--steps", "4"]
    demo += ["--episodes", "2"]
    for _ in range(2):  # the second time data and training are found finished
        assert main(demo) == 0
    out = capsys.readouterr().out
    results = json.loads(Path("runs/demo/results.json").read_text())
    expected = {
        "success_rate",
        "return_mean",
        "return_ci95",
        "episodes",
        "decision_ms_median",
        "train_seconds",
        "controller_return_mean",
        "shortest_path_return_mean",
    }
    assert expected <= results.keys()
    named = re.findall(r"runs/demo/\S+\.(?:png|json)", out)
    assert named
    for path in named:
        assert Path(path).is_file(), path


def test_help_shows_what_people_turn_and_all_of_it_where_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = []
    for ask in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            main(["evaluate", ask])
        shown.append(capsys.readouterr().out)
    assert "--replan-every" in shown[0] and "--step-timeout" not in shown[0]
    assert "more options: diffplan evaluate --help-all" in shown[0]
    for option in ("--replan-every", "--step-timeout", "--value-guidance-until"):
        assert option in shown[1]
    with pytest.raises(SystemExit):
        main(["train", "diffuser", "--help"])
    out = capsys.readouterr().out
    # the defaults are those of the config, hidden or not
    assert "--training.batch-size" in out and "(default: 256)" in out and "--plan.space" not in out
