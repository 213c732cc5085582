"""The rows of the process family: schedules, and one function per published forward process.

All are tables of x_t = a_t x0 + r_t x̂ + sigma_t scale eps, see `diffplan.diffusion.process`.
"""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import mul

from diffplan.diffusion.process import Process
from diffplan.errors import DiffplanError

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


def _signal(betas: Sequence[float]) -> tuple[float, ...]:
    """sqrt(abar) of every level, 1 at level 0."""
    wrong = [beta for beta in betas if not 0 < beta < 1]
    if wrong or not betas:
        raise DiffplanError(f"betas must lie between 0 and 1, got {wrong[0] if wrong else 'none'}")
    return tuple(math.sqrt(value) for value in (1.0, *accumulate((1 - b for b in betas), mul)))


def _spread(signal: Sequence[float]) -> tuple[float, ...]:
    return tuple(math.sqrt(1 - value * value) for value in signal)


def ddpm(betas: Sequence[float]) -> Process:
    """DDPM: a = sqrt(abar), r = 0, sigma = sqrt(1 - abar) (Ho et al. 2020, eq. 4).

    Where other processes predict a velocity it predicts v, and for resnoise, without a residual,
    eps: so that one network can learn either beside it.
    """
    a = _signal(betas)
    sigma = _spread(a)
    targets = {
        "velocity": tuple((-noise, 0.0, signal) for signal, noise in zip(a, sigma, strict=True)),
        "resnoise": ((0.0, 0.0, 1.0),) * len(a),
    }
    return Process("ddpm", a, (0.0,) * len(a), sigma, memory=a, targets=targets)


def diffuse_vae(betas: Sequence[float]) -> Process:
    """DDPM around the proposal: a = sqrt(abar), r = 1, sigma = sqrt(1 - abar).

    DiffuseVAE, formulation 2 (Pandey et al. 2022, arXiv 2201.00308). r is 0 at level 0: the
    proposal is taken off again at the end.
    """
    a = _signal(betas)
    return Process("diffuse-vae", a, (0.0,) + (1.0,) * (len(a) - 1), _spread(a), memory=a)


_SAME = 0.01  # a last step smaller than this is none


def resfusion(betas: Sequence[float]) -> Process:
    """Noise and residual x̂ - x0 grow together, up to where nothing of x0 is left.

    Resfusion (Shi et al. 2023, arXiv 2311.14900): a = 2 sqrt(abar) - 1, r = 1 - sqrt(abar), of
    `betas` as far as sqrt(abar) = 1/2, which becomes the last level exactly: there x_T is
    x̂ / 2 + sqrt(3)/2 eps whatever x0. "resnoise" is what its network predicts.
    """
    signal = [1.0]
    for beta in betas:
        if not 0 < beta < 1:
            raise DiffplanError(f"betas must lie between 0 and 1, got {beta}")
        signal.append(signal[-1] * math.sqrt(1 - beta))
        if signal[-1] <= 0.5:
            break
    else:
        raise DiffplanError(
            f"resfusion needs a schedule whose sqrt(abar) falls to 1/2, this one ends at "
            f"{signal[-1]:.3f}: use a cosine schedule"
        )
    if len(signal) > 2 and signal[-2] - 0.5 < _SAME:
        signal.pop()
    signal[-1] = 0.5
    sigma = _spread(signal)
    targets = [(0.0, 0.0, 1.0)]
    for t in range(1, len(signal)):
        alpha = (signal[t] / signal[t - 1]) ** 2
        share = (1 - math.sqrt(alpha)) * sigma[t] / (1 - alpha)
        targets.append((-share, share, 1.0))
    return Process(
        "resfusion",
        a=tuple(2 * value - 1 for value in signal),
        r=tuple(1 - value for value in signal),
        sigma=sigma,
        memory=tuple(signal),
        targets={"resnoise": tuple(targets)},
    )


def rddm(T: int) -> Process:
    """RDDM from data (t = 0) to proposal plus noise (t = T) (Liu et al. 2024, arXiv 2308.13712).

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
        memory=(1.0,) * (T + 1),
        scaled=True,
    )


_FIRST = 1e-3  # of an interpolant: at u = 0 there is no noise to tell x0 and x̂ apart by


def interpolant(T: int) -> Process:
    """Stochastic interpolant between proposal and data (Albergo et al. 2023, arXiv 2303.08797).

    x_u = u x0 + (1 - u) x̂ + gamma(u) scale eps at u = 1 - t / T, with gamma = sqrt(u (1 - u)), a
    Brownian bridge. Conditioned on x̂, the velocity b = E[x0 - x̂ + gamma' eps | x_u], the denoiser
    E[eps | x_u] and E[x0 | x_u] are one another's linear functions, so any of them is enough:
    prediction "velocity" is b. `ddim` at eta 0 steps along the ODE, above along an SDE.

    At u = 0 the noise must grow faster than a(u) ~ u. With u (1 - u) or sin^2(pi u), which serve
    where the network does not know x̂, a network that does reads x0 off the very first x_u, and a
    chain that starts at x̂ takes that for x0.
    """
    return _between("interpolant", T, _brownian)


def rectified_flow(T: int) -> Process:
    """Rectified flow from the proposal: `interpolant` without noise (Liu et al. 2022).

    arXiv 2209.03003, here with x̂ in place of noise at u = 0.
    """
    return _between("rectified-flow", T, lambda u: (0.0, 0.0))


def _brownian(u: float) -> tuple[float, float]:
    spread = math.sqrt(u * (1 - u))
    return spread, (0.5 - u) / spread if 0 < u < 1 else 0.0


def _between(name: str, T: int, gamma: Callable[[float], tuple[float, float]]) -> Process:
    """The straight way between proposal and data; gamma: time u -> noise and its derivative."""
    _check_length(T)
    times = [1 - t / T for t in range(T)] + [_FIRST]
    sigma, rate = zip(*map(gamma, times), strict=True)
    # rounding must not leave level 0 unclean
    r, sigma = (0.0, *(1 - u for u in times[1:])), (0.0, *sigma[1:])
    return Process(
        name,
        tuple(times),
        r,
        sigma,
        memory=tuple(times),
        scaled=True,
        targets={"velocity": tuple((1.0, -1.0, w) for w in rate)},
    )


PROCESSES: dict[str, Callable[[Sequence[float]], Process]] = {
    "rddm": lambda betas: rddm(len(betas) // 2),
    "resfusion": resfusion,
    "interpolant": lambda betas: interpolant(len(betas) // 2),
    "rectified-flow": lambda betas: rectified_flow(len(betas) // 2),
    "diffuse-vae": diffuse_vae,
    "ddpm": ddpm,
}
"""Schedule of betas -> process, by the name used in configurations.

Those without a schedule go from data to something near them, and take half as many levels.
"""


def build_process(kind: str, betas: Sequence[float]) -> Process:
    """The process of that name."""
    return PROCESSES[kind](betas)


def _check_length(T: int) -> None:
    if T < 1:
        raise DiffplanError(f"a process needs at least 1 step, got T={T}")
