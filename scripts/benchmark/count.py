"""Floating-point operations and bytes that a decision needs.

Operations: those of matrix products, convolutions and attention, a multiply-add counted as two.
Bytes: inputs and outputs of these same operations, weights included, so that weights count once for
every network call that reads them. Elementwise work is taken to be fused into its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass(frozen=True)
class Work:
    """flops: floating-point operations. bytes: see the module.

    reuse: the bytes by how many others were touched since they were used last, rounded up to a
    power of two: a cache of that size still holds them. Decisions follow each other, so what is
    touched once in each was used a whole decision ago.
    """

    flops: int
    bytes: int
    reuse: dict[int, int]


def count(call: Callable[[], object]) -> Work:
    """What one call needs, on whatever device its tensors are."""
    # inference mode would hide the products inside linear layers
    with torch.inference_mode(False), torch.no_grad(), _Counted() as counted:
        call()
    return Work(counted.flops, counted.bytes, _reuse(counted.touched))


def _reuse(touched: list[tuple[int, int]]) -> dict[int, int]:
    """`Work.reuse` of (address, bytes) in order of use."""
    recent: dict[int, int] = {}  # bytes by address, the latest last
    found: dict[int, int] = {}
    for again in (False, True):
        for address, size in touched:
            if again:
                since = size
                for other, length in reversed(recent.items()):
                    if other == address:
                        break
                    since += length
                power = 1 << max(since - 1, 1).bit_length()
                found[power] = found.get(power, 0) + size
            recent.pop(address, None)
            recent[address] = size
    return dict(sorted(found.items()))


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    result: int = sdpa_flop_count(query.shape, key.shape, value.shape)
    return result


class _Counted(TorchDispatchMode):
    """Adds up operations, and the tensors that go into and come out of them.

    PyTorch's own counter cannot look into a gradient, which value guidance takes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.bytes = 0
        self.touched: list[tuple[int, int]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        # PyTorch's own table knows only the GPU kernels of attention
        known = _attention_flops if packet == _CPU_ATTENTION else flop_registry.get(packet)
        if known is not None:
            self.flops += known(*args, **kwargs, out_val=out)
            # weights are among the arguments, so every call that reads them counts them
            tensors = pytree.tree_leaves((args, kwargs, out))
            for t in tensors:
                if isinstance(t, Tensor):
                    size = t.numel() * t.element_size()
                    self.bytes += size
                    self.touched.append((t.data_ptr(), size))
        return out
