"""Estimators of an analysis: functions of tensors, each with a closed form in the tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffplan.scripts.report.intervals import Estimate

_RESAMPLES = 1000
_PROBES = 128  # directions of a Jacobian; all of them where plans are no larger


# --- Information by gaps between denoisers -------------------------------------------------------


def information(gaps: Tensor, snr: Sequence[float]) -> Tensor:
    """Nats [B] that a condition tells of a plan: 1/2 of the integral of gaps over the SNR.

    gaps: [n, B], squared, summed over a plan's entries, between the denoiser that knows it and the
    one that does not, at n levels. snr: [n], (a / sigma)^2, ascending. I-MMSE (Guo et al. 2005),
    eq. 6), with pointwise gaps (Kong et al. 2024, arXiv 2310.07972, eq. 8); cut at the last SNR.
    """
    # what lies below the first level; between levels as a power of the SNR runs
    total = gaps[0] * snr[0]
    for i in range(1, len(snr)):
        if snr[i - 1] <= 0:
            total = total + 0.5 * (gaps[i - 1] + gaps[i]) * snr[i]
        else:
            step = math.log(snr[i] / snr[i - 1])
            total = total + 0.5 * (gaps[i - 1] * snr[i - 1] + gaps[i] * snr[i]) * step
    return 0.5 * total


@dataclass(frozen=True)
class Parts:
    """What one condition tells beside all others, as shares of what all tell together.

    unique: only this one tells it. redundant: it and the others alike. synergistic: only together.
    alone: unique and redundant. lost: unique and synergistic, what is gone without it.
    """

    unique: float
    redundant: float
    synergistic: float

    @property
    def alone(self) -> float:
        return self.unique + self.redundant

    @property
    def lost(self) -> float:
        return self.unique + self.synergistic


def partial(one: float, rest: float, together: float) -> Parts:
    """Partial information of two sources from what each tells alone and both tell together.

    Redundant is the lesser of the two: of Gaussian variables every decomposition whose redundancy
    follows from the two pairs alone is this one (Barrett 2015, arXiv 1411.2832).
    """
    shared = min(one, rest)
    whole = max(together, 1e-12)
    parts = one - shared, shared, together - one - rest + shared
    return Parts(*(part / whole for part in parts))


def bootstrapped(
    statistic: Callable[[np.ndarray], np.ndarray], values: np.ndarray, seed: int = 0
) -> list[Estimate]:
    """Each number of a statistic of means, with 95 % by a bootstrap over the columns.

    values: [k, B]. statistic: means [k, ...] -> [m, ...].
    """
    rng = np.random.default_rng(seed)
    count = values.shape[1]
    drawn = rng.multinomial(count, np.full(count, 1 / count), _RESAMPLES) / count
    found = statistic(values @ drawn.T)
    low, high = np.quantile(found, (0.025, 0.975), axis=-1)
    point = statistic(values.mean(1))
    return [
        Estimate(float(p), float(lo), float(hi), count)
        for p, lo, hi in zip(point, low, high, strict=True)
    ]


# --- Entropy of features -------------------------------------------------------------------------


def median_distance(x: Tensor) -> float:
    """Median distance between the rows of x [n, F]."""
    apart: Tensor = torch.pdist(x.double())
    return float(apart.median())


def spectral_entropy(x: Tensor, bandwidth: float) -> float:
    """Diffusion spectral entropy of the rows of x [n, F], in bits: 0 to log2 n.

    Of the eigenvalues of a diffusion operator with a Gaussian kernel (Liao et al. 2023, arXiv
    2312.04823, t = 1): 0 where all rows are one, log2 n where they are far apart,
    measured in bandwidths.
    """
    apart = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    kernel = (-0.5 * (apart / max(bandwidth, 1e-12)).square()).exp()
    root = kernel.sum(1).rsqrt()
    values = torch.linalg.eigvalsh(root[:, None] * kernel * root).abs()
    share = values / values.sum()
    share = share[share > 0]
    return float(-(share * share.log2()).sum())


def spectral_information(x: Tensor, cells: Tensor, bandwidth: float, seed: int = 0) -> float:
    """Bits that features x [n, F] tell of the cells [n] that samples lie in (Liao et al.).

    The entropy of as many rows drawn at random less that of a cell's, on average.
    """
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for cell in cells.unique():
        inside = x[cells == cell]
        others = torch.randperm(len(x), generator=generator)[: len(inside)]
        gained = spectral_entropy(x[others], bandwidth) - spectral_entropy(inside, bandwidth)
        total += len(inside) / len(x) * gained
    return total


def sign_cells(x: Tensor, axes: int = 3) -> Tensor:
    """Cells [n] of x [n, F], at most 2^axes: the sides of the median on its principal axes."""
    centred = (x - x.mean(0)).double()
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    places = centred @ directions[:axes].T
    sides = (places > places.median(0).values).long()
    return (sides * 2 ** torch.arange(sides.shape[1])).sum(1)


# --- Rank ----------------------------------------------------------------------------------------


def jacobian(function: Callable[[Tensor], Tensor], x: Tensor, seed: int = 0) -> Tensor:
    """Jacobians [B, N, m] of a function of rows x [B * m, H, D], the same in m rows in turn.

    By forward mode, one direction a row: all N = H D of them, or m = 128 orthonormal ones at random
    where plans are larger. `directions` says m.
    """
    size = math.prod(x.shape[1:])
    m = directions(size)
    basis = torch.eye(size, dtype=x.dtype)
    if m < size:
        generator = torch.Generator().manual_seed(seed)
        basis = torch.linalg.qr(torch.randn(size, m, generator=generator, dtype=x.dtype))[0].T
    tangents = basis.repeat(len(x) // m, 1).view_as(x)
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward mode
        moved: Tensor = torch.func.jvp(function, (x,), (tangents,))[1]
    return moved.flatten(1).unflatten(0, (-1, m)).transpose(1, 2)


def directions(size: int) -> int:
    """How many directions `jacobian` takes of plans of this size."""
    return min(size, _PROBES)


def energy_rank(matrices: Tensor, share: float = 0.99) -> Tensor:
    """Singular values [B] that hold a share of the squares of matrices [B, N, M].

    The numerical rank of Wang et al. 2024, arXiv 2409.02426.
    """
    squares = torch.linalg.svdvals(matrices.double()).square()
    held = squares.cumsum(1) / squares.sum(1, keepdim=True).clamp(min=1e-300)
    return (held < share * (1 - 1e-12)).sum(1) + 1
