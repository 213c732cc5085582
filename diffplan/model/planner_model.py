"""The planner's networks and scales in one module: what is trained, saved and loaded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffplan.config.config import Config, replace_planning
from diffplan.data.batches import Batch, Valued, Windows
from diffplan.data.targets import TargetTable
from diffplan.data.windows import WindowSampler
from diffplan.diffusion.dpm_solver_v3 import Statistics
from diffplan.diffusion.process import Process, aggregated
from diffplan.diffusion.processes import SCHEDULES, ddpm
from diffplan.model import build
from diffplan.model.conditions import Condition, TaskEncoder
from diffplan.model.heads import Path
from diffplan.model.inverse_dynamics import InverseDynamics
from diffplan.model.losses import joint_losses
from diffplan.model.normaliser import Normaliser
from diffplan.nn.embeddings import chosen_columns, goal_features

_FIT_WINDOWS = 8192
_CANDIDATES = 16  # plans per decision where there is a goal
_SMALLEST_SCALE = 1e-3
_TASK_FEATURES = 32  # of what stands for a task
_UNKNOWN_SHARE = 0.2  # of training samples that are not told their task: it can be asked without


@dataclass(frozen=True)
class ModelSpec:
    """Sizes that come from the dataset.

    goal_columns: columns of the state that hold the achieved goal, () without a goal. tasks: how
    many there are, 0 where it is not said.
    """

    state_dim: int
    action_dim: int
    goal_columns: tuple[int, ...]
    tasks: int = 0

    @property
    def goal_dim(self) -> int:
        return len(self.goal_columns)


class PlannerModel(nn.Module):
    """Proposer, denoiser, inverse dynamics and value over one normalised state space.

    The last two are networks of their own or heads of the denoiser (`heads.kind`).

    The plan tensor x [B, rows, D] is what the diffusion model works on. With
    `space="displacement"` row k-1 is (s_k - s_0) / plan_scale[k-1], H rows; with
    `space="absolute"` row k is the normalised s_k, H+1 rows, row 0 pinned to the current state.
    With `plan.actions` the scaled actions that lead to s_k stand beside it, one per environment
    step, zeros beside the current state; with `heads.kind` streams the return-to-go of the current
    state as well, alike in all rows.
    Parts that a configuration never uses are None.
    """

    spec: ModelSpec
    config: Config
    action_low: Tensor
    action_high: Tensor
    plan_scale: Tensor
    residual_rms: Tensor
    residual_cosine: Tensor
    residual_known: Tensor

    def __init__(self, spec: ModelSpec, config: Config) -> None:
        super().__init__()
        if config.planning.candidates is None:
            told = config.heads.kind == "streams" or config.tells("returns")
            config = replace_planning(
                config, candidates=_CANDIDATES if spec.goal_dim and not told else 1
            )
        self.spec, self.config = spec, config
        self.statistics: Statistics | None = None  # of `diffplan calibrate`, set on loading
        plan, options = config.plan, config.denoiser
        self.absolute = plan.space == "absolute"
        self.rows = plan.horizon + self.absolute
        acted = config.actions_in_plan * plan.stride * spec.action_dim
        streams = config.heads.kind == "streams"
        self.plan_dim = spec.state_dim + acted + streams
        asked = config.data.condition_on_returns
        self.use_returns = asked if asked is not None else not spec.goal_dim
        self.states = Normaliser(spec.state_dim)
        self.returns = Normaliser(1)
        self.rewards = Normaliser(1)
        given = config.data.tasks
        self.tasks = (
            TaskEncoder(given, spec.tasks, spec.state_dim, _TASK_FEATURES, config.heads.width)
            if spec.tasks > 1 and given != "none"
            else None
        )
        self.task_dim = 0 if self.tasks is None else _TASK_FEATURES
        self.targets = TargetTable()
        self.register_buffer("action_low", -torch.ones(spec.action_dim))
        self.register_buffer("action_high", torch.ones(spec.action_dim))
        self.register_buffer("plan_scale", torch.ones(plan.horizon, spec.state_dim))
        self.register_buffer("residual_rms", torch.ones(self.rows, spec.state_dim))
        self.register_buffer("residual_cosine", torch.ones(()))
        self.register_buffer("residual_known", torch.zeros(()))

        betas = SCHEDULES[options.schedule](options.schedule_levels)
        heads = config.heads
        weight = heads.aggregation if heads.kind == "shared" else 0.0
        self.plain_process: Process = aggregated(ddpm(betas), weight)
        plain = options.process == "ddpm"
        self.main_process = (
            self.plain_process if plain else build.main_process_of(self, betas, weight)
        )
        self.proposer = build.proposer_of(self) if self.needs_proposer(config) else None
        refines = config.planning.start != "none" and not streams
        self.denoiser = build.denoiser_of(self) if refines else None
        self.streams = build.streams_of(self) if streams else None
        self.inverse_dynamics = (
            None
            if heads.kind != "separate" and config.plans_act
            else InverseDynamics(spec.state_dim, spec.action_dim, heads.width, heads.depth)
        )
        told = streams or config.tells("returns")
        self.value = None if told else build.value_of(self)
        self.noisy_value = build.noisy_value_of(self) if heads.noisy_value else None

    @staticmethod
    def needs_proposer(config: Config) -> bool:
        """Whether anything in the configuration uses proposals."""
        uses = config.denoiser.use_proposal or config.denoiser.process != "ddpm"
        return uses or config.planning.start != "noise"

    # --- Units -----------------------------------------------------------------------------------

    def fit(self, sampler: WindowSampler, low: Tensor, high: Tensor, seed: int) -> None:
        """Fit every scale once, on training windows. low, high: action bounds [A]."""
        generator = torch.Generator().manual_seed(seed)
        self.states.fit(sampler.states, sampler.parts["train"])
        self.action_low.copy_(low)
        self.action_high.copy_(high)
        self.targets.fit(sampler.returns_by_step(seed))
        windows = sampler.sample(_FIT_WINDOWS, generator)
        self.returns.fit(sampler.valued(_FIT_WINDOWS, generator).returns.unsqueeze(-1))
        z = self.states(windows.states)
        moved = (z[:, 1:] - z[:, :1]).square() * windows.mask.unsqueeze(-1)
        rms = (moved.sum(0) / windows.mask.sum(0).clamp(min=1).unsqueeze(-1)).sqrt()
        self.plan_scale.copy_(rms.clamp(min=_SMALLEST_SCALE))
        if self.inverse_dynamics is not None:
            self.inverse_dynamics.step_scale.copy_(self.plan_scale[0])
        if windows.rewards is not None:
            self.rewards.fit(windows.rewards.reshape(-1, 1))
        if self.denoiser is not None and self.denoiser.heads is not None:
            self.denoiser.heads.fit(
                self.normalised_returns(windows.returns[:, 0]), self.plan_scale[0]
            )
        if self.proposer is not None:
            self.proposer.plan_scale.copy_(self.plan_scale)

    def goal(self, goals: Tensor | None) -> Tensor | None:
        """Goals [B, G] in the normalised units of the state's goal columns."""
        if goals is None or not self.spec.goal_columns:
            return None
        columns = self.spec.goal_columns
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
        share = (scaled.clamp(-1, 1) + 1) / 2
        return self.action_low + share * (self.action_high - self.action_low)

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
        beside = actions.flatten(2)
        if self.absolute:
            beside = torch.cat([torch.zeros_like(beside[:, :1]), beside], 1)
        parts = [x, beside]
        if returns is not None:
            parts.append(returns.view(-1, 1, 1).expand(-1, self.rows, 1))
        return torch.cat(parts, -1)

    def from_plan(self, start: Tensor, x: Tensor) -> Tensor:
        """Plan tensor [B, rows, D] -> normalised states [B, H+1, D], the first the current one."""
        x = x[..., : self.spec.state_dim]
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
        end = self.plan_dim - (self.streams is not None)
        return self.by_step(x[..., self.spec.state_dim : end])

    def by_step(self, actions: Tensor) -> Tensor:
        """Scaled actions beside a plan's rows [B, rows, stride * A] -> [B, H, stride, A]."""
        later = actions[:, int(self.absolute) :]
        return later.unflatten(-1, (self.config.plan.stride, self.spec.action_dim))

    def pinned_start(self, start: Tensor) -> Tensor:
        """Row 0 of an absolute plan [B, D] for normalised states [B, D]."""
        return nn.functional.pad(start, (0, self.plan_dim - self.spec.state_dim))

    def condition(
        self,
        start: Tensor,
        goal: Tensor | None,
        returns: Tensor | None,
        task: Tensor | None = None,
    ) -> Condition:
        """Denoiser conditions from normalised start [B, D], goal [B, G], return [B].

        task: [B, F] codes of the tasks.
        """
        if self.config.plan.pin_goal:
            goal = None
        if goal is not None:
            goal = goal_features(start, goal, self.spec.goal_columns)
        state = None if self.absolute else start
        return Condition(state, goal, returns if self.use_returns else None, task)

    def task_code(
        self, batch: Windows | Valued, generator: torch.Generator | None = None
    ) -> Tensor | None:
        """Codes [B, F] of what a batch says of its tasks, None where the networks are not told.

        generator: to leave a share of them untold, as in training.
        """
        if self.tasks is None:
            return None
        if self.tasks.given == "id":
            assert batch.task is not None
            code = self.tasks.from_id(batch.task)
        else:
            assert batch.prompt is not None
            code = self.tasks.from_states(self.states(batch.prompt))
        if generator is None:
            return code
        drop = torch.rand(len(code), generator=generator) < _UNKNOWN_SHARE
        return self.tasks.dropped(code, drop.to(code.device))

    @property
    def noise_scale(self) -> Tensor | None:
        """Noise of the main process [rows, D] in plan units; None if it takes none."""
        if not self.main_process.scaled:
            return None
        options, measured = self.config.denoiser, self.residual_rms
        if options.residual_scale == "one":
            measured = measured.square().mean().sqrt().expand_as(measured)
        return options.kappa * measured

    @property
    def residual_level(self) -> float:
        """Held-out error of the proposals as one number, in plan units (reads the device)."""
        return float(self.residual_rms.square().mean().sqrt())

    # --- Losses ----------------------------------------------------------------------------------

    @property
    def plain_rows(self) -> int:
        """Windows without a proposal that an update needs, so that they are `plain_share`."""
        options = self.config.denoiser
        if self.denoiser is None or not options.use_proposal:
            return 0
        rows = self.config.training.batch_size * options.draws
        return round(rows * options.plain_share / (1 - options.plain_share))

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of one joint update, one entry per part; their sum is minimised."""
        return joint_losses(self, batch, generator)

    @property
    def follows_proposals(self) -> bool:
        """Whether the inverse dynamics also learns what to do where a proposal leads."""
        follows = self.config.heads.follow_proposals and self.proposer is not None
        return follows and self.inverse_dynamics is not None

    @property
    def tells_of_proposals(self) -> bool:
        """Whether the head of actions learns from proposals, too."""
        return self.config.heads.follow_proposals and self.config.tells("actions")

    @property
    def tells_of_states(self) -> bool:
        """Whether the head of returns also judges states, as a value network would."""
        return self.spec.goal_dim > 0 and self.config.tells("returns")

    def value_condition(self, start: Tensor, goal: Tensor | None) -> Tensor:
        """What the noisy value knows beside the plan [B, C]: normalised start and goal."""
        if goal is None:
            return start
        return torch.cat([start, goal_features(start, goal, self.spec.goal_columns)], -1)
