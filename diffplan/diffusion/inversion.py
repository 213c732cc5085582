"""Inversion: what a plan is to a denoiser, so that another condition makes of it what it would be.

A chain from t to s ends at the mean of q(x_s | x_t, x0_hat, x̂) plus noise. Inversion draws x_t of a
plan at every level and keeps what leads from each to the next beyond that mean: run again with
the same denoiser the chain arrives at the plan, whatever the network; with another one it arrives
at the plan that differs as the conditions do. Kept is also what the last step leaves,
x0 - x0_hat, so that nothing is lost; published code drops it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from diffplan.diffusion.forward import q_sample
from diffplan.diffusion.process import Process, noise_scale
from diffplan.diffusion.sampling import Denoise, Grid, Steps, check_noisy_grid
from diffplan.errors import DiffplanError


@dataclass(frozen=True)
class Code:
    """A plan as its chain sees it: `replay` makes the plan of it.

    start: x at grid[0] less its share of x̂ [B, H, D]. kept: what each step adds to its mean
    [len(grid) - 1, B, H, D], the last x0 - x0_hat.
    """

    grid: Grid
    start: Tensor
    kept: Tensor

    def noise(self, process: Process, scale: Tensor | None = None) -> Tensor:
        """All that is kept but the last, in standard deviations of the posterior."""
        spread = noise_scale(process, scale)
        stds = [process.posterior_std(t, s) for t, s in pairwise(self.grid[:-1])]
        return torch.stack([x / (std * spread) for x, std in zip(self.kept, stds, strict=False)])

    def rescaled(self, ratio: Tensor) -> Code:
        """For a process whose noise is `ratio` [H, D] times as large."""
        return replace(
            self,
            start=self.start * ratio,
            kept=torch.cat([self.kept[:-1] * ratio, self.kept[-1:]]),
        )


Path = Callable[[Process, Grid, Tensor, Tensor, "Tensor | None", "Tensor | None"], "list[Tensor]"]
"""(process, grid, x0 [B, H, D], noise [n, B, H, D], proposal, scale) -> x_t at grid[:-1]."""


def independent(
    process: Process,
    grid: Grid,
    x0: Tensor,
    noise: Tensor,
    proposal: Tensor | None,
    scale: Tensor | None,
) -> list[Tensor]:
    """Edit-friendly (Huberman-Spiegelglas et al. 2024, arXiv 2304.06140, eq. 5).

    Every x_t has noise of its own: neighbours differ by more than a chain's, what is kept is
    larger than its noise, and holds the plan more firmly.
    """
    return [
        _noised(process, t, x0, z, proposal, scale) for t, z in zip(grid[:-1], noise, strict=True)
    ]


def posterior(
    process: Process,
    grid: Grid,
    x0: Tensor,
    noise: Tensor,
    proposal: Tensor | None,
    scale: Tensor | None,
) -> list[Tensor]:
    """DPM-Encoder of CycleDiffusion (Wu & De la Torre 2023, arXiv 2210.05559, algorithm 1).

    x_T is drawn, and every x_s from q(x_s | x_t, x0): a path that the chain itself could take, so
    that with a denoiser that is right what is kept is standard noise.
    """
    steps, spread = Steps(process, proposal), noise_scale(process, scale)
    x = _noised(process, grid[0], x0, noise[0], proposal, scale)
    path = [x]
    for (t, s), z in zip(pairwise(grid[:-1]), noise[1:], strict=True):
        x = steps.posterior(x, x0, t, s) + process.posterior_std(t, s) * spread * z
        path.append(x)
    return path


METHODS: dict[str, Path] = {"edit-friendly": independent, "dpm-encoder": posterior}
"""How the x_t of a plan are drawn."""


# many arguments: those of a sampler
def invert(
    denoise: Denoise,
    process: Process,
    grid: Grid,
    x0: Tensor,
    noise: Tensor,
    *,
    method: str = "edit-friendly",
    proposal: Tensor | None = None,
    scale: Tensor | None = None,
) -> Code:
    """What `replay` makes x0 [B, H, D] of.

    grid: levels that descend to 0; one that begins below T skips the noisiest. noise: standard
    normal [len(grid) - 1, B, H, D]. proposal, scale: as for `ddim`. Raises DiffplanError for a
    process without noise, in which a chain has nothing to keep, and for a method that is none.
    """
    if method not in METHODS:
        raise DiffplanError(f"method is {method!r}, expected {' or '.join(METHODS)}")
    check_noisy_grid(process, grid, proposal, method)
    if len(noise) < len(grid) - 1:
        raise DiffplanError(f"{len(grid) - 1} levels need as many noise entries, got {len(noise)}")
    steps = Steps(process, proposal)
    noise = noise[: len(grid) - 1]
    path = [*METHODS[method](process, grid, x0, noise, proposal, scale), x0]
    x, kept = path[0], []
    start = steps.shifted(x, -process.r[grid[0]])
    x = steps.shifted(start, process.r[grid[0]])
    for (t, s), there in zip(pairwise(grid), path[1:], strict=True):
        mean = steps.posterior(x, denoise(x, t), t, s)
        kept.append(there - mean)
        x = mean + kept[-1]  # as `replay` will have it, to the last bit
    return Code(grid, start, torch.stack(kept))


def replay(
    denoise: Denoise, process: Process, code: Code, *, proposal: Tensor | None = None
) -> Tensor:
    """x_0 [B, H, D] of a code, under a denoiser and x̂ of any condition."""
    steps = Steps(process, proposal)
    x = steps.shifted(code.start, process.r[code.grid[0]])
    for (t, s), kept in zip(pairwise(code.grid), code.kept, strict=True):
        x = steps.posterior(x, denoise(x, t), t, s) + kept
    return x


def _noised(
    process: Process, t: int, x0: Tensor, z: Tensor, proposal: Tensor | None, scale: Tensor | None
) -> Tensor:
    level = torch.full((len(x0),), t, dtype=torch.long, device=x0.device)
    return q_sample(process, level, x0, proposal, z, scale)
