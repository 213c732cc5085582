"""Plans as one Gaussian together with what they are made for: what a linear planner knows.

For x0 given c ~ N(mu(c), C) with mu linear in c and C = U diag(v) U^T everything is known in closed
form: the denoiser (the Wiener filter) and the whole way of a reverse ODE, which a chain from noise
can be put on at a lower level (Wang & Vastola 2023, arXiv 2303.02490).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffplan.diffusion.process import Process
from diffplan.errors import DiffplanError

_RIDGE = 1e-6  # of the mean variance: columns that never move, and those that are sums of others


@dataclass(frozen=True)
class Gaussian:
    """x0 [B, N] given c [B, C] ~ N(mean + (c - centre) gain, vectors diag(variances) vectors^T).

    mean: [N]. centre: [C]. gain: [C, N]. vectors: [N, N], a column for each of the variances [N].
    """

    mean: Tensor
    centre: Tensor
    gain: Tensor
    vectors: Tensor
    variances: Tensor

    @property
    def spread(self) -> float:
        """Root mean square of what c leaves open."""
        return float(self.variances.mean().sqrt())

    def given(self, c: Tensor) -> Tensor:
        """Means [B, N] for what plans are made for [B, C]."""
        return torch.addmm(self.mean - self.centre @ self.gain, c, self.gain)

    def denoise(self, y: Tensor, mean: Tensor, a: float, sigma: Tensor) -> Tensor:
        """E[x0 | y] [B, N] for y = a x0 + sigma eps, with the means [B, N] of x0.

        sigma: [N] or []. The Wiener filter mean + a C (a^2 C + sigma^2)^-1 (y - a mean).
        """
        if sigma.ndim == 0 or bool((sigma == sigma[0]).all()):
            kept = a * self.variances / (a**2 * self.variances + sigma.flatten()[0] ** 2)
            return mean + ((y - a * mean) @ self.vectors * kept) @ self.vectors.T
        covariance = (self.vectors * self.variances) @ self.vectors.T
        total = a**2 * covariance + torch.diag(sigma**2)
        return mean + a * (y - a * mean) @ torch.linalg.solve(total, covariance)


def fit_gaussian(x: Tensor, c: Tensor, weights: Tensor | None = None) -> Gaussian:
    """The Gaussian of plans x [n, N] and what they were made for c [n, C], in float64.

    weights: [n] of the samples, None where they are alike. C may be 0. Raises DiffplanError where
    they are fewer than the numbers that are fitted to them.
    """
    x, c = x.double(), c.double()
    w = torch.ones_like(x[:, 0]) if weights is None else weights.double()
    if int((w > 0).sum()) <= x.shape[1] + c.shape[1]:
        raise DiffplanError(
            f"a Gaussian over {x.shape[1]} numbers given {c.shape[1]} needs more plans than these, "
            f"got {int((w > 0).sum())}"
        )
    w = w / w.sum()
    mean, centre = w @ x, w @ c
    u, v = x - mean, c - centre
    of_c = v.T @ (w[:, None] * v)
    floor = _RIDGE * of_c.diag().mean() if c.shape[1] else 1.0
    eye = torch.eye(c.shape[1], dtype=x.dtype, device=x.device)
    gain = torch.linalg.solve(of_c + (floor + 1e-12) * eye, v.T @ (w[:, None] * u))
    rest = u - v @ gain
    variances, vectors = torch.linalg.eigh(rest.T @ (w[:, None] * rest))
    least = float(_RIDGE * variances.mean())
    return Gaussian(mean, centre, gain, vectors, variances.clamp(min=least))


@dataclass(frozen=True)
class Jump:
    """Standard noise and conditions to x at a lower level, as the reverse ODE would bring it there.

    x_t = base + c by_condition + eps by_noise: [N], [C, N] and [N, N].
    """

    base: Tensor
    by_condition: Tensor
    by_noise: Tensor

    def __call__(self, noise: Tensor, c: Tensor) -> Tensor:
        """noise [B, H, D] and what plans are made for [B, C] -> x_t [B, H, D]."""
        x = torch.addmm(self.base, noise.flatten(1), self.by_noise)
        return torch.addmm(x, c, self.by_condition).view_as(noise)


def jump(
    gaussian: Gaussian, process: Process, level: int, device: torch.device | str = "cpu"
) -> Jump:
    """From the far end of a process without proposal or scale to a level, in float32 on a device.

    x_t = a_t mu + U sqrt((a_t^2 v + sigma_t^2) / (a_T^2 v + sigma_T^2)) U^T (sigma_T eps - a_T mu).
    """
    a, sigma, v = process.a, process.sigma, gaussian.variances
    here = a[level] ** 2 * v + sigma[level] ** 2
    far = a[-1] ** 2 * v + sigma[-1] ** 2
    move = (gaussian.vectors * (here / far).sqrt()) @ gaussian.vectors.T
    of_mean = a[level] * torch.eye(len(v), dtype=v.dtype, device=v.device) - a[-1] * move
    origin = gaussian.mean - gaussian.centre @ gaussian.gain
    parts = origin @ of_mean, gaussian.gain @ of_mean, sigma[-1] * move
    return Jump(*(part.float().to(device) for part in parts))
