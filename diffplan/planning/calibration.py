"""What is measured of a trained model, written beside its weights and read with them.

Statistics for DPM-Solver-v3, and the Gaussian of the data's plans for `planning.start teleport`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffplan.config.sections import PlanningConfig
from diffplan.data.batches import Windows
from diffplan.diffusion.dpm_solver_v3 import Statistics
from diffplan.diffusion.dpm_statistics import TABLES, Part, Progress, estimate, last_level
from diffplan.diffusion.gaussian import Gaussian, fit_gaussian
from diffplan.diffusion.process import Process
from diffplan.errors import DiffplanError
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel
from diffplan.model.run_folder import find_checkpoint
from diffplan.planning.chains import Chain, chain_of
from diffplan.planning.stages import Noise, guide, optimise, propose

FILE, GAUSSIAN = "calibration.safetensors", "gaussian.safetensors"
CONDITIONS = ("start", "guidance_weight", "clip")
"""Planning settings that change the denoiser, and with it the statistics."""

_FORMAT = "1"
_BATCH = 256  # plans at once
_PROCESS = ("a", "r", "sigma")


# --- A trained model -----------------------------------------------------------------------------


def calibrated_process(model: PlannerModel, settings: PlanningConfig) -> Process:
    """The process that plans of these settings walk back along.

    Raises DiffplanError where dpm-solver-v3 cannot make them, or nothing is refined.
    """
    return _whole_chain(model, settings).process


@torch.no_grad()
def calibrate(
    model: PlannerModel,
    contexts: Context,
    settings: PlanningConfig,
    *,
    x0: Tensor | None = None,
    seed: int = 0,
    over_horizon: bool = False,
    progress: Progress | None = None,
) -> Statistics:
    """Statistics of the denoiser as these settings use it: conditions, guidance, clip and pin.

    contexts: [N] rows to plan for. x0: clean plans [N, rows, D] of the data in these contexts;
    None: the model's own plans, by ddim. progress: called `rounds(calibrated_process(...))` times.
    Raises DiffplanError as `calibrated_process` and `estimate` do.
    """
    # one plan a row, by the sampler that needs no statistics
    settings = dataclasses.replace(settings, candidates=1, sampler="ddim", eta=0.0)
    own, chain = chain_of(model, settings), _whole_chain(model, settings)
    generator = torch.Generator().manual_seed(seed)
    rows, dim, horizon = model.rows, model.plan_dim, model.config.plan.horizon
    device = contexts.state.device
    parts: list[Part] = []
    for first in range(0, len(contexts), _BATCH):
        taken = slice(first, first + _BATCH)
        context = contexts.rows(taken)
        count = len(context)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(device)

        noise = Noise(
            normal(count, 1, horizon, model.spec.planned_dim + 1),
            normal(count, 1, rows, dim),
            None,
            torch.zeros(count, 1, device=device),
        )
        proposal = propose(model, context, noise.propose, settings)
        plans = (
            x0[taken]
            if x0 is not None
            else optimise(model, context, proposal, noise, settings, own)[0]
        )
        drawn = normal(count, rows, dim)
        asked = guide(model, context, proposal, settings, chain)
        parts.append(Part(asked.denoise, plans, drawn, asked.shift, asked.scale))
    return estimate(
        chain.process,
        parts,
        seed=seed,
        over_horizon=over_horizon,
        conditions=conditions_of(settings),
        progress=progress,
    )


def _whole_chain(model: PlannerModel, settings: PlanningConfig) -> Chain:
    """The chain of these settings, through every level that has statistics."""
    if model.streams is not None:
        raise DiffplanError(
            "dpm-solver-v3 takes steps at one noise level, but the streams of this model "
            "(heads.kind streams) are each at a level of their own; they plan by ddim"
        )
    chain = chain_of(model, settings)
    if not isinstance(chain, Chain):
        raise DiffplanError(
            f"planning.start is {settings.start!r} with {settings.denoising_steps} steps, which "
            "refines nothing; give a start and steps that do, e.g. --start noise"
        )
    process, top = chain.process, last_level(chain.process)
    if chain.grid[0] > top:
        raise DiffplanError(
            f"planning.start is {settings.start!r}, which begins at level {chain.grid[0]} of "
            f"{process.name!r}, where x_t holds no signal or no noise and dpm-solver-v3 cannot "
            "begin; give --start noise or sdedit"
        )
    grid = tuple(range(top, -1, -1))
    time = chain.network.time_table(tuple(t / process.T for t in grid[:-1]))
    return dataclasses.replace(chain, grid=grid, time=time)


def conditions_of(settings: PlanningConfig) -> dict[str, float | str | None]:
    """What statistics depend on beside weights and process."""
    known = {name: getattr(settings, name) for name in CONDITIONS}
    if settings.start == "teleport":  # the same denoiser, from a lower level on
        known["start"] = "noise"
    return known


def check_conditions(statistics: Statistics, settings: PlanningConfig) -> None:
    """Raise DiffplanError where plans are asked for under other settings than were calibrated."""
    for name, asked in conditions_of(settings).items():
        known = statistics.conditions.get(name)
        if known != asked:
            raise DiffplanError(
                f"{name} of the planning settings is {asked}, but the statistics of dpm-solver-v3 "
                f"were estimated with {known}; plan with that, or calibrate anew, with --start or "
                "--guidance-weight of `diffplan calibrate` or, for the clip, after training with it"
            )


def gaussian_of(model: PlannerModel, windows: Windows) -> Gaussian:
    """The Gaussian of the plans of these windows, in environment units, in their contexts.

    Raises DiffplanError where the model has no denoiser, or these are too few.
    """
    if model.denoiser is None:
        raise DiffplanError(
            "this model has no denoiser whose chain could begin at a Gaussian; "
            "train another config than proposer-only or streams"
        )
    seen = model.normalised_windows(windows)
    actions = seen.actions if model.config.actions_in_plan else None
    x0 = model.to_plan(seen.states[:, 0], seen.states[:, 1:], actions)
    # what an episode's end leaves out is no part of a plan
    whole = seen.weight.to(x0) * seen.mask.amin(1)
    return fit_gaussian(x0.flatten(1), model.denoiser.encoder.flat(model.context_of(seen)), whole)


# --- Files ---------------------------------------------------------------------------------------


def save_statistics(statistics: Statistics, folder: Path) -> Path:
    """Write FILE into a checkpoint folder, whole or not at all; returns its path."""
    tensors = {name: getattr(statistics, name).contiguous() for name in TABLES}
    for name in _PROCESS:
        tensors[name] = torch.tensor(getattr(statistics, name), dtype=torch.float64)
    metadata = {
        "diffplan_calibration": _FORMAT,
        "conditions": json.dumps(dict(statistics.conditions)),
        "details": json.dumps(dict(statistics.details)),
    }
    return _written(save(tensors, metadata), folder / FILE)


def load_statistics(folder: str | Path) -> Statistics:
    """The statistics of a run's last checkpoint, or of a checkpoint folder.

    Raises DiffplanError where there are none, or the file is damaged.
    """
    file = find_checkpoint(folder) / FILE
    if not file.is_file():
        raise DiffplanError(
            f"{file.parent} has no {FILE}, which sampler dpm-solver-v3 needs; "
            f"run `diffplan calibrate {folder}` first"
        )
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            tables = {name: opened.get_tensor(name) for name in TABLES}
            a, r, sigma = (tuple(opened.get_tensor(name).tolist()) for name in _PROCESS)
        if metadata["diffplan_calibration"] != _FORMAT:
            raise DiffplanError(
                f"{file} has format {metadata['diffplan_calibration']}, this version reads "
                f"{_FORMAT}; run `diffplan calibrate {folder}` anew"
            )
        return Statistics(
            **tables,
            a=a,
            r=r,
            sigma=sigma,
            conditions=json.loads(metadata["conditions"]),
            details=json.loads(metadata["details"]),
        )
    except (SafetensorError, KeyError, ValueError) as error:
        raise DiffplanError(
            f"{file} is damaged ({error}); run `diffplan calibrate {folder}` anew"
        ) from None


def save_gaussian(gaussian: Gaussian, folder: Path) -> Path:
    """Write GAUSSIAN into a checkpoint folder, whole or not at all; returns its path."""
    parts = {each.name: getattr(gaussian, each.name) for each in dataclasses.fields(gaussian)}
    tensors = {name: part.contiguous().cpu() for name, part in parts.items()}
    return _written(save(tensors, {"diffplan_gaussian": _FORMAT}), folder / GAUSSIAN)


def load_gaussian(folder: str | Path) -> Gaussian:
    """The Gaussian of a run's last checkpoint, or of a checkpoint folder.

    Raises DiffplanError where there is none, or the file is damaged.
    """
    file = find_checkpoint(folder) / GAUSSIAN
    again = f"run `diffplan calibrate {folder} --start teleport`"
    if not file.is_file():
        raise DiffplanError(
            f"{file.parent} has no {GAUSSIAN}, which start teleport needs; {again} first"
        )
    try:
        with safe_open(file, "pt") as opened:
            names = [each.name for each in dataclasses.fields(Gaussian)]
            return Gaussian(**{name: opened.get_tensor(name) for name in names})
    except (SafetensorError, KeyError) as error:
        raise DiffplanError(f"{file} is damaged ({error}); {again} anew") from None


def _written(data: bytes, file: Path) -> Path:
    partial = file.with_name(f".{file.name}.partial")
    partial.write_bytes(data)
    os.replace(partial, file)
    return file
