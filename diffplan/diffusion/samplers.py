"""All samplers by name, what each suits, and what each costs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from diffplan.diffusion.ddim import ancestral, ddim
from diffplan.diffusion.dpm_solver_v3 import Statistics, check_statistics, dpm_solver_v3
from diffplan.diffusion.evodiff import evodiff
from diffplan.diffusion.multistep import dpm_solver_pp_2m, unipc
from diffplan.diffusion.pndm import (
    check_gaps,
    check_signal,
    f_pndm,
    pndm_evaluations,
    runge_kutta_levels,
    s_pndm,
)
from diffplan.diffusion.process import Process
from diffplan.diffusion.sampling import Sampler, check_noisy
from diffplan.errors import DiffplanError

if TYPE_CHECKING:
    from torch import Tensor

MULTISTEP: dict[str, Callable[..., Tensor]] = {
    "dpm-solver++2m": dpm_solver_pp_2m,
    "unipc": unipc,
    "s-pndm": s_pndm,
    "f-pndm": f_pndm,
    "evodiff": evodiff,
}

SAMPLERS: dict[str, Sampler] = {
    "ddim": ddim,
    "ancestral": ancestral,
    **MULTISTEP,
    "dpm-solver-v3": dpm_solver_v3,
}


def check_sampler(
    name: str, process: Process, grid: tuple[int, ...], statistics: Statistics | None = None
) -> None:
    """Raise DiffplanError, with the reason, where a sampler does not suit a process and grid.

    statistics: what dpm-solver-v3 was calibrated with.
    """
    if name == "ddim":
        return
    check_noisy(process, name)
    if name in ("s-pndm", "f-pndm"):
        check_signal(process, grid, name)
    if name == "f-pndm":
        check_gaps(grid)
    if name == "dpm-solver-v3":
        if statistics is None:
            raise DiffplanError(
                "sampler dpm-solver-v3 needs statistics of the model: run `diffplan calibrate RUN "
                "--start START` with the start that plans will have"
            )
        check_statistics(statistics, process, grid)


def evaluations(name: str, grid: tuple[int, ...]) -> int:
    """Denoiser calls of a sampler along a grid."""
    steps = len(list(pairwise(grid)))
    if name in ("s-pndm", "f-pndm") and steps:
        return pndm_evaluations(name, steps)
    return steps


def levels_asked(name: str, grid: tuple[int, ...]) -> tuple[int, ...]:
    """Every level that a sampler asks the denoiser about along a grid, from the far end to 0."""
    return runge_kutta_levels(grid) if name == "f-pndm" else grid


def needs_noise(name: str, eta: float) -> bool:
    """Whether a sampler draws noise in its steps."""
    return name == "ancestral" or (name == "ddim" and eta > 0)


def sampler_options(name: str, eta: float, statistics: Statistics | None) -> dict[str, Any]:
    """The keyword arguments that only some samplers take."""
    if name == "ddim":
        return {"eta": eta}
    return {"statistics": statistics} if name == "dpm-solver-v3" else {}
