"""Floating-point operations and bytes that a decision needs, and how straight a curve is.

Operations: those of matrix products, convolutions and attention, a multiply-add counted as two.
Bytes: inputs and outputs of these same operations, weights included, so that weights count once for
every network call that reads them. Elementwise work is taken to be fused into its neighbours: a
lower bound of what a machine without caches would move.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count

_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass(frozen=True)
class Work:
    """flops: floating-point operations. bytes: see the module."""

    flops: int
    bytes: int


def count(call: Callable[[], object]) -> Work:
    """What one call needs, on whatever device its tensors are."""
    mapping = {_CPU_ATTENTION: _attention_flops}  # PyTorch's own table knows only the GPU kernels
    # inference mode would hide the products inside linear layers
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        FlopCounterMode(display=False, custom_mapping=mapping) as flops,
        _Bytes() as moved,
    ):
        call()
    return Work(int(flops.get_total_flops()), moved.total)


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    result: int = sdpa_flop_count(query, key, value)
    return result


class _Bytes(TorchDispatchMode):
    """Adds up the tensors that go into and come out of the operations that are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in flop_registry or packet == _CPU_ATTENTION:
            tensors = pytree.tree_leaves((args, kwargs, out))
            self.total += sum(
                t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor)
            )
        return out


# --- Curves --------------------------------------------------------------------------------------

STRAIGHT = 0.15  # largest relative distance from a line that still counts as on it


@dataclass(frozen=True)
class Line:
    """cost = fixed + slope x, as far as it holds.

    until: the largest measured x that lies on it with all smaller ones. whole: whether that is the
    largest one measured.
    """

    fixed: float
    slope: float
    until: float
    whole: bool


def straight_line(x: Sequence[float], cost: Sequence[float]) -> Line | None:
    """The line through as many of the smallest x as lie on one; None for fewer than three points.

    Least squares in relative distances, neither part negative; on the line is what lies within
    `STRAIGHT` of it.
    """
    if len(x) < 3:
        return None
    found, until = _fit(x[:2], cost[:2]), 2
    for n in range(3, len(x) + 1):
        fitted = _fit(x[:n], cost[:n])
        off = max(
            abs(fitted[0] + fitted[1] * a - c) / c for a, c in zip(x[:n], cost[:n], strict=True)
        )
        if off > STRAIGHT:
            break
        found, until = fitted, n
    return Line(*found, x[until - 1], until == len(x))


def _fit(x: Sequence[float], cost: Sequence[float]) -> tuple[float, float]:
    """Fixed part and slope by least squares of relative distances, neither negative."""
    a, c = np.asarray(x, float), np.asarray(cost, float)
    columns = np.stack([1 / c, a / c], 1)
    fixed, slope = np.linalg.lstsq(columns, np.ones_like(c), rcond=None)[0]
    if fixed < 0:
        only = columns[:, 1]
        return 0.0, float(only.sum() / (only @ only))
    if slope < 0:
        only = columns[:, 0]
        return float(only.sum() / (only @ only)), 0.0
    return float(fixed), float(slope)
