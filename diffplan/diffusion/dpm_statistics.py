"""Statistics of a trained model for DPM-Solver-v3: estimated, written beside the weights, read.

Zheng et al. 2023, arXiv 2310.13268, section 3.1 and appendix C. At every level, per entry of the
plan, with y = x - r x̂, lambda = log(a / sigma) and f = (sigma eps_hat - l y) / a,

    l = E[sigma d eps_hat / d y] = 1 - a E[d x0_hat / d y]   (the diagonal of the Jacobian)
    s = Cov(f, f') / Var(f),    b = E[f'] - s E[f],          f' = df / d lambda along the ODE.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffplan.diffusion.dpm_solver_v3 import Statistics
from diffplan.diffusion.forward import q_sample
from diffplan.diffusion.process import Process
from diffplan.diffusion.sampling import Denoise, half_log_snrs
from diffplan.errors import DiffplanError

_RIDGE = 1e-6  # in squared plan units; f hardly varies where the data hardly do
_LARGEST_SLOPE = 2.0
TABLES = ("l", "s", "b")

Progress = Callable[[], None]
"""Called after each of the `rounds` of an estimate."""


@dataclass(frozen=True)
class Part:
    """A denoiser, its conditions closed over, and clean plans that go with them.

    x0, noise: [B, rows, D], of which x_t is made at every level. proposal: x̂ [B, rows, D], where
    the process has r != 0. scale: [rows, D], of scaled processes.
    """

    denoise: Denoise
    x0: Tensor
    noise: Tensor
    proposal: Tensor | None = None
    scale: Tensor | None = None

    def at(self, process: Process, t: int) -> Tensor:
        """x_t - r_t x̂ [B, rows, D]."""
        index = torch.full((len(self.x0),), t, device=self.x0.device)
        x = q_sample(process, index, self.x0, self.proposal, self.noise, self.scale)
        return x if self.proposal is None else x - process.r[t] * self.proposal

    def clean(self, process: Process, y: Tensor, t: int) -> Tensor:
        """x0_hat [B, rows, D] at y = x - r x̂ and level t."""
        return self.denoise(y if self.proposal is None else y + process.r[t] * self.proposal, t)


# --- Estimates -----------------------------------------------------------------------------------


def last_level(process: Process) -> int:
    """The last of the levels from 1 on that hold something of x0 and noise (0: none)."""
    t = 0
    while t < process.T and process.a[t + 1] > 0.0 and process.sigma[t + 1] > 0.0:
        t += 1
    return t


def rounds(process: Process) -> int:
    """How often `estimate` reports progress."""
    return 2 * last_level(process)


@torch.no_grad()
def estimate(
    process: Process,
    parts: Sequence[Part],
    *,
    seed: int = 0,
    over_horizon: bool = False,
    conditions: Mapping[str, float | str | None] | None = None,
    progress: Progress | None = None,
) -> Statistics:
    """l, s and b at every level that holds something of x0, averaged over all rows of all parts.

    l by Hutchinson's estimator from one random sign vector per sample, in forward mode. f' by
    differences of f along the ODE between a level and its two neighbours, as denoisers know no
    levels in between. over_horizon: average over the plan's rows as well. seed: of the sign
    vectors. conditions: kept with the statistics.
    Raises DiffplanError without two samples, or for a process without noise.
    """
    top = last_level(process)
    count = sum(len(part.x0) for part in parts)
    if top == 0:
        raise DiffplanError(
            f"process {process.name!r} has no level with both signal and noise, which the "
            "statistics of dpm-solver-v3 describe; use sampler 'ddim'"
        )
    if count < 2:
        raise DiffplanError(f"statistics need at least 2 samples, got {count}")
    shape = parts[0].x0.shape[1:]
    tables = {name: torch.zeros(process.T + 1, *shape, dtype=torch.float64) for name in TABLES}
    tables["l"].fill_(1.0)
    gains = torch.zeros(process.T + 1, *shape, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)

    def mean(sums: Tensor) -> Tensor:
        average = sums.cpu() / count
        return average.mean(0, keepdim=True).expand(shape) if over_horizon else average

    for t in range(1, top + 1):
        gains[t] = mean(torch.stack([_diagonal(process, p, t, generator) for p in parts]).sum(0))
        tables["l"][t] = 1.0 - process.a[t] * gains[t]
        if progress is not None:
            progress()
    for t in range(1, top + 1):
        sums = torch.stack([_sums(process, p, t, top, gains) for p in parts]).sum(0)
        f, slope, squared, product = map(mean, sums)
        variance = (squared - f * f).clamp(min=0.0)
        s = ((product - f * slope) / (variance + _RIDGE)).clamp(-_LARGEST_SLOPE, _LARGEST_SLOPE)
        tables["s"][t], tables["b"][t] = s, slope - s * f
        if progress is not None:
            progress()
    averaged = "batch and horizon" if over_horizon else "batch"
    return Statistics(
        **tables,
        a=process.a,
        r=process.r,
        sigma=process.sigma,
        conditions=dict(conditions or {}),
        details={"samples": count, "seed": seed, "averaged": averaged},
    )


def _diagonal(process: Process, part: Part, t: int, generator: torch.Generator) -> Tensor:
    """Sum over rows of the diagonal of d x0_hat / d y at level t: float64 [rows, D]."""
    y = part.at(process, t)
    signs = torch.randint(2, y.shape, generator=generator).mul_(2).sub_(1).to(y)
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward mode
        moved: Tensor = torch.func.jvp(lambda y: part.clean(process, y, t), (y,), (signs,))[1]
    return (signs * moved).double().sum(0)


def _sums(process: Process, part: Part, t: int, top: int, gains: Tensor) -> Tensor:
    """Sums over rows of f, f', f^2 and f f' at level t: float64 [4, rows, D].

    gains: (1 - l) / a, float64 [T+1, rows, D]; f = gain y - x0_hat, where no small a divides.
    """
    y = part.at(process, t)
    x0 = part.clean(process, y, t)
    lam = half_log_snrs(process)

    def value(y: Tensor, x0: Tensor, t: int) -> Tensor:
        return gains[t].to(y.device) * y.double() - x0.double()

    f = value(y, x0, t)
    slopes, widths = [], []
    for other in (t - 1, t + 1):
        if 1 <= other <= top:
            width = float(lam[other] - lam[t])
            slopes.append((value(*_moved(process, part, y, x0, t, other), other) - f) / width)
            widths.append(abs(width))
    if not slopes:  # a process of one level
        slope = torch.zeros_like(f)
    elif len(slopes) == 1:
        slope = slopes[0]
    else:  # of the parabola through all three, each side by the other's width
        slope = (slopes[0] * widths[1] + slopes[1] * widths[0]) / sum(widths)
    return torch.stack([part.sum(0) for part in (f, slope, f * f, f * slope)])


def _moved(
    process: Process, part: Part, y: Tensor, x0: Tensor, t: int, other: int
) -> tuple[Tensor, Tensor]:
    """(y, x0_hat) at a neighbouring level of the ODE d(y / sigma) = x0_hat d(a / sigma).

    Heun's method, and the denoiser once more at its end.
    """
    a, sigma = process.a, process.sigma
    keep = sigma[other] / sigma[t]
    rise = a[other] - keep * a[t]
    guess = part.clean(process, keep * y + rise * x0, other)
    y = keep * y + rise / 2 * (x0 + guess)
    return y, part.clean(process, y, other)
