"""Inverse dynamics: the action that leads from a state towards a state a few steps ahead."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffplan.nn.embeddings import chosen_columns, mlp


class InverseDynamics(nn.Module):
    """a = f(s, s_ahead - s, lag) (Ajay et al. 2023, arXiv 2211.15657, eq. 6, with a lag).

    The lag, as a fraction of the plan's stride, lets one network run in closed loop: at every
    environment step it is asked for the rest of the way to the plan's next state.
    Actions are scaled to [-1, 1]; the agent maps them to the environment's bounds.
    """

    step_scale: Tensor

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        width: int,
        depth: int,
        planned: tuple[int, ...] = (),
        gain: float = 1.0,
    ) -> None:
        """planned: columns of the state that `ahead` holds, () for all. gain: of `lead`.

        Of a part only the change is looked at: a gait is the same everywhere.
        """
        super().__init__()
        self.gain = gain
        self.planned = planned
        self.body = tuple(i for i in range(state_dim) if i not in planned)
        steered = len(planned) or state_dim
        self.network = mlp(len(self.body) + steered + 1, [width] * depth, action_dim)
        self.register_buffer("step_scale", torch.ones(steered))

    def lead(self, state: Tensor, ahead: Tensor, lag: Tensor) -> Tensor:
        """Scaled actions [..., A] of a plan; arguments of `forward`.

        Where noise moves the data as much as intent does, what led a usual way is a mean over many
        intents; what led `gain` times as far had that one.
        """
        return self(state, ahead, lag, self.gain)

    def forward(self, state: Tensor, ahead: Tensor, lag: Tensor, gain: float = 1.0) -> Tensor:
        """state: normalised [..., D]; ahead: [..., P], of the planned columns; lag: strides [...].

        Returns scaled actions [..., A] towards what is `gain` times as far off.
        """
        here, body = state, state
        if self.planned:
            here = chosen_columns(state, self.planned)
            body = chosen_columns(state, self.body) if self.body else state[..., :0]
        # of unit size: a step is small beside the space that states are scaled by
        change = (ahead - here) / self.step_scale
        if gain != 1.0:
            change = gain * change
        inputs: Tensor = torch.cat([body, change, lag.unsqueeze(-1)], dim=-1)
        result: Tensor = self.network(inputs)
        return result

    def loss(self, state: Tensor, ahead: Tensor, lag: Tensor, action: Tensor) -> Tensor:
        """Mean squared error against scaled actions [B, A]: a scalar."""
        return (self(state, ahead, lag) - action).square().mean()
