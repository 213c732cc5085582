"""What a proposer is: its sizes, what it proposes, and what every kind of it has in common."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffplan.model.context import Context
from diffplan.nn.embeddings import GoalFeatures

LOG_STD = (-6.0, 1.0)


@dataclass(frozen=True)
class Proposal:
    """states: [B, H, D] normalised future states. returns: [B, H] normalised returns-to-go."""

    states: Tensor
    returns: Tensor


@dataclass(frozen=True)
class ProposerSpec:
    """Sizes and inputs of a proposer.

    goal: features of it. task_dim: size of the code of the task, 0 without.
    """

    horizon: int
    state_dim: int
    goal: GoalFeatures
    use_returns: bool
    task_dim: int = 0

    @property
    def token_dim(self) -> int:
        return self.state_dim + self.goal.size + self.use_returns + self.task_dim


class Proposer(nn.Module):
    """Common parts: the scale of the plan and its tokens.

    plan_scale: buffer [H, D], size of the displacement after k steps in normalised units.
    """

    autoregressive = True
    plan_scale: Tensor

    def __init__(self, spec: ProposerSpec) -> None:
        super().__init__()
        self.spec, self.goal = spec, spec.goal
        self.register_buffer("plan_scale", torch.ones(spec.horizon, spec.state_dim))

    def token(self, context: Context) -> Tensor:
        """Inputs of a step [..., T]: state, goal features, return and code of the task.

        context: normalised, [..., D] and so on, of one step or of many at once.
        """
        parts = [context.state]
        if self.goal.columns:
            parts.append(self.goal(context.state, context.given("goal")))
        if self.spec.use_returns:
            parts.append(context.given("target_return").unsqueeze(-1))
        if self.spec.task_dim:
            parts.append(context.given("task"))
        return torch.cat(parts, dim=-1) if len(parts) > 1 else context.state

    def propose(
        self, context: Context, noise: Tensor | None = None, horizon: int | None = None
    ) -> Proposal:
        """Propose H states, or the first `horizon` of them, for a normalised context.

        noise: [B, H, D+1], standard normal times the temperature; None gives the mean.
        """
        raise NotImplementedError

    def loss(
        self, context: Context, states: Tensor, returns: Tensor, mask: Tensor
    ) -> tuple[Tensor, Proposal]:
        """Per-window loss [B] and the free-running proposal (detached) for the denoiser.

        context: what plans of the windows are made for. states: [B, H+1, D] and returns: [B, H+1],
        normalised, the first those of the context. mask: [B, H].
        """
        raise NotImplementedError


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over [H] of values [B, H] where mask is 1: [B]."""
    return (values * mask).sum(1) / mask.sum(1).clamp(min=1)


def bounded_log_std(log_std: Tensor) -> Tensor:
    """Any number to a log-std within `LOG_STD`."""
    low, high = LOG_STD
    return low + (high - low) * torch.sigmoid(log_std)


def spread_loss(log_std: Tensor, error: Tensor) -> Tensor:
    """Gaussian likelihood of the error under std alone: the mean keeps its plain squared error.

    A joint likelihood would let the spread decide how well the mean is fitted.
    """
    return log_std + 0.5 * error.detach().square() * torch.exp(-2 * log_std)
