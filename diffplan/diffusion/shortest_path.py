"""Plain DDPM whose schedule follows the spectrum of the data over the horizon.

Das et al. 2023 (arXiv 2306.00501): every frequency goes from its variance in the data to that of
white noise on the shortest way, along which variances change by equal factors.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from diffplan.diffusion.sampling import Denoise

_MOST = 0.999  # of what a step forgets, as in the cosine schedule
_LEAST = 1e-6  # variance of a frequency: columns that never move


def cosines(horizon: int, device: torch.device | str = "cpu") -> Tensor:
    """The orthonormal cosine transform [H, H], a frequency in each row (DCT-II)."""
    at = torch.arange(horizon, dtype=torch.float64, device=device)
    basis = torch.cos(math.pi / horizon * at[:, None] * (at + 0.5)) * math.sqrt(2 / horizon)
    basis[0] /= math.sqrt(2)
    return basis


def spectrum(x: Tensor) -> Tensor:
    """Variance [H, D] of each frequency of plans x [n, H, D]; plans have mean zero."""
    return (cosines(x.shape[1], x.device).to(x) @ x).square().mean(0)


class ShortestPath:
    """x_t = C^T (a_t C x0 + sigma_t C eps), with tables a and sigma [T + 1, H, D].

    With the variance v of a frequency abar_t = (1 - v^s) / (1 - v) at s = (T - t) / T, so that x_t
    has v^s there: the data's at t = 0, 1 at t = T. Beside a proposal, which it does not lead to.
    """

    def __init__(self, variances: Tensor, levels: int) -> None:
        """variances: [H, D], of `spectrum`. levels: T."""
        v = variances.double().clamp(min=_LEAST)
        left = torch.arange(levels, -1, -1, dtype=torch.float64, device=v.device) / levels
        left = left.view(-1, 1, 1)
        log = v.log()
        # the ratio's limit where v is 1
        kept = torch.where(log.abs() < 1e-6, left, torch.expm1(left * log) / torch.expm1(log))
        step = (kept[1:] / kept[:-1]).clamp(min=1 - _MOST)
        kept = torch.cat([torch.ones_like(kept[:1]), step.cumprod(0)])
        self.a, self.sigma = kept.sqrt().to(variances), (1 - kept).sqrt().to(variances)
        self.basis = cosines(len(v), v.device).to(variances)

    def _mixed(self, a: Tensor, x: Tensor, sigma: Tensor, other: Tensor) -> Tensor:
        return self.basis.T @ (a * (self.basis @ x) + sigma * (self.basis @ other))

    def sample(self, t: Tensor, x0: Tensor, noise: Tensor) -> Tensor:
        """Draw x_t [B, H, D] given x0, for one level t [B] per row."""
        return self._mixed(self.a[t], x0, self.sigma[t], noise)

    def noised(self, t: int, x0: Tensor, noise: Tensor) -> Tensor:
        """`sample` where all rows have one level."""
        return self._mixed(self.a[t], x0, self.sigma[t], noise)

    def walk(self, denoise: Denoise, grid: tuple[int, ...], x: Tensor) -> Tensor:
        """DDIM without noise from x [B, H, D] at grid[0], the same step in every frequency."""
        for t, s in pairwise(grid):
            x0 = denoise(x, t)
            if s == 0:
                return x0
            keep = self.sigma[s] / self.sigma[t]
            x = self._mixed(keep, x, self.a[s] - keep * self.a[t], x0)
        return x
