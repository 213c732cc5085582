"""What plans say of columns that nobody measured, and which to measure next.

Active Diffusion Subsampling (Nolan et al. 2025, arXiv 2406.14388): particles of the reverse
process, held to what was measured, spread most where it is least known, and that is measured next.
Here the particles are a plan that is being followed, noised and denoised again from particles of
the state in which it was made; they are held by projection in every step, as to any constraint.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from diffplan.config.sections import PlanningConfig
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel
from diffplan.model.proposer.base import Proposal
from diffplan.planning.chains import Chain
from diffplan.planning.editing import Held
from diffplan.planning.stages import Noise
from diffplan.planning.wishes import Wishes

_NOISE = 1e-4  # variance of a measurement, where the data's is 1


def posterior(
    model: PlannerModel,
    context: Context,
    followed: Tensor,
    starts: Tensor,
    measured: Tensor,
    noise: Tensor,
    settings: PlanningConfig,
    chain: Chain,
) -> Tensor:
    """Particles [B, K, H+1, D] of the states along plans that are being followed.

    context: normalised, of when the plans were made. followed: [B, H+1, D] the plans. starts:
    [B, K, D] particles of the state in which they were made: what is not known of it goes along
    with the plan. measured: [B, H+1, D], NaN where not. noise: [B, K, rows, P]. All states in
    environment units. settings, chain: how the plans were made, with K candidates.
    """
    rows, k = noise.shape[:2]
    begun = model.states(model.planned_part(starts)).flatten(0, 1)
    planned = model.states(model.planned_part(followed)).repeat_interleave(k, 0)
    ahead = planned[:, 1:] + (begun - planned[:, 0])[:, None]
    proposal = Proposal(ahead, ahead.new_full(ahead.shape[:2], torch.nan))
    wishes = Wishes((Held(measured.repeat_interleave(k, 0)),))
    context = replace(context.repeat(k), state=begun)
    given = Noise(noise[..., :0], noise, None, noise[..., 0, 0])
    x, _ = wishes.optimise(model, context, proposal, given, settings, chain)
    found = model.environment_states(model.from_plan(context.state, x))
    return found.unflatten(0, (rows, k))


def most_telling(particles: Tensor, sensors: tuple[tuple[int, ...], ...], count: int) -> Tensor:
    """Marks [B, S] the sensors that tell most about particles [B, K, D] of normalised states.

    sensors: the columns of each. They are chosen one after the other by the entropy of what they
    would show, given those before, as of a Gaussian with the particles' covariance, so that two
    that show the same are not both asked.
    """
    batch, k, dim = particles.shape
    away = particles - particles.mean(1, keepdim=True)
    covariance = away.transpose(1, 2) @ away / max(k - 1, 1)
    marked = torch.zeros(batch, len(sensors), dtype=torch.bool, device=particles.device)
    one = torch.eye(dim, device=particles.device)
    for _ in range(min(count, len(sensors))):
        tells = []
        for columns in sensors:
            block = covariance[:, columns][:, :, columns] / _NOISE
            tells.append(torch.logdet(block + one[: len(columns), : len(columns)]))
        best = torch.stack(tells, 1).masked_fill(marked, -1.0).argmax(1)
        marked[torch.arange(batch, device=marked.device), best] = True
        for place, columns in enumerate(sensors):
            rows = (best == place).nonzero()[:, 0]
            if len(rows):
                covariance[rows] = _given(covariance[rows], columns)
    return marked


def _given(covariance: Tensor, columns: tuple[int, ...]) -> Tensor:
    """Covariance [b, D, D] after a measurement of these columns."""
    beside = covariance[:, :, columns]
    block = covariance[:, columns][:, :, columns]
    block = block + _NOISE * torch.eye(len(columns), device=block.device)
    left = covariance - beside @ torch.linalg.solve(block, beside.transpose(1, 2))
    return (left + left.transpose(1, 2)) / 2
