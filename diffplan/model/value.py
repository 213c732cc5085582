"""The value function that ranks candidate plans."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from diffplan.nn.embeddings import GoalFeatures, mlp, sinusoidal

_FOLLOW_RATE = 0.005  # as published


class Value(nn.Module):
    """V(s), V(s, g), or with actions Q(s, a): expectile regression on returns-to-go.

    With returns R and residual u = R - V the loss is |tau - 1(u < 0)| u^2 (Kostrikov et al. 2022,
    arXiv 2110.06169, eq. 5, on returns instead of one-step targets); tau = 0.5 is the mean, a
    larger tau leans towards the better returns seen from a state. Several members, each with
    weights of its own, are averaged: a maximum over candidates picks what is overrated.
    """

    def __init__(
        self,
        state_dim: int,
        goal: GoalFeatures,
        action_dim: int = 0,
        task_dim: int = 0,
        *,
        width: int,
        depth: int,
        expectile: float,
        members: int,
    ) -> None:
        """action_dim: 0 for a function of the state alone. task_dim: size of the code of the task,
        0 without. members: networks to average.
        """
        super().__init__()
        self.uses_action = action_dim > 0
        self.goal = goal
        self.expectile = expectile
        self.task_dim = task_dim
        inputs = state_dim + goal.size + action_dim + task_dim
        self.members = nn.ModuleList([mlp(inputs, [width] * depth, 1) for _ in range(members)])

    def forward(
        self,
        state: Tensor,
        goal: Tensor | None,
        action: Tensor | None = None,
        task: Tensor | None = None,
    ) -> Tensor:
        """Normalised state [..., D], goal [..., G], scaled action [..., A] -> value [...].

        task: [..., F] code of the task or None.
        """
        return self.each(state, goal, action, task).mean(0)

    def each(
        self,
        state: Tensor,
        goal: Tensor | None,
        action: Tensor | None = None,
        task: Tensor | None = None,
    ) -> Tensor:
        """The members' own values [members, ...], for arguments as in `forward`."""
        return self._values(self.members, state, goal, action, task)

    def _values(
        self,
        members: nn.ModuleList,
        state: Tensor,
        goal: Tensor | None,
        action: Tensor | None,
        task: Tensor | None,
    ) -> Tensor:
        inputs = [state]
        if goal is not None:
            inputs.append(self.goal(state, goal))
        if action is not None:
            inputs.append(action)
        if task is not None:
            inputs.append(task)
        joined = torch.cat(inputs, dim=-1)  # once for all members
        return torch.stack([member(joined).squeeze(-1) for member in members])

    def loss(
        self,
        state: Tensor,
        goal: Tensor | None,
        action: Tensor | None,
        returns: Tensor,
        task: Tensor | None = None,
    ) -> Tensor:
        """Expectile loss against normalised returns [B], summed over the members: a scalar."""
        error = returns - self.each(state, goal, action, task)
        weight = torch.where(error < 0, 1 - self.expectile, self.expectile)
        # twice the weight, so that tau = 0.5 is the mean squared error
        return (2 * weight * error.square()).mean(-1).sum()


class BootstrappedValue(Value):
    """A value that learns from itself: its return is r + discount V(s') of slow weights.

    They follow the learned ones and are saved with them (Kostrikov et al., eq. 5 and 6 without
    actions, as for goals in Park et al. 2023, arXiv 2307.11949, eq. 4).
    """

    def __init__(self, state_dim: int, goal: GoalFeatures, **options: Any) -> None:
        """options: of `Value`."""
        super().__init__(state_dim, goal, **options)
        self.following = copy.deepcopy(self.members).requires_grad_(False)

    @torch.no_grad()
    def follow(self) -> None:
        """Move the following weights a little towards the members', once an update."""
        slow: list[Tensor] = list(self.following.parameters())
        fast: list[Tensor] = list(self.members.parameters())
        torch._foreach_lerp_(slow, fast, _FOLLOW_RATE)

    @torch.no_grad()
    def ahead(self, state: Tensor, goal: Tensor | None, task: Tensor | None = None) -> Tensor:
        """V of the following weights, the mean of the members: [...]."""
        return self._values(self.following, state, goal, None, task).mean(0)


class NoisyValue(nn.Module):
    """J(x_t, t): the return-to-go that a noisy plan leads to (Janner et al. 2022, section 3.2).

    Its gradient in x_t guides the reverse steps of `guidance.value_gradient` (arXiv 2205.09991).
    """

    def __init__(
        self,
        rows: int,
        dim: int,
        known_dim: int,
        goal: GoalFeatures,
        features: int,
        width: int,
        depth: int,
    ) -> None:
        """rows, dim: of the plan tensor. known_dim: columns of what is known beside the goal."""
        super().__init__()
        self.features, self.goal = features, goal
        condition_dim = known_dim + goal.size
        self.network = mlp(rows * dim + condition_dim + features, [width] * depth, 1)

    def forward(self, x: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """x: [B, rows, D]; level: t / T [B]; condition: [B, C] -> normalised return [B]."""
        time = sinusoidal(1000.0 * level, self.features).to(x.dtype)
        inputs = torch.cat([x.flatten(1), condition, time], -1)
        result: Tensor = self.network(inputs).squeeze(-1)
        return result
