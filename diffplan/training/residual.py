"""How far free-running proposals are from the data: the noise scale of residual processes."""

from __future__ import annotations

import torch

from diffplan.data.batches import Windows
from diffplan.model.planner_model import PlannerModel
from diffplan.model.proposer.base import Proposer


@torch.no_grad()
def measure_residual(
    model: PlannerModel, proposer: Proposer, windows: Windows, rate: float
) -> float:
    """Free-running error of the proposer on held-out windows; updates the noise scale.

    windows: in environment units. rate: weight of the new measurement in `residual_rms` (the first
    one replaces it). Returns the root mean square in plan units, weighted as in training.
    """
    windows = model.normalised_windows(windows)
    context, states = model.context_of(windows), windows.states
    proposer.eval()  # without dropout, as at planning time
    proposal = proposer.propose(context)
    proposer.train(model.training)
    start = context.state
    error = model.to_plan(start, proposal.states) - model.to_plan(start, states[:, 1:])
    mask = model.row_mask(windows.mask * windows.weight.unsqueeze(-1))
    # per plan step and column: what is far off in one is exact in another
    squares = (error.square() * mask.unsqueeze(-1)).sum(0)
    rms = (squares / mask.sum(0).clamp(min=1e-6).unsqueeze(-1)).sqrt()
    rate = 1.0 if not model.residual_known else rate
    model.residual_rms.lerp_(rms, rate)
    model.residual_known.fill_(1.0)
    return float(rms.square().mean().sqrt())
