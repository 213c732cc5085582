"""Guidance as functions from denoiser to denoiser.

All of it acts on x0_hat. At a fixed x_t, eps and v are affine in x0, so mixing x0 predictions with
weights that sum to one is the same as mixing eps or v predictions.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from diffplan.diffusion.process import Process
from diffplan.diffusion.sampling import Denoise

DenoisePair = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""(x_t [B, H, D], table index t) -> (conditional, unconditional) x0_hat, each [B, H, D]."""


def pin(
    denoise: Denoise, index: int, value: Tensor, columns: tuple[int, ...] | None = None
) -> Denoise:
    """Hold plan state `index` at `value`, before and after denoising.

    The inpainting of Janner et al. 2022 (arXiv 2205.09991, section 3.3): the network sees the clean
    value at every level. index: 0 for the current state, -1 for the last, any other for a waypoint.
    value: [B, D], or [B, len(columns)] for some columns of that state. Pins stack. What the
    caller passes in is copied, never written to.
    """

    def held(x: Tensor) -> Tensor:
        row = x[:, index]
        if columns is None:
            row = value
        else:
            parts = list(row.split(1, -1))
            for place, column in enumerate(columns):
                parts[column] = value[:, place : place + 1]
            row = torch.cat(parts, -1)
        after = x[:, index + 1 :] if index != -1 else x[:, :0]
        return torch.cat([x[:, :index], row.unsqueeze(1), after], 1)

    # before, so that the network plans from the value; after, so that the chain keeps it
    def pinned(x: Tensor, t: int) -> Tensor:
        return held(denoise(held(x), t))

    return pinned


def classifier_free_batched(pair: DenoisePair, weight: float) -> Denoise:
    """x0_u + weight (x0_c - x0_u) (Ho & Salimans 2022, arXiv 2207.12598, eq. 6, weight = 1 + w).

    `pair` gives both predictions, in one forward of 2B rows (`Denoiser.pair`). Weight 1 is the
    conditional model.
    """

    def guided(x: Tensor, t: int) -> Tensor:
        conditional, unconditional = pair(x, t)
        return torch.lerp(unconditional, conditional, weight)

    return guided


def product(several: Callable[[Tensor, int], Sequence[Tensor]], weights: list[float]) -> Denoise:
    """x0_u + sum_i weight_i (x0_i - x0_u) (Liu et al. 2022, arXiv 2206.01714, eq. 11).

    several: (x_t [B, H, D], table index t) -> x0_hat under each condition, then under none.
    """

    def guided(x: Tensor, t: int) -> Tensor:
        *told, free = several(x, t)
        found = free
        for weight, each in zip(weights, told, strict=True):
            found = found + weight * (each - free)
        return found

    return guided


def clip(denoise: Denoise, bound: float) -> Denoise:
    """Keep x0_hat within ±bound. Apply it before `pin`, which may hold a state outside."""

    def clipped(x: Tensor, t: int) -> Tensor:
        return denoise(x, t).clamp(-bound, bound)

    return clipped


Gradient = Callable[[Tensor, int], Tensor]
"""(x_t [B, H, D], table index t) -> gradient of a value in x_t [B, H, D], 0 where x_t is held."""

GUIDE_STEPS = 2  # gradients a level, as released


def value_gradient(
    denoise: Denoise,
    gradient: Gradient,
    process: Process,
    weight: float,
    until: int,
    grid: tuple[int, ...],
    eta: float = 1.0,
) -> Denoise:
    """Move x_t up the gradient of a value before a step (Janner et al. 2022, arXiv 2205.09991).

    As released, not as in algorithm 1: x_t itself is moved, by `GUIDE_STEPS` gradients whose
    weights sum to `weight`, times the variance of the ancestral step; the network sees the moved
    x_t, and the step of `grid`, by ddim with this eta (1 is ancestral), starts there. What sampler
    takes other steps is guided about as much.
    until: level below which nothing guides; the last step, which is not noisy, never is.
    """
    steps = (pair for pair in pairwise(grid) if pair[0] >= until)
    # floats before any plan is made: nothing here depends on the data
    shares = {t: _shares(process, t, s, eta) for t, s in steps}

    def guided(x: Tensor, t: int) -> Tensor:
        variance, kept = shares.get(t, (0.0, 0.0))
        if variance == 0.0:
            return denoise(x, t)
        moved = x
        for _ in range(GUIDE_STEPS):
            moved = moved + weight / GUIDE_STEPS * variance * gradient(moved, t)
        # the sampler knows x_t as it was: x0_hat makes up for that
        return denoise(moved, t) + kept * (moved - x)

    return guided


def _shares(process: Process, t: int, s: int, eta: float) -> tuple[float, float]:
    """Variance of the ancestral step t -> s; share of x_t over that of x0_hat in ddim's."""
    variance = process.posterior_std(t, s) ** 2
    if variance == 0.0:
        return 0.0, 0.0
    keep = math.sqrt(max(0.0, process.sigma[s] ** 2 - eta**2 * variance)) / process.sigma[t]
    return variance, keep / (process.a[s] - keep * process.a[t])
