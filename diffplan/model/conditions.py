"""What a plan is conditioned on, and the one embedding of it that denoisers see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffplan.errors import DiffplanError
from diffplan.nn.embeddings import mlp

Drop = Mapping[str, Tensor]
"""Condition name -> bool [B]: the rows that must not see it."""


@dataclass(frozen=True)
class Context:
    """What is known when a plan is asked for.

    state: [B, D] normalised. goal: [B, G] normalised or None. returns: [B] normalised target
    return-to-go or None. previous: [B, M, D] normalised, the M < H states that are left of the
    plan before (`planning.reuse`), None for a plan from scratch. task: [B, F] code of the task,
    None where the networks are not told.
    """

    state: Tensor
    goal: Tensor | None
    returns: Tensor | None
    previous: Tensor | None = None
    task: Tensor | None = None


@dataclass(frozen=True)
class Condition:
    """What a plan is conditioned on, in plan units; None where the model has no such input."""

    state: Tensor | None = None
    """Current state [B, D]."""
    goal: Tensor | None = None
    """Goal [B, G]."""
    returns: Tensor | None = None
    """Return-to-go [B]."""
    task: Tensor | None = None
    """Code of the task [B, F]."""

    def repeat(self, k: int) -> Condition:
        """Every row k times: row b becomes rows b * k ... b * k + k - 1."""

        def rows(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.repeat_interleave(k, dim=0)

        return Condition(*map(rows, (self.state, self.goal, self.returns, self.task)))


class ConditionEncoder(nn.Module):
    """One embedding per condition, summed, and an MLP over the sum, which sees them together.

    A dropped condition becomes a learned null vector, row by row and independently of the others,
    as classifier-free guidance needs (Ho & Salimans 2022, arXiv 2207.12598).
    """

    def __init__(
        self,
        features: int,
        state_dim: int = 0,
        goal_dim: int = 0,
        use_returns: bool = True,
        task_dim: int = 0,
        hidden: int = 256,
    ) -> None:
        super().__init__()
        self.features = features
        sizes = {
            "state": state_dim,
            "goal": goal_dim,
            "returns": int(use_returns),
            "task": task_dim,
        }
        self.sizes = {name: size for name, size in sizes.items() if size}
        self.embeddings = nn.ModuleDict(
            {name: nn.Linear(size, hidden) for name, size in self.sizes.items()}
        )
        self.nulls = nn.ParameterDict(
            {name: nn.Parameter(0.02 * torch.randn(hidden)) for name in self.sizes}
        )
        self.trunk = nn.Sequential(nn.SiLU(), mlp(hidden, (hidden,), features))
        self.nothing: Tensor
        self.register_buffer("nothing", torch.zeros(1, features), persistent=False)

    def forward(self, condition: Condition, drop: Drop | None = None) -> Tensor:
        """Features [B, F]; zeros [1, F] for a model without conditions.

        Conditions the model was built without are ignored; a missing one is an error.
        """
        parts = [self._embed(name, condition, drop) for name in self.sizes]
        if not parts:
            return self.nothing
        result: Tensor = self.trunk(sum(parts[1:], parts[0]))
        return result

    def _embed(self, name: str, condition: Condition, drop: Drop | None) -> Tensor:
        value: Tensor | None = getattr(condition, name)
        if value is None:
            raise DiffplanError(f"the model is conditioned on {name!r}, but none was given")
        if name == "returns":
            value = value.unsqueeze(-1)
        if value.shape[-1] != self.sizes[name]:
            raise DiffplanError(
                f"condition {name!r} needs {self.sizes[name]} columns, got {value.shape[-1]}"
            )
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
