"""The counter-based random numbers of `diffplan.runtime`, for tensors on any device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffplan import runtime

# On the host the few numbers of one plan are drawn by NumPy: PyTorch takes four times as long to
# start as many calls.


def uniform(seeds: Tensor, counts: Tensor, n: int) -> Tensor:
    """[B, n] float32, uniform in (0, 1), from int64 seeds and counts [B]."""
    own = _own(seeds)
    return _tensor(runtime.uniform(own, _own(counts), n, _library(own)))


def standard_normal(seeds: Tensor, counts: Tensor, n: int) -> Tensor:
    """[B, n] float32, standard normal, from int64 seeds and counts [B]."""
    if not n:
        return torch.empty(len(seeds), 0, device=seeds.device)
    own = _own(seeds)
    return _tensor(runtime.standard_normal(own, _own(counts), n, _library(own)))


def _own(x: Tensor) -> Any:
    return x.numpy() if x.device.type == "cpu" else x


def _library(x: Any) -> Any:
    return torch if isinstance(x, Tensor) else np


def _tensor(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else torch.from_numpy(x)
