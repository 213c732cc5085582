"""Scales fitted once on the training data and saved with the model."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from diffplan.data.rows import Rows

# A column that never moves is left alone instead of being blown up: one that varies by no more than
# float32 rounds its values by, or by next to nothing beside most of the others.
_OF_ITSELF = 2.0**-20
_OF_OTHERS = 1e-10
_CHUNK = 1_000_000  # numbers widened at once


class Normaliser(nn.Module):
    """Gaussian normaliser: z = (x - mean) / std, column by column.

    mean, std: float32 buffers [D]; they travel with the model's weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def fit(self, data: Tensor, rows: Rows | None = None) -> None:
        """Fit to data [N, D], or to some rows of it, in chunks with float64 sums."""

        def chunks() -> Iterable[Tensor]:
            size = max(1, _CHUNK // data.shape[1])
            return data.split(size) if rows is None else (data[i] for i in rows.split(size))

        count = len(data) if rows is None else len(rows)
        total = torch.zeros(data.shape[1], dtype=torch.float64)
        largest = torch.zeros_like(total)
        for chunk in chunks():
            total += chunk.double().sum(0)
            largest = torch.maximum(largest, chunk.abs().amax(0))
        mean = total / count
        # a second pass: the difference of large squares would lose the digits that count
        squares = torch.zeros_like(total)
        for chunk in chunks():
            squares += (chunk.double() - mean).square().sum(0)
        std = (squares / count).sqrt()
        constant = std <= _OF_ITSELF * largest
        if not constant.all():
            constant |= std <= _OF_OTHERS * std[~constant].median()
        self.mean.copy_(mean)
        self.std.copy_(torch.where(constant, torch.ones_like(std), std))

    def forward(self, x: Tensor) -> Tensor:
        """Environment units [..., D] to normalised [..., D]."""
        return (x - self.mean) / self.std

    def inverse(self, z: Tensor) -> Tensor:
        """Normalised [..., D] to environment units [..., D]."""
        return z * self.std + self.mean
