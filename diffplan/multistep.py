"""Deterministic samplers of higher order: several denoiser answers in one step.

With y = x - r x̂ every process of the family reads y = a x0 + sigma eps, and along its
probability-flow ODE d(y / sigma) = x0_hat d(a / sigma): what DPM-Solver++ solves for variance
preserving processes, in lambda = log(a / sigma), whether a^2 + sigma^2 = 1 or not. Contracts are
those of `samplers.ddim`; `noise` is there for the common signature and not used. In every one of
them the last step returns x0_hat itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from diffplan.errors import DiffplanError
from diffplan.process import Process
from diffplan.samplers import Denoise, check_grid

_TINY = 1e-12


def _check(process: Process, grid: tuple[int, ...], proposal: Tensor | None, name: str) -> None:
    check_grid(process, grid, proposal)
    check_noisy(process, name)


def check_noisy(process: Process, name: str) -> None:
    """Raise DiffplanError for a process without noise, of which these samplers are made."""
    if not process.noisy:
        raise DiffplanError(
            f"sampler {name} needs noise, but process {process.name!r} has none: use ddim"
        )


def half_log_snr(process: Process, t: int) -> float:
    """lambda_t = log(a_t / sigma_t): -inf where a = 0, inf where sigma = 0."""
    if process.a[t] == 0.0:
        return -math.inf
    return math.log(process.a[t] / process.sigma[t]) if process.sigma[t] > 0.0 else math.inf


class _Steps:
    """Steps of one process in x, with x̂ taken along."""

    def __init__(self, process: Process, proposal: Tensor | None) -> None:
        self.process, self.proposal = process, proposal

    def data(self, x: Tensor, x0: Tensor, t: int, s: int) -> Tensor:
        """First order in x0: y_s = (sigma_s / sigma_t) y_t + (a_s - a_t sigma_s / sigma_t) x0."""
        p = self.process
        keep = p.sigma[s] / p.sigma[t]
        return self._shifted(keep * x + (p.a[s] - keep * p.a[t]) * x0, p.r[s] - keep * p.r[t])

    def noise(self, x: Tensor, eps: Tensor, t: int, s: int) -> Tensor:
        """The transfer of PNDM: y_s = (a_s / a_t) y_t + (sigma_s - sigma_t a_s / a_t) eps."""
        p = self.process
        keep = p.a[s] / p.a[t]
        moved = keep * x + (p.sigma[s] - keep * p.sigma[t]) * eps
        return self._shifted(moved, p.r[s] - keep * p.r[t])

    def eps(self, x: Tensor, x0: Tensor, t: int) -> Tensor:
        """(x_t - a_t x0 - r_t x̂) / sigma_t."""
        p = self.process
        return self._shifted(x - p.a[t] * x0, -p.r[t]) / p.sigma[t]

    def _shifted(self, x: Tensor, share: float) -> Tensor:
        if self.proposal is None or share == 0.0:
            return x
        return x + share * self.proposal


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
    _check(process, grid, proposal, "dpm-solver++2m")
    steps, before = _Steps(process, proposal), None
    for i, (t, s) in enumerate(pairwise(grid)):
        x0 = denoise(x, t)
        if s == 0:
            return x0
        share = 0.0 if i == 0 else 0.5 / _ratio(process, grid[i - 1], t, s)
        mixed = x0 if before is None or share == 0.0 else (1 + share) * x0 - share * before
        x, before = steps.data(x, mixed, t, s), x0
    return x


def _ratio(process: Process, before: int, t: int, s: int) -> float:
    """h_before / h of neighbouring steps; inf where the first began at lambda = -inf."""
    here = half_log_snr(process, t)
    return (here - half_log_snr(process, before)) / (half_log_snr(process, s) - here)


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
    _check(process, grid, proposal, "unipc")
    steps = _Steps(process, proposal)
    start, answers = x, [denoise(x, grid[0])] if len(grid) > 1 else []
    for i, (t, s) in enumerate(pairwise(grid)):
        if s == 0:
            return answers[-1]
        share = 0.0 if i == 0 else 0.5 / _ratio(process, grid[i - 1], t, s)
        here, before = answers[-1], answers[-2] if share else None
        mixed = here if before is None else (1 + share) * here - share * before
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
    times the parabola through the three answers; divided by 1 - e^-h, as `_Steps.data` does it.
    """
    total = -math.expm1(-h)
    first = (1 + math.expm1(-h) / h) / total
    second = (1 - 2 * first * total / h) / total
    # first = rho_0 place + rho_1, second = rho_0 place^2 + rho_1 with divided differences
    back = (second - first) / (place * place - place)
    return back, first - back * place


def s_pndm(
    denoise: Denoise,
    process: Process,
    grid: tuple[int, ...],
    x: Tensor,
    *,
    proposal: Tensor | None = None,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """S-PNDM: linear multistep of order 2 on eps (Liu et al. 2022, arXiv 2202.09778): [B, H, D].

    A pseudo Heun step first, which costs one more evaluation, then (3 eps_t - eps_before) / 2.
    """
    _check(process, grid, proposal, "s-pndm")
    check_signal(process, grid, "s-pndm")
    steps, before = _Steps(process, proposal), None
    for t, s in pairwise(grid):
        x0 = denoise(x, t)
        if s == 0:
            return x0
        eps = steps.eps(x, x0, t)
        if before is None:
            ahead = steps.noise(x, eps, t, s)
            mixed = (eps + steps.eps(ahead, denoise(ahead, s), s)) / 2
        else:
            mixed = (3 * eps - before) / 2
        x, before = steps.noise(x, mixed, t, s), eps
    return x


_STARTING = 3  # pseudo Runge-Kutta steps of F-PNDM
_FACTOR = 4.0  # by which errors may grow in a step of PNDM


def f_pndm(
    denoise: Denoise,
    process: Process,
    grid: tuple[int, ...],
    x: Tensor,
    *,
    proposal: Tensor | None = None,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """F-PNDM: four answers a step on eps (Liu et al. 2022, arXiv 2202.09778): [B, H, D].

    Three pseudo Runge-Kutta steps first, each of which costs three more evaluations, then
    (55, -59, 37, -9) / 24. Half-way is the nearest table index, for coefficients and network
    alike. Of order 2 all the same, as the transfer is.
    """
    _check(process, grid, proposal, "f-pndm")
    check_signal(process, grid, "f-pndm")
    check_gaps(grid)
    steps, known = _Steps(process, proposal), list[Tensor]()
    for i, (t, s) in enumerate(pairwise(grid)):
        x0 = denoise(x, t)
        if s == 0:
            return x0
        eps = steps.eps(x, x0, t)
        known = [eps, *known[:3]]
        if i < _STARTING:
            mixed = _runge_kutta(denoise, steps, x, eps, t, s)
        else:
            mixed = (55 * known[0] - 59 * known[1] + 37 * known[2] - 9 * known[3]) / 24
        x = steps.noise(x, mixed, t, s)
    return x


def runge_kutta_levels(grid: tuple[int, ...]) -> tuple[int, ...]:
    """The grid with the levels half-way in f-pndm's first steps."""
    first = list(pairwise(grid))[:_STARTING]
    return tuple(sorted({*grid, *((t + s) // 2 for t, s in first if s > 0)}, reverse=True))


def _runge_kutta(
    denoise: Denoise, steps: _Steps, x: Tensor, first: Tensor, t: int, s: int
) -> Tensor:
    middle = (t + s) // 2

    def at(eps: Tensor, there: int) -> Tensor:
        moved = steps.noise(x, eps, t, there)
        return steps.eps(moved, denoise(moved, there), there)

    second = at(first, middle)
    third = at(second, middle)
    return (first + 2 * second + 2 * third + at(third, s)) / 6


def check_signal(process: Process, grid: tuple[int, ...], name: str) -> None:
    """Raise DiffplanError where eps cannot be transferred, for want of x0 in x_t.

    A transfer multiplies what eps is off by with a_s / a_t, and over such a step eps changes by
    about a_s (data of unit size). Beyond `_FACTOR` ddim is nearer to the exact solution.
    """
    for i, (t, s) in enumerate(pairwise(grid[:-1])):
        if process.a[t] == 0.0:
            raise DiffplanError(
                f"sampler {name} cannot pass level {t} of {process.name!r}, where x_t holds "
                "nothing of x0: use ddim, dpm-solver++2m or unipc"
            )
        change = process.a[s]
        if name == "f-pndm" and i < _STARTING:  # the third answer has that factor already
            change = max(change, process.a[(t + s) // 2] ** 2 / process.a[t])
        factor = process.a[s] / process.a[t] * change
        if factor > _FACTOR:
            raise DiffplanError(
                f"sampler {name} cannot go from level {t} to {s} of {process.name!r}, where x_t "
                f"holds little of x0: errors would grow {factor:.1f} times (expected at most "
                f"{_FACTOR:g}): use more steps, or ddim, dpm-solver++2m or unipc"
            )


def check_gaps(grid: tuple[int, ...]) -> None:
    """Raise DiffplanError where f-pndm's first steps have no level half-way."""
    for t, s in list(pairwise(grid))[:_STARTING]:
        if s > 0 and t - s < 2:
            raise DiffplanError(
                f"sampler f-pndm halves its first {_STARTING} steps, but {t} to {s} is one level: "
                f"use grid uniform with at most {grid[0] // 2} steps from level {grid[0]}, "
                "or s-pndm"
            )


def pndm_evaluations(name: str, steps: int) -> int:
    """Denoiser calls of s-pndm and f-pndm with that many steps."""
    return steps + min(1, steps - 1) if name == "s-pndm" else steps + 3 * min(_STARTING, steps - 1)


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
    _check(process, grid, proposal, "evodiff")
    steps = _Steps(process, proposal)
    answers = [denoise(x, grid[0])] if len(grid) > 1 else []
    for i, (t, s) in enumerate(pairwise(grid)):
        if s == 0:
            return answers[-1]
        first = steps.data(x, answers[-1], t, s)
        ratio = math.inf if i == 0 else _ratio(process, grid[i - 1], t, s)
        if math.isinf(ratio):
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
    reach = ratio * torch.sigmoid(0.25 * slope.abs()).clamp(0.25, 1.5)
    probe = first + 0.5 * length * back / reach
    answer = denoise(probe, s)
    ahead, _ = change(answer, answers[-1])
    low, high = back / ratio, ratio * ahead
    eta = 0.5 * torch.sigmoid((0.5 * _projection(high + low, high - low)).abs())
    mixed = -eta * back / ratio + (1 - eta) * ratio * ahead
    off = _projection(probe - first - 0.5 * length * mixed / reach, back) / length
    zeta = torch.sigmoid(off.abs() - 0.5)
    return first + 0.5 * length * mixed / zeta, answer


def _projection(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> / <b, b> over a plan: [B, 1, 1]."""
    return (a * b).sum((1, 2), keepdim=True) / ((b * b).sum((1, 2), keepdim=True) + _TINY)


MULTISTEP: dict[str, Callable[..., Tensor]] = {
    "dpm-solver++2m": dpm_solver_pp_2m,
    "unipc": unipc,
    "s-pndm": s_pndm,
    "f-pndm": f_pndm,
    "evodiff": evodiff,
}
