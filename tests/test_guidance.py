"""Pinned states and classifier-free guidance."""

import pytest
import torch
from torch import Tensor

from diffplan import guidance
from diffplan.family import betas_cosine, ddpm, rddm
from diffplan.grids import time_grid
from diffplan.process import STARTS
from diffplan.samplers import SAMPLERS

B, H, D = 4, 5, 3
COSINE, RDDM = ddpm(betas_cosine(20)), rddm(10)


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
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("start", STARTS)
def test_the_first_state_is_bit_exact_at_every_step(
    start: str, sampler: str, weight: float
) -> None:
    process = RDDM if start == "rddm" else COSINE
    grid = time_grid(process.T, 5)
    proposal, scale, state = normal(B, H, D), torch.rand(H, D), 10 * normal(B, D, seed=1)
    seen = []

    def pair(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        seen.append(x[:, 0])
        return 0.9 * x.roll(1, dims=1), 0.7 * x + 0.1

    denoise = guidance.classifier_free_batched(pair, weight)
    denoise = guidance.pin(guidance.clip(denoise, 2.0), 0, state)
    plan = SAMPLERS[sampler](
        denoise,
        process,
        grid,
        STARTS[start](process, grid[0], proposal, normal(B, H, D, seed=2), scale),
        proposal=proposal,
        scale=scale,
        noise=normal(5, B, H, D, seed=3),
    )
    assert len(seen) == 5
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
