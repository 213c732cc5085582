"""Time grids: which table indices a sampler visits."""

from __future__ import annotations

from collections.abc import Callable

from diffplan.errors import DiffplanError
from diffplan.multistep import half_log_snr
from diffplan.process import Process


def time_grid(start: int, steps: int) -> tuple[int, ...]:
    """`steps + 1` strictly descending indices from `start` to 0, as even as integers allow."""
    _check(start, steps)
    return tuple((2 * start * left + steps) // (2 * steps) for left in range(steps, -1, -1))


def consecutive_grid(steps: int) -> tuple[int, ...]:
    """(steps, steps - 1, ..., 0): the last few steps of a chain, as the published '5 of 100'."""
    if steps < 0:
        raise DiffplanError(f"the number of sampling steps cannot be negative, got {steps}")
    return tuple(range(steps, -1, -1))


def quadratic_grid(start: int, steps: int) -> tuple[int, ...]:
    """Square roots of the indices as even as integers allow: dense near clean.

    The "quadratic" grid of Song et al. 2021 (arXiv 2010.02502, appendix D.2).
    """
    _check(start, steps)
    return _descending([start * (left / steps) ** 2 for left in range(steps, -1, -1)])


def logsnr_grid(process: Process, start: int, steps: int) -> tuple[int, ...]:
    """Even in log(a / sigma) from `start` to index 1, then 0 (Lu et al. 2022, arXiv 2211.01095).

    A start that holds nothing of x0 stands at -inf: its first step goes one level down.
    DiffplanError for a process without noise, which has no such ratio.
    """
    _check(start, steps)
    if not process.noisy:
        raise DiffplanError(
            f"grid logsnr needs noise, but process {process.name!r} has none: use uniform"
        )
    ratios = [half_log_snr(process, t) for t in range(start + 1)]
    first = start if ratios[start] > float("-inf") else start - 1
    left = steps - 1 - (start - first)
    if left <= 0:
        return time_grid(start, steps)
    wanted = [ratios[first] + (ratios[1] - ratios[first]) * i / left for i in range(left + 1)]
    levels = [float(min(range(1, first + 1), key=lambda t: abs(ratios[t] - w))) for w in wanted]
    return _descending(([float(start)] if first < start else []) + levels + [0.0])


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
    "quadratic": lambda process, start, steps: quadratic_grid(start, steps),
    "logsnr": logsnr_grid,
}
"""(process, first level, steps) -> table indices, by the name used in configurations."""
