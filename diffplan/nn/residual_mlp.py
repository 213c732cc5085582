"""The light denoiser network: residual blocks over the flattened trajectory."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffplan.nn.embeddings import zero_


class ResidualBlock(nn.Module):
    """h + W2 silu(W1 norm(h) + shift): shift is this block's linear view of the features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)

    def forward(self, h: Tensor, shift: Tensor) -> Tensor:
        """h [B, width], shift [B, width] -> [B, width]."""
        return h + self.outer(F.silu(self.inner(self.norm(h)) + shift))


class ResidualMLP(nn.Module):
    """Residual MLP on the flattened [H * D] trajectory: few large matrix products.

    The default on a CPU, where the count of operations, not of multiplications, sets the time.
    The last layer starts at zero.
    """

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
        self.enter = nn.Linear(flat * (1 + use_proposal) + features, width)
        # One product gives the shifts of all blocks.
        self.shifts = nn.Linear(features, depth * width)
        self.blocks = nn.ModuleList([ResidualBlock(width) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, flat)
        zero_(self.leave)

    def forward(self, x: Tensor, proposal: Tensor | None, features: Tensor) -> Tensor:
        """x [B, H, D], proposal [B, H, D] (None without `use_proposal`), features [B, F]."""
        if self.use_proposal and proposal is not None:
            x = torch.cat([x, proposal], dim=1)
        # Features at the input as well: what they say about each other takes every block to use.
        h = self.enter(torch.cat([x.flatten(1), features], dim=1))
        shifts = self.shifts(F.silu(features)).chunk(len(self.blocks), dim=-1)
        for block, shift in zip(self.blocks, shifts, strict=True):
            h = block(h, shift)
        return self.leave(F.silu(self.norm(h))).unflatten(1, self.shape)
