"""DPM-Solver++(2M) and UniPC: linear multistep in x0, on the ODE of `diffplan.diffusion.sampling`.

Contracts are those of `ddim.ddim`; `noise` is there for the common signature and not used. The
last step returns x0_hat itself.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from diffplan.diffusion.process import Process
from diffplan.diffusion.sampling import (
    Denoise,
    Sampler,
    Steps,
    check_noisy_grid,
    half_log_snr,
    noisy,
    step_ratio,
)

if TYPE_CHECKING:
    from torch import Tensor


def dpm_solver_pp_2m(
    denoise: Denoise,
    process: Process,
    grid: tuple[int, ...],
    x: Tensor,
    *,
    proposal: Tensor | None = None,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2): [B, H, D].

    D = (1 + 1 / 2r) D_t - (1 / 2r) D_before with r = h_before / h. The first step is of first
    order, and so is the one after a start at lambda = -inf.
    """
    check_noisy_grid(process, grid, proposal, "dpm-solver++2m")
    steps, before = Steps(process, proposal), None
    for i, (t, s) in enumerate(pairwise(grid)):
        x0 = denoise(x, t)
        if s == 0:
            return x0
        # 0 where the step before began at lambda = -inf: it says nothing of the slope
        share = 0.0 if i == 0 else 0.5 / step_ratio(process, grid[i - 1], t, s)
        mixed = x0 if before is None or share == 0.0 else (1 + share) * x0 - share * before
        x, before = steps.data(x, mixed, t, s), x0
    return x


def unipc(
    denoise: Denoise,
    process: Process,
    grid: tuple[int, ...],
    x: Tensor,
    *,
    proposal: Tensor | None = None,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """UniPC of order 2 with B_2 (Zhao et al. 2023, arXiv 2302.04867, algorithm 5): [B, H, D].

    The predictor is DPM-Solver++(2M). Once the answer at the step's end is known the step is
    repeated with it, which costs no evaluation.
    """
    check_noisy_grid(process, grid, proposal, "unipc")
    steps = Steps(process, proposal)
    start, answers = x, [denoise(x, grid[0])] if len(grid) > 1 else []
    for i, (t, s) in enumerate(pairwise(grid)):
        if s == 0:
            return answers[-1]
        share = 0.0 if i == 0 else 0.5 / step_ratio(process, grid[i - 1], t, s)
        here, before = answers[-1], answers[-2] if share else None
        mixed = here if before is None else (1 + share) * here - share * before
        # the answer that corrects this step is the next one's first: no evaluation is lost
        predicted = denoise(steps.data(start, mixed, t, s), s)
        if before is None:
            corrected = 0.5 * (here + predicted)
        else:
            h = half_log_snr(process, s) - half_log_snr(process, t)
            back, ahead = _corrector(h, -0.5 / share)
            corrected = here + back * (before - here) + ahead * (predicted - here)
        start = steps.data(start, corrected, t, s)
        answers.append(predicted)
    return x


def _corrector(h: float, place: float) -> tuple[float, float]:
    """Weights of D_before - D_t and D_s - D_t in a step of length h.

    place: where the answer before stands, in steps from t (negative). They integrate e^lambda
    times the parabola through the three answers; divided by 1 - e^-h, as `Steps.data` does it.
    """
    total = -math.expm1(-h)
    first = (1 + math.expm1(-h) / h) / total
    second = (1 - 2 * first * total / h) / total
    # first = rho_0 place + rho_1, second = rho_0 place^2 + rho_1 with divided differences
    back = (second - first) / (place * place - place)
    return back, first - back * place


SAMPLERS = (
    Sampler("dpm-solver++2m", dpm_solver_pp_2m, noisy("dpm-solver++2m")),
    Sampler("unipc", unipc, noisy("unipc")),
)
