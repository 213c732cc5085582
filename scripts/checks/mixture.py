"""How far samplers are from the exact solution on data of a mixture of Gaussians.

    python -m diffplan.scripts.checks.mixture

Root mean square error of the end, from noise of DDPM with 1000 cosine levels, whose denoiser is
known exactly. The truth is Heun's method in 1500 steps even in log(sigma / a).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from diffplan.diffusion.grids import GRIDS
from diffplan.diffusion.processes import betas_cosine, ddpm
from diffplan.diffusion.samplers import SAMPLERS
from diffplan.scripts.report.results import aligned

SAMPLED = ("ddim", "dpm-solver++2m", "unipc", "evodiff")
STEPS = (10, 20, 25)
ROWS, SHAPE = 32, (4, 3)
MEANS = torch.linspace(-1.5, 1.5, 2 * math.prod(SHAPE), dtype=torch.float64).view(2, *SHAPE)
VARIANCE = 0.1
PROCESS = ddpm(betas_cosine(1000))


def clean(y: Tensor, sigma: float) -> Tensor:
    """E[x0 | x0 + sigma eps = y] [B, H, D]."""
    distance = (y[:, None] - MEANS).square().sum((2, 3))
    share = torch.softmax(-distance / (2 * (VARIANCE + sigma**2)), 1)[..., None, None]
    nearer = (VARIANCE * y[:, None] + sigma**2 * MEANS) / (VARIANCE + sigma**2)
    return (share * nearer).sum(1)


def ratio(t: int) -> float:
    """Noise to signal of a level."""
    return PROCESS.sigma[t] / PROCESS.a[t]


def denoise(x: Tensor, t: int) -> Tensor:
    """x0_hat of DDPM, exact."""
    return clean(x / PROCESS.a[t], ratio(t))


def truth(x: Tensor, start: int, end: int) -> Tensor:
    """The answer at level `end` of the exact solution from x at level `start`."""
    y, ends = x / PROCESS.a[start], (math.log(ratio(start)), math.log(ratio(end)))
    sigmas = torch.linspace(*ends, 1501, dtype=torch.float64).exp().tolist()
    for here, there in pairwise(sigmas):
        slope = (y - clean(y, here)) / here
        later = y + (there - here) * slope
        y = y + (there - here) / 2 * (slope + (later - clean(later, there)) / there)
    return clean(y, ratio(end))


def main() -> None:
    """Print a line for every grid and number of steps."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, *SHAPE, generator=generator, dtype=torch.float64)
    lines = [["grid", "steps", *SAMPLED]]
    for name, make in GRIDS.items():
        for steps in STEPS:
            grid = make(PROCESS, 960, steps)
            exact = truth(x, grid[0], grid[-2])
            ends = [SAMPLERS[each].run(denoise, PROCESS, grid, x) for each in SAMPLED]
            errors = [f"{float((end - exact).square().mean().sqrt()):.4f}" for end in ends]
            lines.append([name, str(steps), *errors])
    print(aligned(lines))


if __name__ == "__main__":
    main()
