"""Samplers of higher order: measured orders, closed forms, blow-ups."""

import dataclasses
import math
import re
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from diffplan.diffusion import guidance
from diffplan.diffusion.forward import q_sample, start_process
from diffplan.diffusion.grids import logsnr_grid, time_grid
from diffplan.diffusion.process import Process
from diffplan.diffusion.processes import (
    betas_cosine,
    betas_linear,
    ddpm,
    diffuse_vae,
    interpolant,
    rddm,
    resfusion,
)
from diffplan.diffusion.samplers import SAMPLERS
from diffplan.diffusion.sampling import Denoise
from diffplan.errors import DiffplanError

B, H, D = 4, 3, 2
SECOND = ["dpm-solver++2m", "s-pndm", "f-pndm"]
MULTISTEP = [
    name
    for name, sampler in SAMPLERS.items()
    if not sampler.eta(1.0) and "statistics" not in sampler.takes
]
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

    SAMPLERS[name].run(watched, process, grid, x, **given)
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
        ("evodiff", 0.8, 1.2),
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
    tolerance = {"ddim": 0.04, "evodiff": 0.2}.get(name, 0.004)
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

        end = SAMPLERS[key].run(watched, process, grid, x, **given)
        assert torch.isfinite(end).all()
    for t in grid[1:3] if name == "dpm-solver++2m" else grid[1:2]:
        torch.testing.assert_close(seen[f"{name} {t}"], seen[f"ddim {t}"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["dpm-solver++2m", "unipc"])
def test_a_start_without_x0_is_the_limit_of_one_with_little(name: str) -> None:
    process, grid = rddm(10), (10, 7, 4, 2, 0)
    proposal, x = normal(B, H, D, seed=2), normal(B, H, D, seed=4)
    near = dataclasses.replace(process, a=(*process.a[:-1], 1e-12))
    exact, limit = (
        SAMPLERS[name].run(gaussian(p, proposal), p, grid, x, proposal=proposal)
        for p in (process, near)
    )
    # the share of the answer before falls with 1 / log(a) only
    torch.testing.assert_close(exact, limit, rtol=0, atol=0.06)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_one_step_is_the_denoiser_and_none_is_the_start(name: str) -> None:
    process, x = ddpm(betas_cosine(20)), normal(B, H, D)
    denoise = gaussian(process)
    assert torch.equal(SAMPLERS[name].run(denoise, process, (15, 0), x), denoise(x, 15))
    assert torch.equal(SAMPLERS[name].run(denoise, process, (0,), x), x)


@pytest.mark.parametrize("name", MULTISTEP)
def test_rows_do_not_see_one_another(name: str) -> None:
    process, x = ddpm(betas_cosine(100)), normal(B, H, D)
    grid = time_grid(95, 8)
    together = SAMPLERS[name].run(gaussian(process), process, grid, x)
    for row in range(B):
        alone = SAMPLERS[name].run(gaussian(process), process, grid, x[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-12, atol=1e-12)


class Sampled(torch.nn.Module):
    """A chain of the given sampler as one module."""

    def __init__(self, name: str, process: Process, grid: tuple[int, ...]) -> None:
        super().__init__()
        self.name, self.process, self.grid = name, process, grid

    def forward(self, x: Tensor, proposal: Tensor) -> Tensor:
        def denoise(x: Tensor, t: int) -> Tensor:
            return torch.tanh(x + 0.1 * t)

        sampler = SAMPLERS[self.name].run
        return sampler(denoise, self.process, self.grid, x, proposal=proposal)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_chain_exports_as_one_graph(name: str) -> None:
    chain = Sampled(name, rddm(10), (8, 6, 4, 2, 0))
    x, proposal = normal(B, H, D), normal(B, H, D, seed=1)
    exported = torch.export.export(chain, (x, proposal)).module()
    torch.testing.assert_close(exported(2 * x, proposal), chain(2 * x, proposal))


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_pinned_state_is_bit_exact_at_the_end(name: str) -> None:
    process, x = ddpm(betas_cosine(100)), normal(B, H, D)
    value, goal = normal(B, D, seed=5), normal(B, 1, seed=6)
    denoise = guidance.pin(gaussian(process), 0, value)
    denoise = guidance.pin(denoise, -1, goal, (1,))
    end = SAMPLERS[name].run(denoise, process, time_grid(95, 8), x)
    assert torch.equal(end[:, 0], value)
    assert torch.equal(end[:, -1, 1:], goal)


@pytest.mark.parametrize("name", ["s-pndm", "f-pndm"])
@pytest.mark.parametrize("kind", ["cosine", "linear", "interpolant"])
def test_pndm_refuses_just_what_it_would_blow_up(name: str, kind: str) -> None:
    """A transfer out of almost pure noise: refused, or no worse than twice ddim."""
    process = {
        "cosine": ddpm(betas_cosine(100)),
        "linear": ddpm(betas_linear(1000, 1e-4, 2e-2)),
        "interpolant": interpolant(60),
    }[kind]
    x, proposal, ran = normal(B, H, D, seed=1), normal(B, H, D, seed=2), 0
    given = {"proposal": proposal} if any(process.r) else {}
    for start in (process.T, process.T * 4 // 5, process.T // 2):
        for steps in (2, 4, 6, 10, 20, 30):
            grid = time_grid(start, steps)
            y = flow(process, x - process.r[start] * proposal, start, 0)
            off = {}
            for key in ("ddim", name):
                try:
                    end = SAMPLERS[key].run(gaussian(process, proposal), process, grid, x, **given)
                except DiffplanError as error:
                    assert re.search("errors would grow|is one level", str(error))
                else:
                    off[key] = float((end - y).norm())
            ran += name in off
            assert off.get(name, 0.0) < 2 * off["ddim"], grid
    assert ran >= 9
