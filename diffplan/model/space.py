"""The space that plans live in: sizes, scales, and the way between it and the environment."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from diffplan.config.config import Config
from diffplan.data.batches import Acted, Batch, Step, Transitions, Valued, Windows
from diffplan.data.windows import WindowSampler
from diffplan.model.context import Context
from diffplan.model.normaliser import Normaliser
from diffplan.model.spec import ModelSpec
from diffplan.nn.embeddings import chosen_columns

_FIT_WINDOWS = 8192
_SMALLEST_SCALE = 1e-3
_TASK_FEATURES = 32  # of what stands for a task

Path = Callable[[Tensor], Tensor]
"""Plan tensor [B, rows, D] -> normalised states [B, H+1, S], the first the current one."""


@dataclass(frozen=True)
class Columns:
    """Which columns of the plan tensor [B, rows, D] hold what; empty where plans hold none."""

    states: slice
    actions: slice
    returns: slice

    def of(self, name: str) -> slice:
        """Those of "states", "actions" or "returns"."""
        found: slice = getattr(self, name)
        return found


class PlanSpace(nn.Module):
    """Sizes and scales of plans, which all parts of a model share.

    The plan tensor x [B, rows, D] is what the diffusion model works on. With
    `space="displacement"` row k-1 is (s_k - s_0) / plan_scale[k-1], H rows; with
    `space="absolute"` row k is the normalised s_k, H+1 rows, row 0 pinned to the current state.
    With actions in the plan, those that lead to s_k stand beside it, scaled, one per environment
    step, zeros beside the current state; with `heads.kind` streams the return-to-go of the current
    state as well, alike in all rows.
    """

    action_low: Tensor
    action_high: Tensor
    plan_scale: Tensor

    def __init__(self, spec: ModelSpec, config: Config) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        plan = config.plan
        self.absolute = plan.space == "absolute"
        self.rows = plan.horizon + self.absolute
        acted = config.actions_in_plan * plan.stride * spec.action_dim
        end = spec.planned_dim + acted
        self.plan_dim = end + config.heads.facts.streams
        self.columns = Columns(
            slice(0, spec.planned_dim), slice(spec.planned_dim, end), slice(end, self.plan_dim)
        )
        self.use_returns = config.data.condition_on_returns
        told = spec.tasks > 1 and config.data.tasks != "none"
        self.task_dim = _TASK_FEATURES if told else 0
        self.states = Normaliser(spec.planned_dim)
        self.whole_states = Normaliser(spec.state_dim) if spec.planned else None
        self.returns = Normaliser(1)
        self.rewards = Normaliser(1)
        self.register_buffer("action_low", -torch.ones(spec.action_dim))
        self.register_buffer("action_high", torch.ones(spec.action_dim))
        self.register_buffer("plan_scale", torch.ones(plan.horizon, spec.planned_dim))

    def fit_scales(
        self, sampler: WindowSampler, low: Tensor, high: Tensor, generator: torch.Generator
    ) -> Windows:
        """Fit every scale on training windows, which it returns. low, high: action bounds [A]."""
        self.states.fit(sampler.states, sampler.parts["train"])
        if self.whole_states is not None:
            self.whole_states.fit(sampler.whole_states, sampler.parts["train"])
        self.action_low.copy_(low)
        self.action_high.copy_(high)
        windows = sampler.sample(_FIT_WINDOWS, generator)
        # states as the value sees them: windows are drawn by their return or their goal
        self.returns.fit(sampler.valued(_FIT_WINDOWS, generator).returns.unsqueeze(-1))
        z = self.states(windows.states)
        moved = (z[:, 1:] - z[:, :1]).square() * windows.mask.unsqueeze(-1)
        # plans have unit size in every step and column, whatever moves fast or slowly
        rms = (moved.sum(0) / windows.mask.sum(0).clamp(min=1).unsqueeze(-1)).sqrt()
        self.plan_scale.copy_(rms.clamp(min=_SMALLEST_SCALE))
        if windows.rewards is not None:
            self.rewards.fit(windows.rewards.reshape(-1, 1))
        return windows

    # --- Units of the environment ----------------------------------------------------------------

    def planned_part(self, states: Tensor) -> Tensor:
        """The columns of states [..., D] that plans hold."""
        return chosen_columns(states, self.spec.planned) if self.spec.planned else states

    @property
    def observed(self) -> Normaliser:
        """Of states with all of their columns, as the inverse dynamics sees them."""
        return self.states if self.whole_states is None else self.whole_states

    def environment_states(self, planned: Tensor) -> Tensor:
        """Normalised states of plans to whole ones [..., D], NaN in the columns that are not."""
        states = self.states.inverse(planned)
        if not self.spec.planned:
            return states
        columns = [
            states[..., self.spec.planned.index(column)]
            if column in self.spec.planned
            else torch.full_like(states[..., 0], math.nan)
            for column in range(self.spec.state_dim)
        ]
        return torch.stack(columns, -1)

    def goal(self, goals: Tensor | None) -> Tensor | None:
        """Goals [B, G] in the normalised units of the state's goal columns."""
        if goals is None or not self.spec.goal_dim:
            return None
        columns = self.spec.planned_goal_columns
        mean, std = (chosen_columns(t, columns) for t in (self.states.mean, self.states.std))
        return (goals - mean) / std

    def normalised_returns(self, returns: Tensor) -> Tensor:
        """Returns-to-go of any shape, normalised."""
        return (returns - self.returns.mean[0]) / self.returns.std[0]

    def scaled_actions(self, actions: Tensor) -> Tensor:
        """Environment actions [..., A] to [-1, 1]."""
        return 2 * (actions - self.action_low) / (self.action_high - self.action_low) - 1

    def environment_actions(self, scaled: Tensor) -> Tensor:
        """Scaled actions [..., A] to the environment's units, within its bounds."""
        # networks know no bounds, environments refuse what lies outside
        share = (scaled.clamp(-1, 1) + 1) / 2
        return self.action_low + share * (self.action_high - self.action_low)

    # --- Records in units of the environment to the same in plan units ---------------------------

    def normalised_context(self, context: Context) -> Context:
        """What plans are made for, as the networks see it."""
        asked, previous = context.target_return, context.previous
        return Context(
            self.states(self.planned_part(context.state)),
            self.goal(context.goal),
            None if asked is None else self.normalised_returns(asked),
            None if previous is None else self.states(previous),
            context.task,
            context.clock,
        )

    def normalised_windows(self, windows: Windows) -> Windows:
        """Windows of normalised states, goals, returns and rewards and of scaled actions.

        The lag of their actions is a fraction of the stride.
        """
        actions, rewards, acted = windows.actions, windows.rewards, windows.acted
        if acted is not None:
            acted = Acted(*self._step(acted.states, acted.lag, acted.actions), acted.mask)
        return replace(
            windows,
            states=self.states(windows.states),
            goals=self.goal(windows.goals),
            returns=self.normalised_returns(windows.returns),
            acted=acted,
            actions=None if actions is None else self.scaled_actions(actions),
            rewards=None if rewards is None else self.rewards(rewards.unsqueeze(-1)).squeeze(-1),
            prompt=None if windows.prompt is None else self.states(windows.prompt),
            between=None if windows.between is None else self.states(windows.between),
        )

    def normalised_transitions(self, step: Transitions) -> Transitions:
        """Transitions of normalised states and scaled actions, the lag a fraction of the stride."""
        states, lag, actions = self._step(step.states, step.lag, step.actions)
        return Transitions(states, self.states(step.ahead), lag, actions)

    def _step(self, states: Tensor, lag: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        lag = lag / self.config.plan.stride
        return self.observed(states), lag, self.scaled_actions(actions)

    def normalised_valued(self, valued: Valued) -> Valued:
        """Pairs of normalised states and returns; the rewards of what follows stay as they are."""
        step = valued.step
        return Valued(
            self.states(valued.states),
            self.goal(valued.goals),
            self.scaled_actions(valued.actions),
            self.normalised_returns(valued.returns),
            None if step is None else Step(self.states(step.states), step.rewards, step.ended),
            valued.task,
            None if valued.prompt is None else self.states(valued.prompt),
        )

    def normalised_batch(self, batch: Batch) -> Batch:
        """All that an update learns from, in plan units."""
        transitions, valued, plain, followed = (
            batch.transitions,
            batch.valued,
            batch.plain,
            batch.followed,
        )
        return Batch(
            self.normalised_windows(batch.windows),
            None if transitions is None else self.normalised_transitions(transitions),
            None if valued is None else self.normalised_valued(valued),
            None if plain is None else self.normalised_windows(plain),
            None if followed is None else self.normalised_windows(followed),
        )

    # --- Plan tensors ----------------------------------------------------------------------------

    def to_plan(
        self,
        start: Tensor,
        states: Tensor,
        actions: Tensor | None = None,
        returns: Tensor | None = None,
    ) -> Tensor:
        """Normalised start [B, D] and future states [B, H, D] -> plan tensor [B, rows, D].

        actions: [B, H, stride, A] scaled, where plans hold them. returns: [B] normalised, too.
        """
        if self.absolute:
            x = torch.cat([start[:, None], states], 1)
        else:
            x = (states - start[:, None]) / self.plan_scale
        if actions is None:
            return x
        parts = [x, self.beside_rows(actions)]
        if returns is not None:
            parts.append(returns.view(-1, 1, 1).expand(-1, self.rows, 1))
        return torch.cat(parts, -1)

    def from_plan(self, start: Tensor, x: Tensor) -> Tensor:
        """Plan tensor [B, rows, D] -> normalised states [B, H+1, D], the first the current one."""
        x = x[..., self.columns.states]
        if self.absolute:
            return x
        return torch.cat([start[:, None], start[:, None] + x * self.plan_scale], 1)

    def path_from(self, start: Tensor) -> Path:
        """`from_plan` of this start [B, D], which an absolute plan need not hold."""

        def path(x: Tensor) -> Tensor:
            states = self.from_plan(start, x)
            return torch.cat([start[:, None], states[:, 1:]], 1) if self.absolute else states

        return path

    def planned_actions(self, x: Tensor) -> Tensor:
        """Plan tensor [B, rows, D] -> scaled actions [B, H, stride, A] that lead to each state."""
        return self.by_step(x[..., self.columns.actions])

    def by_step(self, actions: Tensor) -> Tensor:
        """Scaled actions beside a plan's rows [B, rows, stride * A] -> [B, H, stride, A]."""
        later = actions[:, int(self.absolute) :]
        return later.unflatten(-1, (self.config.plan.stride, self.spec.action_dim))

    def beside_rows(self, actions: Tensor) -> Tensor:
        """Scaled actions [B, H, stride, A] as they stand beside a plan's rows."""
        beside = actions.flatten(2)
        if self.absolute:  # nothing leads to the current state
            beside = torch.cat([torch.zeros_like(beside[:, :1]), beside], 1)
        return beside

    def pinned_start(self, start: Tensor) -> Tensor:
        """Row 0 of an absolute plan [B, D] for normalised states [B, D]."""
        return nn.functional.pad(start, (0, self.plan_dim - self.spec.planned_dim))

    def row_mask(self, mask: Tensor) -> Tensor:
        """Weights [B, H] of the future states as weights [B, rows] of a plan's rows."""
        if self.absolute:
            return torch.cat([torch.ones_like(mask[:, :1]), mask], 1)
        return mask

    def loss_weights(self) -> Tensor | None:
        """Weights [rows, D] of a plan's entries in its loss, None where they are alike."""
        weight = self.config.heads.facts.first_action
        if weight == 1.0:
            return None
        weights = torch.ones(self.rows, self.plan_dim, device=self.plan_scale.device)
        weights[int(self.absolute), self.columns.actions] = weight  # what is executed first
        return weights

    def held(self) -> Tensor | None:
        """Entries [rows, D] that stay clean in training and at planning, None where none does."""
        if not self.absolute:
            return None
        held = torch.zeros(
            self.rows, self.plan_dim, dtype=torch.bool, device=self.plan_scale.device
        )
        held[0] = True
        if self.config.plan.pin_goal:
            for column in self.spec.planned_goal_columns:  # a list would be copied to the device
                held[-1, column] = True
        return held
