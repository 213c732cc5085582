"""What the networks are told of the task, where one model is trained on several."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffplan.errors import DiffplanError
from diffplan.nn.embeddings import mlp


class TaskEncoder(nn.Module):
    """A code [B, F] of the task: from its number, from states seen in it, or of nothing at all.

    From states, for instance those of one demonstration, it is a mean over them, so that their
    number and order do not matter (Zaheer et al. 2017, arXiv 1703.06114, "Deep sets").
    """

    def __init__(self, given: str, tasks: int, state_dim: int, features: int, hidden: int) -> None:
        """given: "id" or "prompt". tasks: how many there are. features: F."""
        super().__init__()
        self.given = given
        self.features = features
        self.unknown = nn.Parameter(0.02 * torch.randn(features))
        if given == "id":
            self.table = nn.Embedding(tasks, features)
        else:
            self.each = nn.Sequential(mlp(state_dim, [hidden], hidden), nn.SiLU())
            self.whole = mlp(hidden, [hidden], features)

    def from_id(self, task: Tensor) -> Tensor:
        """task: int64 [B] -> [B, F]."""
        if self.given != "id":
            raise DiffplanError(
                "this model is told its task by a demonstration (tasks.given prompt), got a number"
            )
        result: Tensor = self.table(task)
        return result

    def from_states(self, states: Tensor) -> Tensor:
        """states: normalised [B, P, D] -> [B, F]."""
        if self.given != "prompt":
            raise DiffplanError(
                "this model is told its task by its number (tasks.given id), got states"
            )
        result: Tensor = self.whole(self.each(states).mean(1))
        return result

    def dropped(self, code: Tensor, drop: Tensor) -> Tensor:
        """The codes [B, F] with that of an unknown task where drop [B] is true."""
        return torch.where(drop.unsqueeze(-1), self.unknown, code)
