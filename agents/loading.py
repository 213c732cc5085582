"""The trained agent of a run."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

from diffplan.agents.origin import Origin
from diffplan.agents.planner_agent import PlannerAgent
from diffplan.diffusion.samplers import SAMPLERS
from diffplan.errors import DiffplanError
from diffplan.lazy import late
from diffplan.model.checkpoint import load_model
from diffplan.model.run_folder import find_checkpoint
from diffplan.model.tuned import read_tuning, tuned_before
from diffplan.nn.device import find_device
from diffplan.planning.calibration import load_gaussian, load_statistics

_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_downloaded = late("diffplan.agents.hub:downloaded")


def load_agent(
    run: str | Path,
    checkpoint: str | int = "last",
    device: str = "cpu",
    seed: int = 0,
    engine: str = "auto",
    batch_size: int | None = None,
    detailed: bool = False,
    tuned: bool = True,
    **planning: Any,
) -> PlannerAgent:
    """The trained agent of a run folder or checkpoint folder, or of the Hugging Face Hub.

    run: a folder. Text of the form "user/model" that names neither a folder nor something in one
    is asked of the hub, which downloads it once (`huggingface_hub`, HF_HUB_OFFLINE forbids it).
    checkpoint: "last", the number of updates of a kept checkpoint, or "best", which `diffplan
    evaluate --checkpoint best` chose. device: "cpu", "cuda",
    "cuda:1", "mps" or "auto". engine: how decisions are run: "eager", "onnx", "onnx-int8" (other
    plans, see docs/performance.md), "cuda-graph", "cuda-graph-tf32", "cuda-graph-bf16" (the
    last two change plans, see docs/gpu.md), or "auto", the fastest that is installed and changes
    nothing. Its graphs are kept beside the checkpoint. batch_size: make them ready for batches of
    up to so many rows, so that no call of `predict` waits for them. detailed: plans in the state
    hold their proposals and candidates, too.
    tuned: plan with what `diffplan tune` chose for the checkpoint, if it did; False: with the
    settings of its training. planning: settings of `diffplan.config.PlanningConfig` to change, e.g.
    denoising_steps=3, replan_every=8.
    Raises DiffplanError if the folder is no run, or damaged.
    """
    if not isinstance(run, str | os.PathLike) or str(run) == "":
        raise DiffplanError(
            f"load_agent was given {run!r}, expected the folder of a run, or user/model of the hub"
        )
    path = find_checkpoint(_downloaded(run) if _is_remote(run) else run, checkpoint)
    model, header, _ = load_model(path, find_device(device))
    tuning = read_tuning(path) if tuned else None
    given = planning
    if tuning is not None:
        planning = tuning.planning | given
    elif tuned and checkpoint == "last" and (older := tuned_before(path)) is not None:
        warnings.warn(
            f"{path.name} plans with the settings of its training: those in {older.name} were "
            f"tuned for its own weights; `diffplan tune {path.parent}` tunes these",
            stacklevel=2,
        )
    # read only where they are used: they lie beside the checkpoint, and need not
    sampler = SAMPLERS.get(planning.get("sampler", model.config.planning.sampler))
    if sampler is not None and sampler.takes_statistics:  # the agent refuses wrong names
        model.statistics = load_statistics(path)
    if planning.get("start", model.config.planning.start) == "teleport":
        model.gaussian = load_gaussian(path)
    agent = PlannerAgent(
        model,
        header.layout,
        header.info,
        config_name=header.config.name,
        train_seconds=header.seconds,
        updates=header.step,
        seed=seed,
        engine=engine,
        detailed=detailed,
        graphs=path / "graphs",
        **planning,
    )
    agent.origin = Origin(header, path, tuning, given)
    if batch_size is not None:
        agent.prepare(batch_size)
    return agent


def _is_remote(run: str | Path) -> bool:
    """Whether the hub is meant: a wrong name in a folder that exists is a slip, not a model."""
    named = isinstance(run, str) and _HUB.fullmatch(run) is not None
    return named and not Path(run).exists() and not Path(run).parent.exists()
