"""Methods beside the numbers of their papers' own code, on inputs and a network of formulas.

originals.json says of each array where it comes from. `diffplan.scripts.checks.originals` made it:
the last x that their code shows its network (of an interpolant, x_u and the target of its network;
of the U-Net, its answer).
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffplan.diffusion import guidance
from diffplan.diffusion.dpm_solver_v3 import Statistics, dpm_solver_v3
from diffplan.diffusion.forward import STARTS, q_sample
from diffplan.diffusion.process import Process, target_row
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
from diffplan.nn import TemporalUNet

ORIGINALS = json.loads((Path(__file__).parent / "originals.json").read_text())
SHAPE = B, H, D = 2, 4, 3
GRID = (36, 30, 24, 18, 12, 6, 0)


def waves(frequency: float) -> Tensor:
    return torch.cos(frequency * torch.arange(math.prod(SHAPE), dtype=torch.float64)).view(SHAPE)


START, PROPOSAL = 1.3 * waves(1.7), 0.4 * waves(2.3)
NOISE = [waves(0.9), waves(3.1), waves(4.3)]


def drawn(steps: int, first: int = 0) -> Tensor:
    """The noise of `steps` steps after `first` other draws."""
    return torch.stack([NOISE[(first + i) % 3] for i in range(steps)])


def answer(x: Tensor, time: float) -> Tensor:
    return 0.45 * torch.tanh(1.5 * x + time)


def check(name: str, found: Tensor, tolerance: float = 1e-6) -> None:
    expected = torch.tensor(ORIGINALS[name]["values"], dtype=torch.float64).view(found.shape)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)


def shown_last(
    sampler: Callable[..., Tensor],
    process: Process,
    grid: tuple[int, ...],
    x: Tensor,
    guided: Callable[[Denoise], Denoise] = lambda denoise: denoise,
    **given: Any,
) -> Tensor:
    """What the network is shown last."""
    seen = x

    def denoise(x: Tensor, t: int) -> Tensor:
        nonlocal seen
        seen = x
        return answer(x, t / process.T)

    sampler(guided(denoise), process, grid, x, **given)
    return seen


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        *((name, GRID) for name in ("dpm-solver++2m", "unipc", "s-pndm", "f-pndm", "evodiff")),
        ("evodiff, many steps", (*range(33, 10, -1), 0)),
    ],
)
def test_solvers(name: str, grid: tuple[int, ...]) -> None:
    sampler = SAMPLERS[name.split(",", maxsplit=1)[0]].run
    check(name, shown_last(sampler, ddpm(betas_cosine(40)), grid, START))


def test_ddim_with_noise() -> None:
    process, noise = ddpm(betas_cosine(40)), drawn(6)
    check("ddim", shown_last(SAMPLERS["ddim"].run, process, GRID, START, eta=0.6, noise=noise))


@pytest.mark.parametrize("order", [2, 3])
def test_dpm_solver_v3_with_its_corrector(order: int) -> None:
    """Theirs integrates by trapezoids between 401 levels."""
    lam = torch.linspace(2.5, -1.5, 401, dtype=torch.float64)
    wave = torch.cat([lam[:1], lam]).view(-1, 1, 1).expand(-1, H, D)
    a, still = (1.0,) * 402, (0.0,) * 402
    sigma = (0.0, *(-lam).exp().tolist())
    process = Process("even", a, still, sigma, a)
    tables = (0.7 + 0.2 * wave.tanh(), 0.3 * wave.cos(), 0.2 * wave.sin())
    seen = START

    def denoise(x: Tensor, t: int) -> Tensor:
        nonlocal seen
        seen = x
        return answer(x, (t - 1) / 400)

    grid, given = (401, 321, 241, 161, 81, 1, 0), Statistics(*tables, a, still, sigma)
    dpm_solver_v3(denoise, process, grid, 4 * START, statistics=given, order=order)
    check(f"dpm-solver-v3, order {order}", seen, 1e-4)


def from_proposal(process: Process, grid: tuple[int, ...], sampler: str, scale: float) -> Tensor:
    """From the far end, whose noise is drawn first."""
    spread = scale * torch.ones(H, D, dtype=torch.float64)
    start = STARTS["process"](process, process.T, PROPOSAL, NOISE[0], spread)
    given = {"proposal": PROPOSAL, "scale": spread, "noise": drawn(len(grid), 1)}
    return shown_last(SAMPLERS[sampler].run, process, grid, start, **given)


def test_rddm() -> None:
    check("rddm", from_proposal(rddm(10), tuple(range(10, -1, -1)), "ancestral", 0.2))
    check("rddm, five steps", from_proposal(rddm(10), (10, 8, 6, 4, 2, 0), "ddim", 0.2))


def test_resfusion() -> None:
    process = resfusion([50 * beta for beta in betas_linear(20, 1e-4, 2e-2)])
    check("resfusion", from_proposal(process, tuple(range(8, -1, -1)), "ancestral", 1.0))


def test_diffuse_vae() -> None:
    process = diffuse_vae(betas_linear(20, 0.01, 0.3))
    given = {"proposal": PROPOSAL, "noise": drawn(20)}
    start, grid = PROPOSAL + NOISE[2], tuple(range(20, -1, -1))
    check("diffuse-vae", shown_last(SAMPLERS["ancestral"].run, process, grid, start, **given))


def test_interpolant() -> None:
    process, found = interpolant(20), []
    scale = torch.ones(H, D, dtype=torch.float64)
    for t in (15, 10, 5):
        levels = torch.full((B,), t)
        found.append(q_sample(process, levels, START, PROPOSAL, NOISE[0], scale))
        p, q, w = target_row(process, "velocity", t)
        found.append(p * START + q * PROPOSAL + w * NOISE[0])
    check("interpolant", torch.stack(found))


def test_temporal_unet() -> None:
    unet = TemporalUNet(H, D, 16, width=8, mults=(1, 2, 4), use_proposal=False).double()
    downs = zip(unet.down, [*unet.shrink, None], strict=True)
    ups = zip(unet.up, unet.grow, strict=True)
    parts = [part for pair in downs for part in pair if part is not None]
    parts += [unet.middle, *(part for pair in ups for part in pair), unet.last, unet.leave]
    for i, parameter in enumerate(p for part in parts for p in part.parameters()):
        steps = torch.arange(parameter.numel(), dtype=torch.float64)
        parameter.data.copy_(0.3 * torch.cos((1.1 + 0.3 * i) * steps + i).view(parameter.shape))
    features = waves(0.7).reshape(-1)[:16].expand(B, -1)
    check("temporal U-Net", unet(START, None, features))


def test_the_released_sampling_of_trajectory_diffuser() -> None:
    """Five of 100 steps from a raw proposal, the first state held, guidance 1.3."""
    process, held = ddpm(betas_linear(100)), START[:, 0]

    def guided(denoise: Denoise) -> Denoise:
        def pair(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
            return denoise(x, t), 0.5 * answer(x, t / 100)

        return guidance.pin(guidance.classifier_free_batched(pair, 1.3), 0, held)

    given = {"guided": guided, "noise": drawn(5)}
    found = shown_last(SAMPLERS["ancestral"].run, process, (5, 4, 3, 2, 1, 0), PROPOSAL, **given)
    check("trajectory diffuser", found)


def test_the_guided_step_of_diffuser() -> None:
    """Two steps of 0.1 up the gradient at every level down to the third."""
    process, held, grid = ddpm(betas_cosine(20)), START[:, 0, 1:], tuple(range(20, -1, -1))

    def gradient(x: Tensor, t: int) -> Tensor:
        slope = 2 * x.cos()
        slope[:, 0, 1:] = 0.0  # what is held does not move
        return slope

    def guided(denoise: Denoise) -> Denoise:
        climbing = guidance.value_gradient(denoise, gradient, process, 0.2, 3, grid)
        return guidance.pin(climbing, 0, held, (1, 2))

    start, given = NOISE[0], {"guided": guided, "noise": drawn(20, 1)}
    check("diffuser", shown_last(SAMPLERS["ancestral"].run, process, grid, start, **given))
