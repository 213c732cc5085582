"""How far free-running proposals are from the data: the noise scale of residual processes."""

from __future__ import annotations

import torch

from diffplan.data.batches import Windows
from diffplan.model.planner_model import PlannerModel


@torch.no_grad()
def measure_residual(model: PlannerModel, windows: Windows, rate: float) -> float:
    """Free-running error of the proposer on held-out windows; updates the noise scale.

    rate: weight of the new measurement in `residual_rms` (the first one replaces it).
    Returns the root mean square in plan units, weighted as in training.
    """
    assert model.proposer is not None
    z = model.states(windows.states)
    target = model.normalised_returns(windows.returns[:, 0]) if model.use_returns else None
    model.proposer.eval()  # without dropout, as at planning time
    proposal = model.proposer.propose(
        z[:, 0], model.goal(windows.goals), target, task=model.task_code(windows)
    )
    model.proposer.train(model.training)
    error = model.to_plan(z[:, 0], proposal.states) - model.to_plan(z[:, 0], z[:, 1:])
    mask = windows.mask * windows.weight.unsqueeze(-1)
    if model.absolute:
        mask = torch.cat([torch.ones_like(mask[:, :1]), mask], 1)
    squares = (error.square() * mask.unsqueeze(-1)).sum(0)
    rms = (squares / mask.sum(0).clamp(min=1e-6).unsqueeze(-1)).sqrt()
    rate = 1.0 if not model.residual_known else rate
    model.residual_rms.lerp_(rms, rate)
    model.residual_known.fill_(1.0)
    return float(rms.square().mean().sqrt())
