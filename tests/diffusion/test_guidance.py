"""Pinned states and classifier-free guidance."""

import pytest
import torch
from torch import Tensor

from diffplan.diffusion import guidance
from diffplan.diffusion.ddim import ancestral, ddim
from diffplan.diffusion.forward import STARTS
from diffplan.diffusion.grids import time_grid
from diffplan.diffusion.processes import betas_cosine, betas_linear, ddpm, rddm
from diffplan.diffusion.samplers import SAMPLERS
from diffplan.diffusion.sampling import Denoise

B, H, D = 4, 5, 3
COSINE, RDDM = ddpm(betas_cosine(20)), rddm(10)
LONG = ddpm(betas_linear(1000, 1e-4, 2e-2))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_pin_shows_and_returns_the_pinned_state_and_nothing_else_changes() -> None:
    seen, x, value = [], normal(B, H, D), normal(B, D, seed=1)
    answer = normal(B, H, D, seed=2)

    def denoise(x: Tensor, t: int) -> Tensor:
        seen.append(x)
        return answer

    for index in (0, 3):
        x0 = guidance.pin(denoise, index, value)(x, 7)
        others = [i for i in range(H) if i != index]
        assert torch.equal(seen[-1][:, index], value)
        assert torch.equal(seen[-1][:, others], normal(B, H, D)[:, others])
        assert torch.equal(x0[:, index], value)
        assert torch.equal(x0[:, others], answer[:, others])
    assert torch.equal(x, normal(B, H, D))
    assert torch.equal(answer, normal(B, H, D, seed=2))


def test_two_states_can_be_pinned() -> None:
    first, last = normal(B, D, seed=1), normal(B, D, seed=2)
    denoise = guidance.pin(guidance.pin(lambda x, t: 0.5 * x, 0, first), H - 1, last)
    x0 = denoise(normal(B, H, D), 3)
    assert torch.equal(x0[:, 0], first)
    assert torch.equal(x0[:, -1], last)


@pytest.mark.parametrize("weight", [1.0, 1.2])
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "dpm-solver-v3"])
@pytest.mark.parametrize("start", STARTS)
def test_the_first_state_is_bit_exact_at_every_step(
    start: str, sampler: str, weight: float
) -> None:
    process = RDDM if start == "process" else COSINE
    if "pndm" in sampler:  # it cannot leave pure noise in one stride
        process = LONG
    grid = time_grid(process.T, 5)
    proposal, scale, state = normal(B, H, D), torch.rand(H, D), 10 * normal(B, D, seed=1)
    seen = []

    def pair(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        seen.append(x[:, 0])
        return 0.9 * x.roll(1, dims=1), 0.7 * x + 0.1

    denoise = guidance.classifier_free_batched(pair, weight)
    denoise = guidance.pin(guidance.clip(denoise, 2.0), 0, state)
    plan = SAMPLERS[sampler].run(
        denoise,
        process,
        grid,
        STARTS[start](process, grid[0], proposal, normal(B, H, D, seed=2), scale),
        proposal=proposal,
        scale=scale,
        noise=normal(5, B, H, D, seed=3),
    )
    assert len(seen) == SAMPLERS[sampler].evaluations(len(grid) - 1)
    assert all(torch.equal(x, state) for x in seen)
    assert torch.equal(plan[:, 0], state)
    assert plan[:, 1:].abs().max() <= 2.0


def test_guidance_on_x0_is_guidance_on_eps_and_on_v() -> None:
    """At a fixed x_t, x0 = (x_t - sigma eps) / a and x0 = a x_t - sigma v."""
    t, weight = 9, 1.7
    a, sigma = COSINE.a[t], COSINE.sigma[t]
    x, first, second = (normal(B, H, D, seed=seed).double() for seed in range(3))
    mixed = second + weight * (first - second)
    for read in (lambda out: (x - sigma * out) / a, lambda out: a * x - sigma * out):

        def pair(x: Tensor, t: int, read=read) -> tuple[Tensor, Tensor]:
            return read(first), read(second)

        x0 = guidance.classifier_free_batched(pair, weight)(x, t)
        torch.testing.assert_close(x0, read(mixed), rtol=1e-12, atol=1e-12)


def test_weights_one_and_zero_are_the_two_models() -> None:
    conditional, unconditional = normal(B, H, D, seed=1), normal(B, H, D, seed=2)
    for weight, expected in ((1.0, conditional), (0.0, unconditional)):
        guided = guidance.classifier_free_batched(lambda x, t: (conditional, unconditional), weight)
        assert torch.equal(guided(normal(B, H, D), 3), expected)


def test_clip_bounds_both_sides() -> None:
    x = torch.tensor([[[-3.0, -1.0, 0.5, 4.0]]])
    assert guidance.clip(lambda x, t: x, 2.0)(x, 1).tolist() == [[[-2.0, -1.0, 0.5, 2.0]]]


# --- Pins of columns, and values -----------------------------------------------------------------


def test_a_pin_of_some_columns_leaves_the_others_free() -> None:
    seen: list[Tensor] = []

    def denoise(x: Tensor, t: int) -> Tensor:
        seen.append(x)
        return x + 1.0

    x, goal, waypoint = normal(B, H, D), normal(B, 1, seed=1), normal(B, D, seed=2)
    pinned = guidance.pin(guidance.pin(denoise, -1, goal, (1,)), 1, waypoint)
    x0 = pinned(x, 5)
    for held, moved in ((seen[0], 0.0), (x0, 1.0)):
        assert torch.equal(held[:, -1, 1:2], goal)
        assert torch.equal(held[:, 1], waypoint)
        torch.testing.assert_close(held[:, 0], x[:, 0] + moved)
        torch.testing.assert_close(held[:, -1, :1], x[:, -1, :1] + moved)


def test_a_step_starts_from_where_the_gradient_moved_x_to() -> None:
    """By any grid and eta: the step of ddim from x + weight * variance * gradient."""
    x, slope = normal(B, H, D).double(), normal(B, H, D, seed=2).double()
    noise = torch.zeros(2, B, H, D).double()

    def denoise(x: Tensor, t: int) -> Tensor:
        return torch.tanh(x) + 0.1 * t

    def after(denoise: Denoise, x: Tensor, grid: tuple[int, ...], eta: float) -> Tensor:
        seen: list[Tensor] = []

        def shown(x: Tensor, level: int) -> Tensor:
            seen.append(x)
            return denoise(x, level)

        ddim(shown, COSINE, grid, x, noise=noise, eta=eta)
        return seen[1]

    weight = 0.3
    for t, s, eta in ((20, 19, 1.0), (12, 11, 1.0), (4, 3, 1.0), (20, 16, 1.0), (8, 4, 0.0)):
        grid = (t, s, 0)
        guided = guidance.value_gradient(denoise, lambda x, t: slope, COSINE, weight, 4, grid, eta)
        moved = x + weight * COSINE.posterior_std(t, s) ** 2 * slope
        expected = after(denoise, moved, grid, eta)
        torch.testing.assert_close(after(guided, x, grid, eta), expected, rtol=1e-9, atol=1e-12)
    below = guidance.value_gradient(denoise, lambda x, t: slope, COSINE, weight, 4, (4, 3, 2, 0))
    assert torch.equal(below(x, 3), denoise(x, 3))


def test_value_guidance_reaches_the_tilted_gaussian() -> None:
    """Data N(0, 1) under exp(2 x): every level's exact value is linear, the result N(2, 1)."""
    process, tilt, n = ddpm(betas_cosine(200)), 2.0, 4000

    def denoise(x: Tensor, t: int) -> Tensor:
        return process.a[t] * x  # of N(0, 1) under a^2 + sigma^2 = 1

    def gradient(x: Tensor, t: int) -> Tensor:
        # log E[exp(tilt x0) | x_t] = tilt a x_t + const
        return tilt * process.a[t] * torch.ones_like(x)

    grid = time_grid(200, 200)
    guided = guidance.value_gradient(denoise, gradient, process, 1.0, 1, grid)
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(*shape, generator=generator) for shape in ((n, 1, 1), (200, n, 1, 1)))
    end = ancestral(guided, process, grid, x, noise=noise)
    # short of it by what 200 levels discretise away
    assert end.mean().item() == pytest.approx(tilt, abs=0.06 * tilt + 3 / n**0.5)
    assert end.var().item() == pytest.approx(1.0, abs=0.12)


def test_the_product_of_gaussians_of_one_width_is_known() -> None:
    """prod_i N(m_i, v) / N(m_0, v)^(n-1) is N(sum_i m_i - (n-1) m_0, v)."""
    means, width = torch.tensor([1.0, -0.5, 2.0, 0.25]), 0.3  # the last under no condition

    def several(x: Tensor, t: int) -> list[Tensor]:
        a, sigma = LONG.a[t], LONG.sigma[t]
        gain = width * a / (a * a * width + sigma * sigma)
        return [m + gain * (x - a * m) for m in means]

    def planned(*weights: float) -> Tensor:
        denoise = guidance.product(several, list(weights))
        return ddim(denoise, LONG, time_grid(LONG.T, 200), normal(4000, 1, 1))

    x = planned(1.0, 1.0, 1.0)
    assert abs(float(x.mean() - (means[:3].sum() - 2 * means[3]))) < 0.03
    assert abs(float(x.var()) - width) < 0.03
    # weights that sum to one lie between
    assert abs(float(planned(0.5, 0.5, 0.0).mean() - means[:2].mean())) < 0.03
