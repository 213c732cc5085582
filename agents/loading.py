"""The trained agent of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from diffplan.agents.planner_agent import PlannerAgent
from diffplan.config.choices import check_device
from diffplan.diffusion.samplers import SAMPLERS
from diffplan.errors import DiffplanError
from diffplan.model.checkpoint import load_model
from diffplan.model.run_folder import find_checkpoint
from diffplan.planning.calibration import load_statistics


def load_agent(
    run: str | Path,
    checkpoint: str | int = "last",
    device: str = "cpu",
    seed: int = 0,
    engine: str = "eager",
    **planning: Any,
) -> PlannerAgent:
    """The trained agent of a run folder or checkpoint folder.

    checkpoint: "last" or the number of updates of a kept checkpoint. engine: "eager", "onnx" (the
    fastest on a CPU, needs `diffplan[onnx]`), "cuda-graph" or "auto". planning: settings of
    `diffplan.config.PlanningConfig` to change, e.g. denoising_steps=3, replan_every=8.
    Raises DiffplanError if the folder is no run, or damaged.
    """
    check_device(device)
    path = find_checkpoint(run, checkpoint)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise DiffplanError(f"device is {device!r}, but PyTorch sees no CUDA device; use 'cpu'")
    model, header, _ = load_model(path, device)
    # read only where they are used: they lie beside the checkpoint, and need not
    sampler = SAMPLERS.get(planning.get("sampler", model.config.planning.sampler))
    if sampler is not None and sampler.takes_statistics:  # the agent refuses wrong names
        model.statistics = load_statistics(path)
    return PlannerAgent(
        model,
        header.layout,
        header.info,
        config_name=header.config.name,
        train_seconds=header.seconds,
        updates=header.step,
        seed=seed,
        engine=engine,
        **planning,
    )
