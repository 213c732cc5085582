"""The average of the weights that plans are made with."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential average of the weights; early on the mean of the few so far, roughly.

    PyTorch's AveragedModel counts on the device: on a GPU it waits for it four times an update.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model)
        self.decay, self.count = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Let the model's weights in; what is no weight is the model's own."""
        decay = min(self.decay, (1 + self.count) / (10 + self.count)) if self.count else 0.0
        ours: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(model.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - decay)
        for kept, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)
        self.count += 1
