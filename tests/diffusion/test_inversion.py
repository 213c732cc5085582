"""Inversion: exact for any network, standard noise for the right one, Gaussians in closed form."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from diffplan.diffusion.ddim import ancestral
from diffplan.diffusion.grids import consecutive_grid
from diffplan.diffusion.inversion import METHODS, Code, invert, replay
from diffplan.diffusion.process import Process
from diffplan.diffusion.processes import (
    betas_cosine,
    betas_linear,
    ddpm,
    diffuse_vae,
    interpolant,
    rddm,
    rectified_flow,
    resfusion,
)
from diffplan.diffusion.sampling import Steps
from diffplan.errors import DiffplanError

COSINE = betas_cosine(20)
NOISY = [
    ddpm(COSINE),
    ddpm(betas_linear(30)),
    diffuse_vae(COSINE),
    interpolant(10),
    rddm(10),
    resfusion(COSINE),
]
B, H, D = 2000, 3, 2


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def arbitrary(seed: int):
    """A denoiser that was never trained."""
    weight = normal(D, D, seed=seed)
    return lambda x, t: torch.sin(3 * x @ weight) + 0.1 * t


def right(process: Process, mean: float | Tensor, spread: float, proposal: Tensor):
    """The exact denoiser of entries that are N(mean, spread^2) each, mean a number or [H, 1]."""

    def denoise(x: Tensor, t: int) -> Tensor:
        a, sigma = process.a[t], process.sigma[t]
        y = x - process.r[t] * proposal
        return mean + a * spread**2 / ((a * spread) ** 2 + sigma**2) * (y - a * mean)

    return denoise


@pytest.mark.parametrize("process", NOISY, ids=lambda p: f"{p.name}-{p.T}")
@pytest.mark.parametrize("method", METHODS)
def test_a_code_is_its_plan_whatever_the_network(process: Process, method: str) -> None:
    x0, x_hat, scale = normal(5, H, D), normal(5, H, D, seed=1), normal(H, D, seed=2).abs()
    for grid in (consecutive_grid(process.T), (process.T - 3, 2, 0), (1, 0)):
        noise = normal(len(grid) - 1, 5, H, D, seed=3)
        code = invert(
            *(arbitrary(0), process, grid, x0, noise),
            **{"method": method, "proposal": x_hat, "scale": scale},
        )
        same = replay(arbitrary(0), process, code, proposal=x_hat)
        torch.testing.assert_close(same, x0, rtol=0, atol=1e-14)
        other = replay(arbitrary(1), process, code, proposal=x_hat)
        assert (other - x0).abs().max() > 0.1
        assert torch.equal(other, replay(arbitrary(1), process, code, proposal=x_hat))


def test_single_precision_is_exact_to_its_rounding() -> None:
    process = rddm(10)
    x0, x_hat = (normal(5, H, D, seed=s).float() for s in (0, 1))
    noise, scale = normal(10, 5, H, D).float(), torch.full((H, D), 0.3)

    def denoise(x: Tensor, t: int) -> Tensor:
        return torch.sin(5 * x)

    code = invert(*(denoise, process, consecutive_grid(10), x0, noise), proposal=x_hat, scale=scale)
    found = replay(denoise, process, code, proposal=x_hat)
    torch.testing.assert_close(found, x0, rtol=0, atol=5e-7)


@pytest.mark.parametrize("process", NOISY, ids=lambda p: f"{p.name}-{p.T}")
def test_the_mean_is_that_of_the_ancestral_step(process: Process) -> None:
    x, x0, x_hat = (normal(5, H, D, seed=s) for s in range(3))
    steps, scale = Steps(process, x_hat), torch.ones(H, D)
    for t, s in ((process.T, process.T - 1), (process.T - 1, 2), (1, 0)):
        found = steps.posterior(x, x0, t, s)
        answers = iter([x0])  # the first step's; the one after it leaves x as it is
        expected = ancestral(
            lambda at, _, answers=answers: next(answers, at),
            *(process, tuple(dict.fromkeys((t, s, 0))), x),
            **{"proposal": x_hat, "scale": scale, "noise": torch.zeros(2, 5, H, D)},
        )
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("process", NOISY, ids=lambda p: f"{p.name}-{p.T}")
def test_another_mean_moves_a_gaussian_plan_by_the_difference(process: Process) -> None:
    # as of a walk that forgets its start: another one moves early states more than late ones
    x_hat, spread, fades = normal(5, H, D), 0.7, 0.8 ** torch.arange(H).double().view(H, 1)
    first, second = 0.4 * fades, -1.1 * fades
    x0 = first + spread * normal(5, H, D, seed=1)
    for skipped in (0, 2, process.T - 1):
        grid = consecutive_grid(process.T - skipped)
        left = 1.0  # of the way that is not gone: the same at every draw of noise
        for t, s in pairwise(grid):
            keep = (
                process.memory[t] / process.memory[s] * (process.sigma[s] / process.sigma[t]) ** 2
            )
            a, sigma = process.a[t], process.sigma[t]
            gain = a * spread**2 / ((a * spread) ** 2 + sigma**2)
            left *= keep + (process.a[s] - keep * a) * gain
        expected = x0 + (1 - process.a[grid[0]] * left) * (second - first)
        for method in METHODS:
            noise = normal(len(grid) - 1, 5, H, D, seed=4)
            code = invert(
                right(process, first, spread, x_hat),
                *(process, grid, x0, noise),
                **{"method": method, "proposal": x_hat, "scale": torch.ones(H, D)},
            )
            # a proposal for the other condition is no part of the code
            other = x_hat + 3
            found = replay(right(process, second, spread, other), process, code, proposal=other)
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
            moved = (found - x0).abs().mean((0, 2))
            assert (moved.diff() < 0).all()
        if not skipped and abs(process.a[-1]) < 0.01:
            torch.testing.assert_close(expected, x0 + second - first, rtol=0, atol=0.02)


def moments(process: Process, method: str) -> Tensor:
    x_hat = torch.zeros(H, D, dtype=torch.float64)
    x0 = 0.4 + 0.7 * normal(B, H, D)
    noise = normal(process.T, B, H, D, seed=1)
    scale = torch.full((H, D), 0.5, dtype=torch.float64)
    found = invert(
        right(process, 0.4, 0.7, x_hat) if not process.scaled else _scaled(process, x_hat),
        *(process, consecutive_grid(process.T), x0, noise),
        **{"method": method, "proposal": x_hat, "scale": scale},
    ).noise(process, scale)
    return found.flatten(1)


def _scaled(process: Process, x_hat: Tensor):
    halved = Process(
        *("halved", process.a, process.r, tuple(0.5 * s for s in process.sigma), process.memory)
    )
    return right(halved, 0.4, 0.7, x_hat)


@pytest.mark.parametrize("process", [ddpm(COSINE), rddm(10)], ids=lambda p: p.name)
def test_kept_noise_is_nearer_to_standard_by_the_encoder(process: Process) -> None:
    encoder, friendly = moments(process, "dpm-encoder"), moments(process, "edit-friendly")
    assert encoder.mean().abs() < 0.02 and friendly.mean().abs() < 0.02
    # the first step is the same of both
    assert (encoder.std(1) < friendly.std(1))[1:].all()
    assert (encoder.std(1)[:3] - 1).abs().max() < 0.05  # where steps are small
    assert encoder.std() < 0.8 * friendly.std()


def test_what_has_no_code_is_refused_in_a_line() -> None:
    x0, noise = normal(5, H, D), normal(10, 5, H, D)
    with pytest.raises(DiffplanError, match="edit-friendly needs noise, but process 'rectified-fl"):
        invert(arbitrary(0), rectified_flow(10), consecutive_grid(10), x0, noise, proposal=x0)
    with pytest.raises(DiffplanError, match="method is 'ddim', expected edit-friendly or dpm-enc"):
        invert(arbitrary(0), ddpm(COSINE), consecutive_grid(10), x0, noise, method="ddim")
    with pytest.raises(DiffplanError, match="20 levels need as many noise entries, got 10"):
        invert(arbitrary(0), ddpm(COSINE), consecutive_grid(20), x0, noise)
    with pytest.raises(DiffplanError, match="needs a proposal"):
        invert(arbitrary(0), rddm(10), consecutive_grid(10), x0, noise)


def test_a_code_moves_to_noise_of_another_size() -> None:
    code = Code((2, 1, 0), normal(1, H, D), normal(2, 1, H, D))
    twice = code.rescaled(torch.full((H, D), 2.0))
    assert torch.equal(twice.start, 2 * code.start) and torch.equal(twice.kept[0], 2 * code.kept[0])
    assert torch.equal(twice.kept[1], code.kept[1])  # the plan's own
    process, halves = ddpm(betas_cosine(2)), torch.full((H, D), 0.5)
    std = process.posterior_std(2, 1)
    assert math.isclose(float(code.noise(process)[0, 0, 0, 0]) * std, float(code.kept[0, 0, 0, 0]))
    scaled = rddm(2)
    torch.testing.assert_close(twice.noise(scaled, 2 * halves), code.noise(scaled, halves))
