"""DDIM and the ancestral sampler: from x at grid[0] to a clean plan.

The denoiser always returns x0_hat; conditions, proposal inputs and guidance are closed over. One
step from t to s is, for every process of `diffplan.diffusion.process`,

    eps_hat = (x_t - a_t x0_hat - r_t x̂) / sigma_t
    x_s     = a_s x0_hat + r_s x̂ + sqrt(sigma_s^2 - eta^2) eps_hat + eta z,    0 <= eta <= sigma_s,

gathered into float coefficients of x_t, x0_hat and x̂. A noise scale divides eps_hat and multiplies
it again, so it enters with z alone and may be zero.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from diffplan.diffusion.process import Process, noise_scale
from diffplan.diffusion.sampling import Denoise, Grid, Sampler, check_grid, noisy
from diffplan.errors import DiffplanError

if TYPE_CHECKING:
    from torch import Tensor


def ddim(
    denoise: Denoise,
    process: Process,
    grid: tuple[int, ...],
    x: Tensor,
    *,
    proposal: Tensor | None = None,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
    eta: float = 0.0,
) -> Tensor:
    """DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16) for any process: [B, H, D].

    x: start [B, H, D] at level grid[0]; grid: descending table indices that end at 0.
    proposal: x̂ [B, H, D], needed where the process has r != 0. scale: noise scale [H, D].
    eta: 0 deterministic, 1 the posterior's own noise; it scales that standard deviation.
    noise: standard normal [len(grid) - 1, B, H, D], needed for eta > 0; its last entry is unused.
    The last step returns x0_hat itself; a grid of one index returns x.
    """
    if not 0.0 <= eta <= 1.0:
        raise DiffplanError(f"ddim's eta must lie between 0 and 1, got {eta}")
    check_grid(process, grid, proposal)
    if eta > 0.0:
        _check_noise(grid, noise)
    spread = noise_scale(process, scale) if eta > 0.0 else 1.0
    a, r, sigma = process.a, process.r, process.sigma
    for i, (t, s) in enumerate(pairwise(grid)):
        x0 = denoise(x, t)
        if s == 0:
            return x0
        # noise that is drawn takes the place of noise that is kept: sigma_s stays what it is
        std = eta * process.posterior_std(t, s)
        if process.noisy:
            keep = math.sqrt(max(0.0, sigma[s] ** 2 - std**2)) / sigma[t]
        else:  # there is no eps to eliminate, but the proposal
            keep = r[s] / r[t]
        # in place: on a CPU a decision is bound by memory, not by arithmetic
        x = (keep * x).add_(x0, alpha=a[s] - keep * a[t])
        shift = r[s] - keep * r[t]
        if proposal is not None and shift != 0.0:
            x.add_(proposal, alpha=shift)
        if std > 0.0 and noise is not None:
            x.add_(noise[i] * spread, alpha=std)
    return x


def ancestral(
    denoise: Denoise,
    process: Process,
    grid: tuple[int, ...],
    x: Tensor,
    *,
    proposal: Tensor | None = None,
    scale: Tensor | None = None,
    noise: Tensor,
) -> Tensor:
    """Draw every step from the posterior q(x_s | x_t, x0_hat, x̂): [B, H, D].

    DDPM's ancestral sampling with the small variance (Ho et al. 2020, algorithm 2) and, for the
    residual process, that of Liu et al. 2024 (arXiv 2308.13712). It is `ddim` at eta = 1, whose
    arguments it takes.
    """
    return ddim(
        denoise,
        process,
        grid,
        x,
        proposal=proposal,
        scale=scale,
        noise=noise,
        eta=1.0,
    )


def _check_noise(grid: tuple[int, ...], noise: Tensor | None) -> None:
    if noise is None or len(noise) < len(grid) - 1:
        given = "none" if noise is None else f"{len(noise)} entries"
        raise DiffplanError(f"{len(grid) - 1} random steps need as many noise entries, got {given}")


def _any(process: Process, grid: Grid, statistics: Any) -> None:
    """Suits every process."""


SAMPLERS = (
    Sampler("ddim", ddim, _any, eta=lambda eta: eta, takes=("eta",), by_stream=True),
    Sampler("ancestral", ancestral, noisy("ancestral"), eta=lambda eta: 1.0),
)
