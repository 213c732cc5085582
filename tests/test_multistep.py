"""Samplers of higher order: measured orders, special cases, what they refuse, what they cost."""

import math
import re
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from diffplan import guidance
from diffplan.errors import DiffplanError
from diffplan.family import (
    betas_cosine,
    ddpm,
    diffuse_vae,
    interpolant,
    rddm,
    resfusion,
)
from diffplan.grids import logsnr_grid, time_grid
from diffplan.multistep import MULTISTEP
from diffplan.process import Process, q_sample, start_process
from diffplan.samplers import Denoise, ddim
from diffplan.solvers import SAMPLERS, check_sampler, evaluations, needs_noise, sampler_options

B, H, D = 4, 3, 2
SECOND = ["dpm-solver++2m", "s-pndm", "f-pndm"]
DETERMINISTIC = ["ddim", *MULTISTEP]


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def fine(T: int, first: float = -3.0, last: float = 4.0) -> Process:
    """DDPM whose level 1 has lambda `last` and level T `first`, even in between."""
    signal = [1.0]
    for t in range(1, T + 1):
        lam = last + (first - last) * (t - 1) / (T - 1)
        signal.append(1 / math.sqrt(1 + math.exp(-2 * lam)))
    sigma = [math.sqrt(1 - a * a) for a in signal]
    return Process("ddpm", tuple(signal), (0.0,) * (T + 1), tuple(sigma), tuple(signal))


MEAN, VARIANCE = normal(H, D, seed=8), torch.linspace(0.05, 1.5, H * D).double().view(H, D)


def gaussian(process: Process, proposal: Tensor | None = None) -> Denoise:
    """E[x0 | x_t] of x0 ~ N(MEAN, VARIANCE), entry by entry."""

    def denoise(x: Tensor, t: int) -> Tensor:
        a, sigma = process.a[t], process.sigma[t]
        y = x if proposal is None else x - process.r[t] * proposal
        gain = a * VARIANCE / (a * a * VARIANCE + sigma * sigma)
        return MEAN + gain * (y - a * MEAN)

    return denoise


def flow(process: Process, y: Tensor, t: int, s: int) -> Tensor:
    """The probability-flow map of y = x - r x̂ from level t to s, in closed form."""

    def std(level: int) -> Tensor:
        return (process.a[level] ** 2 * VARIANCE + process.sigma[level] ** 2).sqrt()

    return process.a[s] * MEAN + std(s) / std(t) * (y - process.a[t] * MEAN)


def solved(name: str, process: Process, grid: tuple[int, ...], x: Tensor, **given) -> Tensor:
    """x at the grid's last level but one, seen as the last thing the denoiser is shown."""
    seen: list[Tensor] = []
    denoise = gaussian(process, given.get("proposal"))

    def watched(x: Tensor, t: int) -> Tensor:
        if t == grid[-2]:
            seen.append(x)
        return denoise(x, t)

    SAMPLERS[name](watched, process, grid, x, **given)
    return seen[-1]


def measured_order(name: str, process: Process, steps: tuple[int, ...]) -> list[float]:
    x = normal(B, H, D, seed=1)
    expected = flow(process, x, process.T, 1)
    errors = []
    for n in steps:
        grid = (*[process.T - round((process.T - 1) * i / n) for i in range(n + 1)], 0)
        errors.append(float((solved(name, process, grid, x) - expected).abs().max()))
    return [math.log2(a / b) for a, b in pairwise(errors)]


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("ddim", 0.9, 1.1),
        ("dpm-solver++2m", 1.85, 2.15),
        ("unipc", 2.6, 3.4),
        ("s-pndm", 1.85, 2.15),
        ("f-pndm", 1.8, 2.3),
        ("evodiff", 0.6, 2.2),
    ],
)
def test_measured_order_of_convergence(name: str, low: float, high: float) -> None:
    found = measured_order(name, fine(2561), (40, 80, 160))
    assert all(low < order < high for order in found), found


@pytest.mark.parametrize("name", [*SECOND, "unipc"])
def test_a_higher_order_is_nearer_than_ddim_in_few_steps(name: str) -> None:
    process, x = fine(2561), normal(B, H, D, seed=1)
    expected = flow(process, x, process.T, 1)
    grid = (*[process.T - 256 * i for i in range(11)], 0)
    off = {
        key: float((solved(key, process, grid, x) - expected).abs().max()) for key in (name, "ddim")
    }
    assert off[name] < 0.5 * off["ddim"]


FAMILY = {
    "ddpm": ddpm(betas_cosine(600)),
    "rddm": rddm(600),
    "resfusion": resfusion(betas_cosine(800)),
    "diffuse-vae": diffuse_vae(betas_cosine(600)),
    "interpolant": interpolant(600),
    "trigonometric": interpolant(600, "trigonometric", "root"),
}


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("kind", FAMILY)
def test_every_sampler_follows_every_process_to_the_closed_form(name: str, kind: str) -> None:
    """From a level that holds something of x0, down to level 1, in y = x - r x̂."""
    process, start = FAMILY[kind], 480
    proposal = normal(B, H, D, seed=2)
    x0, noise = normal(B, H, D, seed=3), normal(B, H, D, seed=4)
    given = {"proposal": proposal} if any(process.r) else {}
    scale = torch.ones(H, D, dtype=torch.float64)
    x = q_sample(process, torch.full((B,), start), x0, proposal, noise, scale)
    if process.scaled:
        given["scale"] = scale
    # DDPM walks evenly in lambda, where solvers belong; the others evenly in the level
    grid = logsnr_grid(process, start, 120) if kind == "ddpm" else time_grid(start, 120)
    y = x - process.r[start] * proposal
    last = grid[-2]
    expected = flow(process, y, start, last) + process.r[last] * proposal
    found = solved(name, process, grid, x, **given)
    tolerance = {"ddim": 0.05, "evodiff": 0.2}.get(name, 0.02)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["dpm-solver++2m", "unipc", "evodiff"])
@pytest.mark.parametrize("kind", ["rddm", "resfusion"])
def test_a_start_that_holds_nothing_of_x0_is_left_in_first_order(name: str, kind: str) -> None:
    process = {"rddm": rddm(10), "resfusion": resfusion(betas_cosine(20))}[kind]
    proposal, noise = normal(B, H, D, seed=2), normal(B, H, D, seed=4)
    scale = 0.3 * torch.ones(H, D, dtype=torch.float64)
    x = start_process(process, process.T, proposal, noise, scale)
    grid = time_grid(process.T, 4)
    denoise = gaussian(process, proposal)
    given = {"proposal": proposal, "scale": scale}
    two, one = grid[:2], (grid[0], grid[1], 0)
    assert two == one[:2]
    seen: dict[str, Tensor] = {}
    for key in (name, "ddim"):

        def watched(x: Tensor, t: int, key: str = key) -> Tensor:
            seen.setdefault(f"{key} {t}", x)
            return denoise(x, t)

        end = SAMPLERS[key](watched, process, grid, x, **given)
        assert torch.isfinite(end).all()
    for t in grid[1:3] if name == "dpm-solver++2m" else grid[1:2]:
        torch.testing.assert_close(seen[f"{name} {t}"], seen[f"ddim {t}"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_one_step_is_the_denoiser_and_none_is_the_start(name: str) -> None:
    process, x = ddpm(betas_cosine(20)), normal(B, H, D)
    denoise = gaussian(process)
    assert torch.equal(SAMPLERS[name](denoise, process, (15, 0), x), denoise(x, 15))
    assert torch.equal(SAMPLERS[name](denoise, process, (0,), x), x)


@pytest.mark.parametrize("name", MULTISTEP)
def test_rows_do_not_see_one_another(name: str) -> None:
    process, x = ddpm(betas_cosine(100)), normal(B, H, D)
    grid = time_grid(95, 8)
    together = SAMPLERS[name](gaussian(process), process, grid, x)
    for row in range(B):
        alone = SAMPLERS[name](gaussian(process), process, grid, x[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_pinned_state_is_bit_exact_at_the_end(name: str) -> None:
    process, x = ddpm(betas_cosine(100)), normal(B, H, D)
    value, goal = normal(B, D, seed=5), normal(B, 1, seed=6)
    denoise = guidance.pin(gaussian(process), 0, value)
    denoise = guidance.pin(denoise, -1, goal, (1,))
    end = SAMPLERS[name](denoise, process, time_grid(95, 8), x)
    assert torch.equal(end[:, 0], value)
    assert torch.equal(end[:, -1, 1:], goal)


def test_2m_is_its_published_formula() -> None:
    """Lu et al. 2022, algorithm 2, written out for two steps of a variance preserving process."""
    process, x = ddpm(betas_cosine(50)), normal(B, H, D)
    answers: list[Tensor] = []

    def denoise(x: Tensor, t: int) -> Tensor:
        answers.append(torch.tanh(x) + 0.01 * t)
        return answers[-1]

    lam = [math.inf, *(math.log(process.a[t] / process.sigma[t]) for t in range(1, 51))]
    seen = solved_by(denoise, process, (40, 25, 12, 0), x)
    first, second = answers[:2]
    h0, h = lam[25] - lam[40], lam[12] - lam[25]
    x1 = process.sigma[25] / process.sigma[40] * x - process.a[25] * math.expm1(-h0) * first
    mixed = (1 + h / (2 * h0)) * second - h / (2 * h0) * first
    x2 = process.sigma[12] / process.sigma[25] * x1 - process.a[12] * math.expm1(-h) * mixed
    torch.testing.assert_close(seen[12], x2, rtol=1e-12, atol=1e-12)


def solved_by(
    denoise: Callable[[Tensor, int], Tensor], process: Process, grid: tuple[int, ...], x: Tensor
) -> dict[int, Tensor]:
    seen: dict[int, Tensor] = {}

    def watched(x: Tensor, t: int) -> Tensor:
        seen[t] = x
        return denoise(x, t)

    SAMPLERS["dpm-solver++2m"](watched, process, grid, x)
    return seen


# --- What suits what -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["s-pndm", "f-pndm"])
def test_pndm_needs_a_signal_everywhere(name: str) -> None:
    process, grid = rddm(10), (10, 6, 3, 0)
    message = "cannot pass level 10 of 'rddm', where x_t holds nothing of x0: use ddim"
    with pytest.raises(DiffplanError, match=message):
        check_sampler(name, process, grid)
    with pytest.raises(DiffplanError, match=message):
        SAMPLERS[name](gaussian(process), process, grid, normal(1, H, D), proposal=normal(1, H, D))
    check_sampler(name, process, (8, 4, 2, 0))


def test_f_pndm_needs_levels_half_way() -> None:
    process = ddpm(betas_cosine(20))
    with pytest.raises(DiffplanError, match=r"12 to 11 is one level: use at most 6 steps"):
        check_sampler("f-pndm", process, (12, 11, 5, 0))
    check_sampler("f-pndm", process, (12, 8, 4, 2, 1, 0))
    check_sampler("f-pndm", process, (1, 0))


@pytest.mark.parametrize("name", [*MULTISTEP, "dpm-solver-v3"])
def test_a_process_without_noise_suits_ddim_alone(name: str) -> None:
    process = interpolant(10, gamma="none")
    with pytest.raises(DiffplanError, match=re.escape(name) + " needs noise, but .* has none: use"):
        check_sampler(name, process, (10, 5, 0))
    check_sampler("ddim", process, (10, 5, 0))


def test_v3_asks_for_its_statistics() -> None:
    with pytest.raises(DiffplanError, match="needs statistics of the model: run `diffplan calib"):
        check_sampler("dpm-solver-v3", ddpm(betas_cosine(20)), (10, 5, 0))


def test_a_flow_without_noise_ends_at_the_data_of_a_perfect_denoiser() -> None:
    """x_s = x_t + (u_s - u_t)(x0 - x̂) for the linear path, whatever the number of steps."""
    process = interpolant(10, gamma="none")
    x0, proposal = normal(B, H, D), normal(B, H, D, seed=1)
    seen: dict[int, Tensor] = {}

    def denoise(x: Tensor, t: int) -> Tensor:
        seen[t] = x
        return x0

    end = ddim(denoise, process, (10, 6, 3, 0), proposal, proposal=proposal, eta=0.0)
    assert torch.equal(end, x0)
    for t in (6, 3):
        expected = process.a[t] * x0 + process.r[t] * proposal
        torch.testing.assert_close(seen[t], expected, rtol=0, atol=2e-3)  # a begins at 0.001


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
def test_evaluations_are_counted_as_they_are_made(name: str, steps: int) -> None:
    process, calls = fine(400), []
    denoise = gaussian(process)

    def counted(x: Tensor, t: int) -> Tensor:
        calls.append(t)
        return denoise(x, t)

    grid = time_grid(process.T, steps)
    SAMPLERS[name](counted, process, grid, normal(1, H, D))
    assert len(calls) == evaluations(name, grid)
    assert evaluations(name, (0,)) == 0


def test_options_by_sampler() -> None:
    assert needs_noise("ancestral", 0.0) and needs_noise("ddim", 0.2)
    assert not needs_noise("ddim", 0.0) and not needs_noise("unipc", 1.0)
    assert sampler_options("ddim", 0.3, None) == {"eta": 0.3}
    assert sampler_options("dpm-solver-v3", 0.3, None) == {"statistics": None}
    assert sampler_options("unipc", 0.3, None) == {}
