"""Scales fitted once on the training data and saved with the model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# A column that never moves is left alone instead of being blown up.
_SMALLEST_STD = 1e-4


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

    def fit(self, data: Tensor) -> None:
        """Fit to rows of data [N, D] (float64 sums)."""
        wide = data.double()
        std = wide.std(0, unbiased=False)
        self.mean.copy_(wide.mean(0))
        self.std.copy_(torch.where(std < _SMALLEST_STD, torch.ones_like(std), std))

    def forward(self, x: Tensor) -> Tensor:
        """Environment units [..., D] to normalised [..., D]."""
        return (x - self.mean) / self.std

    def inverse(self, z: Tensor) -> Tensor:
        """Normalised [..., D] to environment units [..., D]."""
        return z * self.std + self.mean
