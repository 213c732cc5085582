"""Random numbers of many rows at once, each row's a function of its own seed and count alone.

A counter-based generator: number i of a row is a hash of (seed, count, i), so that no state has to
be kept, rows do not depend on their neighbours, and every device draws the same numbers (up to the
rounding of logarithm and cosine). The hash is the finaliser of SplitMix64 (Steele et al. 2014,
"Fast splittable pseudorandom number generators", figure 17), in wrapping 64-bit arithmetic.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """The 64-bit pattern as PyTorch's integers hold it."""
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right: PyTorch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _bits(seeds: Tensor, counts: Tensor, n: int) -> Tensor:
    """n 64-bit integers per row [B, n] from seeds and counts [B] int64."""
    key = _mix(_mix(seeds + _GOLDEN) ^ (counts + 1) * _FIRST)
    steps = torch.arange(1, n + 1, device=seeds.device) * _GOLDEN
    return _mix(key[:, None] + steps)


def uniform(seeds: Tensor, counts: Tensor, n: int) -> Tensor:
    """[B, n] float32, uniform in (0, 1), from int64 seeds and counts [B]."""
    return (_shifted(_bits(seeds, counts, n), 41).float() + 0.5) * 2.0**-23


def standard_normal(seeds: Tensor, counts: Tensor, n: int) -> Tensor:
    """[B, n] float32, standard normal (Box & Muller 1958), from int64 seeds and counts [B].

    Two numbers of 24 bits make two normal ones, so that none lies beyond 5.9 standard deviations.
    """
    bits = _bits(seeds, counts, (n + 1) // 2)
    radius = (_shifted(bits, 40).float() + 0.5).mul_(2.0**-24).log_().mul_(-2).sqrt_()
    angle = (bits & 0xFFFFFF).float().mul_(2.0**-24 * 2 * math.pi)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :n]
