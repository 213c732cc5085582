"""Batches of fixed sizes: filled up to the next power of two."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffplan.engines.decision import Plan

# --- Batches -------------------------------------------------------------------------------------


def present(planned: Plan | Tensor) -> list[Tensor]:
    """What a step put out, without the actions that a plan does not hold."""
    made = planned if isinstance(planned, tuple) else (planned,)
    return [t for t in made if t is not None]


def row_count(inputs: Sequence[Tensor | None]) -> int:
    """Rows of a batch, of which some inputs are there."""
    return len(next(t for t in inputs if t is not None))


def padded_size(inputs: Sequence[Tensor | None]) -> int:
    """The next power of two."""
    return 1 << (row_count(inputs) - 1).bit_length()


def filled(tensor: Tensor, size: int) -> Tensor:
    """Filled up to `size` rows with copies of the first."""
    missing = size - len(tensor)
    if not missing:
        return tensor
    # copies, not zeros: whatever is computed of them is as finite as the first row's
    return torch.cat([tensor, tensor[:1].expand(missing, *tensor.shape[1:])])
