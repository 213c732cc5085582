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


def sizes_upto(rows: int, most: int | None = None) -> list[int]:
    """The sizes that batches of at most so many rows are split into, ascending.

    most: rows of one call, where fewer than usual.
    """
    largest = min(most or _LARGEST, _LARGEST)
    sizes = [1]
    while sizes[-1] < rows and _FACTOR * sizes[-1] <= largest:
        sizes.append(_FACTOR * sizes[-1])
    return sizes


def largest_within(memory: float, row: float) -> int:
    """The largest size whose rows, of so many bytes each, fit into so many; 1 where none does."""
    return sizes_upto(_LARGEST, max(1, int(memory / row)))[-1]


def parts(rows: int, most: int | None = None) -> Iterator[tuple[int, int, int]]:
    """How a batch is run: (first row, rows, size of the call), one after the other.

    most: as of `sizes_upto`.
    """
    return runtime.parts(rows, sizes_upto(rows, most))


def filled(tensor: Tensor, size: int) -> Tensor:
    """Filled up to `size` rows with copies of the first."""
    missing = size - len(tensor)
    if not missing:
        return tensor
    # copies, not zeros: whatever is computed of them is as finite as the first row's
    return torch.cat([tensor, tensor[:1].expand(missing, *tensor.shape[1:])])
