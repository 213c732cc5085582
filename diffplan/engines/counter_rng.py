"""Random numbers of many rows at once, each row's a function of its own seed and count alone.

A counter-based generator: number i of a row is a hash of (seed, count, i), so that no state has to
be kept, rows do not depend on their neighbours, and every device draws the same numbers (up to the
rounding of logarithm and cosine). The hash is the finaliser of SplitMix64 (Steele et al. 2014,
"Fast splittable pseudorandom number generators", figure 17), in wrapping 64-bit arithmetic.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

# The arithmetic below is the same for NumPy's arrays and PyTorch's tensors. On the host the few
# numbers of one plan are drawn by NumPy: PyTorch takes four times as long to start as many calls.


def _signed(value: int) -> int:
    """The 64-bit pattern as PyTorch's integers hold it."""
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def uniform(seeds: Tensor, counts: Tensor, n: int) -> Tensor:
    """[B, n] float32, uniform in (0, 1), from int64 seeds and counts [B]."""
    bits = _bits(_own(seeds), _own(counts), n)
    return _tensor((_float(_shifted(bits, 41)) + 0.5) * 2.0**-23)


def standard_normal(seeds: Tensor, counts: Tensor, n: int) -> Tensor:
    """[B, n] float32, standard normal (Box & Muller 1958), from int64 seeds and counts [B].

    Two numbers of 24 bits make two normal ones, so that none lies beyond 5.9 standard deviations.
    """
    if not n:
        return torch.empty(len(seeds), 0, device=seeds.device)
    bits = _bits(_own(seeds), _own(counts), (n + 1) // 2)
    library = _library(bits)
    # half a step off the grid, so that the logarithm never sees 0
    radius = (_float(_shifted(bits, 40)) + 0.5) * 2.0**-24
    radius = library.sqrt(library.log(radius) * -2.0)
    angle = _float(bits & 0xFFFFFF) * (2.0**-24 * 2 * math.pi)
    both = (radius * library.cos(angle), radius * library.sin(angle))
    return _tensor(library.concatenate(both, 1))[:, :n]


def _bits(seeds: Any, counts: Any, n: int) -> Any:
    """n 64-bit integers per row [B, n] from seeds and counts [B] int64."""
    key = _mix(_mix(seeds + _GOLDEN) ^ (counts + 1) * _FIRST)
    steps = _library(seeds).arange(1, n + 1, device=seeds.device)
    return _mix(key[:, None] + steps * _GOLDEN)


def _own(x: Tensor) -> Any:
    return x.numpy() if x.device.type == "cpu" else x


def _library(x: Any) -> Any:
    return torch if isinstance(x, Tensor) else np


def _mix(x: Any) -> Any:
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Any, bits: int) -> Any:
    """Logical shift to the right: signed integers' own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _float(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) else x.astype(np.float32)


def _tensor(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else torch.from_numpy(x)
