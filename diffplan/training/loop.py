"""The training loop: every part learns in every update, from the same batch.

Readable top to bottom: set up, then for each update draw a batch, take the losses, step, average
the weights. Random numbers come from one generator per process, so that a resumed run continues
exactly.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn
from tqdm import tqdm

from diffplan.config.config import Config
from diffplan.config.sections import TrainingConfig
from diffplan.data.batches import Batch
from diffplan.data.episodes import Episodes, fingerprint
from diffplan.data.placement import moved
from diffplan.data.windows import WindowSampler
from diffplan.errors import DiffplanError
from diffplan.model.checkpoint import save_checkpoint
from diffplan.model.planner_model import PlannerModel
from diffplan.model.run_folder import Header, find_checkpoint
from diffplan.model.spec import ModelSpec
from diffplan.planning.chains import chain_of
from diffplan.training.average import WeightAverage
from diffplan.training.log import MetricsFile
from diffplan.training.losses import Objective
from diffplan.training.residual import measure_residual
from diffplan.training.run import RunOptions, find_previous
from diffplan.training.state import gather_generators, restore, training_state

_HEAD_BATCH = 256  # least of inverse dynamics and value: small networks, noisy targets
_WARMUP = 200  # updates in which the rate rises linearly: Adam's first moments are rough
_GRAD_CLIP = 1.0  # bound on the gradient norm of each part
_RESIDUAL_EVERY = 100  # updates between measurements of the free-running error
_RESIDUAL_WINDOWS = 512
_RESIDUAL_RATE = 0.2
_LOG_EVERY = 50
_SHORT = {  # names in the progress bar
    "loss/proposer": "propose",
    "loss/denoiser": "denoise",
    "loss/denoiser_plain": "plain",
    "loss/inverse_dynamics": "act",
    "loss/inverse_dynamics_proposed": "follow",
    "loss/value": "value",
    "loss/head_actions": "act",
    "loss/head_returns": "value",
    "loss/head_task": "task",
}


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Rate of update `step` (from 0): linear warm-up, then constant, then ~ 1/sqrt(step)."""
    warm = min(1.0, (step + 1) / _WARMUP)
    return config.learning_rate * warm * min(1.0, math.sqrt(config.decay_after / (step + 1)))


def train(episodes: Episodes, config: Config, options: RunOptions) -> Path:
    """Train a planner; returns the last checkpoint's folder.

    Writes checkpoints, TensorBoard events and metrics.jsonl under `options.out`. With
    `options.resume` a run continues exactly where its last checkpoint stood; on the CPU the
    result is bit-identical to a run that was never interrupted. On a GPU the data lie there too
    if they fit beside the training; the batches are the CPU's.

    Raises DiffplanError for data that `Episodes.validate` refuses, for a sampler that does not suit
    the process, and for what does not fit what `options.out` holds, see `find_previous`.
    """
    run = options.out
    previous = find_previous(config, options)
    episodes.validate()
    identity = fingerprint(episodes)
    if previous is not None and previous[1].fingerprint != identity:
        raise DiffplanError(
            f"{run} was trained on other data ({previous[1].info.id}, {previous[1].fingerprint}) "
            f"than {episodes.info.id} ({identity}); resume with the same dataset"
        )
    torch.manual_seed(options.seed)
    accelerator = Accelerator(
        # said outright: on "auto" without a GPU accelerate would leave torchrun's processes alone
        cpu=options.device == "cpu" or (options.device == "auto" and not torch.cuda.is_available()),
        log_with="tensorboard",
        project_dir=str(run),
        # a condition that is never dropped leaves its null vector without a gradient
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if options.device == "cuda" and accelerator.device.type != "cuda":
        raise DiffplanError("--device is cuda, but PyTorch sees no CUDA device; use --device cpu")
    if accelerator.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, see docs/performance.md
    rank = accelerator.process_index
    spec = ModelSpec(
        episodes.states.shape[1],
        episodes.actions.shape[1],
        episodes.layout.goal_columns,
        0 if episodes.tasks is None else len(episodes.info.tasks),
    )
    sampler = WindowSampler(episodes, config, seed=options.seed)
    model = PlannerModel(spec, config)
    low, high = torch.tensor(episodes.info.action_low), torch.tensor(episodes.info.action_high)
    if config.planning.sampler != "dpm-solver-v3":  # which is calibrated after training
        chain_of(model, model.config.planning)  # refuses now what could not plan in the end
    model.fit(sampler, low, high, options.seed)
    sampler.to(accelerator.device)
    average = WeightAverage(model, config.training.ema)
    optimiser = torch.optim.AdamW(
        model.parameters(),
        lr=config.training.learning_rate,
        weight_decay=config.training.weight_decay,
        fused=True,
    )
    generator = torch.Generator().manual_seed(options.seed + 1_000_003 * rank)
    torch.manual_seed(options.seed + 1_000_003 * rank)  # dropout draws from the global one
    device = accelerator.device
    head_batch = max(config.training.batch_size, _HEAD_BATCH)
    step, seconds = 0, 0.0
    if previous is not None:
        path, header = previous
        step, seconds = header.step, header.seconds
        restore(path, model, average, optimiser, generator, accelerator)
    average.module.to(accelerator.device)
    objective = Objective(model)
    wrapped, optimiser = accelerator.prepare(objective, optimiser)
    parts = {name: list(part.parameters()) for name, part in model.named_children()}
    parts = {name: group for name, group in parts.items() if group}
    main = accelerator.is_main_process
    if main:
        run.mkdir(parents=True, exist_ok=True)
    accelerator.init_trackers("tensorboard")

    def save() -> Path:
        header = Header(
            config,
            spec,
            episodes.layout,
            episodes.info,
            identity,
            step,
            options.seed,
            seconds,
        )
        states = gather_generators(accelerator, generator)
        training = training_state(model, optimiser, states)
        if main:
            return save_checkpoint(run, header, average.module.state_dict(), training)
        return run

    last = run if step < options.steps else find_checkpoint(run)
    bar = tqdm(
        total=options.steps,
        initial=step,
        desc="training",
        unit="update",
        disable=not (options.progress and main),
        dynamic_ncols=True,
    )
    totals: dict[str, Tensor] = {}
    counted = 0
    with bar, MetricsFile(run / "metrics.jsonl", step, main) as metrics:
        began = time.perf_counter() - seconds
        logged = time.perf_counter()
        while step < options.steps:
            if model.proposer is not None and step % _RESIDUAL_EVERY == 0:
                windows = moved(sampler.sample(_RESIDUAL_WINDOWS, generator, "held-out"), device)
                error = measure_residual(model, model.proposer, windows, _RESIDUAL_RATE)
                metrics.add("error/free_running", error)
            batch = Batch(
                moved(sampler.sample(config.training.batch_size, generator), device),
                moved(sampler.transitions(head_batch, generator), device)
                if model.inverse_dynamics is not None
                else None,
                moved(sampler.valued(head_batch, generator), device)
                if model.value is not None or model.tells_of_states
                else None,
                moved(sampler.sample(objective.plain_rows, generator), device)
                if objective.plain_rows
                else None,
                moved(sampler.sample(head_batch, generator, acted=True), device)
                if objective.follows_proposals
                else None,
            )
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(config.training, step)
            with torch.autocast(
                accelerator.device.type, torch.bfloat16, enabled=config.training.bf16
            ):
                losses = wrapped(batch, generator)
            optimiser.zero_grad()
            accelerator.backward(torch.stack(list(losses.values())).sum())
            for parameters in parts.values():
                nn.utils.clip_grad_norm_(parameters, _GRAD_CLIP)
            optimiser.step()
            average.update()
            step += 1
            counted += 1
            for name, value in losses.items():
                total = totals.get(name)
                totals[name] = value.detach() if total is None else total + value.detach()
            seconds = time.perf_counter() - began
            bar.update()
            every = options.checkpoint_every
            due = step == options.steps or (every and step % every == 0)
            if step % _LOG_EVERY == 0 or due:
                values = {f"loss/{k}": float(v) / counted for k, v in totals.items()}
                windows_drawn = counted * config.training.batch_size * accelerator.num_processes
                metrics.add("samples_per_second", windows_drawn / (time.perf_counter() - logged))
                totals, counted = {}, 0
                if not all(math.isfinite(v) for v in values.values()):
                    raise DiffplanError(
                        f"a loss is not finite at update {step} ({values}); lower "
                        "--training.learning-rate; checkpoints made before are kept"
                    )
                row = metrics.write(step, seconds, values)
                accelerator.log(row, step=step)
                shown = {_SHORT.get(k, k): f"{v:.3f}" for k, v in values.items()}
                bar.set_postfix({**shown, "windows/s": f"{row['samples_per_second']:.0f}"})
            if due:
                last = save()
            if not counted:
                logged = time.perf_counter()  # neither saving nor logging counts as training
    accelerator.wait_for_everyone()  # nobody leaves while another still talks to it
    accelerator.end_training()
    return last
