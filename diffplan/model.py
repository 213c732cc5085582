"""The planner's networks and scales in one module: what is trained, saved and loaded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffplan.config import Config, replace_planning
from diffplan.data.normaliser import Normaliser
from diffplan.data.targets import TargetTable
from diffplan.data.windows import Transitions, Valued, Windows, WindowSampler
from diffplan.denoiser import Condition, ConditionEncoder, Denoiser
from diffplan.inverse_dynamics import InverseDynamics
from diffplan.nn import NETWORKS
from diffplan.nn.embeddings import chosen_columns, goal_feature_size, goal_features
from diffplan.process import SCHEDULES, Process, ddpm, rddm
from diffplan.proposal import Proposer, ProposerSpec
from diffplan.proposer import build_proposer
from diffplan.value import Value

_FIT_WINDOWS = 8192
_CANDIDATES = 16  # plans per decision where there is a goal
_SMALLEST_SCALE = 1e-3


@dataclass(frozen=True)
class ModelSpec:
    """Sizes that come from the dataset.

    goal_columns: columns of the state that hold the achieved goal, () without a goal.
    """

    state_dim: int
    action_dim: int
    goal_columns: tuple[int, ...]

    @property
    def goal_dim(self) -> int:
        return len(self.goal_columns)


@dataclass(frozen=True)
class Batch:
    """What one joint update draws from the data, in environment units.

    plain: windows that teach the denoiser to plan without a proposal, None if it need not.
    followed: windows with an action that teach to act on a proposal, None if nothing does.
    """

    windows: Windows
    transitions: Transitions
    valued: Valued
    plain: Windows | None = None
    followed: Windows | None = None


class PlannerModel(nn.Module):
    """Proposer, denoiser, inverse dynamics and value over one normalised state space.

    The plan tensor x [B, rows, D] is what the diffusion model works on. With
    `space="displacement"` row k-1 is (s_k - s_0) / plan_scale[k-1], H rows; with
    `space="absolute"` row k is the normalised s_k, H+1 rows, row 0 pinned to the current state.
    Parts that a configuration never uses are None.
    """

    action_low: Tensor
    action_high: Tensor
    plan_scale: Tensor
    residual_rms: Tensor
    residual_known: Tensor

    def __init__(self, spec: ModelSpec, config: Config) -> None:
        super().__init__()
        if config.planning.candidates is None:
            config = replace_planning(config, candidates=_CANDIDATES if spec.goal_dim else 1)
        self.spec, self.config = spec, config
        plan, options = config.plan, config.denoiser
        self.absolute = plan.space == "absolute"
        self.rows = plan.horizon + self.absolute
        asked = config.data.use_returns
        self.use_returns = asked if asked is not None else not spec.goal_dim
        self.states = Normaliser(spec.state_dim)
        self.returns = Normaliser(1)
        self.targets = TargetTable()
        self.register_buffer("action_low", -torch.ones(spec.action_dim))
        self.register_buffer("action_high", torch.ones(spec.action_dim))
        self.register_buffer("plan_scale", torch.ones(plan.horizon, spec.state_dim))
        self.register_buffer("residual_rms", torch.ones(self.rows, spec.state_dim))
        self.register_buffer("residual_known", torch.zeros(()))

        self.plain_process: Process = ddpm(SCHEDULES[options.schedule](options.schedule_levels))
        self.main_process = (
            rddm(options.levels) if options.process == "rddm" else self.plain_process
        )
        self.proposer = self._build_proposer() if self.needs_proposer(config) else None
        self.denoiser = self._build_denoiser() if config.planning.start != "none" else None
        heads = config.heads
        self.inverse_dynamics = InverseDynamics(
            spec.state_dim, spec.action_dim, heads.width, heads.depth
        )
        self.value = Value(
            spec.state_dim,
            spec.goal_dim,
            spec.action_dim if heads.value_input == "state-action" else 0,
            spec.goal_columns,
            heads.width,
            heads.depth,
            heads.expectile,
            heads.value_members,
        )

    @staticmethod
    def needs_proposer(config: Config) -> bool:
        """Whether anything in the configuration uses proposals."""
        uses = config.denoiser.use_proposal or config.denoiser.process == "rddm"
        return uses or config.planning.start != "noise"

    def _build_proposer(self) -> Proposer:
        spec = ProposerSpec(
            self.config.plan.horizon,
            self.spec.state_dim,
            self.spec.goal_dim,
            self.spec.goal_columns,
            self.use_returns,
        )
        return build_proposer(spec, self.config.proposer)

    def _build_denoiser(self) -> Denoiser:
        options, dim = self.config.denoiser, self.spec.state_dim
        sizes = (
            {"base": options.width}
            if options.network == "unet"
            else {
                "width": options.width,
                "depth": options.depth,
            }
        )
        network = NETWORKS[options.network](
            self.rows, dim, options.features, use_proposal=options.use_proposal, **sizes
        )
        encoder = ConditionEncoder(
            options.features,
            # inside the plan the first state is pinned, not a condition
            state_dim=0 if self.absolute else dim,
            goal_dim=goal_feature_size(self.spec.goal_dim),
            use_returns=self.use_returns,
        )
        denoiser = Denoiser(
            network,
            encoder,
            horizon=self.rows,
            dim=dim,
            features=options.features,
            prediction=options.prediction,
            use_proposal=options.use_proposal,
        )
        denoiser.check_process(self.main_process)
        return denoiser

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
        self.inverse_dynamics.step_scale.copy_(self.plan_scale[0])
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

    def to_plan(self, start: Tensor, states: Tensor) -> Tensor:
        """Normalised start [B, D] and future states [B, H, D] -> plan tensor [B, rows, D]."""
        if self.absolute:
            return torch.cat([start[:, None], states], 1)
        return (states - start[:, None]) / self.plan_scale

    def from_plan(self, start: Tensor, x: Tensor) -> Tensor:
        """Plan tensor [B, rows, D] -> normalised states [B, H+1, D], the first the current one."""
        if self.absolute:
            return x
        return torch.cat([start[:, None], start[:, None] + x * self.plan_scale], 1)

    def condition(self, start: Tensor, goal: Tensor | None, returns: Tensor | None) -> Condition:
        """Denoiser conditions from normalised start [B, D], goal [B, G], return [B]."""
        if goal is not None:
            goal = goal_features(start, goal, self.spec.goal_columns)
        state = None if self.absolute else start
        return Condition(state, goal, returns if self.use_returns else None)

    @property
    def noise_scale(self) -> Tensor | None:
        """Start noise of the main process [rows, D] in plan units; None if it takes none."""
        if not self.main_process.scaled:
            return None
        return self.config.denoiser.kappa * self.residual_rms

    @property
    def residual_level(self) -> float:
        """Held-out error of the proposals as one number, in plan units (reads the device)."""
        return float(self.residual_rms.square().mean().sqrt())

    # --- Losses ----------------------------------------------------------------------------------

    @property
    def plain_rows(self) -> int:
        """Windows without a proposal that an update needs, so that they are `plain_share`."""
        options = self.config.denoiser
        if self.denoiser is None or options.process != "rddm":
            return 0
        rows = self.config.training.batch_size * options.draws
        return round(rows * options.plain_share / (1 - options.plain_share))

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of one joint update, one entry per part; their sum is minimised."""
        windows = batch.windows
        losses: dict[str, Tensor] = {}
        z = self.states(windows.states)
        goal, returns = self.goal(windows.goals), self.normalised_returns(windows.returns)
        proposed: Tensor | None = None
        if self.proposer is not None:
            loss, proposal = self.proposer.loss(z, goal, returns, windows.mask)
            losses["proposer"] = _weighted(loss, windows.weight)
            proposed = proposal.states
        if self.denoiser is not None:
            losses |= self._denoiser_losses(windows, proposed, batch.plain, generator)
        step = batch.transitions
        losses["inverse_dynamics"] = self.inverse_dynamics.loss(
            self.states(step.states),
            self.states(step.ahead),
            step.lag / self.config.plan.stride,
            self.scaled_actions(step.actions),
        )
        if batch.followed is not None:
            losses["inverse_dynamics_proposed"] = self._following_loss(batch.followed)
        valued = batch.valued
        losses["value"] = self.value.loss(
            self.states(valued.states),
            self.goal(valued.goals),
            self.scaled_actions(valued.actions) if self.value.uses_action else None,
            self.normalised_returns(valued.returns),
        )
        return losses

    @property
    def follows_proposals(self) -> bool:
        """Whether the inverse dynamics also learns what to do where a proposal leads."""
        return self.config.heads.follow_proposals and self.proposer is not None

    def _following_loss(self, windows: Windows) -> Tensor:
        """Squared error of the data's action given the first proposed state, not the true one.

        A plan is off by the model's error. Trained on true pairs alone the network takes that for
        intention, and a fast gait falls over the wrong actions that follow.
        """
        acted = windows.acted
        assert acted is not None and self.proposer is not None
        target = self.normalised_returns(windows.returns[:, 0]) if self.use_returns else None
        start = self.states(windows.states[:, 0])
        with torch.no_grad():
            ahead = self.proposer.propose(start, self.goal(windows.goals), target, horizon=1)
        lag = acted.lag / self.config.plan.stride
        actions = self.inverse_dynamics(self.states(acted.states), ahead.states[:, 0], lag)
        error = (actions - self.scaled_actions(acted.actions)).square().mean(-1)
        return _weighted(error, acted.mask * windows.weight)

    def _denoiser_losses(
        self,
        windows: Windows,
        proposed: Tensor | None,
        plain: Windows | None,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Losses of the main process and of plain DDPM, from one pass through the network.

        Every window of the main share is noised `draws` times: the draws share its proposal,
        which is what costs. Plain windows need no proposal and are drawn once each.
        """
        assert self.denoiser is not None
        options = self.config.denoiser
        rows = [self._denoiser_rows(windows, options.draws)]
        if plain is not None:
            rows.append(self._denoiser_rows(plain, 1))
        x0, mask = torch.cat([r[0] for r in rows]), torch.cat([r[1] for r in rows])
        parts = [r[2] for r in rows]
        condition = Condition(
            *(
                None
                if (first := getattr(parts[0], name)) is None
                else torch.cat([first, *(getattr(part, name) for part in parts[1:])])
                for name in ("state", "goal", "returns")
            )
        )
        main = len(rows[0][0])
        is_plain = torch.arange(len(x0), device=x0.device) >= main
        x_hat: Tensor | None = None
        if proposed is not None and (options.use_proposal or options.process == "rddm"):
            x_hat = self.to_plan(self.states(windows.states[:, 0]), proposed)
            x_hat = torch.cat([x_hat.repeat_interleave(options.draws, 0), x0[main:]])

        def uniform() -> Tensor:
            return torch.rand(len(x0), generator=generator).to(x0.device)

        chances = {
            "state": options.drop_state,
            "goal": options.drop_goal,
            "returns": options.drop_returns,
        }
        drop = {name: uniform() < chance for name, chance in chances.items() if chance}
        loss = self.denoiser.loss(
            x0,
            x_hat,
            is_plain,
            self.main_process,
            self.plain_process,
            uniform(),
            torch.randn(x0.shape, generator=generator).to(x0.device),
            self.noise_scale,
            condition,
            drop,
            mask,
            pin_first=self.absolute,
        )
        weight = windows.weight.repeat_interleave(options.draws)
        losses = {"denoiser": _weighted(loss[:main], weight)}
        if plain is not None:
            losses["denoiser_plain"] = _weighted(loss[main:], plain.weight)
        return losses

    def _denoiser_rows(self, windows: Windows, draws: int) -> tuple[Tensor, Tensor, Condition]:
        """Clean plans [B*draws, rows, D], their mask and conditions."""
        z = self.states(windows.states)
        x0 = self.to_plan(z[:, 0], z[:, 1:])
        mask = windows.mask
        if self.absolute:
            mask = torch.cat([torch.ones_like(mask[:, :1]), mask], 1)
        returns = self.normalised_returns(windows.returns[:, 0])
        condition = self.condition(z[:, 0], self.goal(windows.goals), returns)
        if draws == 1:
            return x0, mask, condition
        return (
            x0.repeat_interleave(draws, 0),
            mask.repeat_interleave(draws, 0),
            condition.repeat(draws),
        )

    @torch.no_grad()
    def measure_residual(self, windows: Windows, rate: float) -> float:
        """Free-running error of the proposer on held-out windows; updates the noise scale.

        rate: weight of the new measurement in `residual_rms` (the first one replaces it).
        Returns the root mean square in plan units, weighted as in training.
        """
        assert self.proposer is not None
        z = self.states(windows.states)
        target = self.normalised_returns(windows.returns[:, 0]) if self.use_returns else None
        self.proposer.eval()  # without dropout, as at planning time
        proposal = self.proposer.propose(z[:, 0], self.goal(windows.goals), target)
        self.proposer.train(self.training)
        error = self.to_plan(z[:, 0], proposal.states) - self.to_plan(z[:, 0], z[:, 1:])
        mask = windows.mask * windows.weight.unsqueeze(-1)
        if self.absolute:
            mask = torch.cat([torch.ones_like(mask[:, :1]), mask], 1)
        squares = (error.square() * mask.unsqueeze(-1)).sum(0)
        rms = (squares / mask.sum(0).clamp(min=1e-6).unsqueeze(-1)).sqrt()
        self.residual_rms.lerp_(rms, 1.0 if not self.residual_known else rate)
        self.residual_known.fill_(1.0)
        return float(rms.square().mean().sqrt())


def _weighted(loss: Tensor, weight: Tensor) -> Tensor:
    """Mean of per-window losses [B] by weight [B]: a scalar."""
    return (weight * loss).sum() / weight.sum().clamp(min=1e-6)
