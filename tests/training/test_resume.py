"""Resuming: exact after a kill, refused where it would not be, the same in every process."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import diffplan
from diffplan.config.config import Config, config_to_dict
from diffplan.data.episodes import Episodes, fingerprint
from diffplan.errors import DiffplanError
from diffplan.model.checkpoint import load_model
from diffplan.model.run_folder import list_checkpoints, read_header
from diffplan.training import loop
from diffplan.training.loop import train
from diffplan.training.run import RunOptions, find_previous

Make = Callable[..., Any]


def options(out: Path, steps: int, **changes: Any) -> RunOptions:
    return RunOptions(out, steps, **{"progress": False, "device": "cpu", **changes})


def untimed(row: dict[str, Any]) -> dict[str, Any]:
    times = ("time/", "seconds", "samples_per_second")
    return {name: value for name, value in row.items() if not name.startswith(times)}


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]


def assert_identical(one: Path, other: Path) -> None:
    """Weights, averages, moments and random states of two checkpoints, bit for bit."""
    for name in ("model.safetensors", "training.safetensors"):
        a, b = load_file(one / name), load_file(other / name)
        assert a.keys() == b.keys()
        assert not [key for key in a if not torch.equal(a[key], b[key])]
        assert (one / name).read_bytes() == (other / name).read_bytes()


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(DiffplanError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


CHILD = """
import json, os, signal, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from diffplan.training import learner, loop
from diffplan.config import config_from_dict, sections
from diffplan.data import drawing
from diffplan.data.episodes import Episodes
from diffplan.model import build

# as in tests/conftest.py
drawing.DRAWING, sections._FEATURES, build._DEPTH = drawing.Drawing(landmarks=40), 16, 1

folder, out, steps, every, kill_at = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])
update, state = learner.WeightAverage.update, learner.training_state
updates = 0

def counting(self, share=None):
    global updates
    update(self, share)
    updates += 1
    if updates == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

def keeping(model, *rest):
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    save_file(weights, out / f"rank-{os.environ.get('RANK', '0')}.safetensors")
    return state(model, *rest)

learner.WeightAverage.update = counting
learner.training_state = keeping
config = config_from_dict(json.loads((folder / "config.json").read_text()))
# where there is no GPU the default must find the CPU, with several processes too
device = "cpu" if torch.cuda.is_available() else "auto"
options = loop.RunOptions(out, steps, checkpoint_every=every, progress=False, device=device)
loop.train(Episodes.load(folder / "data"), config, options)
"""


def child(
    folder: Path, episodes: Episodes, config: Config, out: Path, *numbers: int, processes: int = 1
) -> subprocess.CompletedProcess[str]:
    """Train in processes of their own: numbers are steps, checkpoint_every, kill_at (0: never)."""
    episodes.save(folder / "data")
    (folder / "config.json").write_text(json.dumps(config_to_dict(config)))
    (folder / "child.py").write_text(CHILD)
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    home = str(Path(diffplan.__file__).resolve().parents[1])
    return subprocess.run(
        [*launch, str(folder / "child.py"), str(folder), str(out), *map(str, numbers)],
        env={**os.environ, "PYTHONPATH": home},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_killed_run_continues_bit_for_bit(
    tmp_path: Path, tiny_goal_episodes: Episodes, tiny_config: Make
) -> None:
    config = tiny_config()
    straight = train(tiny_goal_episodes, config, options(tmp_path / "straight", 200))
    cut = tmp_path / "cut"
    # killed at update 160 of 100,000, with a checkpoint at 100 and a metrics line at 150
    result = child(tmp_path, tiny_goal_episodes, config, cut, 100_000, 100, 160)
    assert result.returncode == -9, result.stderr
    assert [path.name for path in list_checkpoints(cut)] == ["checkpoint-00000100"]
    assert [row["step"] for row in lines(cut)] == [50, 100, 150]
    resumed = train(tiny_goal_episodes, config, options(cut, 200, resume=True))
    assert resumed.name == straight.name == "checkpoint-00000200"
    assert_identical(straight, resumed)
    # the log has every line once, with the same numbers
    rows = [[untimed(row) for row in lines(run)] for run in (cut, tmp_path / "straight")]
    assert [row["step"] for row in rows[0]] == [50, 100, 150, 200]
    assert rows[0] == rows[1]


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    (
        "trajectory-diffuser",
        {
            "proposer.kind": "transformer",
            "proposer.training": "teacher-forced",
            "training.bf16": True,
        },
    ),
    ("trajectory-diffuser-published", {"denoiser.network": "dit", "denoiser.width": 16}),
    ("from-noise", {"training.weight_decay": 0.1}),
]


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_every_config_resumes_exactly(
    name: str,
    changes: dict[str, Any],
    tmp_path: Path,
    tiny_episodes: Episodes,
    tiny_config: Make,
) -> None:
    config = tiny_config(name, changes)
    straight = train(tiny_episodes, config, options(tmp_path / "straight", 40))
    train(tiny_episodes, config, options(tmp_path / "cut", 15))
    torch.rand(11)  # nothing outside the checkpoint may matter
    assert_identical(
        straight, train(tiny_episodes, config, options(tmp_path / "cut", 40, resume=True))
    )


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, tiny_episodes: Episodes, tiny_config: Make
) -> Path:
    """A finished run of 20 updates; tests must not change it."""
    out = tmp_path_factory.mktemp("runs") / "run"
    train(tiny_episodes, tiny_config(), options(out, 20, checkpoint_every=10))
    return out


def test_a_run_leaves_what_others_read(run: Path, tiny_episodes: Episodes) -> None:
    first, last = list_checkpoints(run)
    header = read_header(last)
    assert (header.step, header.seed) == (20, 0)
    assert (header.layout, header.info) == (tiny_episodes.layout, tiny_episodes.info)
    assert header.fingerprint == fingerprint(tiny_episodes)
    assert header.seconds > 0
    assert not (first / "training.safetensors").exists()
    assert list(run.rglob("events.out.tfevents*"))
    model, _, _ = load_model(run)
    assert model.residual_known == 1
    assert float(model.targets(0.5)) > 0
    losses = {"proposer", "denoiser", "denoiser_plain", "inverse_dynamics", "value"}
    for row in lines(run):
        assert {key.removeprefix("loss/") for key in row if "loss/" in key} == losses
    assert "error/free_running" in lines(run)[0]


def test_an_occupied_folder_is_refused(
    run: Path, tiny_episodes: Episodes, tiny_config: Make
) -> None:
    message = refusal(lambda: train(tiny_episodes, tiny_config(), options(run, 30)))
    assert "checkpoint-00000020" in message and "--resume" in message and "--out" in message


def test_resuming_on_other_data_is_refused(
    run: Path, tiny_episodes: Episodes, tiny_config: Make
) -> None:
    def changed(name: str) -> Episodes:
        array = np.array(getattr(tiny_episodes, name))
        array[-1] += 0.01
        return dataclasses.replace(tiny_episodes, **{name: array})

    for name in ("states", "actions", "rewards"):
        episodes = changed(name)
        message = refusal(lambda e=episodes: train(e, tiny_config(), options(run, 30, resume=True)))
        assert "other data" in message


def test_what_is_refused_can_be_known_before_the_data(run: Path, tiny_config: Make) -> None:
    message = refusal(lambda: find_previous(tiny_config(), options(run, 30)))
    assert "already holds checkpoint-00000020" in message
    asked = options(run, 30, resume=True, seed=5)
    assert "--seed 0, got 5" in refusal(lambda: find_previous(tiny_config(), asked))
    found = find_previous(tiny_config(), options(run, 30, resume=True))
    assert found is not None and found[0] == list_checkpoints(run)[-1] and found[1].step == 20
    for resume in (False, True):
        assert find_previous(tiny_config(), options(run / "none", 30, resume=resume)) is None


def test_the_data_are_read_for_their_identity_once(
    run: Path,
    tmp_path: Path,
    tiny_episodes: Episodes,
    tiny_config: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy, calls = tmp_path / "copy", []
    shutil.copytree(run, copy)
    monkeypatch.setattr(loop, "fingerprint", lambda e: calls.append(e) or fingerprint(e))
    train(tiny_episodes, tiny_config(), options(copy, 22, resume=True))
    assert len(calls) == 1


def test_resuming_with_other_settings_is_refused(
    run: Path, tiny_episodes: Episodes, tiny_config: Make
) -> None:
    def resume(config: Config, steps: int = 30, **changes: Any) -> str:
        asked = options(run, steps, resume=True, **changes)
        return refusal(lambda: train(tiny_episodes, config, asked))

    assert "--seed 0, got 5" in resume(tiny_config(), seed=5)
    message = resume(tiny_config(changes={"training.learning_rate": 0.5}))
    assert "training.learning_rate = 0.001, got 0.5" in message
    assert "denoiser.width = 16, got 32" in resume(tiny_config(changes={"denoiser.width": 32}))
    message = resume(tiny_config(), steps=19)
    assert "already 20 updates" in message and "--steps 19" in message


def test_how_to_plan_may_change_in_a_resume_but_not_what_is_trained(
    run: Path, tmp_path: Path, tiny_episodes: Episodes, tiny_config: Make
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    changes = {"planning.denoising_steps": 2, "planning.replan_every": 1}
    resumed = train(tiny_episodes, tiny_config(changes=changes), options(copy, 25, resume=True))
    assert read_header(resumed).config.planning.denoising_steps == 2
    straight = train(tiny_episodes, tiny_config(), options(tmp_path / "straight", 25))
    assert_identical(straight, resumed)
    asked = options(copy, 30, resume=True)
    message = refusal(lambda: train(tiny_episodes, tiny_config("proposer-only"), asked))
    assert "planning.start = 'process', got 'none'" in message


def test_a_finished_run_stays_as_it_is(
    run: Path, tmp_path: Path, tiny_episodes: Episodes, tiny_config: Make
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    before = {f: f.read_bytes() for f in sorted(copy.rglob("*")) if f.suffix in (".json", ".jsonl")}
    last = train(tiny_episodes, tiny_config(), options(copy, 20, resume=True))
    assert last == list_checkpoints(copy)[-1]
    assert before == {file: file.read_bytes() for file in before}


def test_half_a_metrics_line_does_not_stop_a_resume(
    run: Path, tmp_path: Path, tiny_episodes: Episodes, tiny_config: Make
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "seco')
    train(tiny_episodes, tiny_config(), options(copy, 25, resume=True))
    assert [row["step"] for row in lines(copy)] == [10, 20, 25]


def test_only_the_last_checkpoint_resumes(
    run: Path, tmp_path: Path, tiny_episodes: Episodes, tiny_config: Make
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(list_checkpoints(copy)[-1])
    asked = options(copy, 25, resume=True)
    message = refusal(lambda: train(tiny_episodes, tiny_config(), asked))
    assert "training.safetensors" in message and "last checkpoint" in message


def test_another_number_of_processes_is_refused(
    run: Path, tmp_path: Path, tiny_episodes: Episodes, tiny_config: Make
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    file = list_checkpoints(copy)[-1] / "training.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "generator/1": tensors["generator/0"].clone()}, file)
    asked = options(copy, 25, resume=True)
    message = refusal(lambda: train(tiny_episodes, tiny_config(), asked))
    assert "written by 2 processes, this run has 1" in message


def test_a_run_from_a_gpu_resumes_on_the_cpu(
    run: Path, tmp_path: Path, tiny_episodes: Episodes, tiny_config: Make
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    file = list_checkpoints(copy)[-1] / "training.safetensors"
    save_file({**load_file(file), "cuda/0": torch.zeros(16, dtype=torch.uint8)}, file)
    resumed = train(tiny_episodes, tiny_config(), options(copy, 25, resume=True))
    assert_identical(
        train(tiny_episodes, tiny_config(), options(tmp_path / "straight", 25)), resumed
    )


@pytest.mark.cuda
def test_a_resume_on_a_gpu_goes_on_with_its_random_numbers(
    tmp_path: Path, tiny_episodes: Episodes, tiny_config: Make
) -> None:
    changes = {"proposer.kind": "transformer", "proposer.training": "teacher-forced"}
    config = tiny_config(changes=changes)
    straight = train(tiny_episodes, config, options(tmp_path / "straight", 40, device="cuda"))
    train(tiny_episodes, config, options(tmp_path / "cut", 15, device="cuda"))
    torch.rand(11, device="cuda")
    asked = options(tmp_path / "cut", 40, device="cuda", resume=True)
    states = [
        load_file(path / "training.safetensors")
        for path in (straight, train(tiny_episodes, config, asked))
    ]
    for name in ("generator/0", "cuda/0", "drawing/0"):
        assert torch.equal(states[0][name], states[1][name])
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-3, atol=1e-4)


def test_resuming_nothing_starts_at_the_beginning(
    tmp_path: Path, tiny_episodes: Episodes, tiny_config: Make
) -> None:
    last = train(tiny_episodes, tiny_config(), options(tmp_path / "new", 2, resume=True))
    assert last.name == "checkpoint-00000002"


@pytest.mark.slow
def test_two_processes_train_one_model(
    tmp_path: Path, tiny_goal_episodes: Episodes, tiny_config: Make
) -> None:
    config, out = tiny_config(), tmp_path / "run"
    result = child(tmp_path, tiny_goal_episodes, config, out, 60, 0, 0, processes=2)
    assert result.returncode == 0, result.stderr
    (last,) = list_checkpoints(out)
    assert last.name == "checkpoint-00000060"
    assert [row["step"] for row in lines(out)] == [50, 60]
    one, two = (load_file(out / f"rank-{rank}.safetensors") for rank in (0, 1))
    assert not [key for key in one if not torch.equal(one[key], two[key])]
    saved = load_file(last / "training.safetensors")
    assert all(torch.equal(saved[f"model/{key}"], value) for key, value in one.items())
    # each process drew its own data
    assert not torch.equal(saved["generator/0"], saved["generator/1"])
    load_model(out)
    alone = train(tiny_goal_episodes, config, options(tmp_path / "alone", 60))
    weights = load_file(alone / "training.safetensors")
    assert not torch.equal(
        weights["model/value.members.0.0.weight"], saved["model/value.members.0.0.weight"]
    )
