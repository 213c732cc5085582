"""The random numbers of `diffplan.runtime` on a GPU, each kind in one launch (Triton).

The integers are those of `runtime._bits` to the last bit. In plain tensors the same takes some
fifty launches and as many passes over memory.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 256
# halves of the constants of `runtime`: a compiler that meets an integer of 64 bits beside an index
# of 32 may take both for 32
_GOLDEN = tl.constexpr(0x9E3779B9), tl.constexpr(0x7F4A7C15)
_FIRST = tl.constexpr(0xBF58476D), tl.constexpr(0x1CE4E5B9)
_SECOND = tl.constexpr(0x94D049BB), tl.constexpr(0x133111EB)
_GOLDEN_HIGH, _GOLDEN_LOW = _GOLDEN
_FIRST_HIGH, _FIRST_LOW = _FIRST
_SECOND_HIGH, _SECOND_LOW = _SECOND
_TURN = tl.constexpr(6.283185307179586 * 2.0**-24)


def uniform(seeds: Tensor, counts: Tensor, n: int) -> Tensor:
    """[B, n] float32, uniform in (0, 1), from int64 seeds and counts [B] on a GPU."""
    return _drawn(_uniform, seeds, counts, n, n)


def standard_normal(seeds: Tensor, counts: Tensor, n: int) -> Tensor:
    """[B, n] float32, standard normal, from int64 seeds and counts [B] on a GPU."""
    return _drawn(_normal, seeds, counts, n, (n + 1) // 2)


def _drawn(kernel: Any, seeds: Tensor, counts: Tensor, n: int, hashes: int) -> Tensor:
    rows = len(seeds)
    made = torch.empty(rows, n, device=seeds.device)
    if rows and n:
        grid = rows, triton.cdiv(hashes, _BLOCK)
        with torch.cuda.device_of(seeds):  # Triton launches on the current one
            kernel[grid](seeds.contiguous(), counts.contiguous(), made, n, hashes, BLOCK=_BLOCK)
    return made


@triton.jit
def _constant(high: tl.constexpr, low: tl.constexpr):  # type: ignore[no-untyped-def]
    return (tl.full([1], high, tl.uint64) << 32) | tl.full([1], low, tl.uint64)


@triton.jit
def _mixed(x):  # type: ignore[no-untyped-def]
    x = (x ^ (x >> 30)) * _constant(_FIRST_HIGH, _FIRST_LOW)
    x = (x ^ (x >> 27)) * _constant(_SECOND_HIGH, _SECOND_LOW)
    return x ^ (x >> 31)


@triton.jit
def _bits(seeds, counts, row, place):  # type: ignore[no-untyped-def]
    """The integers at places [BLOCK] of a row."""
    golden = _constant(_GOLDEN_HIGH, _GOLDEN_LOW)
    first = tl.full([1], 0, tl.int32)
    seed = tl.load(seeds + row + first).to(tl.uint64)
    count = tl.load(counts + row + first).to(tl.uint64)
    one = tl.full([1], 1, tl.uint64)
    key = _mixed(_mixed(seed + golden) ^ ((count + one) * _constant(_FIRST_HIGH, _FIRST_LOW)))
    return _mixed(key + (place.to(tl.uint64) + one) * golden)


@triton.jit
def _uniform(seeds, counts, made, n, hashes, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    bits = (_bits(seeds, counts, row, place) >> 41).to(tl.int32)
    tl.store(made + row * n + place, (bits.to(tl.float32) + 0.5) * 2.0**-23, mask=place < hashes)


@triton.jit
def _normal(seeds, counts, made, n, hashes, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    bits = _bits(seeds, counts, row, place)
    radius = ((bits >> 40).to(tl.int32).to(tl.float32) + 0.5) * 2.0**-24
    radius = tl.sqrt(tl.log(radius) * -2.0)
    angle = (bits & 0xFFFFFF).to(tl.int32).to(tl.float32) * _TURN
    at = made + row * n + place
    tl.store(at, radius * tl.cos(angle), mask=place < hashes)
    # of an odd number the last pair gives one
    tl.store(at + hashes, radius * tl.sin(angle), mask=place + hashes < n)
