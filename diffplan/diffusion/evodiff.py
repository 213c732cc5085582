"""EVODiff: steps corrected by how answers change, on the ODE of `diffplan.diffusion.sampling`.

Contracts are those of `ddim.ddim`; `noise` is there for the common signature and not used. The
last step returns x0_hat itself.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from diffplan.diffusion.process import Process
from diffplan.diffusion.sampling import Denoise, Sampler, Steps, check_noisy_grid, noisy, step_ratio

if TYPE_CHECKING:
    from torch import Tensor

_TINY = 1e-12


def evodiff(
    denoise: Denoise,
    process: Process,
    grid: tuple[int, ...],
    x: Tensor,
    *,
    proposal: Tensor | None = None,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """EVODiff (Li et al. 2025, arXiv 2509.26096), experimental: [B, H, D].

    Answers one step apart are compared after one is scaled to the other by their projection, row
    by row, and what is left corrects the step. As released it is made for images; it converges
    with about order 1 on levels even in log(a / sigma), and need not on others. Measure before you
    use it.
    """
    check_noisy_grid(process, grid, proposal, "evodiff")
    steps = Steps(process, proposal)
    answers = [denoise(x, grid[0])] if len(grid) > 1 else []
    for i, (t, s) in enumerate(pairwise(grid)):
        if s == 0:
            return answers[-1]
        first = steps.data(x, answers[-1], t, s)
        ratio = math.inf if i == 0 else step_ratio(process, grid[i - 1], t, s)
        if math.isinf(ratio):  # no step before to compare with: first order
            x = first
            answers.append(denoise(x, s))
            continue
        x, answer = _evolved(denoise, process, (grid[0], grid[i - 1], t, s), first, answers, ratio)
        answers = [answers[-1], answer]
    return x


def _evolved(
    denoise: Denoise,
    process: Process,
    levels: tuple[int, int, int, int],
    first: Tensor,
    answers: list[Tensor],
    ratio: float,
) -> tuple[Tensor, Tensor]:
    """A step that is corrected by its own answer, and that answer."""
    start, before, t, s = levels
    sigma, a = process.sigma, process.a
    length = sigma[s] * (a[s] / sigma[s] - a[t] / sigma[t])  # sigma_s times the paper's h
    tau = (s + t) / (start + t)
    weight = 0.5 * (1 - tau * tau)
    base = math.sqrt((sigma[s] / sigma[t]) / (sigma[t] / sigma[before]))

    def change(new: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
        slope = (1 - weight) * base + weight * _projection(new, old).clamp(-2, 2)
        return new - slope * old, slope

    back, slope = change(answers[-1], answers[-2])
    reach = ratio * (0.25 * slope.abs()).sigmoid().clamp(0.25, 1.5)
    probe = first + 0.5 * length * back / reach
    answer = denoise(probe, s)
    ahead, _ = change(answer, answers[-1])
    low, high = back / ratio, ratio * ahead
    eta = 0.5 * (0.5 * _projection(high + low, high - low)).abs().sigmoid()
    mixed = -eta * back / ratio + (1 - eta) * ratio * ahead
    off = _projection(probe - first - 0.5 * length * mixed / reach, back) / length
    zeta = (off.abs() - 0.5).sigmoid()
    return first + 0.5 * length * mixed / zeta, answer


def _projection(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> / <b, b> over a plan: [B, 1, 1]."""
    return (a * b).sum((1, 2), keepdim=True) / ((b * b).sum((1, 2), keepdim=True) + _TINY)


SAMPLERS = (Sampler("evodiff", evodiff, noisy("evodiff")),)
