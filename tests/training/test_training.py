"""Training: what one update does, what the log says, when a run stops."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from diffplan.config.sections import TrainingConfig
from diffplan.data.episodes import Episodes
from diffplan.errors import DiffplanError
from diffplan.model.checkpoint import load_model
from diffplan.model.run_folder import list_checkpoints
from diffplan.training import learner, log, loop
from diffplan.training.average import WeightAverage
from diffplan.training.learner import head_batch, learning_rate
from diffplan.training.loop import train
from diffplan.training.run import RunOptions

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


def test_the_seed_decides(tmp_path: Path, tiny_episodes: Episodes, tiny_config: Make) -> None:
    runs = []
    for number, seed in enumerate((3, 3, 4)):
        torch.manual_seed(number)
        asked = options(tmp_path / str(number), 8, seed=seed)
        runs.append(train(tiny_episodes, tiny_config(), asked))
    assert_identical(runs[0], runs[1])
    weights = [load_file(path / "model.safetensors")["value.members.0.0.weight"] for path in runs]
    assert not torch.equal(weights[0], weights[2])


def test_losses_and_the_free_running_error_fall(
    tmp_path: Path, tiny_goal_episodes: Episodes, tiny_config: Make
) -> None:
    config = tiny_config(changes={"training.learning_rate": 3e-3, "training.ema": 0.9})
    train(tiny_goal_episodes, config, options(tmp_path, 600))
    rows = lines(tmp_path)
    assert [row["step"] for row in rows] == list(range(50, 601, 50))
    for name in ("proposer", "denoiser", "denoiser_plain", "inverse_dynamics", "value"):
        assert rows[-1][f"loss/{name}"] < 0.5 * rows[0][f"loss/{name}"]
    errors = [row["error/free_running"] for row in rows if "error/free_running" in row]
    assert len(errors) == 6
    assert errors[-1] < 0.8 * errors[0]


def test_metrics_are_means_since_the_line_before(
    tmp_path: Path,
    tiny_episodes: Episodes,
    tiny_config: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forward, seen = learner.Objective.forward, []

    def spy(self: Any, *args: Any) -> dict[str, torch.Tensor]:
        losses: dict[str, torch.Tensor] = forward(self, *args)
        seen.append(float(losses["value"].detach()))
        return losses

    monkeypatch.setattr(learner.Objective, "forward", spy)
    train(tiny_episodes, tiny_config(), options(tmp_path, 57, checkpoint_every=53))
    ends = [50, 53, 57]
    assert [row["step"] for row in lines(tmp_path)] == ends
    for row, start, end in zip(lines(tmp_path), [0, *ends[:-1]], ends, strict=True):
        assert row["loss/value"] == pytest.approx(np.mean(seen[start:end]), rel=1e-5)


def test_samples_per_second_count_the_training_alone(
    tmp_path: Path,
    tiny_episodes: Episodes,
    tiny_config: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forward, save = learner.Objective.forward, loop.save_checkpoint
    clock, pace = [0.0], [0.5]

    def slow(self: Any, *args: Any) -> Any:
        clock[0] += pace[0]
        return forward(self, *args)

    def slower(*args: Any) -> Path:
        clock[0] += 100
        pace[0] = 0.25
        return save(*args)

    for module in (loop, log):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(learner.Objective, "forward", slow)
    monkeypatch.setattr(loop, "save_checkpoint", slower)
    train(tiny_episodes, tiny_config(), options(tmp_path, 70, checkpoint_every=60))
    rows = lines(tmp_path)
    assert [row["step"] for row in rows] == [50, 60, 70]
    # 16 windows an update: 0.5 s each until the first checkpoint, then 0.25 s
    assert [row["samples_per_second"] for row in rows] == pytest.approx([32, 32, 64])
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    shown = [(e.step, e.value) for e in events.Scalars("samples_per_second")]
    assert shown == [(50, 32.0), (60, 32.0), (70, 64.0)]


def test_data_given_from_python_are_validated(
    tmp_path: Path, tiny_episodes: Episodes, tiny_config: Make
) -> None:
    states = tiny_episodes.states.copy()
    states[17, 1] = np.nan
    broken = dataclasses.replace(tiny_episodes, states=states)
    message = refusal(lambda: train(broken, tiny_config(), options(tmp_path / "run", 3)))
    assert "states hold nan" in message
    assert not (tmp_path / "run").exists()


def test_a_sampler_that_does_not_suit_is_refused_before_anything_is_learned(
    tmp_path: Path, tiny_episodes: Episodes, tiny_config: Make
) -> None:
    config = tiny_config(changes={"planning.sampler": "s-pndm", "planning.denoising_steps": 3})
    message = refusal(lambda: train(tiny_episodes, config, options(tmp_path, 3)))
    assert "s-pndm cannot pass level 10 of 'rddm'" in message
    assert not list_checkpoints(tmp_path)
    later = tiny_config(
        changes={"planning.sampler": "dpm-solver-v3", "planning.denoising_steps": 3}
    )
    assert train(tiny_episodes, later, options(tmp_path, 1)).is_dir()


def test_the_published_critic_learns_from_every_pair_of_the_windows(
    tiny_config: Make, tiny_model: Make, tiny_episodes: Episodes
) -> None:
    published = tiny_model(tiny_config("trajectory-diffuser-published"), tiny_episodes)
    assert [head_batch(published, few) for few in (8, 100)] == [256, 100 * published.rows]
    assert head_batch(tiny_model(tiny_config(), tiny_episodes), 100) == 256


def test_the_learning_rate_knows_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner, "_WARMUP", 10)
    config = TrainingConfig(learning_rate=0.1, decay_after=100)
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
    monkeypatch.setattr(learner, "_WARMUP", 4)
    config, used = tiny_config(changes={"training.decay_after": 6}), []
    step = torch.optim.AdamW.step

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        used.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    train(tiny_episodes, config, options(tmp_path, 9))
    assert used == pytest.approx([learning_rate(config.training, n) for n in range(9)])


def test_the_average_follows_its_formula() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, 0.8)
    expected = 0.0
    for update in range(60):
        value = math.sin(update)
        nn.init.constant_(model.weight, value)
        average.update()
        decay = min(0.8, (1 + update) / (10 + update))
        expected = value if update == 0 else decay * expected + (1 - decay) * value
        assert float(average.module.weight.detach()) == pytest.approx(expected, abs=1e-5)


def test_plans_use_the_averaged_weights(
    tmp_path: Path, tiny_episodes: Episodes, tiny_config: Make
) -> None:
    def weights(ema: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        config = tiny_config(changes={"training.ema": ema})
        path = train(tiny_episodes, config, options(tmp_path / str(ema), 30))
        name = "value.members.0.0.weight"
        live = load_file(path / "training.safetensors")[f"model/{name}"]
        loaded = load_model(path)[0].state_dict()[name]
        return live, load_file(path / "model.safetensors")[name], loaded

    live, averaged, loaded = weights(0.0)
    assert torch.equal(live, averaged)
    live, averaged, loaded = weights(0.99)
    assert torch.equal(averaged, loaded)
    assert not torch.allclose(live, averaged, atol=1e-4)


def test_bf16_trains_float32_weights(
    tmp_path: Path, tiny_goal_episodes: Episodes, tiny_config: Make
) -> None:
    for kind in ("markov", "gru", "one-shot"):
        config = tiny_config(changes={"training.bf16": True, "proposer.kind": kind})
        path = train(tiny_goal_episodes, config, options(tmp_path / kind, 4))
        tensors = load_file(path / "model.safetensors")
        assert all(t.dtype == torch.float32 and t.isfinite().all() for t in tensors.values())
    plain = train(tiny_goal_episodes, tiny_config(), options(tmp_path / "plain", 4))
    name = "value.members.0.0.weight"  # and the switch does something
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
    forward, calls = learner.Objective.forward, []

    def broken(self: Any, *args: Any) -> dict[str, torch.Tensor]:
        losses: dict[str, torch.Tensor] = forward(self, *args)
        calls.append(0)
        return {**losses, "value": losses["value"] * float("nan")} if len(calls) == 13 else losses

    monkeypatch.setattr(learner.Objective, "forward", broken)
    asked = options(tmp_path, 100, checkpoint_every=10)
    message = refusal(lambda: train(tiny_episodes, tiny_config(), asked))
    assert "diverged: loss/value is nan at update 13; " in message
    assert "checkpoint-00000010" in message and "--training.learning-rate" in message
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-00000010"]
    last = train(tiny_episodes, tiny_config(), options(tmp_path, 12, resume=True))
    assert all(t.isfinite().all() for t in load_file(last / "model.safetensors").values())


def test_progress_goes_to_stderr(
    tmp_path: Path, tiny_episodes: Episodes, tiny_config: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_episodes, tiny_config(), options(tmp_path / "loud", 3, progress=True))
    shown = capsys.readouterr()
    assert "training" in shown.err and "3/3" in shown.err and "value=" in shown.err
    assert "windows/s=" in shown.err
    assert shown.out == ""
    train(tiny_episodes, tiny_config(), options(tmp_path / "quiet", 3))
    assert "training" not in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_a_gpu_is_refused(
    tmp_path: Path, tiny_episodes: Episodes, tiny_config: Make
) -> None:
    asked = options(tmp_path / "run", 3, device="cuda")
    message = refusal(lambda: train(tiny_episodes, tiny_config(), asked))
    assert "sees no CUDA device; use cpu" in message
    assert not list_checkpoints(tmp_path / "run")
