"""The head of actions: inverse dynamics that reads the denoiser's features of a plan."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffplan.nn.embeddings import mlp

FEATURES = 16  # of a plan state that are kept with the plan


class ActingHead(nn.Module):
    """a = f(s, s_k - s, lag, c_k), towards plan state k from the state s that the body is in.

    c_k is what the denoiser's features said of plan state k when the plan was made. It is kept with
    the plan, so that actions correct what the plan got wrong and no denoiser runs between plans.
    """

    step_scale: Tensor

    def __init__(
        self,
        plan: tuple[int, int, int],
        features: tuple[int, bool],
        state_dim: int,
        action_dim: int,
        width: int,
    ) -> None:
        """plan: its future states H, their stride, and how many states ahead actions lead.

        features: columns of the denoiser's features, and whether there are some of every row.
        """
        super().__init__()
        self.horizon, self.stride, self.lookahead = plan
        columns, self.by_row = features
        self.of_plan = nn.Linear(columns, FEATURES)
        self.position = nn.Parameter(torch.zeros(self.horizon, FEATURES))
        self.network = mlp(2 * state_dim + 1 + FEATURES, [width] * 2, action_dim)
        self.register_buffer("step_scale", torch.ones(state_dim))

    def keep(self, h: Tensor) -> Tensor:
        """Features [B, H, F] of the plan states; h: [B, C], or [B, rows, C] of all rows."""
        # an absolute plan has a row of the current state, which no action leads to
        told = self.of_plan(h)[:, -self.horizon :] if self.by_row else self.of_plan(h).unsqueeze(1)
        result: Tensor = told + self.position
        return result

    def forward(self, kept: Tensor, state: Tensor, ahead: Tensor, lag: Tensor) -> Tensor:
        """Scaled actions [..., A] at a state [..., D] towards the plan state ahead [..., D].

        kept: [..., F], features of that plan state. lag: [...], strides left. Normalised.
        """
        change = (ahead - state) / self.step_scale
        result: Tensor = self.network(torch.cat([state, change, lag.unsqueeze(-1), kept], -1))
        return result

    def at(self, kept: Tensor, states: Tensor, here: Tensor, step: Tensor) -> Tensor:
        """Scaled actions [B, n, A] at states here [B, n, D], `step` steps [B, n] into plans.

        kept: [B, H, F]. states: [B, H+1, D], the plans.
        """
        place = (step // self.stride + self.lookahead).clamp(max=self.horizon)
        lag = place - step / self.stride
        ahead, told = (
            x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[2]))
            for x, index in ((states, place), (kept, place - 1))
        )
        return self(told, here, ahead, lag)

    def along(self, kept: Tensor, states: Tensor) -> Tensor:
        """Scaled actions [B, H, stride, A] along plans, on a straight way between their states.

        kept: [B, H, F]. states: [B, H+1, D].
        """
        step = torch.arange(self.horizon * self.stride, device=states.device)
        share = (step % self.stride / self.stride).view(1, -1, 1)
        before, after = (
            x.repeat_interleave(self.stride, 1) for x in (states[:, :-1], states[:, 1:])
        )
        here = torch.lerp(before, after, share)
        actions = self.at(kept, states, here, step.expand(len(states), -1))
        return actions.unflatten(1, (self.horizon, self.stride))
