"""A trained planner as an agent: Stable-Baselines3's `predict`, with its state as a value."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffplan import checkpoint as checkpoints
from diffplan.config import PlanningConfig, config_to_dict, replace_planning
from diffplan.data.episodes import DatasetInfo, ObservationLayout
from diffplan.errors import DiffplanError
from diffplan.model import PlannerModel
from diffplan.planner import Context, Noise, decode, make_plan, matching_level


@dataclass(frozen=True)
class PlanView:
    """A batch of plans in environment units; states are `stride` environment steps apart.

    proposal, candidates: [B, K, H+1, D], before and after optimisation. values: [B, K] in units
    of the return-to-go. chosen: [B], index into K. states: [B, H+1, D], the chosen candidate;
    index 0 is the state the plan was made in.
    """

    proposal: np.ndarray
    candidates: np.ndarray
    values: np.ndarray
    chosen: np.ndarray
    states: np.ndarray


@dataclass(frozen=True)
class AgentState:
    """What the agent remembers between calls; hand back what `predict` returned.

    plan: each row's current plan. goals: [B, G] goals the plans were made for, None without.
    age: [B] environment steps since each row's plan was made, 0 right after a replan.
    seeds: [B] random seed of each row. count: [B] plans made since it was set.
    step: [B] environment steps since the episode began. target: [B] return-to-go that was asked
    for, less what `observe` was told since (`planning.target` received).
    """

    plan: PlanView
    goals: np.ndarray | None
    age: np.ndarray
    seeds: np.ndarray
    count: np.ndarray
    step: np.ndarray
    target: np.ndarray


class PlannerAgent:
    """Plans every `keep` strides and follows the plan by inverse dynamics at every step.

    The agent itself never changes after construction: everything that does is in `AgentState`,
    so one agent may serve many environments. Row b of a batch depends on row b alone.
    """

    def __init__(
        self,
        model: PlannerModel,
        layout: ObservationLayout,
        info: DatasetInfo,
        *,
        config_name: str,
        train_seconds: float | None = None,
        updates: int = 0,
        seed: int = 0,
        **planning: Any,
    ) -> None:
        """Set up the agent; nothing changes afterwards.

        train_seconds, updates: what the training took, for reports. planning: settings of
        `PlanningConfig` that replace the model's own, e.g. steps=3; a quantile or a target by step
        also in place of the model's own target_return.
        Raises DiffplanError for a wrong setting, or one of a target return that has no effect.
        """
        read_off = "target_quantile" in planning or planning.get("target") == "by-step"
        if read_off and "target_return" not in planning:
            planning["target_return"] = None
        settings = replace_planning(model.config, **planning).planning
        _check_target(settings, model, goals=layout.goal_dim > 0)
        if settings.candidates is None:
            settings = dataclasses.replace(settings, candidates=model.config.planning.k)
        if settings.start == "sdedit" and settings.start_level is None:
            level = matching_level(model, settings.steps)
            settings = dataclasses.replace(settings, start_level=level)
        self.model = model
        self.layout, self.info = layout, info
        self.config_name, self.train_seconds = config_name, train_seconds
        self.updates = updates
        self.settings: PlanningConfig = settings
        self.stride = model.config.plan.stride
        self.horizon = model.config.plan.horizon
        self.seed = seed
        self.device = model.plan_scale.device
        self._mean = model.states.mean.cpu().numpy()
        self._std = model.states.std.cpu().numpy()

    @property
    def planning(self) -> dict[str, Any]:
        """The planning settings in force, JSON-able."""
        config = dataclasses.replace(self.model.config, planning=self.settings)
        result: dict[str, Any] = config_to_dict(config)["planning"]
        return result

    @property
    def uses_returns(self) -> bool:
        """Whether plans are made for a target return."""
        return self.model.use_returns

    # --- Stable-Baselines3's interface -----------------------------------------------------------

    def predict(
        self,
        observation: Any,
        state: AgentState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, AgentState]:
        """Actions for a batch of observations (or for one).

        observation: [B, D], or for goal environments a dict of arrays [B, ...]; without the
        batch axis the action has none either. state: None at first, then what the last call
        returned. episode_start: [B] true where a row begins an episode (its plan is dropped).
        deterministic: draw planning noise from the rows' seeds; False draws it afresh.
        Returns actions [B, A] in environment units and the next state.
        Raises DiffplanError for a wrong shape or key, and for NaN.
        """
        states, goals, single = self._split(observation)
        rows = len(states)
        if state is None:
            state = self._blank(rows)
        elif len(state.age) != rows:
            raise DiffplanError(
                f"the observation has {rows} rows but the state was made for {len(state.age)}; "
                "pass state=None when the number of environments changes"
            )
        start = np.zeros(rows, bool) if episode_start is None else episode_start
        fresh = np.asarray(start, bool).reshape(-1)
        if len(fresh) != rows:
            raise DiffplanError(
                f"episode_start has {len(fresh)} entries, the observation {rows} rows"
            )
        age = state.age + 1
        begins = fresh | (state.count == 0)
        step = np.where(begins, 0, state.step + 1)
        target = np.where(begins, np.nan, state.target)
        due = begins | (age >= self.settings.keep * self.stride)
        if goals is not None and state.goals is not None:
            due |= (goals != state.goals).any(-1)
        count = state.count
        plan = state.plan
        if due.any():
            entropy = None if deterministic else np.random.default_rng()
            target[due] = self._target(step[due], target[due])
            made = self._plan(
                states[due], _take(goals, due), target[due], state.seeds[due], count[due], entropy
            )
            plan = made if due.all() else _merge(plan, made, due)
            age = np.where(due, 0, age)
            count = count + due
        row = np.arange(rows)
        ahead = plan.states[row, age // self.stride + 1]
        lag = (self.stride - age % self.stride) / self.stride
        actions = self._decode(states, ahead, lag)
        following = AgentState(plan, goals, age, state.seeds, count, step, target)
        return (actions[0] if single else actions), following

    def observe(self, state: AgentState, rewards: np.ndarray, rows: np.ndarray) -> AgentState:
        """Tell the agent what its last actions earned: rewards [B] in the marked rows [B].

        Only `planning.target` received needs it: R_{t+1} = (R_t - r_t) / discount.
        """
        if self.settings.target != "received":
            return state
        left = (state.target - rewards) / self.model.config.data.discount
        return dataclasses.replace(state, target=np.where(rows, left, state.target))

    def reset_rows(
        self, state: AgentState | None, rows: np.ndarray, seeds: np.ndarray
    ) -> AgentState:
        """Start new episodes in the rows marked [B] with these seeds [B]."""
        state = self._blank(len(rows)) if state is None else state
        return dataclasses.replace(
            state,
            seeds=np.where(rows, seeds, state.seeds).astype(np.int64),
            count=np.where(rows, 0, state.count),
        )

    def plan(self, observation: Any) -> PlanView:
        """Plans for a batch of observations, without acting; see `PlanView` for shapes."""
        states, goals, _ = self._split(observation)
        blank = self._blank(len(states))
        target = self._target(blank.step, blank.target)
        return self._plan(states, goals, target, blank.seeds, blank.count, None)

    def _target(self, step: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Return-to-go [B] to ask for in rows that make a plan at these steps of their episodes.

        target: [B] what is left of the one asked for before, NaN in a new episode.
        """
        settings, table = self.settings, self.model.targets
        if settings.target == "by-step":
            steps = torch.from_numpy(step).to(self.device)
            asked = table(settings.target_quantile, steps).cpu().numpy()
            result: np.ndarray = asked.astype(np.float64)
            return result
        if settings.target_return is not None:
            first = settings.target_return
        else:
            start = torch.zeros(1, device=self.device) if settings.target == "received" else None
            first = float(table(settings.target_quantile, start))
        if settings.target == "kept":
            return np.full(len(step), first)
        # a negative target is no share of itself: there is nothing to hold on to
        least = settings.target_floor * first if first > 0 else -np.inf
        return np.where(np.isnan(target), first, np.maximum(target, least))

    # --- Inside ----------------------------------------------------------------------------------

    def _split(self, observation: Any) -> tuple[np.ndarray, np.ndarray | None, bool]:
        """States [B, D], goals [B, G] or None, and whether the batch axis was added here."""
        states, goals = self.layout.split(observation)
        if states.ndim > 2:
            width = self.layout.state_dim
            raise DiffplanError(
                f"the observation has shape {states.shape}, expected [B, {width}] or [{width}]"
            )
        if states.ndim == 2:
            return states, goals, False
        return states[None], None if goals is None else goals[None], True

    def _blank(self, rows: int) -> AgentState:
        zeros = np.zeros(rows, np.int64)
        k, length, dim = self.settings.k, self.horizon + 1, self.layout.state_dim
        many = np.zeros((rows, k, length, dim), np.float32)
        values = np.zeros((rows, k), np.float32)
        plan = PlanView(many, many, values, zeros, many[:, 0])
        unknown = np.full(rows, np.nan)
        return AgentState(plan, None, zeros, self.seed + np.arange(rows), zeros, zeros, unknown)

    def _noise(
        self, seeds: np.ndarray, count: np.ndarray, entropy: np.random.Generator | None
    ) -> Noise:
        """Random numbers of each row from its own seed and its plan's number."""
        model, settings = self.model, self.settings
        k, dim, rows = settings.k, self.layout.state_dim, model.rows
        random_steps = settings.sampler == "ancestral" or settings.eta > 0
        sizes = (
            k * self.horizon * (dim + 1) if k > 1 and settings.temperature > 0 else 0,
            k * rows * dim if settings.start not in ("none", "published") else 0,
            settings.steps * k * rows * dim if random_steps else 0,
        )
        drawn = np.zeros((len(seeds), sum(sizes)), np.float32)
        gumbel = np.zeros((len(seeds), k), np.float32)
        for b, (seed, number) in enumerate(zip(seeds, count, strict=True)):
            if entropy is None:
                key = np.array([seed, number], np.uint64)
                source = np.random.Generator(np.random.Philox(key=key))
            else:
                source = entropy
            source.standard_normal(dtype=np.float32, out=drawn[b])
            if settings.select == "softmax":
                gumbel[b] = source.gumbel(size=k)
        batch = len(seeds)
        first, second, third = np.split(drawn, np.cumsum(sizes)[:-1], axis=1)

        def tensor(array: np.ndarray, *shape: int) -> Tensor:
            if array.size == 0:
                return torch.zeros(shape, device=self.device)
            return torch.from_numpy(array.reshape(shape)).to(self.device)

        steps: Tensor | None = None
        if random_steps:
            steps = tensor(third, batch, settings.steps, k, rows, dim).transpose(0, 1)
        return Noise(
            tensor(first, batch, k, self.horizon, dim + 1),
            tensor(second, batch, k, rows, dim),
            steps,
            tensor(gumbel, batch, k),
        )

    @torch.inference_mode()
    def _plan(
        self,
        states: np.ndarray,
        goals: np.ndarray | None,
        target: np.ndarray,
        seeds: np.ndarray,
        count: np.ndarray,
        entropy: np.random.Generator | None,
    ) -> PlanView:
        model = self.model
        start = model.states(torch.from_numpy(states).to(self.device))
        goal = None if goals is None else model.goal(torch.from_numpy(goals).to(self.device))
        returns = None
        if model.use_returns:
            asked = torch.from_numpy(target.astype(np.float32)).to(self.device)
            returns = model.normalised_returns(asked)
        noise = self._noise(seeds, count, entropy)
        plan = make_plan(model, Context(start, goal, returns), noise, self.settings)
        values = model.returns.inverse(plan.values.unsqueeze(-1)).squeeze(-1)
        return PlanView(
            self._units(plan.proposal),
            self._units(plan.candidates),
            values.cpu().numpy(),
            plan.chosen.cpu().numpy(),
            self._units(plan.states),
        )

    def _units(self, states: Tensor) -> np.ndarray:
        result: np.ndarray = states.cpu().numpy() * self._std + self._mean
        return result

    @torch.inference_mode()
    def _decode(self, states: np.ndarray, ahead: np.ndarray, lag: np.ndarray) -> np.ndarray:
        to = self.device
        now = self.model.states(torch.from_numpy(states).to(to))
        target = self.model.states(torch.from_numpy(ahead).to(to))
        actions = decode(self.model, now, target, torch.from_numpy(lag.astype(np.float32)).to(to))
        result: np.ndarray = actions.cpu().numpy()
        return result


def _check_target(settings: PlanningConfig, model: PlannerModel, goals: bool) -> None:
    own = model.config.planning
    names = ("target", "target_quantile", "target_return", "target_floor")
    if not model.use_returns:
        for name in names:
            if getattr(settings, name) != getattr(own, name):
                raise DiffplanError(
                    f"planning.{name} is given, but this model plans for a goal and not for a "
                    "return; leave it out"
                )
    elif goals and settings.target == "received":
        raise DiffplanError(
            "planning.target is received, but with a goal the returns count steps and not the "
            "rewards received; give kept"
        )


def _take(array: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if array is None else array[rows]


def _merge(old: PlanView, new: PlanView, rows: np.ndarray) -> PlanView:
    """The old plans with those of the marked rows replaced."""
    merged: Mapping[str, np.ndarray] = {
        field.name: getattr(old, field.name).copy() for field in dataclasses.fields(PlanView)
    }
    for name, array in merged.items():
        array[rows] = getattr(new, name)
    return PlanView(**merged)


def load_agent(
    run: str | Path,
    checkpoint: str | int = "last",
    device: str = "cpu",
    seed: int = 0,
    **planning: Any,
) -> PlannerAgent:
    """The trained agent of a run folder or checkpoint folder.

    checkpoint: "last" or the number of updates of a kept checkpoint. planning: settings of
    `diffplan.config.PlanningConfig` to change, e.g. steps=3, candidates=8, keep=4.
    Raises DiffplanError if the folder is no run, or damaged.
    """
    path = Path(run)
    if checkpoint != "last":
        if not str(checkpoint).isdigit():
            raise DiffplanError(
                f"checkpoint is {checkpoint!r}, expected 'last' or a number of updates"
            )
        path = checkpoints.checkpoint_path(path, int(checkpoint))
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise DiffplanError(f"device is {device!r}, but PyTorch sees no CUDA device; use 'cpu'")
    model, header, _ = checkpoints.load_model(path, device)
    return PlannerAgent(
        model,
        header.layout,
        header.info,
        config_name=header.config.name,
        train_seconds=header.seconds,
        updates=header.step,
        seed=seed,
        **planning,
    )
