"""S-PNDM and F-PNDM: linear multistep in eps.

Contracts are those of `ddim.ddim`; `noise` is there for the common signature and not used. The
last step returns x0_hat itself.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from diffplan.diffusion.process import Process
from diffplan.diffusion.sampling import Denoise, Grid, Sampler, Steps, check_noisy, check_noisy_grid
from diffplan.errors import DiffplanError

if TYPE_CHECKING:
    from torch import Tensor


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
    check_noisy_grid(process, grid, proposal, "s-pndm")
    check_signal(process, grid, "s-pndm")
    steps, before = Steps(process, proposal), None
    for t, s in pairwise(grid):
        x0 = denoise(x, t)
        if s == 0:
            return x0
        eps = steps.eps(x, x0, t)
        if before is None:
            # no answer before: its place takes one at the step's own end
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
    check_noisy_grid(process, grid, proposal, "f-pndm")
    check_signal(process, grid, "f-pndm")
    check_gaps(grid)
    steps = Steps(process, proposal)
    known: list[Tensor] = []
    for i, (t, s) in enumerate(pairwise(grid)):
        x0 = denoise(x, t)
        if s == 0:
            return x0
        eps = steps.eps(x, x0, t)
        known = [eps, *known[:3]]  # newest first
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
    denoise: Denoise, steps: Steps, x: Tensor, first: Tensor, t: int, s: int
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


def _suits_s_pndm(process: Process, grid: Grid, statistics: Any) -> None:
    check_noisy(process, "s-pndm")
    check_signal(process, grid, "s-pndm")


def _suits_f_pndm(process: Process, grid: Grid, statistics: Any) -> None:
    check_noisy(process, "f-pndm")
    check_signal(process, grid, "f-pndm")
    check_gaps(grid)


SAMPLERS = (
    Sampler("s-pndm", s_pndm, _suits_s_pndm, lambda steps: steps + min(1, steps - 1)),
    Sampler(
        "f-pndm",
        f_pndm,
        _suits_f_pndm,
        lambda steps: steps + 3 * min(_STARTING, steps - 1),
        runge_kutta_levels,
    ),
)
