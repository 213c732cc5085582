"""Moves of things in the data, by which an agent tells what they take."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffplan.data.things import Things


class Moves(nn.Module):
    """What `diffplan.runtime.Errands` knows of the data, for planning.

    moved: buffer [M], the thing of each move. start, end: [M, G], where all things were before it
    and when it was over, in environment units.
    """

    moved: Tensor
    start: Tensor
    end: Tensor

    def __init__(self, moves: int, goal_dim: int) -> None:
        super().__init__()
        self.register_buffer("moved", torch.zeros(moves, dtype=torch.long))
        self.register_buffer("start", torch.zeros(moves, goal_dim))
        self.register_buffer("end", torch.zeros(moves, goal_dim))

    def fit(self, things: Things) -> None:
        """Take over as many moves."""
        for name in ("moved", "start", "end"):
            getattr(self, name).copy_(getattr(things, name))
