"""Guidance as functions from denoiser to denoiser.

All of it acts on x0_hat. At a fixed x_t, eps and v are affine in x0, so mixing x0 predictions with
weights that sum to one is the same as mixing eps or v predictions.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from diffplan.samplers import Denoise

DenoisePair = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""(x_t [B, H, D], table index t) -> (conditional, unconditional) x0_hat, each [B, H, D]."""


def pin(denoise: Denoise, index: int, value: Tensor) -> Denoise:
    """Hold plan state `index` at `value` [B, D], before and after denoising.

    The inpainting of Janner et al. 2022 (arXiv 2205.09991, section 3.3): the network sees the clean
    value at every level. What the caller passes in is copied, never written to.
    """

    row = value.unsqueeze(1)

    def held(x: Tensor) -> Tensor:
        return torch.cat([x[:, :index], row, x[:, index + 1 :]], 1)

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


def clip(denoise: Denoise, bound: float) -> Denoise:
    """Keep x0_hat within ±bound. Apply it before `pin`, which may hold a state outside."""

    def clipped(x: Tensor, t: int) -> Tensor:
        return denoise(x, t).clamp(-bound, bound)

    return clipped
