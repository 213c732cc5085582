"""Where the data lie: on the training device where they fit, else on the host."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

_T = TypeVar("_T")
_SHARE = 0.5  # of the GPU's free memory that data may take; the rest is for training


def fits(size: int, device: torch.device) -> bool:
    """Whether `size` bytes of data should be kept on the device.

    On a GPU: if they take at most half of the memory that is free now. No other device but the
    host's memory holds data.
    """
    if device.type == "cuda":
        # asked at the time: other processes share the card
        free, _ = torch.cuda.mem_get_info(device)
        return size <= _SHARE * free
    return device.type == "cpu"


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device. From host to GPU through pinned memory: nobody waits for it."""
    if tensor.device == device:
        return tensor
    # a copy from pageable memory would stop the host until it is done
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def moved(batch: _T, device: torch.device) -> _T:
    """A tensor, or a frozen dataclass of tensors and of such, on the device; None stays None."""
    if batch is None:
        return batch
    if isinstance(batch, Tensor):
        return cast(_T, move(batch, device))
    values = (moved(getattr(batch, f.name), device) for f in fields(cast(Any, batch)))
    return type(batch)(*values)
