"""Time grids: which table indices a sampler visits."""

from __future__ import annotations

import math
from collections.abc import Callable

from diffplan.diffusion.process import Process
from diffplan.diffusion.sampling import half_log_snr
from diffplan.errors import DiffplanError


def time_grid(start: int, steps: int) -> tuple[int, ...]:
    """`steps + 1` strictly descending indices from `start` to 0, as even as integers allow."""
    _check(start, steps)
    return tuple((2 * start * left + steps) // (2 * steps) for left in range(steps, -1, -1))


def consecutive_grid(steps: int) -> tuple[int, ...]:
    """(steps, steps - 1, ..., 0): the last few steps of a chain, as the published '5 of 100'."""
    if steps < 0:
        raise DiffplanError(f"the number of sampling steps cannot be negative, got {steps}")
    return tuple(range(steps, -1, -1))


_FAR = -5.1


def logsnr_grid(process: Process, start: int, steps: int) -> tuple[int, ...]:
    """Even in log(a / sigma) from `start` to index 1, then 0 (Lu et al. 2022, arXiv 2211.01095).

    A start below log(a / sigma) = -5.1, the bound of the authors' code, counts as that: what lies
    further out is one step. One that holds nothing of x0, at -inf, counts as the level after it.
    DiffplanError for a process without noise, which has no such ratio.
    """
    _check(start, steps)
    if not process.noisy:
        raise DiffplanError(
            f"grid logsnr needs noise, but process {process.name!r} has none: use uniform"
        )
    if steps == 1:
        return start, 0
    levels = range(1, start + 1)
    ratios = {t: half_log_snr(process, t) for t in levels}
    first = max(_FAR, min(ratio for ratio in ratios.values() if math.isfinite(ratio)))
    wanted = [first + (ratios[1] - first) * i / (steps - 1) for i in range(1, steps)]
    nearest = [float(min(levels, key=lambda t: abs(ratios[t] - ratio))) for ratio in wanted]
    return _descending([float(start), *nearest, 0.0])


def _descending(wanted: list[float]) -> tuple[int, ...]:
    """The nearest integers to descending numbers that are all different, ends kept."""
    last = len(wanted) - 1
    found = [round(wanted[0])]
    for place, value in enumerate(wanted[1:], 1):
        # below the one before, with room for all that follow
        found.append(max(min(round(value), found[-1] - 1), last - place))
    return tuple(found)


def _check(start: int, steps: int) -> None:
    if not 1 <= steps <= start:
        raise DiffplanError(
            f"{steps} sampling steps do not fit from level {start} to 0: use 1 to {start}"
        )


GRIDS: dict[str, Callable[[Process, int, int], tuple[int, ...]]] = {
    "uniform": lambda process, start, steps: time_grid(start, steps),
    "logsnr": logsnr_grid,
}
"""(process, first level, steps) -> table indices, by the name used in configurations."""
