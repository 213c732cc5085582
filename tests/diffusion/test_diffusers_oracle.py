"""Our samplers beside those of `diffusers`, step by step, on one denoiser and schedule."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from diffplan.diffusion.ddim import ancestral, ddim
from diffplan.diffusion.process import Process
from diffplan.diffusion.processes import betas_cosine, ddpm
from diffplan.diffusion.samplers import SAMPLERS
from diffplan.diffusion.sampling import Denoise

diffusers = pytest.importorskip("diffusers", reason="the oracle library is in the dev extra")

B, H, D = 3, 4, 2
T = 100
BETAS = betas_cosine(T)
PROCESS = ddpm(BETAS)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def answer(x: Tensor, t: int) -> Tensor:
    """Some smooth x0_hat, different at every level."""
    return torch.tanh(x * (1 + t / T)) + 0.02 * t


def eps(x: Tensor, t: int) -> Tensor:
    return (x - PROCESS.a[t] * answer(x, t)) / PROCESS.sigma[t]


def scheduler(kind: str, **options: Any) -> Any:
    common = {"num_train_timesteps": T, "trained_betas": list(BETAS)}
    return getattr(diffusers, kind)(**(common | options))


def walked(
    theirs: Any, x: Tensor, output: Callable[[Tensor, int], Tensor] = answer, **options: Any
) -> tuple[list[int], list[Tensor]]:
    """Table indices that a scheduler visits (its time t is our t + 1), and x at each and after."""
    indices, states = [], [x]
    for time in theirs.timesteps:
        indices.append(int(time) + 1)
        step = theirs.step(output(x, int(time) + 1), time, x, **options)
        x = step.prev_sample
        states.append(x)
    return indices, states


def seen_by(
    sampler: Callable[..., Tensor], grid: tuple[int, ...], x: Tensor, **options: Any
) -> list[Tensor]:
    """x at every level, as last seen there, and the end."""
    seen: dict[int, Tensor] = {}

    def watched(x: Tensor, t: int) -> Tensor:
        seen[t] = x
        return answer(x, t)

    denoise: Denoise = watched
    process: Process = PROCESS
    end = sampler(denoise, process, grid, x, **options)
    return [*(seen[t] for t in grid[:-1]), end]


def assert_alike(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-4) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("steps", [5, 20])
def test_ddim(steps: int) -> None:
    theirs = scheduler("DDIMScheduler", clip_sample=False, prediction_type="sample")
    theirs.set_timesteps(steps)
    x = normal(B, H, D)
    indices, states = walked(theirs, x)
    assert_alike(seen_by(ddim, (*indices, 0), x), states)


def test_ddim_with_noise() -> None:
    theirs = scheduler("DDIMScheduler", clip_sample=False, prediction_type="sample")
    theirs.set_timesteps(5)
    x, noise = normal(B, H, D), normal(5, B, H, D, seed=1)
    indices, states, at = [], [x], iter(noise)
    for time in theirs.timesteps:
        indices.append(int(time) + 1)
        output = answer(states[-1], indices[-1])
        step = theirs.step(output, time, states[-1], eta=0.6, variance_noise=next(at))
        states.append(step.prev_sample)
    found = seen_by(ddim, (*indices, 0), x, eta=0.6, noise=noise)
    # theirs still takes noise in the last step, where ours is the answer itself
    assert_alike(found[:-1], states[:-1])


def test_ancestral_is_ddpm_with_the_small_variance() -> None:
    theirs = scheduler(
        "DDPMScheduler", clip_sample=False, prediction_type="sample", variance_type="fixed_small"
    )
    theirs.set_timesteps(T)
    x = normal(B, H, D)
    generator = torch.Generator().manual_seed(3)
    indices, states = walked(theirs, x, generator=generator)
    generator = torch.Generator().manual_seed(3)
    noise = torch.stack(
        [torch.randn(B, H, D, generator=generator, dtype=torch.float64) for _ in range(T - 1)]
    )
    noise = torch.cat([noise, torch.zeros(1, B, H, D, dtype=torch.float64)])
    assert indices == list(range(T, 0, -1))
    assert_alike(seen_by(ancestral, (*indices, 0), x, noise=noise), states, 2e-3)


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        (
            "dpm-solver++2m",
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"},
        ),
        ("unipc", "UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh2"}),
    ],
)
@pytest.mark.parametrize("steps", [4, 12])
def test_solvers_of_order_two(name: str, kind: str, options: dict[str, Any], steps: int) -> None:
    theirs = scheduler(kind, prediction_type="sample", final_sigmas_type="zero", **options)
    theirs.set_timesteps(steps)
    x = normal(B, H, D)
    indices, states = walked(theirs, x)
    ours = seen_by(SAMPLERS[name].run, (*indices, 0), x)
    assert_alike(ours, states, 2e-3)


def test_f_pndm() -> None:
    """Pseudo Runge-Kutta first, then four answers a step; x at every level but the last one."""
    theirs = scheduler("PNDMScheduler", prediction_type="epsilon", set_alpha_to_one=True)
    theirs.set_timesteps(10)
    x = normal(B, H, D)
    indices, states = walked(theirs, x, eps)
    ours = seen_by(SAMPLERS["f-pndm"].run, grid_of(indices), x)
    # of a Runge-Kutta step only the fourth stage ends where the step does
    ends = [*(states[4 * i] for i in range(4)), *states[13:-1]]
    assert_alike(ours[: len(ends)], ends)


def grid_of(indices: list[int]) -> tuple[int, ...]:
    """Descending levels without the stages between them."""
    gap = indices[-2] - indices[-1]
    grid = tuple(range(indices[0], 0, -gap))
    assert all(t - s == gap for t, s in pairwise(grid))
    return (*grid, 0)
