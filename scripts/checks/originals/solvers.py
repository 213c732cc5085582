"""Solvers of the ODE: the last x that each shows its network, from `START`."""

from __future__ import annotations

import math
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffplan.diffusion.process import Process
from diffplan.diffusion.processes import betas_cosine, ddpm
from diffplan.scripts.checks.originals.clones import (
    GRID,
    SHAPE,
    START,
    Shown,
    T,
    answer,
    imported,
)


def _levels(times: Tensor, total: int) -> list[int]:
    return [round(float(time) * total) for time in times.reshape(-1)]


def _multistep(make: Any, schedule: Any, grid: tuple[int, ...], late: bool = False) -> Tensor:
    """A solver in the frame of DPM-Solver, on the levels of a grid.

    late: it is given the network by `sample`.
    """
    # theirs leaves out levels that hold almost nothing of x0
    shown, total = Shown(ddpm(betas_cosine(T))), schedule.total_N

    def model(x: Tensor, time: Tensor) -> Tensor:
        return shown.eps(x, _levels(time, total)[0])

    solver = make(model, schedule)
    times = torch.tensor(grid[:-1], dtype=torch.float64) / total
    solver.get_time_steps = lambda *_, **__: times
    solver.sample(
        *((model,) if late else ()),
        START.unsqueeze(1),
        steps=len(grid) - 2,
        t_start=float(times[0]),
        t_end=float(times[-1]),
        order=2,
        lower_order_final=False,
        denoise_to_zero=True,
    )
    return shown.last


def dpm_solver_pp_2m(clones: Path) -> Tensor:
    """Of order two, multistep."""
    with imported(clones / "dpm-solver", "dpm_solver_pytorch") as theirs:
        betas = torch.tensor(betas_cosine(T), dtype=torch.float64)
        schedule = theirs.NoiseScheduleVP("discrete", betas=betas, dtype=torch.float64)
        return _multistep(theirs.DPM_Solver, schedule, GRID)


def unipc(clones: Path) -> Tensor:
    """B_2 of order two."""
    with imported(clones / "UniPC", "uni_pc") as theirs:
        betas = torch.tensor(betas_cosine(T), dtype=torch.float64)
        schedule = theirs.NoiseScheduleVP("discrete", betas=betas, dtype=torch.float64)

        def make(model: Any, schedule: Any) -> Any:
            return theirs.UniPC(model, schedule, variant="bh2")

        return _multistep(make, schedule, GRID)


class _Schedule:
    """A process as EVODiff's noise schedule."""

    total_N, T = 1000, 1.0

    def __init__(self, process: Process) -> None:
        self.process = process

    def _read(self, table: tuple[float, ...], time: Tensor) -> Tensor:
        found = torch.tensor(
            [table[level] for level in _levels(time, self.total_N)], dtype=torch.float64
        )
        return found.reshape(time.shape)

    def marginal_alpha(self, time: Tensor) -> Tensor:
        return self._read(self.process.a, time)

    def marginal_std(self, time: Tensor) -> Tensor:
        return self._read(self.process.sigma, time)

    def marginal_kappa(self, time: Tensor) -> Tensor:
        return self.marginal_std(time) / self.marginal_alpha(time)


def evodiff(clones: Path, grid: tuple[int, ...] = GRID) -> Tensor:
    """Along any grid of more than three steps."""
    folder = clones / "EVODiff" / "code_demo" / "edm_cifar10"
    with imported(folder, "samplers.evodiff") as theirs:

        def make(model: Any, schedule: Any) -> Any:
            return theirs.EVODiff_edm(schedule)

        return _multistep(make, _Schedule(ddpm(betas_cosine(T))), grid, late=True)


def ddim(clones: Path) -> Tensor:
    """With eta 0.6."""
    shown = Shown(ddpm(betas_cosine(T)))
    with imported(clones / "ddim", "functions.denoising") as theirs:
        betas = torch.tensor(betas_cosine(T), dtype=torch.float64)
        levels = [level - 1 for level in reversed(GRID[:-1])]

        def model(x: Tensor, t: Tensor) -> Tensor:
            return shown.eps(x, int(t[0]) + 1)

        theirs.generalized_steps(START.unsqueeze(1), levels, model, betas, eta=0.6)
    return shown.last


def _pndm(clones: Path, method: str) -> Tensor:
    shown = Shown(ddpm(betas_cosine(T)))
    with imported(clones / "PNDM", "runner.method") as theirs:
        signal = torch.tensor(shown.process.a, dtype=torch.float64).square()
        x, known = START.unsqueeze(1), list[Tensor]()

        def model(x: Tensor, t: Tensor) -> Tensor:
            return shown.eps(x, int(t[0]) + 1)

        for level, following in pairwise(GRID[:-1]):
            t, t_next = (torch.full((len(x),), float(at - 1)) for at in (level, following))
            x = theirs.choose_method(method)(x, t, t_next, model, signal, known)
    return x.squeeze(1)


def s_pndm(clones: Path) -> Tensor:
    """Two answers a step."""
    return _pndm(clones, "S-PNDM")


def f_pndm(clones: Path) -> Tensor:
    """Four answers a step."""
    return _pndm(clones, "F-PNDM")


def dpm_solver_v3(clones: Path, order: int) -> Tensor:
    """With its corrector of pseudo order, on statistics of formulas."""
    levels, steps = 400, 5
    rises = np.linspace(-1.5, 2.5, levels + 1)[:, None, None, None] + np.zeros((1, 1, *SHAPE[1:]))
    folder = clones / "DPM-Solver-v3" / "codebases" / "edm"
    names = ("samplers.dpm_solver_v3", "samplers.utils")
    with imported(folder, *names) as (theirs, schedules), tempfile.TemporaryDirectory() as kept:
        np.savez(Path(kept) / "l.npz", l=0.7 + 0.2 * np.tanh(rises))
        np.savez(Path(kept) / "sb.npz", s=0.3 * np.cos(rises), b=0.2 * np.sin(rises))
        ends = {"t_start": math.exp(1.5), "t_end": math.exp(-2.5)}
        schedule = schedules.NoiseScheduleEDM()
        solver = theirs.DPM_Solver_v3(kept, schedule, steps=steps, device="cpu", **ends)

        def model(x: Tensor, time: Tensor) -> Tensor:
            sigma = float(time[0])
            return (x - answer(x, (math.log(sigma) + 2.5) / 4)) / sigma

        flags = {"p_pseudo": False, "use_corrector": True, "c_pseudo": True}
        start = 4 * START.unsqueeze(1)
        end: Tensor = solver.sample(model, start, order=order, lower_order_final=False, **flags)
    return end.squeeze(1)
