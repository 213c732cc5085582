"""Chains that meet constraints in their own way: an optimised proposal, and particles."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from diffplan.config.sections import PlanningConfig
from diffplan.diffusion.ddim import ddim
from diffplan.diffusion.process import Process
from diffplan.model.context import Context
from diffplan.model.proposer.base import Proposal
from diffplan.planning.chains import Chain
from diffplan.planning.stages import Guided, Noise, guide, start_of
from diffplan.planning.wanted import Wanted, slope_of

_PULL, _RATE = 0.25, 0.1  # of red-diff, as in its paper


def reddiff(
    wanted: Wanted, guided: Guided, noise: Noise, settings: PlanningConfig, chain: Chain
) -> Tensor:
    """Optimise plans from the proposal: one Adam step a level, always with the same noise.

    The gradient of the regulariser at a level is eps_hat - eps = a (mu - x0_hat) / sigma, weighed
    by sigma / a.
    """
    process, eps = chain.process, settings.noise_scale * noise.start.flatten(0, 1)
    if process.scaled and guided.scale is not None:
        eps = eps * guided.scale
    first = start_of(guided, noise, settings, chain) if guided.x_hat is None else guided.x_hat
    mu, mean, square = first, torch.zeros_like(first), torch.zeros_like(first)

    for step, (t, _) in enumerate(pairwise(chain.grid), 1):
        x_t = process.a[t] * mu + process.sigma[t] * eps
        if guided.shift is not None:
            x_t = x_t + process.r[t] * guided.shift
        _, away = slope_of(lambda at: 0.5 * wanted.off(at).square(), mu)
        slope = _PULL * (mu - guided.denoise(x_t, t)) + wanted.weight * away
        mean, square = 0.9 * mean + 0.1 * slope, 0.99 * square + 0.01 * slope.square()
        size = (square / (1 - 0.99**step)).sqrt() + 1e-8
        mu = mu - _RATE * mean / (1 - 0.9**step) / size
    return mu


def smc(
    wanted: Wanted,
    context: Context,
    proposal: Proposal | None,
    noise: Noise,
    settings: PlanningConfig,
    chain: Chain,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`particles` of whole plans: each keeps the proposal that it is drawn to."""
    parents = proposal

    def guided_of(index: Tensor | None) -> Guided:
        nonlocal parents
        if index is not None and parents is not None:
            parents = Proposal(parents.states[index], parents.returns[index])
        return guide(wanted.model, context, parents, settings, chain)

    first = guided_of(None)
    x = start_of(first, noise, settings, chain)
    steps = None if noise.steps is None else settings.noise_scale * noise.steps.flatten(1, 2)
    return particles(
        *(guided_of, first, chain.process, chain.grid, x, steps, settings.eta),
        potential=lambda x0: wanted.weight * wanted.off(x0).square(),
        k=settings.candidates,
        steered=wanted.way == "smc-gradient",
    )


# many arguments: a chain and what weighs it
def particles(
    guided_of: Callable[[Tensor | None], Guided],
    guided: Guided,
    process: Process,
    grid: tuple[int, ...],
    x: Tensor,
    steps: Tensor | None,
    eta: float,
    *,
    potential: Callable[[Tensor], Tensor],
    k: int,
    steered: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Annealed sequential Monte Carlo along a chain: x_0 [B*k, rows, D].

    The potential at a level is a_t^2 times that of x0_hat, so that the log weights of a particle
    telescope to the potential of the finished plan. Resampled are rows of k particles each where
    fewer than half of them count, and all before the last step but one: after that copies would
    stay copies.
    steered: noise drifts down the potential's gradient g through the denoiser, by v g for noise of
    variance v, and weights make up for it by exp(sqrt(v) g n - v g^2 / 2), n the noise that was
    drawn: which particles there are changes, and not what they are drawn from.
    guided_of: the denoiser of resampled rows [B*k], None for those at the start, which `guided` is.
    """
    logits = torch.zeros(len(x) // k, k, device=x.device)
    before, last = torch.zeros_like(logits), len(grid) - 2
    for i, (t, s) in enumerate(pairwise(grid)):
        x0, slope = guided.denoise(x, t), None
        # after the last resampling nothing would make up for it
        if steered and i < last - 1:
            slope = _slope(guided, x, t, process.a[t] ** 2, potential)
        if i < last:
            now = process.a[t] ** 2 * potential(x0).view(-1, k)
            logits = logits - (now - before)
            index, poor = resampled(logits, always=i == last - 1)
            before = now.gather(1, index)
            logits = torch.where(poor[:, None], torch.zeros_like(logits), logits)
            if bool(poor.any()):
                rows = (index + k * torch.arange(len(index), device=x.device)[:, None]).flatten()
                x, x0, guided = x[rows], x0[rows], guided_of(rows)
                slope = None if slope is None else slope[rows]
        drawn = None if steps is None else steps[i : i + 1]
        before_it, x = x, _one_step(guided, process, (t, s), x, x0, drawn, eta)
        if slope is not None and drawn is not None:
            still = _one_step(guided, process, (t, s), before_it, x0, torch.zeros_like(drawn), eta)
            ones = _one_step(guided, process, (t, s), before_it, x0, torch.ones_like(drawn), eta)
            drift = (ones - still) * slope
            x = x - (ones - still) * drift
            made_up = (drift * drawn[0] - 0.5 * drift.square()).sum((1, 2))
            logits = logits + made_up.view(-1, k)
    return x, guided.said


def _slope(
    guided: Guided, x: Tensor, t: int, share: float, potential: Callable[[Tensor], Tensor]
) -> Tensor | None:
    """Gradient in x [B*k, rows, D] of a share of the potential of x0_hat; None if it has none."""
    with torch.inference_mode(False), torch.enable_grad():
        at = x.detach().clone().requires_grad_()
        found = potential(guided.denoise(at, t)).sum()
        if not found.requires_grad:
            return None
        (slope,) = torch.autograd.grad(found, at)
    return share * slope


def _one_step(
    guided: Guided,
    process: Process,
    pair: tuple[int, int],
    x: Tensor,
    x0: Tensor,
    drawn: Tensor | None,
    eta: float,
) -> Tensor:
    """ddim's step between two levels, with x0_hat at hand."""
    if pair[1] == 0:
        return x0
    # a chain of its own that ends after this step: its last x0_hat is what the step left
    return ddim(
        lambda at, t: x0 if t == pair[0] else at,
        process,
        (*pair, 0),
        x,
        proposal=guided.shift,
        scale=guided.scale,
        noise=None if drawn is None else torch.cat([drawn, drawn]),
        eta=0.0 if drawn is None else eta,
    )


def resampled(logits: Tensor, always: bool = False) -> tuple[Tensor, Tensor]:
    """Systematic resampling of K particles, where fewer than half count: index [B, K], marked [B].

    logits: [B, K] log weights. always: mark all. The strata's middles are taken, so that nothing
    is drawn.
    """
    weights = logits.softmax(1)
    k = weights.shape[1]
    poor = (weights.square().sum(1).reciprocal() < k / 2) | always
    places = (torch.arange(k, device=logits.device) + 0.5) / k
    index = torch.searchsorted(weights.cumsum(1), places.expand(len(weights), k).contiguous())
    same = torch.arange(k, device=logits.device).expand_as(index)
    return torch.where(poor[:, None], index.clamp(max=k - 1), same), poor
