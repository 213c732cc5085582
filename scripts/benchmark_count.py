"""Floating-point operations and bytes that a decision needs.

Operations: those of matrix products, convolutions and attention, a multiply-add counted as two.
Bytes: inputs and outputs of these same operations, weights included, so that weights count once for
every network call that reads them. Elementwise work is taken to be fused into its neighbours: a
lower bound of what a machine without caches would move.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
