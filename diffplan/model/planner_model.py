"""The planner's networks and scales in one module: what is trained, saved and loaded."""

from __future__ import annotations

import torch
from torch import Tensor

from diffplan.config.config import Config, settled
from diffplan.data.batches import Valued, Windows
from diffplan.data.targets import TargetTable
from diffplan.data.windows import WindowSampler
from diffplan.diffusion.dpm_solver_v3 import Statistics
from diffplan.diffusion.gaussian import Gaussian
from diffplan.model import build
from diffplan.model.context import Context
from diffplan.model.moves import Moves
from diffplan.model.multi_task import MultiTaskDenoiser
from diffplan.model.space import PlanSpace
from diffplan.model.spec import ModelSpec
from diffplan.model.subgoals import Subgoals
from diffplan.nn.embeddings import GoalFeatures

_UNKNOWN_SHARE = 0.2  # of training samples that are not told their task: it can be asked without


class PlannerModel(PlanSpace):
    """Proposer, denoiser, inverse dynamics and value over one normalised state space.

    The last two are networks of their own or heads of the denoiser (`heads.kind`). Parts that a
    configuration never uses are None.

    residual_rms: [rows, D] held-out error of the proposals. residual_known: whether it was
    measured.
    """

    residual_rms: Tensor
    residual_known: Tensor

    def __init__(self, spec: ModelSpec, config: Config) -> None:
        config = settled(config, spec.goal_dim > 0, spec.tasks)
        super().__init__(spec, config)
        self.statistics: Statistics | None = None  # of `diffplan calibrate`, set on loading
        self.gaussian: Gaussian | None = None  # of its plans in the data, likewise
        heads = config.heads.facts
        self.tasks = build.task_encoder_of(self) if self.task_dim else None
        self.targets = TargetTable()
        self.subgoals = Subgoals(spec.landmarks, spec.goal_dim) if spec.landmarks else None
        self.moves = Moves(spec.moves, spec.goal_dim) if spec.moves else None
        self.register_buffer("residual_rms", torch.ones(self.rows, spec.planned_dim))
        self.register_buffer("residual_known", torch.zeros(()))
        self.plain_process, self.main_process = build.processes_of(config)
        self.proposer = build.proposer_of(self) if self.needs_proposer(config) else None
        refines = config.planning.start != "none" and not heads.streams
        self.denoiser = build.denoiser_of(self, self.main_process) if refines else None
        self.streams = build.streams_of(self) if heads.streams else None
        acts = heads.inverse_dynamics or not config.learns_actions
        self.inverse_dynamics = build.inverse_dynamics_of(self) if acts else None
        self.value = build.value_of(self) if config.trains_value else None
        self.noisy_value = build.noisy_value_of(self) if config.planning.value_guidance else None

    @property
    def multi_task(self) -> MultiTaskDenoiser | None:
        """The denoiser, where it has heads that tell more than states."""
        return self.denoiser if isinstance(self.denoiser, MultiTaskDenoiser) else None

    @staticmethod
    def needs_proposer(config: Config) -> bool:
        """Whether anything in the configuration uses proposals."""
        return config.denoiser.uses_proposals or config.planning.proposes

    def fit(self, sampler: WindowSampler, low: Tensor, high: Tensor, seed: int) -> None:
        """Fit every scale once, on training windows. low, high: action bounds [A]."""
        generator = torch.Generator().manual_seed(seed)
        self.targets.fit(sampler.returns_by_step(seed), sampler.returns_drawn(seed))
        if self.subgoals is not None and (graph := sampler.graph) is not None:
            self.subgoals.fit(graph)
        windows = self.fit_scales(sampler, low, high, generator)
        if (found := sampler.things) is not None:
            held = found.weight * self.states.std, found.offset + found.weight @ self.states.mean
            for part in self.modules():
                if isinstance(part, GoalFeatures):
                    part.fit(*held)
            if self.moves is not None:
                self.moves.fit(found)
        if self.inverse_dynamics is not None:
            ahead = self.plan_scale[self.config.heads.lookahead - 1]
            self.inverse_dynamics.step_scale.copy_(ahead)
        if isinstance(self.denoiser, MultiTaskDenoiser):
            returns = self.normalised_returns(windows.returns[:, 0])
            self.denoiser.heads.fit(returns, self.plan_scale)
        if self.proposer is not None:
            self.proposer.plan_scale.copy_(self.plan_scale)

    # --- What plans are made for -----------------------------------------------------------------

    def context_of(
        self, batch: Windows | Valued, generator: torch.Generator | None = None
    ) -> Context:
        """What plans from the first states of a batch in plan units are made for.

        With the returns that followed for targets. generator: to leave some tasks untold, as in
        training.
        """
        if isinstance(batch, Windows):
            start, returns = batch.states[:, 0], batch.returns[:, 0]
        else:
            start, returns = batch.states, batch.returns
        return Context(start, batch.goals, returns, task=self._task_code(batch, generator))

    def _task_code(
        self, batch: Windows | Valued, generator: torch.Generator | None
    ) -> Tensor | None:
        """Codes [B, F] of what a batch says of its tasks, None where the networks are not told."""
        if self.tasks is None:
            return None
        if self.tasks.given == "id":
            assert batch.task is not None
            code = self.tasks.from_id(batch.task)
        else:
            assert batch.prompt is not None
            code = self.tasks.from_states(batch.prompt)
        if generator is None:
            return code
        # some are told nothing, so that an agent may know nothing of its task
        share = torch.rand(len(code), generator=generator, device=generator.device)
        drop = share < _UNKNOWN_SHARE
        return self.tasks.dropped(code, drop.to(code.device))

    @property
    def noise_scale(self) -> Tensor | None:
        """Noise of the main process [rows, D] in plan units; None if it takes none."""
        if not self.main_process.scaled:
            return None
        return self.residual_rms

    @property
    def residual_level(self) -> float:
        """Held-out error of the proposals as one number, in plan units (reads the device)."""
        return float(self.residual_rms.square().mean().sqrt())

    @property
    def ranks(self) -> bool:
        """Whether it can tell what a plan is worth."""
        return self.value is not None or self.config.tells_returns

    @property
    def tells_of_states(self) -> bool:
        """Whether the head of returns also judges states, as a value network would."""
        return self.spec.goal_dim > 0 and self.config.has_head("returns")

    def value_condition(self, context: Context) -> Tensor:
        """What the noisy value knows beside the plan [B, C]: start, goal and code of the task."""
        known = [context.state]
        if context.goal is not None:
            assert self.noisy_value is not None
            known.append(self.noisy_value.goal(context.state, context.goal))
        if self.task_dim:
            known.append(context.given("task"))
        return torch.cat(known, -1)
