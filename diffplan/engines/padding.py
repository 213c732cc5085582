"""Batches of fixed sizes: split and filled up to sizes that graphs are made for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from diffplan import runtime
from diffplan.engines.decision import Plan

_FACTOR = 4  # between neighbouring sizes
_LARGEST = 4**8  # rows of one call; what is more is split


def present(planned: Plan | Tensor) -> list[Tensor]:
    """What a step put out, without what a plan does not hold."""
    made = planned if isinstance(planned, tuple) else (planned,)
    return [t for t in made if t is not None]


def row_count(inputs: Sequence[Any]) -> int:
    """Rows of a batch, of which some inputs are there."""
    return len(next(t for t in inputs if t is not None))


def sizes_upto(rows: int) -> list[int]:
    """The sizes that batches of at most so many rows are split into, ascending."""
    sizes = [1]
    while sizes[-1] < rows and sizes[-1] < _LARGEST:
        sizes.append(_FACTOR * sizes[-1])
    return sizes


def parts(rows: int) -> Iterator[tuple[int, int, int]]:
    """How a batch is run: (first row, rows, size of the call), one after the other."""
    return runtime.parts(rows, sizes_upto(rows))


def filled(tensor: Tensor, size: int) -> Tensor:
    """Filled up to `size` rows with copies of the first."""
    missing = size - len(tensor)
    if not missing:
        return tensor
    # copies, not zeros: whatever is computed of them is as finite as the first row's
    return torch.cat([tensor, tensor[:1].expand(missing, *tensor.shape[1:])])
