"""Training: exact after a kill, the same in every process, and clear about what it refuses."""

import dataclasses
import json
import math
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
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

import diffplan
from diffplan import training
from diffplan.checkpoint import list_checkpoints, load_model, read_header
from diffplan.config import Config, TrainingConfig, config_to_dict
from diffplan.data.episodes import Episodes
from diffplan.errors import DiffplanError
from diffplan.training import RunOptions, fingerprint, learning_rate, train

Make = Callable[..., Any]


def options(out: Path, steps: int, **changes: Any) -> RunOptions:
    return RunOptions(out, steps, **{"progress": False, "device": "cpu", **changes})


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
from safetensors.torch import save_file
from diffplan import training
from diffplan.config import config_from_dict
from diffplan.data.episodes import Episodes

folder, out, steps, every, kill_at = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])
update, state = training.AveragedModel.update_parameters, training._training_state
updates = 0

def counting(self, model):
    global updates
    update(self, model)
    updates += 1
    if updates == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

def keeping(model, *rest):
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    save_file(weights, out / f"rank-{os.environ.get('RANK', '0')}.safetensors")
    return state(model, *rest)

training.AveragedModel.update_parameters = counting
training._training_state = keeping
config = config_from_dict(json.loads((folder / "config.json").read_text()))
options = training.RunOptions(out, steps, checkpoint_every=every, progress=False, device="cpu")
training.train(Episodes.load(folder / "data"), config, options)
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


# --- Resuming ------------------------------------------------------------------------------------


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
    rows = [[{**row, "seconds": 0} for row in lines(run)] for run in (cut, tmp_path / "straight")]
    assert [row["step"] for row in rows[0]] == [50, 100, 150, 200]
    assert rows[0] == rows[1]


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    (
        "trajectory-diffuser",
        {
            "proposer.kind": "transformer",
            "proposer.training": "teacher-forced",
            "proposer.dropout": 0.3,
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
    assert float(model.target_return) > 0
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


def test_resuming_nothing_starts_at_the_beginning(
    tmp_path: Path, tiny_episodes: Episodes, tiny_config: Make
) -> None:
    last = train(tiny_episodes, tiny_config(), options(tmp_path / "new", 2, resume=True))
    assert last.name == "checkpoint-00000002"


# --- What an update does -------------------------------------------------------------------------


def test_the_seed_decides(tmp_path: Path, tiny_episodes: Episodes, tiny_config: Make) -> None:
    runs = []
    for number, seed in enumerate((3, 3, 4)):
        torch.manual_seed(number)
        asked = options(tmp_path / str(number), 8, seed=seed)
        runs.append(train(tiny_episodes, tiny_config(), asked))
    assert_identical(runs[0], runs[1])
    weights = [load_file(path / "model.safetensors")["value.network.0.weight"] for path in runs]
    assert not torch.equal(weights[0], weights[2])


def test_losses_and_the_free_running_error_fall(
    tmp_path: Path, tiny_goal_episodes: Episodes, tiny_config: Make
) -> None:
    config = tiny_config(changes={"training.learning_rate": 3e-3, "training.ema": 0.9})
    train(tiny_goal_episodes, config, options(tmp_path, 400))
    rows = lines(tmp_path)
    assert [row["step"] for row in rows] == list(range(50, 401, 50))
    for name in ("proposer", "denoiser", "denoiser_plain", "inverse_dynamics", "value"):
        assert rows[-1][f"loss/{name}"] < 0.85 * rows[0][f"loss/{name}"]
    errors = [row["error/free_running"] for row in rows if "error/free_running" in row]
    assert len(errors) == 4
    assert errors[-1] < 0.8 * errors[0]


def test_metrics_are_means_since_the_line_before(
    tmp_path: Path,
    tiny_episodes: Episodes,
    tiny_config: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forward, seen = training.PlannerModel.forward, []

    def spy(self: Any, *args: Any) -> dict[str, torch.Tensor]:
        losses: dict[str, torch.Tensor] = forward(self, *args)
        seen.append(float(losses["value"].detach()))
        return losses

    monkeypatch.setattr(training.PlannerModel, "forward", spy)
    train(tiny_episodes, tiny_config(), options(tmp_path, 57, checkpoint_every=53))
    ends = [50, 53, 57]
    assert [row["step"] for row in lines(tmp_path)] == ends
    for row, start, end in zip(lines(tmp_path), [0, *ends[:-1]], ends, strict=True):
        assert row["loss/value"] == pytest.approx(np.mean(seen[start:end]), rel=1e-5)


def test_the_learning_rate_knows_no_end() -> None:
    config = TrainingConfig(learning_rate=0.1, warmup=10, decay_after=100)
    rates = [learning_rate(config, step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[4] == pytest.approx(0.05)
    assert rates[9:100] == pytest.approx([0.1] * 91)
    assert rates[399] == pytest.approx(0.1 * math.sqrt(100 / 400))
    assert np.all(np.diff(rates[:10]) > 0) and np.all(np.diff(rates[100:]) < 0)


def test_the_optimiser_is_given_that_rate(
    tmp_path: Path,
    tiny_episodes: Episodes,
    tiny_config: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, used = tiny_config(changes={"training.warmup": 4, "training.decay_after": 6}), []
    step = torch.optim.AdamW.step

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        used.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    train(tiny_episodes, config, options(tmp_path, 9))
    assert used == pytest.approx([learning_rate(config.training, n) for n in range(9)])


def test_the_average_follows_its_formula() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = AveragedModel(model, avg_fn=training._Average(0.8))
    expected = 0.0
    for update in range(60):
        value = math.sin(update)
        nn.init.constant_(model.weight, value)
        average.update_parameters(model)
        decay = min(0.8, (1 + update) / (10 + update))
        expected = value if update == 0 else decay * expected + (1 - decay) * value
        assert float(average.module.weight.detach()) == pytest.approx(expected, abs=1e-5)


def test_plans_use_the_averaged_weights(
    tmp_path: Path, tiny_episodes: Episodes, tiny_config: Make
) -> None:
    def weights(ema: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        config = tiny_config(changes={"training.ema": ema})
        path = train(tiny_episodes, config, options(tmp_path / str(ema), 30))
        name = "value.network.0.weight"
        live = load_file(path / "training.safetensors")[f"model/{name}"]
        loaded = load_model(path)[0].state_dict()[name]
        return live, load_file(path / "model.safetensors")[name], loaded

    live, averaged, loaded = weights(0.0)
    assert torch.equal(live, averaged)
    live, averaged, loaded = weights(0.99)
    assert torch.equal(averaged, loaded)
    assert not torch.allclose(live, averaged, atol=1e-4)


def test_every_part_is_clipped_on_its_own(
    tmp_path: Path,
    tiny_episodes: Episodes,
    tiny_config: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clip, norms = nn.utils.clip_grad_norm_, []

    def spy(parameters: Any, bound: float) -> torch.Tensor:
        group = list(parameters)
        norm: torch.Tensor = clip(group, bound)
        after = torch.stack([p.grad.norm() for p in group if p.grad is not None]).norm()
        norms.append((float(norm), float(after)))
        return norm

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", spy)
    config = tiny_config(changes={"training.grad_clip": 0.05})
    train(tiny_episodes, config, options(tmp_path, 3))
    assert len(norms) == 3 * 4  # proposer, denoiser, inverse dynamics, value
    assert max(before for before, _ in norms) > 0.05
    assert max(after for _, after in norms) <= 0.0501


def test_bf16_trains_float32_weights(
    tmp_path: Path, tiny_goal_episodes: Episodes, tiny_config: Make
) -> None:
    for kind in ("markov", "gru", "one-shot"):
        config = tiny_config(changes={"training.bf16": True, "proposer.kind": kind})
        path = train(tiny_goal_episodes, config, options(tmp_path / kind, 4))
        tensors = load_file(path / "model.safetensors")
        assert all(t.dtype == torch.float32 and t.isfinite().all() for t in tensors.values())
    plain = train(tiny_goal_episodes, tiny_config(), options(tmp_path / "plain", 4))
    name = "value.network.0.weight"  # and the switch does something
    assert not torch.equal(
        load_file(plain / "model.safetensors")[name],
        load_file(tmp_path / "markov" / plain.name / "model.safetensors")[name],
    )


def test_a_loss_that_is_no_number_stops_the_run_and_spares_its_checkpoint(
    tmp_path: Path,
    tiny_episodes: Episodes,
    tiny_config: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forward, calls = training.PlannerModel.forward, []

    def broken(self: Any, *args: Any) -> dict[str, torch.Tensor]:
        losses: dict[str, torch.Tensor] = forward(self, *args)
        calls.append(0)
        return {**losses, "value": losses["value"] * float("nan")} if len(calls) == 13 else losses

    monkeypatch.setattr(training.PlannerModel, "forward", broken)
    asked = options(tmp_path, 100, checkpoint_every=10)
    message = refusal(lambda: train(tiny_episodes, tiny_config(), asked))
    assert "not finite at update 20" in message and "--training.learning-rate" in message
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-00000010"]
    last = train(tiny_episodes, tiny_config(), options(tmp_path, 12, resume=True))
    assert all(t.isfinite().all() for t in load_file(last / "model.safetensors").values())


def test_progress_goes_to_stderr(
    tmp_path: Path, tiny_episodes: Episodes, tiny_config: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_episodes, tiny_config(), options(tmp_path / "loud", 3, progress=True))
    shown = capsys.readouterr()
    assert "training" in shown.err and "3/3" in shown.err and "value=" in shown.err
    assert shown.out == ""
    train(tiny_episodes, tiny_config(), options(tmp_path / "quiet", 3))
    assert "training" not in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_a_gpu_is_refused(
    tmp_path: Path, tiny_episodes: Episodes, tiny_config: Make
) -> None:
    asked = options(tmp_path / "run", 3, device="cuda")
    assert "--device" in refusal(lambda: train(tiny_episodes, tiny_config(), asked))
    assert not list_checkpoints(tmp_path / "run")


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
        weights["model/value.network.0.weight"], saved["model/value.network.0.weight"]
    )
