"""The one embedding of its context that denoisers see, and what codes the tasks in it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from diffplan.errors import DiffplanError
from diffplan.model.context import Context
from diffplan.nn.embeddings import GoalFeatures, mlp

Drop = Mapping[str, Tensor]
"""Field of `Context` -> bool [B]: the rows that must not see it."""


class ConditionEncoder(nn.Module):
    """One embedding per condition, summed, and an MLP over the sum, which sees them together.

    Which fields of a `Context` are conditions is settled when it is built; the others are ignored,
    so that whoever asks for plans need not know what this network was told.

    A dropped condition becomes a learned null vector, row by row and independently of the others,
    as classifier-free guidance needs (Ho & Salimans 2022, arXiv 2207.12598).
    """

    def __init__(
        self,
        features: int,
        state_dim: int = 0,
        goal: GoalFeatures | None = None,
        use_returns: bool = True,
        task_dim: int = 0,
        hidden: int = 256,
    ) -> None:
        """Sizes of 0 and no goal: not a condition."""
        super().__init__()
        self.features = features
        self.goal = goal
        sizes = {
            "state": state_dim,
            "goal": len(goal.columns) if goal else 0,
            "target_return": int(use_returns),
            "task": task_dim,
        }
        self.sizes = {name: size for name, size in sizes.items() if size}
        inputs = {**self.sizes, "goal": goal.size if goal else 0}
        self.embeddings = nn.ModuleDict(
            {name: nn.Linear(inputs[name], hidden) for name in self.sizes}
        )
        self.nulls = nn.ParameterDict(
            {name: nn.Parameter(0.02 * torch.randn(hidden)) for name in self.sizes}
        )
        self.trunk = nn.Sequential(nn.SiLU(), mlp(hidden, (hidden,), features))
        self.nothing: Tensor
        self.register_buffer("nothing", torch.zeros(1, features), persistent=False)

    def forward(self, context: Context, drop: Drop | None = None) -> Tensor:
        """Features [B, F] of a normalised context; zeros [1, F] for a model without conditions.

        Raises DiffplanError for a condition that is missing.
        """
        # summed, not joined: a dropped one then leaves the size of the trunk alone
        parts = [self._embed(name, context, drop) for name in self.sizes]
        if not parts:
            return self.nothing
        result: Tensor = self.trunk(sum(parts[1:], parts[0]))
        return result

    def flat(self, context: Context) -> Tensor:
        """The conditions side by side [B, C], as they are given."""
        parts = [context.given(name) for name in self.sizes]
        if not parts:
            return context.state[:, :0]
        return torch.cat([x if x.ndim == 2 else x.unsqueeze(-1) for x in parts], -1)

    def _embed(self, name: str, context: Context, drop: Drop | None) -> Tensor:
        value = context.given(name)
        if name == "target_return":
            value = value.unsqueeze(-1)
        if value.shape[-1] != self.sizes[name]:
            raise DiffplanError(
                f"condition {name!r} needs {self.sizes[name]} columns, got {value.shape[-1]}"
            )
        if name == "goal":
            assert self.goal is not None
            value = self.goal(context.state, value)
        embedded: Tensor = self.embeddings[name](value)
        if drop is not None and name in drop:
            embedded = torch.where(drop[name].unsqueeze(-1), self.nulls[name], embedded)
        return embedded


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
                "this model is told its task by a demonstration (data.tasks prompt), got a number"
            )
        result: Tensor = self.table(task)
        return result

    def from_states(self, states: Tensor) -> Tensor:
        """states: normalised [B, P, D] -> [B, F]."""
        if self.given != "prompt":
            raise DiffplanError(
                "this model is told its task by its number (data.tasks id), got states"
            )
        result: Tensor = self.whole(self.each(states).mean(1))
        return result

    def dropped(self, code: Tensor, drop: Tensor) -> Tensor:
        """The codes [B, F] with that of an unknown task where drop [B] is true."""
        return torch.where(drop.unsqueeze(-1), self.unknown, code)
