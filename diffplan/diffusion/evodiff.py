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
_MANY = 20  # steps beyond which zeta is weighed by how consistent the answers are


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
    by row over the plan as over one channel of an image, and what is left corrects the step, which
    was probed for it: the last x needs an answer of its own. As released with
    `lower_order_final=False, denoise_to_zero=True`; the released first-order ending shrinks x by
    1 - sqrt(sigma_t sigma_s), nothing for the sigma of images, a tenth of a plan and more for
    ours. It converges with about order 1 on levels even in log(a / sigma), and need not on others.
    """
    check_noisy_grid(process, grid, proposal, "evodiff")
    if len(grid) == 1:
        return x
    steps, last = Steps(process, proposal), grid[-2]
    answers, corrected = [denoise(x, grid[0])], False
    for i, (t, s) in enumerate(pairwise(grid[:-1])):
        first = steps.data(x, answers[-1], t, s)
        ratio = math.inf if i == 0 else step_ratio(process, grid[i - 1], t, s)
        corrected = math.isfinite(ratio)
        if not corrected:  # no step before to compare with: first order
            x = first
            answers.append(denoise(x, s))
            continue
        share = 0.5 * (1 - ((s + last) / (grid[0] + last)) ** 2)
        levels, many = (grid[i - 1], t, s), len(grid) - 2 > _MANY
        x, answer = _evolved(denoise, process, levels, first, answers, ratio, share, many)
        answers = [answers[-1], answer]
    return denoise(x, last) if corrected else answers[-1]


def _evolved(
    denoise: Denoise,
    process: Process,
    levels: tuple[int, int, int],
    first: Tensor,
    answers: list[Tensor],
    ratio: float,
    share: float,
    many: bool,
) -> tuple[Tensor, Tensor]:
    """A step that is corrected by an answer at its probe, and that answer.

    share: of the projection in the scale between answers. many: whether the chain has many steps.
    """
    before, t, s = levels
    sigma, a = process.sigma, process.a
    h = a[s] / sigma[s] - a[t] / sigma[t]
    length, shrinking = sigma[s] * h, sigma[s] / sigma[t]
    base = math.sqrt(shrinking / (sigma[t] / sigma[before]))

    def change(new: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
        slope = (1 - share) * base + share * _projection(new, old)
        return new - slope * old, slope

    back, slope = change(answers[-1], answers[-2])
    reach = ratio * (0.25 * slope.abs()).sigmoid().clamp(0.25, 1.5)
    probe = first + 0.5 * length * back / reach
    answer = denoise(probe, s)
    ahead, _ = change(answer, answers[-1])
    low, high = back / ratio, ratio * ahead
    eta = 0.5 * (0.5 * _projection(high + low, high - low)).abs().sigmoid()
    mixed = (1 - eta) * high - eta * low
    off = _projection(probe - first - 0.5 * length * mixed / reach, back) / length
    shift = off.abs() - 0.5
    if many:
        slower = _projection(answers[-1], (answers[-1] - answers[-2]) / h)
        shift = -shift * (slower * (2 - shrinking**2)).sigmoid()
    return first + 0.5 * length * mixed / shift.sigmoid(), answer


def _projection(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> / <b, b> over a plan, within 2: [B, 1, 1]."""
    inner = (a * b).sum((1, 2), keepdim=True)
    return (inner / ((b * b).sum((1, 2), keepdim=True) + _TINY)).clamp(-2, 2)


SAMPLERS = (
    Sampler("evodiff", evodiff, noisy("evodiff"), lambda steps: steps + (1 if steps > 2 else 0)),
)
