"""Proposers: models that propose a trajectory, one state after the other (or all at once).

The autoregressive ones give p(s_{k+1}, R_{k+1} | s_{0..k}, R_{0..k}, goal), a Gaussian over the
next plan state and return-to-go, in the spirit of Trajectory Diffuser's proposer (arXiv
2407.16142) and the Decision Transformer (arXiv 2106.01345). They differ only in what they carry
from step to step: nothing (Markov), a recurrent state (GRU), or a cache of keys and values
(causal transformer). What is carried is a value, never kept on the module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffplan.config.sections import ProposerConfig
from diffplan.errors import DiffplanError
from diffplan.model.context import Context
from diffplan.model.proposer.base import (
    Proposal,
    Proposer,
    ProposerSpec,
    bounded_log_std,
    masked_mean,
    spread_loss,
)
from diffplan.nn.embeddings import GoalMap, mlp
from diffplan.nn.transformer import CausalTransformer

_HEAD_WIDTH = 128  # of an attention head, as published in both papers
_DROPOUT = 0.1  # of transformers, as published in both


class AutoregressiveProposer(Proposer):
    """Unrolls a Gaussian step model; subclasses say what is carried between steps.

    A step gives the next state as a displacement from the last one.
    """

    def __init__(
        self, spec: ProposerSpec, features: int, hidden: list[int], free_running: bool
    ) -> None:
        super().__init__(spec)
        self.free_running = free_running
        self.head = mlp(features, hidden, 2 * (spec.state_dim + 1))
        self.goal_map = GoalMap(spec.state_dim, spec.goal.columns) if spec.goal.columns else None

    def initial_carry(self, batch: int, like: Tensor) -> Any:
        """The carry before the first step, as a value."""
        return None

    def step_features(self, token: Tensor, carry: Any, k: int) -> tuple[Tensor, Any]:
        """Features [B, F] of step k from its token [B, T], and the next carry."""
        raise NotImplementedError

    def sequence_features(self, tokens: Tensor) -> Tensor:
        """Features [B, N, F] of all N steps from the true past, tokens [B, N, T]; causal."""
        raise NotImplementedError

    def _gaussian(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log-stds [..., D+1] from features [..., F]."""
        mean, log_std = self.head(features).chunk(2, dim=-1)
        return mean, bounded_log_std(log_std)

    def _tokens(self, context: Context) -> Callable[[Tensor], Tensor]:
        """Where the plan stands ([B, D], or [B, D+1] with the return) -> its `token`."""
        told = (context.given("task"),) if self.spec.task_dim else ()
        if self.goal_map is None:
            return lambda place: torch.cat((place, *told), dim=-1) if told else place
        dim, goal = self.spec.state_dim, context.given("goal")
        features = self.goal_map.bind(goal, self.goal.asked)

        def token(place: Tensor) -> Tensor:
            if not self.spec.use_returns:
                return torch.cat((place, *features(place), *told), dim=-1)
            state = place[:, :dim]
            return torch.cat((state, *features(state), place[:, dim:], *told), dim=-1)

        return token

    def _moves(self, noise: Tensor | None) -> Callable[[Tensor, int], Tensor]:
        """(features [B, F] of step k, k) -> how far the next place is from the last [B, size].

        noise: [B, H, D+1] as in `propose`. What is told and not moved, and the spread where nothing
        is drawn, is not computed; scales are part of the weights.
        """
        # the last layer is folded with the scales and cut to what moves: this runs H times a plan
        *hidden, last = self.head
        assert isinstance(last, nn.Linear)
        dim = self.spec.state_dim
        size = dim + self.spec.use_returns
        scale = F.pad(self.plan_scale[0], (0, 1), value=1.0)[:size]
        parts = []
        for layer in (last.weight, last.bias):
            mean, log_std = layer.unflatten(0, (2, dim + 1))[:, :size]
            mean = mean * (scale.unsqueeze(-1) if layer.ndim == 2 else scale)
            parts.append(mean if noise is None else torch.cat([mean, log_std]))
        weight, bias = parts
        if noise is not None:
            drawn = (noise[..., :size] * scale).unbind(1)

        def move(features: Tensor, k: int) -> Tensor:
            for layer in hidden:
                features = layer(features)
            moved = F.linear(features, weight, bias)
            if noise is None:
                return moved
            mean, log_std = moved.chunk(2, dim=-1)
            return torch.addcmul(mean, drawn[k], bounded_log_std(log_std).exp())

        return move

    def _unroll(
        self, context: Context, noise: Tensor | None, horizon: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """States [B, H, D], returns [B, H], and the features [B, H, F] of the steps."""
        horizon = self.spec.horizon if horizon is None else horizon
        use_returns = self.spec.use_returns
        place = context.state
        carry = self.initial_carry(len(place), place)
        if use_returns:
            place = torch.cat([place, context.given("target_return").unsqueeze(-1)], 1)
        token, move = self._tokens(context), self._moves(noise)
        steps, path = [], []
        for k in range(horizon):
            features, carry = self.step_features(token(place), carry, k)
            place = place + move(features, k)
            steps.append(features)
            path.append(place)
        whole, seen = torch.stack(path, 1), torch.stack(steps, 1)
        if use_returns:
            return whole[..., :-1], whole[..., -1], seen
        # without a target the head gives the return-to-go itself, not its change
        later, log_std = (part[..., -1] for part in self._gaussian(seen))
        if noise is not None:
            later = later + noise[..., -1] * log_std.exp()
        return whole, later, seen

    def propose(
        self, context: Context, noise: Tensor | None = None, horizon: int | None = None
    ) -> Proposal:
        states, later, _ = self._unroll(context, noise, horizon)
        return Proposal(states, later)

    def loss(
        self, context: Context, states: Tensor, returns: Tensor, mask: Tensor
    ) -> tuple[Tensor, Proposal]:
        scale = self.plan_scale[:1]
        true_change = (states[:, 1:] - states[:, :-1]) / scale
        if self.free_running:
            ours, later, features = self._unroll(context, None)
            log_std = self._gaussian(features)[1]
            error = (ours - states[:, 1:]) / self.plan_scale
            # how far one step is off from where the model itself stood
            before = torch.cat([states[:, :1], ours[:, :-1]], 1).detach()
            drift = (ours - before) / scale - true_change
            step_error = torch.cat([drift, (later - returns[:, 1:]).unsqueeze(-1)], -1)
            proposal = Proposal(ours.detach(), later.detach())
        else:
            steps = self.spec.horizon
            goal, task = (
                None if x is None else x[:, None].expand(-1, steps, -1)
                for x in (context.goal, context.task)
            )
            past = returns[:, :-1] if self.spec.use_returns else None
            tokens = self.token(Context(states[:, :-1], goal, past, task=task))
            change, log_std = self._gaussian(self.sequence_features(tokens))
            error = change[..., :-1] - true_change
            later = change[..., -1]
            if past is not None:
                later = later + past
            step_error = torch.cat([error, (later - returns[:, 1:]).unsqueeze(-1)], -1)
            with torch.no_grad():
                proposal = self._propose_in_training(context)
        fit = error.square().mean(-1) + (later - returns[:, 1:]).square()
        spread = spread_loss(log_std, step_error).mean(-1)
        return masked_mean(fit + 0.1 * spread, mask), proposal

    def _propose_in_training(self, context: Context) -> Proposal:
        """A free-running proposal as at planning time: without dropout."""
        training = self.training
        self.eval()
        try:
            return self.propose(context)
        finally:
            self.train(training)


class MarkovProposer(AutoregressiveProposer):
    """Each step depends on the last state (and return, goal) only."""

    def __init__(self, spec: ProposerSpec, config: ProposerConfig) -> None:
        free = config.training == "free-running"
        super().__init__(spec, config.width, [], free)
        self.width = config.width
        self.body = nn.Sequential(
            mlp(spec.token_dim, [config.width] * (config.depth - 1), config.width), nn.SiLU()
        )

    def step_features(self, token: Tensor, carry: Any, k: int) -> tuple[Tensor, Any]:
        return self.body(token), None

    def sequence_features(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.body(tokens)
        return result


class GRUProposer(AutoregressiveProposer):
    """Carries a recurrent state; `depth - 1` hidden layers read it."""

    def __init__(self, spec: ProposerSpec, config: ProposerConfig) -> None:
        free = config.training == "free-running"
        hidden = [config.width] * (config.depth - 1)
        super().__init__(spec, config.width, hidden, free)
        self.width = config.width
        self.enter = nn.Linear(spec.token_dim, config.width)
        self.recurrent = nn.GRU(config.width, config.width, batch_first=True)

    def initial_carry(self, batch: int, like: Tensor) -> Tensor:
        return like.new_zeros(1, batch, self.width)

    def step_features(self, token: Tensor, carry: Tensor, k: int) -> tuple[Tensor, Tensor]:
        features, carry = self.recurrent(torch.relu(self.enter(token)).unsqueeze(1), carry)
        return features.squeeze(1), carry

    def sequence_features(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.recurrent(torch.relu(self.enter(tokens)))[0]
        return features


class TransformerProposer(AutoregressiveProposer):
    """Causal transformer with a cache, as the paper's (but causal also in training).

    Its steps are trained teacher-forced: unrolling it with gradients costs a pass per step.
    """

    def __init__(self, spec: ProposerSpec, config: ProposerConfig) -> None:
        if config.training != "teacher-forced":
            raise DiffplanError(
                f"proposer.training is {config.training!r}, expected 'teacher-forced' with "
                "proposer.kind transformer; its proposals for the denoiser are free-running anyway"
            )
        super().__init__(spec, config.width, [], free_running=False)
        self.transformer = CausalTransformer(
            spec.token_dim,
            config.width,
            config.depth,
            max(1, config.width // _HEAD_WIDTH),
            config.width,
            _DROPOUT,
            spec.horizon,
        )

    def initial_carry(self, batch: int, like: Tensor) -> Any:
        return self.transformer.init_cache(batch, self.spec.horizon, like.device, like.dtype)

    def step_features(self, token: Tensor, carry: Any, k: int) -> tuple[Tensor, Any]:
        features, carry = self.transformer.step(token, carry, k)
        return features, carry

    def sequence_features(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.transformer(tokens)
        return features
