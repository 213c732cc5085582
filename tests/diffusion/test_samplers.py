"""What suits what, what is refused and why, and what a sampler costs."""

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from diffplan.diffusion.ddim import ddim
from diffplan.diffusion.grids import time_grid
from diffplan.diffusion.process import Process
from diffplan.diffusion.processes import betas_cosine, ddpm, rddm, rectified_flow
from diffplan.diffusion.samplers import SAMPLERS
from diffplan.errors import DiffplanError

B, H, D = 4, 3, 2
MULTISTEP = [
    name
    for name, sampler in SAMPLERS.items()
    if not sampler.eta(1.0) and "statistics" not in sampler.takes
]
DETERMINISTIC = ["ddim", *MULTISTEP]


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def halved(x: Tensor, t: int) -> Tensor:
    return 0.5 * x


@pytest.mark.parametrize("name", ["s-pndm", "f-pndm"])
def test_pndm_needs_a_signal_everywhere(name: str) -> None:
    process, grid = rddm(10), (10, 6, 3, 0)
    message = "cannot pass level 10 of 'rddm', where x_t holds nothing of x0: use ddim"
    with pytest.raises(DiffplanError, match=message):
        SAMPLERS[name].check(process, grid, None)
    with pytest.raises(DiffplanError, match=message):
        SAMPLERS[name].run(halved, process, grid, normal(1, H, D), proposal=normal(1, H, D))
    SAMPLERS[name].check(process, (8, 6, 4, 2, 0), None)


@pytest.mark.parametrize(
    ("name", "middle", "start", "factor"),
    [
        ("s-pndm", 0.3, 0.1, None),  # .6 .6 / .1 = 3.6 times
        ("s-pndm", 0.3, 0.08, "4.5"),
        ("f-pndm", 0.25, 0.1, None),  # .6 / .1 (.25 .25 / .1) = 3.75
        ("f-pndm", 0.3, 0.1, "5.4"),
    ],
)
def test_pndm_lets_errors_grow_fourfold(
    name: str, middle: float, start: float, factor: str | None
) -> None:
    a = (1.0, 0.6, middle, start)
    sigma = tuple(math.sqrt(1 - value**2) for value in a)
    process, grid = Process("steep", a, (0.0,) * 4, sigma, a), (3, 1, 0)
    if factor is None:
        SAMPLERS[name].check(process, grid, None)
        return
    with pytest.raises(DiffplanError, match=f"from level 3 to 1 .* grow {factor} times"):
        SAMPLERS[name].check(process, grid, None)


def test_f_pndm_needs_levels_half_way() -> None:
    process = ddpm(betas_cosine(20))
    message = r"12 to 11 is one level: use grid uniform with at most 6 steps"
    with pytest.raises(DiffplanError, match=message):
        SAMPLERS["f-pndm"].check(process, (12, 11, 5, 0), None)
    SAMPLERS["f-pndm"].check(process, (12, 8, 4, 2, 1, 0), None)
    SAMPLERS["f-pndm"].check(process, (1, 0), None)


@pytest.mark.parametrize("name", ["ancestral", *MULTISTEP, "dpm-solver-v3"])
def test_a_process_without_noise_suits_ddim_alone(name: str) -> None:
    process = rectified_flow(10)
    with pytest.raises(DiffplanError, match=re.escape(name) + " needs noise, but .* has none: use"):
        SAMPLERS[name].check(process, (10, 5, 0), None)
    SAMPLERS["ddim"].check(process, (10, 5, 0), None)


def test_v3_asks_for_its_statistics() -> None:
    with pytest.raises(DiffplanError, match="needs statistics of the model: run `diffplan calib"):
        SAMPLERS["dpm-solver-v3"].check(ddpm(betas_cosine(20)), (10, 5, 0), None)


def test_a_flow_without_noise_ends_at_the_data_of_a_perfect_denoiser() -> None:
    """x_s = x_t + (u_s - u_t)(x0 - x̂) whatever the number of steps."""
    process = rectified_flow(10)
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
    process, calls = ddpm(betas_cosine(64)), []

    def counted(x: Tensor, t: int) -> Tensor:
        calls.append(t)
        return halved(x, t)

    grid = time_grid(48, steps)
    SAMPLERS[name].run(counted, process, grid, normal(1, H, D))
    assert len(calls) == SAMPLERS[name].evaluations(len(grid) - 1)


def test_options_by_sampler() -> None:
    assert SAMPLERS["ancestral"].eta(0.0) == 1.0 and SAMPLERS["ddim"].eta(0.2) == 0.2
    assert SAMPLERS["ddim"].eta(0.0) == 0.0 and SAMPLERS["unipc"].eta(1.0) == 0.0
    known: dict[str, Any] = {"eta": 0.3, "statistics": None}
    assert SAMPLERS["ddim"].options(**known) == {"eta": 0.3}
    assert SAMPLERS["dpm-solver-v3"].options(**known) == {"statistics": None}
    assert SAMPLERS["unipc"].options(**known) == {}
