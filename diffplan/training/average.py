"""The average of the weights that plans are made with."""

from __future__ import annotations

import copy
from functools import cached_property
from itertools import compress

import torch
from torch import Tensor, nn

from diffplan.training.flat import flattened


class WeightAverage:
    """Exponential average of the weights; early on the mean of the few so far, roughly.

    PyTorch's AveragedModel counts on the device: on a GPU it waits for it four times an update.
    """

    def __init__(self, model: nn.Module, decay: float, vector: Tensor | None = None) -> None:
        """vector: of all weights that learn, if they are views of it (`Weights`)."""
        self.module, self._vector = copy.deepcopy(model), vector
        self.decay, self.count = decay, 0
        self._model = model
        self._share: Tensor | None = None

    @cached_property
    def _pairs(self) -> tuple[list[Tensor], list[Tensor], tuple[list[Tensor], list[Tensor]]]:
        """Weights of both, and buffers: looked up once, when all lie on their device."""
        buffers = list(self.module.buffers()), list(self._model.buffers())
        ours: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(self._model.parameters())
        if self._vector is not None:
            learns = [p.requires_grad for p in theirs]
            still = [not each for each in learns]
            ours = [flattened(list(compress(ours, learns))), *compress(ours, still)]
            theirs = [self._vector.detach(), *compress(theirs, still)]
        return ours, theirs, buffers

    def weigh(self) -> float:
        """The weight that the model's weights have in the next `update`, and count it.

        On a GPU it is written to where the update reads it, which a graph of the update needs.
        """
        decay = min(self.decay, (1 + self.count) / (10 + self.count)) if self.count else 0.0
        self.count += 1
        first = self._pairs[0][0]
        if first.device.type != "cpu":
            if self._share is None:
                self._share = torch.empty((), device=first.device)
            self._share.fill_(1 - decay)
        return 1 - decay

    @torch.no_grad()
    def update(self, share: float | None = None) -> None:
        """Let the model's weights in; what is no weight is the model's own.

        share: what `weigh` gave, which is called here where it was not before.
        """
        share = self.weigh() if share is None else share
        ours, theirs, buffers = self._pairs
        if self._share is None:
            torch._foreach_lerp_(ours, theirs, share)
        else:
            for our, their in zip(ours, theirs, strict=True):
                our.lerp_(their, self._share)
        if buffers[0]:
            torch._foreach_copy_(*buffers)
