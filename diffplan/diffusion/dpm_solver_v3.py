"""DPM-Solver-v3: a sampler that removes, by statistics of the model, what its ODE has in common.

Zheng et al. 2023, arXiv 2310.13268. With y = x - r x̂ = a x0_hat + sigma eps_hat and
lambda = log(a / sigma) the probability-flow ODE of every process of `diffplan.diffusion.process` is

    d(y / a) / d lambda = -(l y / a + f),      f = (sigma eps_hat - l y) / a,

whatever l is, variance preserving or not. l, s and b, one number per level and entry of the plan,
are chosen so that f changes little and that its change is close to s f + b (section 3.1). Both
linear parts are integrated out; what is left, g = exp(-S) f - B, is a polynomial through its last
values (section 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from diffplan.diffusion.process import Process
from diffplan.diffusion.sampling import Denoise, Grid, Sampler, check_noisy, half_log_snrs
from diffplan.errors import DiffplanError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_ORDERS = (1, 2, 3)
_NODES = 8  # of the quadrature: exact to rounding for steps of lambda up to 3


@dataclass(frozen=True, eq=False)
class Statistics:
    """What the solver knows of a model, at every level of one process.

    l, s, b: float64 [T+1, rows, D], indices as in the process; index 0 and levels without anything
    of x0 (a = 0) are never read. l = 1, s = b = 0 is DPM-Solver++. a, r, sigma: the process.
    conditions: planning settings that they were estimated under. details: how they were estimated.
    """

    l: Tensor  # noqa: E741 (the paper's name)
    s: Tensor
    b: Tensor
    a: tuple[float, ...]
    r: tuple[float, ...]
    sigma: tuple[float, ...]
    conditions: Mapping[str, float | str | None] = field(default_factory=dict)
    details: Mapping[str, int | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.a), *self.l.shape[1:])
        for name in ("l", "s", "b"):
            table: Tensor = getattr(self, name)
            if table.shape != shape or table.ndim != 3:
                raise DiffplanError(
                    f"statistics: table {name} has shape {list(table.shape)}, expected "
                    f"[{len(self.a)}, rows, D] like the others"
                )
            if not table.isfinite().all():
                raise DiffplanError(
                    f"statistics: table {name} holds numbers that are not finite; calibrate anew"
                )


def check_statistics(statistics: Statistics, process: Process, grid: tuple[int, ...]) -> None:
    """Raise DiffplanError where these statistics cannot take this process along this grid."""
    descending = all(t > s for t, s in pairwise(grid))
    if not grid or grid[-1] != 0 or grid[0] > process.T or not descending:
        raise DiffplanError(
            f"a sampling grid must descend from at most {process.T} to 0, got {grid}"
        )
    for t in grid[:-1]:
        if process.sigma[t] <= 0.0:
            raise DiffplanError(
                f"dpm-solver-v3 needs noise at every level, but level {t} of {process.name!r} has "
                "none (sigma = 0); use sampler 'ddim'"
            )
        if process.a[t] <= 0.0:
            raise DiffplanError(
                f"dpm-solver-v3 cannot pass level {t} of {process.name!r}, where x_t holds nothing "
                "of x0 (a = 0, log-SNR minus infinity); start lower or use sampler 'ddim'"
            )
    own = (statistics.a, statistics.r, statistics.sigma)
    if own != (process.a, process.r, process.sigma):
        raise DiffplanError(
            f"the statistics were estimated for another process ({len(statistics.a) - 1} levels) "
            f"than {process.name!r} ({process.T} levels); run `diffplan calibrate` for this start"
        )


def dpm_solver_v3(
    denoise: Denoise,
    process: Process,
    grid: tuple[int, ...],
    x: Tensor,
    *,
    proposal: Tensor | None = None,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
    statistics: Statistics,
    order: int = 2,
    corrector: bool = True,
) -> Tensor:
    """DPM-Solver-v3, multistep (Zheng et al. 2023, arXiv 2310.13268, section 3.2): [B, H, D].

    x: start [B, H, D] at level grid[0]; grid: descending table indices that end at 0.
    proposal: x̂ [B, H, D], needed where the process has r != 0. scale, noise: of no use here.
    statistics: estimated for this process, see `diffplan.diffusion.dpm_statistics`. order: values
    of f behind a step, 1 to 3 (fewer at first). corrector: repeat each step once f at its end is
    known, with that value as one more and no more evaluations (appendix C), by the released
    pseudo-order polynomial: exact through two values, of second order through more.
    One evaluation per step; the last step returns x0_hat itself, a grid of one index returns x.
    Ten arguments: the seven of every sampler, and what is this one's own.
    Raises DiffplanError as `check_statistics` does, and for a wrong order or a missing proposal.
    """
    if order not in _ORDERS:
        raise DiffplanError(f"dpm-solver-v3 has orders 1, 2 and 3, got {order}")
    check_statistics(statistics, process, grid)
    if proposal is None and any(process.r[t] for t in grid):
        raise DiffplanError(f"process {process.name!r} needs a proposal [B, H, D], got none")
    if statistics.l.shape[1:] != x.shape[1:]:
        raise DiffplanError(
            f"the statistics are of plans {list(statistics.l.shape[1:])}, got x of "
            f"{list(x.shape[1:])}; run `diffplan calibrate` for this model"
        )
    levels = _levels(statistics, grid, order, corrector, x.dtype, x.device)
    r = process.r
    y = before = _plus(x, proposal, -r[grid[0]])
    values: list[Tensor] = []  # of f, the newest first
    for (t, s), level in zip(pairwise(grid), levels, strict=True):
        x0 = denoise(x, t)
        if level.predict is None:
            return x0
        values.insert(0, level.gain * y - x0)
        if level.correct is not None:
            # f is kept: eps_hat moves linearly with y
            y = _stepped(before, values, level.correct)
        del values[order:]
        before = y
        y = _stepped(y, values, level.predict)
        x = _plus(y, proposal, r[s])
    return x


@dataclass(frozen=True)
class _Update:
    """y at the end of a step = keep y - sum of weights[i] f_i - shift, each [rows, D]."""

    keep: Tensor
    weights: tuple[Tensor, ...]
    shift: Tensor


@dataclass(frozen=True)
class _Level:
    """What is done at one index of a grid.

    gain: [rows, D], f = gain y - x0_hat, which is (1 - l) / a. correct: the step that led here,
    once more; predict: the next one, None to index 0.
    """

    gain: Tensor
    correct: _Update | None
    predict: _Update | None


def _stepped(y: Tensor, values: Sequence[Tensor], update: _Update) -> Tensor:
    y = update.keep * y - update.shift
    for weight, value in zip(update.weights, values, strict=True):
        y = y - weight * value
    return y


def _plus(x: Tensor, proposal: Tensor | None, share: float) -> Tensor:
    return x if proposal is None or share == 0.0 else x.add(proposal, alpha=share)


# --- Coefficients --------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _levels(
    statistics: Statistics,
    grid: tuple[int, ...],
    order: int,
    corrector: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[_Level, ...]:
    """The coefficients of a grid, computed once in float64.

    In NumPy, so that no engine takes them for part of its graph.
    """
    import torch

    table = _Table(statistics)

    def cast(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device, dtype)

    def update(t: int, s: int, points: Sequence[int], pseudo: bool = False) -> _Update:
        keep, weights, shift = table.step(t, s, points, pseudo)
        return _Update(cast(keep), tuple(map(cast, weights)), cast(shift))

    levels = []
    with torch.inference_mode(False):
        for i, (t, s) in enumerate(pairwise(grid)):
            known = grid[max(0, i - order + 1) : i + 1][::-1]
            used = grid[max(0, i - order) : i + 1][::-1]
            correct = update(grid[i - 1], t, used, pseudo=True) if corrector and i and s else None
            predict = update(t, s, known) if s else None
            levels.append(_Level(cast(table.gain(t)), correct, predict))
    return tuple(levels)


class _Table:
    """The statistics as float64 arrays, and steps of the ODE from them.

    Between neighbouring levels l, s and b are taken for linear in lambda, so L = ∫ l and S = ∫ s
    are sums by the trapezoid rule; all other integrals are Gaussian quadratures from level to
    level. As l is free, the ODE stays the same however few levels there are.
    """

    def __init__(self, statistics: Statistics) -> None:
        self.a = statistics.a
        self.lam = half_log_snrs(statistics)
        tables = (statistics.l, statistics.s, statistics.b)
        self.l, self.s, self.b = (table.double().cpu().numpy() for table in tables)
        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        self.nodes, self.weights = (nodes + 1) / 2, weights / 2
        powers = np.arange(_NODES)
        # row q: weights of the integral from 0 to node q
        integrated = self.nodes[:, None] ** (powers + 1) / (powers + 1)
        self.partial = integrated @ np.linalg.inv(np.vander(self.nodes, increasing=True))

    def gain(self, t: int) -> np.ndarray:
        """(1 - l) / a at level t: [rows, D]."""
        result: np.ndarray = (1.0 - self.l[t]) / self.a[t]
        return result

    def step(
        self, t: int, s: int, points: Sequence[int], pseudo: bool
    ) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """keep, weights and shift (see `_Update`) from t to s < t with f known at `points`.

        pseudo: by `_pseudo_basis`, of points that begin with s and t.
        Integrals are taken from t on (L_t = S_t = B_t = 0), which leaves the solution as it is
        and exponents small.
        """
        first = max(*points, t)
        here = first - t  # of t among the levels from `first` to s
        levels = np.arange(first, s - 1, -1)
        offset = self.lam[levels] - self.lam[t]
        width = np.diff(offset)[:, None, None]
        big_l, inner_l = self._integral(self.l[levels], width, here)
        big_s, inner_s = self._integral(self.s[levels], width, here)
        slope = np.exp(-inner_s) * self._between(self.b[levels])
        rises = width * np.einsum("q,jqhd->jhd", self.weights, slope)
        big_b = _summed(rises, here)
        inner_b = width[:, None] * np.einsum("qr,jrhd->jqhd", self.partial, slope)
        inner_b = inner_b + big_b[:-1, None]

        lam = offset[:-1, None] + width[:, :, 0] * self.nodes
        factor = width[:, None] * self.weights[:, None, None] * np.exp(inner_l + inner_s)
        lam, factor, inner_b = lam[here:], factor[here:], inner_b[here:]
        at = [first - point for point in points]
        basis = (_pseudo_basis if pseudo else _lagrange_basis)(lam, offset[at])
        integrals = [np.einsum("jq,jqhd->hd", each, factor) for each in basis]  # ∫ exp(L + S) each
        out = self.a[s] * np.exp(-big_l[-1])
        weights = [out * w * np.exp(-big_s[i]) for w, i in zip(integrals, at, strict=True)]
        shift = (factor * inner_b).sum((0, 1))
        for w, i in zip(integrals, at, strict=True):
            shift = shift - w * big_b[i]
        return out / self.a[t], weights, out * shift

    def _between(self, table: np.ndarray) -> np.ndarray:
        """Values at the quadrature's nodes between levels: [J + 1, rows, D] -> [J, Q, rows, D]."""
        share = self.nodes[:, None, None]
        result: np.ndarray = table[:-1, None] * (1 - share) + table[1:, None] * share
        return result

    def _integral(
        self, table: np.ndarray, width: np.ndarray, here: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Integrals from level `here` to the levels [J + 1, ...] and the nodes [J, Q, ...]."""
        total = _summed((table[1:] + table[:-1]) / 2 * width, here)
        u = self.nodes[:, None, None]
        rise = np.diff(table, axis=0)[:, None]
        return total, total[:-1, None] + width[:, None] * u * (table[:-1, None] + rise * u / 2)


def _lagrange_basis(lam: np.ndarray, known: np.ndarray) -> list[np.ndarray]:
    """Polynomials that are 1 at one of `known` [n] and 0 at the others, at lam [J, Q]."""
    others = [np.delete(known, i) for i in range(len(known))]
    return [
        ((lam[..., None] - rest) / (own - rest)).prod(-1)
        for own, rest in zip(known, others, strict=True)
    ]


def _pseudo_basis(lam: np.ndarray, known: np.ndarray) -> list[np.ndarray]:
    """As `_lagrange_basis`, of Newton's form with (lam - lam_t)^i in place of its products.

    Divided differences stand for derivatives at t, where lam is 0 (appendix D.1 of the paper).
    known: lam of s, of t, then of what came before.
    """
    order = [1, 0, *range(2, len(known))]  # differences begin at t
    nodes = known[order]
    basis = [np.zeros_like(lam) for _ in known]
    for place, own in enumerate(nodes):
        for degree in range(place, len(nodes)):
            others = np.delete(nodes[: degree + 1], place)
            basis[order[place]] += lam**degree / (own - others).prod()
    return basis


def _summed(pieces: np.ndarray, here: int) -> np.ndarray:
    """Running sums of [J, ...] at the J + 1 ends, 0 at end `here`."""
    total = np.concatenate([np.zeros_like(pieces[:1]), pieces.cumsum(0)])
    result: np.ndarray = total - total[here]
    return result


def _suits(process: Process, grid: Grid, statistics: Statistics | None) -> None:
    check_noisy(process, "dpm-solver-v3")
    if statistics is None:
        raise DiffplanError(
            "sampler dpm-solver-v3 needs statistics of the model: run `diffplan calibrate RUN "
            "--start START` with the start that plans will have"
        )
    check_statistics(statistics, process, grid)


SAMPLERS = (
    # estimating the statistics differentiates the denoiser already
    Sampler("dpm-solver-v3", dpm_solver_v3, _suits, takes=("statistics",), value_guided=False),
)
