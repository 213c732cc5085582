"""DPM-Solver-v3 against closed forms: exact for Gaussian data, other solvers as special cases."""

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from diffplan.diffusion.ddim import ddim
from diffplan.diffusion.dpm_solver_v3 import (
    Statistics,
    check_statistics,
    dpm_solver_v3,
)
from diffplan.diffusion.grids import time_grid
from diffplan.diffusion.guidance import pin
from diffplan.diffusion.process import Process
from diffplan.diffusion.processes import betas_cosine, betas_linear, betas_vp, ddpm, rddm
from diffplan.diffusion.sampling import Denoise, half_log_snrs
from diffplan.errors import DiffplanError

H, D = 3, 2
COSINE, LINEAR, VP, RDDM = (
    ddpm(betas_cosine(20)),
    ddpm(betas_linear(100)),
    ddpm(betas_vp(50)),
    rddm(10),
)
MEAN = torch.linspace(-1.0, 1.0, H * D).double().view(H, D)
VARIANCE = torch.linspace(0.01, 2.0, H * D).double().view(H, D)


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def statistics(process: Process, l: Tensor, s: Tensor, b: Tensor) -> Statistics:  # noqa: E741
    return Statistics(l, s, b, process.a, process.r, process.sigma)


def plain(process: Process) -> Statistics:
    """l = 1, s = b = 0."""
    zero = torch.zeros(process.T + 1, H, D).double()
    return statistics(process, zero + 1, zero, zero)


def column(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None, None]


def gaussian(process: Process, proposal: Tensor | None = None, scale: float = 1.0) -> Denoise:
    """E[x0 | x_t] of independent entries N(MEAN, VARIANCE)."""

    def denoise(x: Tensor, t: int) -> Tensor:
        a, sigma = process.a[t], process.sigma[t] * scale
        y = x if proposal is None else x - process.r[t] * proposal
        return MEAN + a * VARIANCE / (a * a * VARIANCE + sigma**2) * (y - a * MEAN)

    return denoise


def exact(process: Process, scale: float = 1.0) -> Statistics:
    """l = sigma^2 / (a^2 v + sigma^2) makes f = -l m, whose slope is b = -dl/d lambda m; s = 0."""
    a, sigma = column(process.a), column(process.sigma) * scale
    l = sigma**2 / (a**2 * VARIANCE + sigma**2)  # noqa: E741
    b = 2 * l * (1 - l) * MEAN
    return statistics(process, l, torch.zeros_like(l), b)


def flow(process: Process, y: Tensor, t: int, s: int, scale: float = 1.0) -> Tensor:
    """The probability-flow ODE of Gaussian data from y at t to s: standard deviations stretch."""
    before = (process.a[t] ** 2 * VARIANCE + (process.sigma[t] * scale) ** 2).sqrt()
    after = (process.a[s] ** 2 * VARIANCE + (process.sigma[s] * scale) ** 2).sqrt()
    return process.a[s] * MEAN + after / before * (y - process.a[t] * MEAN)


def logsnr_grid(process: Process, start: int, steps: int, end: int = 1) -> tuple[int, ...]:
    """`steps` steps of nearly equal length in lambda from `start` to `end`, then one to 0."""
    lam = half_log_snrs(process)
    wanted = [lam[start] + (lam[end] - lam[start]) * i / steps for i in range(steps + 1)]
    found = [min(range(end, start + 1), key=lambda t: abs(lam[t] - at)) for at in wanted]
    assert all(t > s for t, s in pairwise(found))
    return (*found, 0)


def end_of(denoise: Denoise, *args, **options) -> Tensor:
    """What the denoiser is called with last: x at the level before 0."""
    seen = []

    def watched(x: Tensor, t: int) -> Tensor:
        seen.append(x)
        return denoise(x, t)

    dpm_solver_v3(watched, *args, **options)
    return seen[-1]


# --- Exact statistics ----------------------------------------------------------------------------


@pytest.mark.parametrize("corrector", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_gaussian_data_are_solved_exactly_in_any_number_of_steps(
    steps: int, corrector: bool
) -> None:
    process = ddpm(betas_vp(4000, 0.1, 20.0))
    start, y = process.T, normal(4, H, D, seed=1)
    grid = logsnr_grid(process, start, steps, end=80)
    for order in (1, 2, 3):
        options = {"statistics": exact(process), "order": order, "corrector": corrector}
        end = end_of(gaussian(process), process, grid, y, **options)
        torch.testing.assert_close(end, flow(process, y, start, grid[-2]), rtol=0, atol=1e-5)
    # DDIM is that far off
    if steps <= 5:
        seen = ddim(gaussian(process), process, grid, y)
        true = gaussian(process)(flow(process, y, start, grid[-2]), grid[-2])
        assert float((seen - true).abs().max()) > 1e-2


@pytest.mark.parametrize("steps", [1, 4])
def test_the_processes_with_a_proposal_are_solved_exactly_too(steps: int) -> None:
    process, kappa, start = rddm(3000), 0.7, 2500
    proposal = normal(4, H, D, seed=2)
    y = normal(4, H, D, seed=1)
    grid = logsnr_grid(process, start, steps, end=60)
    x = y + process.r[start] * proposal
    end = end_of(
        gaussian(process, proposal, kappa),
        process,
        grid,
        x,
        proposal=proposal,
        scale=torch.full((H, D), kappa).double(),
        statistics=exact(process, kappa),
    )
    expected = flow(process, y, start, 60, kappa) + process.r[60] * proposal
    torch.testing.assert_close(end, expected, rtol=0, atol=1e-5)


def test_a_linear_law_of_f_is_solved_exactly() -> None:
    """f' = s f + b with s and b that are not 0: x0_hat made from f's own solution."""
    process = ddpm(betas_vp(3000, 0.1, 20.0))
    lam = torch.from_numpy(half_log_snrs(process))[:, None, None]
    top = float(lam[-1])
    s, b, l, f0 = 0.4, -0.3, 0.6, normal(1, H, D, seed=3)  # noqa: E741
    shape = torch.zeros(process.T + 1, H, D).double()
    given = statistics(process, shape + l, shape + s, shape + b)

    def denoise(y: Tensor, t: int) -> Tensor:
        f = (f0 + b / s) * math.exp(s * (float(lam[t]) - top)) - b / s
        return (1 - l) / process.a[t] * y - f

    y, end = normal(1, H, D, seed=4), 10
    u = float(lam[end]) - top  # d(y/a) = -(l y/a + f), variation of constants
    inner = (f0 + b / s) * (math.exp((l + s) * u) - 1) / (l + s) - b / s * (math.exp(l * u) - 1) / l
    expected = process.a[end] * math.exp(-l * u) * (y / process.a[-1] - inner)
    for grid in ((process.T, end, 0), (process.T, 2000, 700, 90, end, 0)):
        for order in (1, 2, 3):
            found = end_of(denoise, process, grid, y, statistics=given, order=order)
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


# --- Special cases -------------------------------------------------------------------------------


def nonlinear(process: Process, proposal: Tensor | None = None) -> Denoise:
    """A smooth denoiser that no statistics make exact: two clusters in every entry."""

    def denoise(x: Tensor, t: int) -> Tensor:
        a, sigma = process.a[t], process.sigma[t]
        y = x if proposal is None else x - process.r[t] * proposal
        v = 0.09
        total = a * a * v + sigma**2
        return torch.tanh(a * y / total) * sigma**2 / total + a * v / total * y

    return denoise


@pytest.mark.parametrize("process", [COSINE, LINEAR, VP], ids=["cosine", "linear", "vp"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_order_one_of_plain_statistics_is_ddim(process: Process, steps: int) -> None:
    x, grid = normal(4, H, D), time_grid(process.T, steps)
    denoise = nonlinear(process)
    options = {"statistics": plain(process), "order": 1, "corrector": False}
    end = dpm_solver_v3(denoise, process, grid, x, **options)
    torch.testing.assert_close(end, ddim(denoise, process, grid, x), rtol=1e-9, atol=1e-9)


def test_order_one_of_plain_statistics_is_ddim_with_a_proposal() -> None:
    x, proposal, grid = normal(4, H, D), normal(4, H, D, seed=1), (9, 6, 2, 0)
    denoise = nonlinear(RDDM, proposal)
    given = plain(RDDM)
    options = {"statistics": given, "order": 1, "corrector": False}
    end = dpm_solver_v3(denoise, RDDM, grid, x, proposal=proposal, **options)
    expected = ddim(denoise, RDDM, grid, x, proposal=proposal)
    torch.testing.assert_close(end, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("process", [COSINE, LINEAR], ids=["cosine", "linear"])
def test_order_two_of_plain_statistics_is_dpm_solver_pp_2m_as_a_taylor_series(
    process: Process,
) -> None:
    """Lu et al. 2022, arXiv 2211.01095, appendix B: x0 linear in lambda through its last values."""
    grid, x, denoise = time_grid(process.T, 8), normal(4, H, D), nonlinear(process)
    lam = half_log_snrs(process)
    y, last = x, None
    for t, s in pairwise(grid):
        x0 = denoise(y, t)
        if s == 0:
            break
        h = lam[s] - lam[t]
        slope = 0.0 if last is None else (x0 - last[0]) / (lam[t] - last[1])
        decay = math.exp(-h)
        y = process.sigma[s] / process.sigma[t] * y + process.a[s] * (
            (1 - decay) * x0 + (h - 1 + decay) * slope
        )
        last = x0, lam[t]
    options = {"statistics": plain(process), "order": 2, "corrector": False}
    found = dpm_solver_v3(denoise, process, grid, x, **options)
    torch.testing.assert_close(found, x0, rtol=1e-9, atol=1e-9)
    assert float((found - ddim(denoise, process, grid, x)).abs().max()) > 1e-3


# --- Orders of convergence -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "corrector", "measured"),
    [(1, False, 1.0), (1, True, 2.0), (2, False, 2.0), (2, True, 2.0), (3, True, 2.0)],
)
def test_orders_of_convergence(order: int, corrector: bool, measured: float) -> None:
    """With wrong but smooth statistics; levels at equal distances in lambda."""
    levels = 960
    lam = torch.linspace(3.0, -3.0, levels + 1).double()
    a, sigma = lam.sigmoid().sqrt().tolist(), (-lam).sigmoid().sqrt().tolist()
    process = Process("even", (1.0, *a), (0.0,) * (levels + 2), (0.0, *sigma), (1.0, *a))
    wave = torch.cat([lam[:1], lam])[:, None, None] + torch.zeros(H, D).double()
    given = statistics(process, 0.7 + 0.2 * wave.tanh(), 0.3 * wave.cos(), 0.2 * wave.sin())
    denoise, x = nonlinear(process), normal(4, H, D, seed=5)

    def end(steps: int) -> Tensor:
        grid = (*range(levels + 1, 0, -levels // steps), 0)
        return end_of(denoise, process, grid, x, statistics=given, order=order, corrector=corrector)

    truth = end_reference(denoise, process, x)
    errors = [float((end(steps) - truth).norm()) for steps in (40, 80, 160)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(measured, abs=0.35), errors


def end_reference(denoise: Denoise, process: Process, x: Tensor) -> Tensor:
    """Classical Runge-Kutta over every second level of d(y / sigma) = x0_hat d(a / sigma)."""
    a, sigma = process.a, process.sigma
    z = x / sigma[-1]
    for t in range(len(a) - 1, 2, -2):
        mid, s = t - 1, t - 2
        k = [a[i] / sigma[i] for i in (t, mid, s)]
        # both halves in the variable lambda, in which the levels are even
        step = math.log(k[2] / k[0])
        k1 = denoise(sigma[t] * z, t) * k[0]
        k2 = denoise(sigma[mid] * (z + step / 2 * k1), mid) * k[1]
        k3 = denoise(sigma[mid] * (z + step / 2 * k2), mid) * k[1]
        k4 = denoise(sigma[s] * (z + step * k3), s) * k[2]
        z = z + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return sigma[1] * z


# --- Contract ------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2, 3])
def test_one_evaluation_per_step_and_the_last_answer_is_returned(order: int) -> None:
    calls = []

    def denoise(x: Tensor, t: int) -> Tensor:
        calls.append(t)
        answers.append(x.sin())
        return answers[-1]

    answers: list[Tensor] = []
    x = normal(4, H, D).float()
    kept, grid = x.clone(), time_grid(20, 6)
    end = dpm_solver_v3(denoise, COSINE, grid, x, statistics=exact(COSINE), order=order)
    assert calls == list(grid[:-1])
    assert end is answers[-1] and end.dtype == torch.float32
    assert torch.equal(x, kept)
    assert dpm_solver_v3(denoise, COSINE, (0,), x, statistics=exact(COSINE)) is x


def test_a_pinned_state_comes_back_bit_by_bit() -> None:
    first = normal(4, D, seed=7).float()
    given = exact(COSINE)
    denoise = pin(nonlinear(COSINE), 0, first)
    end = dpm_solver_v3(
        denoise, COSINE, time_grid(20, 5), normal(4, H, D).float(), statistics=given
    )
    assert torch.equal(end[:, 0], first)


def test_a_batch_is_its_rows() -> None:
    x, proposal, grid = normal(5, H, D), normal(5, H, D, seed=1), (9, 7, 4, 2, 0)
    given = exact(RDDM)

    def run(rows: slice) -> Tensor:
        denoise = nonlinear(RDDM, proposal[rows])
        return dpm_solver_v3(
            denoise, RDDM, grid, x[rows], proposal=proposal[rows], statistics=given
        )

    together = run(slice(None))
    for row in range(5):
        rows = slice(row, row + 1)
        torch.testing.assert_close(together[rows], run(rows), rtol=1e-12, atol=1e-12)


def test_misuse_gets_one_clear_line() -> None:
    x, given = normal(4, H, D), plain(COSINE)
    denoise = nonlinear(COSINE)
    with pytest.raises(DiffplanError, match="orders 1, 2 and 3, got 4"):
        dpm_solver_v3(denoise, COSINE, (5, 0), x, statistics=given, order=4)
    with pytest.raises(DiffplanError, match=r"descend from at most 20 to 0, got \(5, 5, 0\)"):
        dpm_solver_v3(denoise, COSINE, (5, 5, 0), x, statistics=given)
    with pytest.raises(DiffplanError, match=r"level 10 of 'rddm'.*nothing of x0.*start lower"):
        dpm_solver_v3(denoise, RDDM, (10, 5, 0), x, proposal=x, statistics=plain(RDDM))
    with pytest.raises(DiffplanError, match="needs a proposal"):
        dpm_solver_v3(denoise, RDDM, (9, 5, 0), x, statistics=plain(RDDM))
    with pytest.raises(DiffplanError, match=r"another process \(20 levels\) than 'ddpm' \(100"):
        dpm_solver_v3(denoise, LINEAR, (5, 0), x, statistics=given)
    with pytest.raises(DiffplanError, match=r"plans \[3, 2\], got x of \[3, 1\]"):
        dpm_solver_v3(denoise, COSINE, (5, 0), x[..., :1], statistics=given)
    silent = dataclasses.replace(given, sigma=(0.0,) * 21)
    noiseless = Process("ddpm", COSINE.a, COSINE.r, COSINE.sigma, COSINE.a)
    object.__setattr__(noiseless, "sigma", silent.sigma)
    with pytest.raises(DiffplanError, match="needs noise at every level, but level 5"):
        check_statistics(silent, noiseless, (5, 0))


def test_statistics_of_wrong_shape_or_content_are_refused() -> None:
    good = plain(COSINE)
    with pytest.raises(DiffplanError, match=r"table s has shape \[20, 3, 2\], expected \[21"):
        dataclasses.replace(good, s=good.s[1:])
    with pytest.raises(DiffplanError, match="table b holds numbers that are not finite"):
        dataclasses.replace(good, b=good.b / 0)
