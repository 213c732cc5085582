"""Perceptrons of one shape in one batched product, and how they learn."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Ensemble(nn.Module):
    """S x E perceptrons with ReLU, drawn as PyTorch draws linear layers, E by each of S generators.

    Called with x [S, B, inputs] it returns [S, E, B, outputs], or of the first `members` of the E
    alone.
    """

    def __init__(
        self,
        count: int,
        inputs: int,
        outputs: int,
        generators: Sequence[torch.Generator],
        *,
        hidden: int = 256,
        layers: int = 2,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.count = count
        widths = [inputs, *[hidden] * layers, outputs]
        drawn = [[_layer(count, *pair, each) for pair in pairwise(widths)] for each in generators]
        by_layer = list(zip(*drawn, strict=True))
        self.weights, self.biases = (
            nn.ParameterList(torch.stack([each[part] for each in layer]) for layer in by_layer)
            for part in (0, 1)
        )
        self.scales, self.shifts = nn.ParameterList(), nn.ParameterList()
        for _ in range(layers if layer_norm else 0):
            self.scales.append(torch.ones(len(generators), count, 1, hidden))
            self.shifts.append(torch.zeros(len(generators), count, 1, hidden))

    def forward(self, x: Tensor, members: int | None = None) -> Tensor:
        last, count = len(self.weights) - 1, members or self.count
        shape = len(x), count
        x = x[:, None].expand(-1, count, -1, -1).flatten(0, 1)
        for index, held in enumerate(zip(self.weights, self.biases, strict=True)):
            weight, bias = (each[:, :count].flatten(0, 1) for each in held)
            x = torch.baddbmm(bias, x, weight)
            if index < last:
                x = F.relu(x, inplace=True)
                if len(self.scales):
                    scale, shift = (
                        each[index][:, :count].flatten(0, 1) for each in (self.scales, self.shifts)
                    )
                    x = F.layer_norm(x, x.shape[-1:]) * scale + shift
        return x.unflatten(0, shape)

    def alone(self, place: int) -> Ensemble:
        """A copy of one of the S sets, on the CPU."""
        made = copy.deepcopy(self).requires_grad_(False)
        for parameter in made.parameters():
            parameter.data = parameter[place : place + 1].cpu().clone()
        return made


def _layer(
    count: int, before: int, after: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Weights [count, before, after] and biases [count, 1, after]."""
    bound = before**-0.5
    weight, bias = (
        torch.empty(count, rows, after).uniform_(-bound, bound, generator=generator)
        for rows in (before, 1)
    )
    return weight, bias


class Learning:
    """Adam on a module's parameters, which alone are differentiated."""

    def __init__(self, module: nn.Module, rate: float) -> None:
        self.parameters = list(module.parameters())
        device = self.parameters[0].device
        # graphs of updates read it from the device
        self.rate, self._rate = rate, torch.tensor(rate, device=device)
        on_gpu = device.type == "cuda"
        self.adam = torch.optim.Adam(self.parameters, lr=self._rate, fused=True, capturable=on_gpu)

    def step(self, loss: Tensor, *, factor: Tensor | None = None) -> None:
        """One step down a scalar loss, at `factor` (a scalar) times the learning rate."""
        gradients = torch.autograd.grad(loss, self.parameters)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        if factor is not None:
            self._rate.copy_(factor * self.rate)
        self.adam.step()


@torch.no_grad()
def follow(target: nn.Module, source: nn.Module, rate: float) -> None:
    """Polyak's average: target <- (1 - rate) target + rate source."""
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), rate)
