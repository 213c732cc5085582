"""The light denoiser network: residual blocks over the flattened trajectory."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffplan.nn.embeddings import zero_
from diffplan.nn.network import Network, OfPlan


class ResidualBlock(nn.Module):
    """h + W2 silu(W1 norm(h) + shift): shift is this block's linear view of the features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)

    def forward(self, h: Tensor, shift: Tensor) -> Tensor:
        """h [B, width], shift [B, width] with the inner layer's bias in it -> [B, width]."""
        inner = torch.addmm(shift, self.norm(h), self.inner.weight.t())
        return h + self.outer(F.silu(inner))


class ResidualMLP(Network):
    """Residual MLP on the flattened [H * D] trajectory: few large matrix products.

    The default on a CPU, where the count of operations, not of multiplications, sets the time.
    The last layer starts at zero.
    """

    by_row = False
    plain = True

    def __init__(
        self,
        horizon: int,
        dim: int,
        features: int,
        width: int = 256,
        depth: int = 3,
        use_proposal: bool = True,
    ) -> None:
        super().__init__()
        flat = horizon * dim
        self.shape = (horizon, dim)
        self.use_proposal = use_proposal
        self.width = width
        self.enter = nn.Linear(flat * (1 + use_proposal) + features, width)
        # one product gives the shifts of all blocks
        self.shifts = nn.Linear(features, depth * width)
        self.blocks = nn.ModuleList([ResidualBlock(width) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, flat)
        zero_(self.leave)

    def bind_features(self, proposal: Tensor | None, features: Tensor) -> tuple[OfPlan, ...]:
        """The body at all levels; what they need beside x_t in one product each."""
        flat = self.shape[0] * self.shape[1]
        # columns of the first layer: x_t, the proposal, features
        weight = self.enter.weight
        # features at the input as well: what they say about each other takes every block to use
        entries = F.linear(features, weight[:, -features.shape[-1] :], self.enter.bias)
        if self.use_proposal and proposal is not None:
            entries = entries + F.linear(proposal.flatten(1), weight[:, flat : 2 * flat])
        # the blocks' own biases go in with the shifts
        biases = torch.cat([cast(ResidualBlock, block).inner.bias for block in self.blocks])
        shifts = self.shifts(F.silu(features)) + biases

        def at(entry: Tensor, shift: Tensor) -> OfPlan:
            parts = shift.chunk(len(self.blocks), -1)

            def body(x: Tensor) -> Tensor:
                # all that is left to do at a level
                h = torch.addmm(entry, x.flatten(1), weight[:, :flat].t())
                for block, part in zip(self.blocks, parts, strict=True):
                    h = block(h, part)
                return F.silu(self.norm(h))

            return body

        return tuple(map(at, entries.unbind(0), shifts.unbind(0)))

    def output(self, h: Tensor) -> Tensor:
        result: Tensor = self.leave(h)
        return result.unflatten(1, self.shape)
