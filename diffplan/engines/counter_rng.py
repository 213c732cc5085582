"""The counter-based random numbers of `diffplan.runtime`, for tensors on any device."""

from __future__ import annotations

import warnings
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffplan import runtime
from diffplan.errors import first_line

# On the host the few numbers of one plan are drawn by NumPy: PyTorch takes four times as long to
# start as many calls.


def uniform(seeds: Tensor, counts: Tensor, n: int) -> Tensor:
    """[B, n] float32, uniform in (0, 1), from int64 seeds and counts [B]."""
    if (fused := _fused(seeds.device)) is not None:
        made: Tensor = fused.uniform(seeds, counts, n)
        return made
    own = _own(seeds)
    return _tensor(runtime.uniform(own, _own(counts), n, _library(own)))


def standard_normal(seeds: Tensor, counts: Tensor, n: int) -> Tensor:
    """[B, n] float32, standard normal, from int64 seeds and counts [B]."""
    if not n:
        return torch.empty(len(seeds), 0, device=seeds.device)
    if (fused := _fused(seeds.device)) is not None:
        made: Tensor = fused.standard_normal(seeds, counts, n)
        return made
    own = _own(seeds)
    return _tensor(runtime.standard_normal(own, _own(counts), n, _library(own)))


def has_kernels(device: torch.device) -> bool:
    """Whether Triton's kernels run there; a warning says it where they should."""
    return _fused(device) is not None


def _fused(device: torch.device) -> ModuleType | None:
    return _tried(device) if device.type == "cuda" else None


@cache
def _tried(device: torch.device) -> ModuleType | None:
    """The kernels that draw in one launch each, if they run on a GPU and draw the same."""
    try:
        from diffplan.engines import fused_rng

        seed, count = torch.tensor([[-5], [3]], device=device)
        drawn = fused_rng.uniform(seed, count, 7).cpu().numpy()
        reason = "they draw others"
    except Exception as error:  # no Triton, no compiler, a card that it does not know
        drawn, reason = np.zeros(0, np.float32), first_line(error)
    if np.array_equal(drawn, runtime.uniform(np.array([-5]), np.array([3]), 7)):
        return fused_rng
    warnings.warn(
        f"random numbers take some fifty launches in place of one ({reason})", stacklevel=3
    )
    return None


def _own(x: Tensor) -> Any:
    return x.numpy() if x.device.type == "cpu" else x


def _library(x: Any) -> Any:
    return torch if isinstance(x, Tensor) else np


def _tensor(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else torch.from_numpy(x)
