"""What one joint update minimises: the losses of every part, from one batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffplan.data.batches import Batch, Step, Transitions, Valued, Windows
from diffplan.model.context import Context
from diffplan.model.inverse_dynamics import InverseDynamics
from diffplan.model.planner_model import PlannerModel
from diffplan.model.value import BootstrappedValue, Value
from diffplan.training.denoising import (
    denoiser_losses,
    noisy_value_loss,
    proposals_loss,
    state_values_loss,
    stream_losses,
    weighted,
)


class Objective(nn.Module):
    """A model and what it minimises; what is wrapped for training on several devices."""

    def __init__(self, model: PlannerModel) -> None:
        super().__init__()
        self.model = model
        heads, options = model.config.heads, model.config.denoiser
        follows = heads.train_on_proposals and model.proposer is not None
        self.follows_proposals = follows and model.inverse_dynamics is not None
        """Whether the inverse dynamics also learns what to do where a proposal leads."""
        self.tells_of_proposals = heads.train_on_proposals and model.config.has_head("actions")
        """Whether the head of actions learns from proposals, too."""
        self.plain_rows = 0
        """Windows without a proposal that an update needs, so that they have their share."""
        if model.denoiser is not None:
            rows = model.config.training.batch_size * options.noise_draws
            share = options.share_without_proposal
            self.plain_rows = round(rows * share / (1 - share))

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of one joint update, one entry per part; their sum is minimised.

        batch: in environment units. The order of the parts is that of their random numbers.
        """
        model, losses = self.model, dict[str, Tensor]()
        batch = model.normalised_batch(batch)
        windows, transitions, valued = batch.windows, batch.transitions, batch.valued
        context = model.context_of(windows, generator)
        proposed: Tensor | None = None
        # the proposals that the denoiser learns to mend are those of this very update
        if model.proposer is not None:
            loss, proposal = model.proposer.loss(
                context, windows.states, windows.returns, windows.mask
            )
            losses["proposer"] = weighted(loss, windows.weight)
            proposed = proposal.states
        if model.denoiser is not None:
            losses |= denoiser_losses(
                model, model.denoiser, windows, context, proposed, batch.plain, generator
            )
        if model.multi_task is not None:
            if self.tells_of_proposals and proposed is not None:
                losses["head_followed"] = proposals_loss(
                    model, model.multi_task, windows, context, proposed, generator
                )
            if model.tells_of_states and valued is not None:
                losses["head_states"] = state_values_loss(
                    model, model.multi_task, valued, model.context_of(valued, generator)
                )
        if model.streams is not None:
            losses |= stream_losses(model, model.streams, windows, context, generator)
        if model.noisy_value is not None:
            losses["noisy_value"] = noisy_value_loss(
                model, model.noisy_value, windows, context, generator
            )
        if model.inverse_dynamics is not None and transitions is not None:
            losses |= _acting_losses(model, model.inverse_dynamics, transitions, batch.followed)
        if model.value is not None and valued is not None:
            losses["value"] = _value_loss(
                model, model.value, valued, model.context_of(valued, generator)
            )
        return losses


def _value_loss(model: PlannerModel, value: Value, valued: Valued, context: Context) -> Tensor:
    """Expectile regression on the returns-to-go, or on what the value itself expects of them."""
    returns = valued.returns
    if isinstance(value, BootstrappedValue) and valued.step is not None:
        returns = bootstrapped(model, value, valued.step, context)
    actions = valued.actions if value.uses_action else None
    return value.loss(context.state, context.goal, actions, returns, context.task)


def bootstrapped(
    model: PlannerModel, value: BootstrappedValue, step: Step, context: Context
) -> Tensor:
    """Reward plus discounted value one step on, normalised [B]."""
    if model.training:
        value.follow()  # once an update, or the slow weights would not be slow
    ahead = value.ahead(step.states, context.goal, context.task)
    ahead = model.returns.inverse(ahead.unsqueeze(-1)).squeeze(-1)
    discount = model.config.data.discount
    return model.normalised_returns(step.rewards + discount * (1 - step.ended) * ahead)


def _acting_losses(
    model: PlannerModel, acts: InverseDynamics, step: Transitions, followed: Windows | None
) -> dict[str, Tensor]:
    """Squared errors of the data's actions given the true state ahead, and given a proposed one.

    A plan is off by the model's error. Trained on true pairs alone the network takes that for
    intention, and a fast gait falls over the wrong actions that follow.
    """
    acted = None if followed is None else followed.acted
    if model.proposer is None or followed is None or acted is None:
        return {"inverse_dynamics": acts.loss(step.states, step.ahead, step.lag, step.actions)}
    with torch.no_grad():
        ahead = model.proposer.propose(
            model.context_of(followed), horizon=model.config.heads.lookahead
        )
    # both in one pass
    given = (
        (step.states, acted.states),
        (step.ahead, ahead.states[:, -1]),
        (step.lag, acted.lag),
    )
    actions = acts(*(torch.cat(pair) for pair in given))
    error = (actions - torch.cat([step.actions, acted.actions])).square().mean(-1)
    true, proposed = error.split([len(step.states), len(acted.states)])
    return {
        "inverse_dynamics": true.mean(),
        "inverse_dynamics_proposed": weighted(proposed, acted.mask * followed.weight),
    }
