"""How large a model would be, known before any of it is made."""

from __future__ import annotations

from pathlib import Path

import torch

from diffplan.config.config import Config
from diffplan.limits import require_disk, require_memory
from diffplan.model.planner_model import PlannerModel
from diffplan.model.spec import ModelSpec

_COPIES = 5  # of the weights in training: live, averaged, gradients, two moments
_SAVED = 4  # in a checkpoint, without the gradients


def check_size(spec: ModelSpec, config: Config, run: Path) -> None:
    """Raise DiffplanError where a model cannot be trained in memory or saved in `run`."""
    # weights without memory and without random numbers
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = PlannerModel(spec, config)
    tensors = (*model.parameters(), *model.buffers())
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    advice = "lower --proposer.width, --denoiser.width or another size"
    require_memory(_COPIES * size, f"training {config.name} of these sizes", advice)
    # windows and what one layer makes of each
    window = (config.plan.horizon + 1) * (spec.state_dim + spec.action_dim) + config.denoiser.width
    batch = 4 * config.training.batch_size * window
    require_memory(batch, "a batch of these sizes", "lower --training.batch-size")
    # the one before is kept until the next is written
    require_disk(run, _SAVED * size, "a checkpoint", "free some, or choose another --out")
