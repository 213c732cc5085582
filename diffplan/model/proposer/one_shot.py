"""A proposer without steps: all states at once."""

from __future__ import annotations

import torch
from torch import Tensor

from diffplan.config.sections import ProposerConfig
from diffplan.model.context import Context
from diffplan.model.proposer.base import (
    Proposal,
    Proposer,
    ProposerSpec,
    bounded_log_std,
    masked_mean,
    spread_loss,
)
from diffplan.nn.embeddings import mlp


class OneShotProposer(Proposer):
    """All H states at once from the current one. Not autoregressive."""

    autoregressive = False

    def __init__(self, spec: ProposerSpec, config: ProposerConfig) -> None:
        super().__init__(spec)
        self.network = mlp(
            spec.token_dim,
            [config.width] * config.depth,
            2 * spec.horizon * (spec.state_dim + 1),
        )

    def _gaussian(self, token: Tensor) -> tuple[Tensor, Tensor]:
        shape = (self.spec.horizon, 2 * (self.spec.state_dim + 1))
        mean, log_std = self.network(token).unflatten(-1, shape).chunk(2, dim=-1)
        return mean, bounded_log_std(log_std)

    def propose(
        self, context: Context, noise: Tensor | None = None, horizon: int | None = None
    ) -> Proposal:
        mean, log_std = self._gaussian(self.token(context))
        if noise is not None:
            mean = mean + noise * log_std.exp()
        states = context.state[:, None] + self.plan_scale * mean[..., :-1]
        return Proposal(states[:, :horizon], mean[:, :horizon, -1])

    def loss(
        self, context: Context, states: Tensor, returns: Tensor, mask: Tensor
    ) -> tuple[Tensor, Proposal]:
        mean, log_std = self._gaussian(self.token(context))
        change = (states[:, 1:] - states[:, :1]) / self.plan_scale
        error = mean - torch.cat([change, returns[:, 1:].unsqueeze(-1)], -1)
        fit = error[..., :-1].square().mean(-1) + error[..., -1].square()
        spread = spread_loss(log_std, error).mean(-1)
        future = states[:, :1] + self.plan_scale * mean[..., :-1]
        proposal = Proposal(future.detach(), mean[..., -1].detach())
        return masked_mean(fit + 0.1 * spread, mask), proposal
