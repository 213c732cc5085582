"""What every sampler takes and gives, and what those of higher order have in common.

With y = x - r x̂ every process of the family reads y = a x0 + sigma eps, and along its
probability-flow ODE d(y / sigma) = x0_hat d(a / sigma): what DPM-Solver++ solves for variance
preserving processes, in lambda = log(a / sigma), whether a^2 + sigma^2 = 1 or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from diffplan.diffusion.process import Process
from diffplan.errors import DiffplanError

if TYPE_CHECKING:
    from torch import Tensor

Denoise: TypeAlias = "Callable[[Tensor, int], Tensor]"
"""(x_t [B, H, D], table index t) -> x0_hat [B, H, D]."""

Grid: TypeAlias = tuple[int, ...]
"""Levels from the far end to 0."""


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Sampler:
    """One sampler: how it steps, what it suits, what it costs."""

    name: str
    run: Callable[..., Tensor]
    """(denoise, process, grid, x, *, proposal, scale, noise) -> x_0 [B, H, D]; see `ddim`."""
    check: Callable[[Process, Grid, Any], None]
    """Raises DiffplanError, with the reason, where it does not suit a process and grid.

    The third is what the model was calibrated with, or None.
    """
    evaluations: Callable[[int], int] = _same
    """Denoiser calls of n steps, n at least 1."""
    levels: Callable[[Grid], Grid] = _same
    """Every level that it asks the denoiser about along a grid."""
    eta: Callable[[float], float] = lambda eta: 0.0
    """Noise of its steps, given that of the settings; 0 where it draws none."""
    takes: tuple[str, ...] = ()
    """Further arguments of `run`: "eta", "statistics"."""
    value_guided: bool = True
    """Whether the gradient of a value may guide it."""
    by_stream: bool = False
    """Whether streams, each at a level of its own, can take its steps (without noise)."""

    @property
    def takes_statistics(self) -> bool:
        """Whether a model must be calibrated for it."""
        return "statistics" in self.takes

    def options(self, **known: Any) -> dict[str, Any]:
        """Those of the known arguments that it takes."""
        return {name: known[name] for name in self.takes}


def check_grid(process: Process, grid: tuple[int, ...], proposal: Tensor | None) -> None:
    """Raise DiffplanError for a grid that does not descend to 0, or a proposal that is missing."""
    descending = all(t > s for t, s in pairwise(grid))
    if not grid or grid[-1] != 0 or grid[0] > process.T or not descending:
        raise DiffplanError(
            f"a sampling grid must descend from at most {process.T} to 0, got {grid}"
        )
    if proposal is None and any(process.r[t] for t in grid):
        raise DiffplanError(f"process {process.name!r} needs a proposal [B, H, D], got none")


def check_noisy_grid(
    process: Process, grid: tuple[int, ...], proposal: Tensor | None, name: str
) -> None:
    """`check_grid` and `check_noisy`."""
    check_grid(process, grid, proposal)
    check_noisy(process, name)


def noisy(name: str) -> Callable[[Process, Grid, Any], None]:
    """The check of samplers that need noise in the process and nothing else."""
    return lambda process, grid, statistics: check_noisy(process, name)


def check_noisy(process: Process, name: str) -> None:
    """Raise DiffplanError for a process without noise, of which these samplers are made."""
    if not process.noisy:
        raise DiffplanError(
            f"sampler {name} needs noise, but process {process.name!r} has none: use ddim"
        )


class Levels(Protocol):
    """What is known of signal and noise at every level."""

    @property
    def a(self) -> tuple[float, ...]: ...

    @property
    def sigma(self) -> tuple[float, ...]: ...


def half_log_snr(levels: Levels, t: int) -> float:
    """lambda_t = log(a_t / sigma_t): -inf where a = 0, inf where sigma = 0."""
    if levels.a[t] == 0.0:
        return -math.inf
    return math.log(levels.a[t] / levels.sigma[t]) if levels.sigma[t] > 0.0 else math.inf


def half_log_snrs(levels: Levels) -> np.ndarray:
    """`half_log_snr` of every level [T+1], float64."""
    return np.array([half_log_snr(levels, t) for t in range(len(levels.a))])


class Steps:
    """Steps of one process in x, with x̂ taken along."""

    def __init__(self, process: Process, proposal: Tensor | None) -> None:
        self.process, self.proposal = process, proposal

    def data(self, x: Tensor, x0: Tensor, t: int, s: int) -> Tensor:
        """First order in x0: y_s = (sigma_s / sigma_t) y_t + (a_s - a_t sigma_s / sigma_t) x0."""
        p = self.process
        keep = p.sigma[s] / p.sigma[t]
        return self.shifted(keep * x + (p.a[s] - keep * p.a[t]) * x0, p.r[s] - keep * p.r[t])

    def posterior(self, x: Tensor, x0: Tensor, t: int, s: int) -> Tensor:
        """Mean of q(x_s | x_t, x0, x̂), which `Process.posterior_std` belongs to; x0 for s = 0."""
        p = self.process
        keep = p.memory[t] / p.memory[s] * (p.sigma[s] / p.sigma[t]) ** 2
        return self.shifted(keep * x + (p.a[s] - keep * p.a[t]) * x0, p.r[s] - keep * p.r[t])

    def noise(self, x: Tensor, eps: Tensor, t: int, s: int) -> Tensor:
        """The transfer of PNDM: y_s = (a_s / a_t) y_t + (sigma_s - sigma_t a_s / a_t) eps."""
        p = self.process
        keep = p.a[s] / p.a[t]
        moved = keep * x + (p.sigma[s] - keep * p.sigma[t]) * eps
        return self.shifted(moved, p.r[s] - keep * p.r[t])

    def eps(self, x: Tensor, x0: Tensor, t: int) -> Tensor:
        """(x_t - a_t x0 - r_t x̂) / sigma_t."""
        p = self.process
        return self.shifted(x - p.a[t] * x0, -p.r[t]) / p.sigma[t]

    def shifted(self, x: Tensor, share: float) -> Tensor:
        """x with a share of x̂ more."""
        if self.proposal is None or share == 0.0:  # most processes never shift by it
            return x
        return x + share * self.proposal


def step_ratio(process: Process, before: int, t: int, s: int) -> float:
    """h_before / h of neighbouring steps; inf where the first began at lambda = -inf."""
    here = half_log_snr(process, t)
    return (here - half_log_snr(process, before)) / (half_log_snr(process, s) - here)
