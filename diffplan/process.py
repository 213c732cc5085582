"""Forward processes as tables of floats, the grids that walk through them, and start rules.

Every way of linking a proposal x̂ to data x0 used here is one row of

    x_t = a_t x0 + r_t x̂ + sigma_t eps,    eps ~ N(0, I),

with t = 0 clean and t = T the far end. DDPM (Ho et al. 2020, arXiv 2006.11239) has r = 0; RDDM (Liu
et al. 2024, arXiv 2308.13712) moves from the data to the proposal. Coefficients are Python floats,
computed in float64 once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

import torch
from torch import Tensor

from diffplan.errors import DiffplanError


@dataclass(frozen=True)
class Process:
    """x_t = a_t x0 + r_t x̂ + sigma_t scale eps: three tables of T + 1 floats, index 0 clean."""

    name: str
    a: tuple[float, ...]
    r: tuple[float, ...]
    sigma: tuple[float, ...]
    scaled: bool = False
    """Whether sigma multiplies a noise scale [H, D] given at run time."""

    def __post_init__(self) -> None:
        if not len(self.a) == len(self.r) == len(self.sigma) >= 2:
            raise DiffplanError(
                f"process {self.name!r}: a, r and sigma need one common length of 2 or more, "
                f"got {len(self.a)}, {len(self.r)}, {len(self.sigma)}"
            )
        if (self.a[0], self.r[0], self.sigma[0]) != (1.0, 0.0, 0.0):
            raise DiffplanError(
                f"process {self.name!r} must be clean at index 0 (a=1, r=0, sigma=0), "
                f"got {self.a[0]}, {self.r[0]}, {self.sigma[0]}"
            )
        if min(self.sigma[1:]) <= 0:
            raise DiffplanError(f"process {self.name!r}: sigma must be positive after index 0")

    @property
    def T(self) -> int:
        """The last table index: the number of steps of the full chain."""
        return len(self.a) - 1

    def posterior_std(self, t: int, s: int) -> float:
        """Standard deviation of q(x_s | x_t, x0, x̂), in units of the scale, for s < t.

        With x_t = k x_s + ... + noise, Bayes' rule gives sigma_s^2 (1 - k^2 sigma_s^2 / sigma_t^2):
        k = a_t / a_s without proposal (Ho et al. 2020, eq. 7), k = 1 for residual processes, whose
        steps only add residual and noise (Liu et al. 2024).
        """
        additive = self.r[t] != 0.0
        k = 1.0 if additive else self.a[t] / self.a[s]
        ratio = k * self.sigma[s] / self.sigma[t]
        return self.sigma[s] * math.sqrt(max(0.0, 1.0 - ratio * ratio))


# --- Schedules -----------------------------------------------------------------------------------


def betas_linear(T: int, beta_start: float = 1e-3, beta_end: float = 2e-2) -> tuple[float, ...]:
    """Linear betas, not rescaled by T; T = 100 with the defaults is Trajectory Diffuser's chain.

    That chain ends at abar = 0.347, far from noise: it can only refine a proposal.
    """
    _check_length(T)
    if T == 1:
        return (beta_start,)
    return tuple(beta_start + (beta_end - beta_start) * i / (T - 1) for i in range(T))


def betas_cosine(T: int, s: float = 0.008) -> tuple[float, ...]:
    """Cosine schedule, capped at 0.999 (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 17)."""
    _check_length(T)

    def f(u: float) -> float:
        return math.cos((u + s) / (1 + s) * math.pi / 2) ** 2

    return tuple(min(1 - f((i + 1) / T) / f(i / T), 0.999) for i in range(T))


def betas_vp(T: int, b_min: float = 0.1, b_max: float = 10.0) -> tuple[float, ...]:
    """The variance-preserving SDE in T steps (Song et al. 2021, arXiv 2011.13456, appendix C)."""
    _check_length(T)
    slope = (b_max - b_min) / (2 * T * T)
    return tuple(-math.expm1(-b_min / T - slope * (2 * i + 1)) for i in range(T))


SCHEDULES: dict[str, Callable[[int], tuple[float, ...]]] = {
    "cosine": betas_cosine,
    "linear": betas_linear,
    "vp": betas_vp,
}
"""Betas of T steps, by the name used in configurations."""


def ddpm(betas: Sequence[float]) -> Process:
    """DDPM: a = sqrt(abar), r = 0, sigma = sqrt(1 - abar) (Ho et al. 2020, eq. 4)."""
    wrong = [beta for beta in betas if not 0 < beta < 1]
    if wrong or not betas:
        raise DiffplanError(f"betas must lie between 0 and 1, got {wrong[0] if wrong else 'none'}")
    abar = (1.0, *accumulate((1 - beta for beta in betas), mul))
    return Process(
        name="ddpm",
        a=tuple(math.sqrt(value) for value in abar),
        r=(0.0,) * len(abar),
        sigma=tuple(math.sqrt(1 - value) for value in abar),
    )


def rddm(T: int) -> Process:
    """RDDM from data (t = 0) to proposal plus noise (t = T) (Liu et al. 2024, forward process).

    The residual enters with decreasing weights (alpha_i ∝ T..1) and the noise variance with
    increasing ones (beta_i^2 ∝ 1..T), both summing to one; how much noise that is, the scale says.
    """
    _check_length(T)
    total = T * (T + 1) // 2
    shift = [0, *accumulate(range(T, 0, -1))]
    variance = [0, *accumulate(range(1, T + 1))]
    return Process(
        name="rddm",
        a=tuple((total - part) / total for part in shift),
        r=tuple(part / total for part in shift),
        sigma=tuple(math.sqrt(part / total) for part in variance),
        scaled=True,
    )


def _check_length(T: int) -> None:
    if T < 1:
        raise DiffplanError(f"a process needs at least 1 step, got T={T}")


# --- Grids ---------------------------------------------------------------------------------------


def time_grid(start: int, steps: int) -> tuple[int, ...]:
    """`steps + 1` strictly descending indices from `start` to 0, as even as integers allow."""
    if not 1 <= steps <= start:
        raise DiffplanError(
            f"{steps} sampling steps do not fit from level {start} to 0: use 1 to {start}"
        )
    return tuple((2 * start * left + steps) // (2 * steps) for left in range(steps, -1, -1))


def consecutive_grid(steps: int) -> tuple[int, ...]:
    """(steps, steps - 1, ..., 0): the last few steps of a chain, as the published '5 of 100'."""
    if steps < 0:
        raise DiffplanError(f"the number of sampling steps cannot be negative, got {steps}")
    return tuple(range(steps, -1, -1))


# --- Drawing x_t ---------------------------------------------------------------------------------


def coefficients(process: Process, t: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """(a, r, sigma) of the table indices `t` [B] (long), each [B, 1, 1] in `dtype`."""
    table = torch.tensor((process.a, process.r, process.sigma), dtype=dtype).to(t.device)
    a, r, sigma = table[:, t].reshape(3, -1, 1, 1).unbind(0)
    return a, r, sigma


def noise_scale(process: Process, scale: Tensor | None) -> Tensor | float:
    """`scale` if the process takes one (required then), else 1.0."""
    if not process.scaled:
        return 1.0
    if scale is None:
        raise DiffplanError(f"process {process.name!r} needs a noise scale [H, D], got none")
    return scale


def q_sample(
    process: Process,
    t: Tensor,
    x0: Tensor,
    proposal: Tensor | None,
    noise: Tensor,
    scale: Tensor | None = None,
) -> Tensor:
    """Draw x_t given x0: [B, H, D] for one table index `t` [B] (long) per row.

    `proposal` [B, H, D] may be None where r = 0; `scale` is [H, D], used by scaled processes.
    """
    a, r, sigma = coefficients(process, t, x0.dtype)
    x_t = a * x0 + sigma * noise_scale(process, scale) * noise
    if any(process.r):
        x_t = x_t + r * _required(proposal, f"process {process.name!r}")
    return x_t


# --- Where the reverse chain starts --------------------------------------------------------------

Start = Callable[[Process, int, Tensor | None, Tensor, Tensor | None], Tensor]
"""(process, level, proposal [B, H, D] or None, noise [B, H, D], scale [H, D] or None) -> x."""


def start_noise(
    process: Process, level: int, proposal: Tensor | None, noise: Tensor, scale: Tensor | None
) -> Tensor:
    """Pure noise, N(0, I) (Ho et al. 2020, algorithm 2): right where a_level is almost 0."""
    return noise


def start_sdedit(
    process: Process, level: int, proposal: Tensor | None, noise: Tensor, scale: Tensor | None
) -> Tensor:
    """The proposal noised to `level` (Meng et al. 2022, arXiv 2108.01073, section 3).

    For DDPM sqrt(abar) x̂ + sigma eps: exact if x̂ were x0, biased by sqrt(abar) (x̂ - x0) otherwise.
    """
    mean = _required(proposal, "the 'sdedit' start") * (process.a[level] + process.r[level])
    return mean + process.sigma[level] * noise_scale(process, scale) * noise


def start_published(
    process: Process, level: int, proposal: Tensor | None, noise: Tensor, scale: Tensor | None
) -> Tensor:
    """The proposal itself, neither scaled nor noised: Trajectory Diffuser's released code.

    arXiv 2407.16142; the chain then sees less noise than its level announces.
    """
    return _required(proposal, "the 'published' start")


def start_rddm(
    process: Process, level: int, proposal: Tensor | None, noise: Tensor, scale: Tensor | None
) -> Tensor:
    """x̂ + sigma_T scale eps (Liu et al. 2024): exact for every x0 as a_T = 0, so only at T."""
    if level != process.T or process.a[level] != 0.0:
        raise DiffplanError(
            f"the 'rddm' start needs the last level of an rddm process, "
            f"got level {level} of {process.T} of {process.name!r}"
        )
    mean = _required(proposal, "the 'rddm' start")
    return mean + process.sigma[level] * noise_scale(process, scale) * noise


STARTS: dict[str, Start] = {
    "noise": start_noise,
    "sdedit": start_sdedit,
    "published": start_published,
    "rddm": start_rddm,
}


def _required(proposal: Tensor | None, what: str) -> Tensor:
    if proposal is None:
        raise DiffplanError(f"{what} needs a proposal [B, H, D], got none")
    return proposal
