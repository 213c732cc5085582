"""Perceptrons of one shape in one batched product, and how they learn."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Ensemble(nn.Module):
    """E perceptrons with ReLU, drawn as PyTorch draws linear layers.

    Called with x [B, inputs] it returns [E, B, outputs], or of the first `members` networks alone.
    """

    def __init__(
        self,
        count: int,
        inputs: int,
        outputs: int,
        generator: torch.Generator,
        *,
        hidden: int = 256,
        layers: int = 2,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        widths = [inputs, *[hidden] * layers, outputs]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self.scales, self.shifts = nn.ParameterList(), nn.ParameterList()
        for before, after in pairwise(widths):
            bound = before**-0.5
            for held, rows in ((self.weights, before), (self.biases, 1)):
                drawn = torch.empty(count, rows, after).uniform_(-bound, bound, generator=generator)
                held.append(nn.Parameter(drawn))
        for _ in range(layers if layer_norm else 0):
            self.scales.append(nn.Parameter(torch.ones(count, 1, hidden)))
            self.shifts.append(nn.Parameter(torch.zeros(count, 1, hidden)))

    def forward(self, x: Tensor, members: int | None = None) -> Tensor:
        last = len(self.weights) - 1
        x = x.expand(members or len(self.weights[0]), *x.shape)
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias[:members], x, weight[:members])
            if index < last:
                x = F.relu(x, inplace=True)
                if len(self.scales):
                    scale, shift = self.scales[index][:members], self.shifts[index][:members]
                    x = F.layer_norm(x, x.shape[-1:]) * scale + shift
        return x


class Learning:
    """Adam on a module's parameters, which alone are differentiated."""

    def __init__(self, module: nn.Module, rate: float) -> None:
        self.parameters = list(module.parameters())
        self.rate = rate
        self.adam = torch.optim.Adam(self.parameters, lr=rate, fused=True)

    def step(self, loss: Tensor, *, factor: float = 1.0) -> None:
        """One step down a scalar loss, at `factor` times the learning rate."""
        gradients = torch.autograd.grad(loss, self.parameters)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        for group in self.adam.param_groups:
            group["lr"] = factor * self.rate
        self.adam.step()


@torch.no_grad()
def follow(target: nn.Module, source: nn.Module, rate: float) -> None:
    """Polyak's average: target <- (1 - rate) target + rate source."""
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), rate)
