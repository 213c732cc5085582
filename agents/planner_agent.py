"""A trained planner as an agent: Stable-Baselines3's `predict`, with its state as a value."""

from __future__ import annotations

import dataclasses
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffplan.agents.aims import detours_of, errands_of
from diffplan.agents.described import Described
from diffplan.agents.portable import Portable
from diffplan.agents.state import AgentState, check_state
from diffplan.agents.targets import Targets, check_target
from diffplan.agents.task_memory import TaskMemory
from diffplan.agents.variants import Variants
from diffplan.config.config import config_to_dict, replace_planning
from diffplan.config.sections import PlanningConfig
from diffplan.data.info import DatasetInfo, ObservationLayout
from diffplan.data.placement import move
from diffplan.diffusion.samplers import SAMPLERS
from diffplan.engines.decision import Plan, PlanStep
from diffplan.engines.eager import EagerEngine
from diffplan.engines.table import Engine, make_engine
from diffplan.errors import DiffplanError, RowsError
from diffplan.limits import require_memory
from diffplan.model.acting_head import FEATURES
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel
from diffplan.planning.calibration import check_conditions
from diffplan.planning.chains import matching_level
from diffplan.runtime import Detours, Errands, fresh_seeds, whole_number

_GOAL_TOLERANCE = 1e-3  # standard deviations of the data: what sensors jitter by is no new goal


class PlannerAgent(Portable, Variants, Described):
    """Plans every `replan_every` steps and follows the plan by inverse dynamics at every step.

    The agent itself never changes after construction: everything that does is in `AgentState`,
    so one agent may serve many environments. Row b of a batch depends on row b alone.
    """

    # many arguments: options by keyword, which `load_agent` hands on one by one
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
        engine: str = "auto",
        detailed: bool = False,
        graphs: Path | None = None,
        goal_tolerance: float | None = None,
        **planning: Any,
    ) -> None:
        """Set up the agent; nothing changes afterwards.

        train_seconds, updates: what the training took, for reports. engine: how decisions are run,
        one of `diffplan.engines.ENGINES` or "auto". detailed: plans in the state hold their
        proposals, candidates and values, for pictures. graphs: a folder that the engine may keep
        its graphs in, so that they are exported once. goal_tolerance: how far a goal may move, in
        environment units, before a plan is made anew; a thousandth of each column's standard
        deviation in the data where None. planning: settings of `PlanningConfig` that replace the
        model's own; a quantile or a target by step also in place of its own target_return.
        Raises DiffplanError for a wrong setting, or one of a target return that has no effect.
        """
        settings = replace_planning(model.config, **planning).planning
        check_target(settings, model, goals=layout.goal_dim > 0)
        for name in ("candidates", "subgoal_steps"):
            if getattr(settings, name) is None:
                own = {name: getattr(model.config.planning, name)}
                settings = dataclasses.replace(settings, **own)
        if settings.start == "sdedit" and settings.start_level is None:
            level = matching_level(model, settings)
            settings = dataclasses.replace(settings, start_level=level)
        # now: a decision is too late to hear of it
        if model.statistics is not None and SAMPLERS[settings.sampler].takes_statistics:
            check_conditions(model.statistics, settings)
        if settings.candidates > 1 and not settings.chooses:
            warnings.warn(
                f"{settings.candidates} candidates would be copies of one plan (temperature 0 and "
                "a start without noise): one is made",
                stacklevel=2,
            )
            settings = dataclasses.replace(settings, candidates=1)
        self.model = model
        self.layout, self.info = layout, info
        self.config_name, self.train_seconds, self.updates = config_name, train_seconds, updates
        self.settings: PlanningConfig = settings
        self.stride, self.horizon = model.config.plan.stride, model.config.plan.horizon
        self.seed = whole_number(seed, "seed")
        self.device = model.plan_scale.device
        self.engine = make_engine(engine, model, settings, detailed, graphs)
        self._made = engine, detailed, graphs
        self._wished = {}
        self._fields = PlanStep(model, settings, detailed=detailed).fields
        self.goal_tolerance = _tolerance(goal_tolerance, model)
        self._targets = Targets(model, settings)
        self._memory = TaskMemory.unknown(model)
        ways = detours_of(model, settings)
        self._detours = None if ways is None else Detours(**ways)
        several = errands_of(model)
        self._errands = None if several is None else Errands(**several)

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

    def prepare(self, rows: int) -> None:
        """Make ready whatever calls with at most so many rows need, so that none of them waits.

        DiffplanError for no number of rows, and where their plans would not fit into memory.
        """
        many = whole_number(rows, "batch size", least=1) * self.settings.candidates
        plan = (self.horizon + 1) * self.layout.state_dim
        # each and the noise that it is made of
        require_memory(8.0 * many * plan, f"planning {many:,} candidates at once", "ask for fewer")
        self.engine.prepare(rows)

    # --- Stable-Baselines3's interface -----------------------------------------------------------

    def predict(
        self,
        observation: Any,
        state: AgentState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
        seed: int | None = None,
    ) -> tuple[np.ndarray, AgentState]:
        """Actions for a batch of observations (or for one).

        observation: [B, D], or for goal environments a dict of arrays [B, ...]; without the
        batch axis the action has none either. state: None at first, then what the last call
        returned. episode_start: [B] true where a row begins an episode (its plan is dropped).
        deterministic: draw planning noise from the rows' seeds; False draws it afresh, from
        `seed` where one is given. A goal is a new one, which ends a plan, where a column of it has
        moved by more than `goal_tolerance` since the plan was made.
        Returns actions [B, A] in environment units and the next state.
        Raises DiffplanError for a wrong shape or key, for what are no finite numbers, for a state
        of another agent or batch, and where the networks answer an observation far outside the
        data with no finite action.
        """
        states, goals, single = self._split(observation)
        actions, following = self._decide(states, goals, state, episode_start, deterministic, seed)
        return (actions[0] if single else actions), following

    def _decide(
        self,
        states: np.ndarray,
        goals: np.ndarray | None,
        state: AgentState | None,
        episode_start: np.ndarray | None,
        deterministic: bool,
        seed: int | None,
    ) -> tuple[np.ndarray, AgentState]:
        """`predict` for states [B, D] and goals [B, G] that are taken apart."""
        rows = len(states)
        if state is None:
            state = self._blank(rows)
        check_state(state, rows, (self.horizon + 1, self.layout.state_dim), self._fields)
        state = state.to(self.device)
        begins = state.begun(episode_start)
        age, step, target, plan = state.age + 1, state.step + 1, state.target_return, state.plan
        if begins.any():
            step, target = np.where(begins, 0, step), np.where(begins, np.nan, target)
        anew = begins
        # a goal that has moved makes the plan worthless
        if (moved := state.moved(goals, self.goal_tolerance)) is not None:
            anew = anew | moved
        another = anew  # goal than before
        detour, aims = state.detour, goals
        if self._detours is not None and goals is not None:
            here = states[:, list(self.layout.goal_columns)]
            detour, turns = self._detours.follow(detour, begins, here, goals, state.seeds, step)
            anew = anew | turns
            aims = np.where(detour.left[:, None] > 0, detour.aim, goals)
        # goals are of things, or landmarks lead to them: never both
        errand = state.errand
        if self._errands is not None and goals is not None:
            here = states[:, list(self.layout.goal_columns)]
            errand, turns, aims = self._errands.follow(errand, another, here, goals)
            anew = anew | turns
        due = anew | (age >= self.settings.replan_every)
        whole, count = bool(due.all()), state.count + due
        age = np.where(due, 0, age)
        kept = goals
        if goals is not None:
            # those the plans were made for, and a copy: a caller may change its array in place
            old = state.goals
            kept = goals.copy() if whole or old is None else np.where(due[:, None], goals, old)
        # at every step: the ends of strides are what a task is told by
        history = self._memory.remember(state.history, states, step)
        if whole or due.any():
            asked = self._targets.at(step, target)
            target = asked if whole else np.where(due, asked, target)
            seeds = state.seeds if deterministic else fresh_seeds(rows, seed)
            parts = [(due, False)]
            if self.settings.reuse:
                # to go on from the plan before there must be one, and for the same aim
                parts = [(anew, False), (due & ~anew, True)]
            for marked, goes_on in parts:
                if not marked.any():
                    continue
                picked = None if marked.all() else marked
                context = self._context(
                    _take(states, picked),
                    _take(aims, picked),
                    _take(target, picked),
                    self._memory.codes(_take(history, picked), _take(step, picked)),
                    self._left(state.plan, marked) if goes_on else None,
                    _take(step, picked),
                )
                made = self._plan(
                    self.engine, context, _take(seeds, picked), _take(state.count, picked)
                )
                # rows that are not due keep their plan, untouched
                plan = (
                    self.engine.keep(made)
                    if picked is None
                    else plan.replaced(self._places(picked), made)
                )
        # a plan that has just been made says its first action itself
        actions = self.engine.read(plan.first) if whole else self._act(states, plan, age)
        _check_finite(actions, states)
        return actions, AgentState(
            plan, kept, age, state.seeds, count, step, target, history, detour, errand
        )

    def observe(self, state: AgentState, rewards: np.ndarray, rows: np.ndarray) -> AgentState:
        """Tell the agent what its last actions earned: rewards [B] in the marked rows [B].

        Only `planning.target` decremented needs it: R_{t+1} = (R_t - r_t) / discount.
        """
        if self.settings.target != "decremented":
            return state
        left = (state.target_return - rewards) / self.model.config.data.discount
        return dataclasses.replace(state, target_return=np.where(rows, left, state.target_return))

    def reset_rows(
        self, state: AgentState | None, rows: np.ndarray, seeds: np.ndarray
    ) -> AgentState:
        """Start new episodes in the rows marked [B] with these seeds [B]."""
        state = self._blank(len(rows)) if state is None else state
        return dataclasses.replace(
            state,
            seeds=np.where(rows, seeds, state.seeds).astype(np.int64),
            # 0 plans made: the next call makes the first
            count=np.where(rows, 0, state.count),
        )

    def plan(self, observation: Any) -> Plan:
        """Plans for a batch of observations, without acting; see `Plan` for shapes."""
        context = self.context(observation)
        # values of all candidates, which an engine leaves out where they choose nothing
        every = EagerEngine(self.model, self.settings, detailed=True, valued=True, **self._wished)
        count = np.zeros(len(context), np.int64)
        return self._plan(every, context, self.seed + np.arange(len(context)), count).numpy()

    # --- What plans are made for -----------------------------------------------------------------

    def context(self, observation: Any) -> Context:
        """What the first plans of episodes are made for that begin with these observations.

        In environment units, on the device: with the goals, the target return at the first step and
        what the agent knows of its task. `PlanSpace.normalised_context` gives it to networks.
        """
        states, goals, _ = self._split(observation)
        return self.context_at(states, self.first_aims(states, goals))

    def first_aims(self, states: np.ndarray, goals: np.ndarray | None) -> np.ndarray | None:
        """What the first plans for goals [B, G] aim at from states [B, D]: [B, G].

        One thing's goal, where goals are about several.
        """
        if self._errands is None or goals is None:
            return goals
        here = states[:, list(self.layout.goal_columns)]
        return self._errands.follow(None, np.ones(len(here), bool), here, goals)[2]

    def context_at(self, states: np.ndarray, goals: np.ndarray | None = None) -> Context:
        """The same for states [B, D] and goals [B, G], where these are at hand."""
        step = np.zeros(len(states), np.int64)
        target = self._targets.at(step, np.full(len(states), np.nan))
        history = self._memory.remember(None, states, step)
        given = self._context(states, goals, target, self._memory.codes(history, step))
        return given.to(self.device)

    def _context(
        self,
        states: np.ndarray,
        goals: np.ndarray | None,
        target: np.ndarray,
        codes: Tensor | None,
        previous: Tensor | None = None,
        step: np.ndarray | None = None,
    ) -> Context:
        """The one place that puts together what a plan is made for; what is an array stays here."""
        clock = None
        if "steering" in self._wished:
            step = np.zeros(len(states)) if step is None else step
            clock = torch.from_numpy(step.astype(np.float32))
        return Context(
            torch.from_numpy(states),
            None if goals is None else torch.from_numpy(goals),
            torch.from_numpy(target.astype(np.float32)) if self.model.use_returns else None,
            previous,
            codes,
            clock,
        )

    # --- Inside ----------------------------------------------------------------------------------

    def _split(self, observation: Any) -> tuple[np.ndarray, np.ndarray | None, bool]:
        """States [B, D], goals [B, G] or None, and whether the batch axis was added here."""
        states, goals = self.layout.split(observation)
        if states.ndim > 2:
            width = self.layout.state_dim
            raise DiffplanError(
                f"the observation has shape {states.shape}, expected [B, {width}] or [{width}]"
            )
        # an environment of its own gives no batch axis, and gets none back
        if states.ndim == 2:
            return states, goals, False
        return states[None], None if goals is None else goals[None], True

    def _blank(self, rows: int) -> AgentState:
        """Before the first call: rows without a plan."""
        zeros = np.zeros(rows, np.int64)
        k, length, dim = self.settings.candidates, self.horizon + 1, self.layout.state_dim

        def blank(*shape: int) -> Tensor:
            return torch.zeros(rows, *shape, device=self.device)

        width, config = len(self.info.action_low), self.model.config
        steps = self.horizon * self.stride
        actions = blank(steps, width) if config.actions_in_plan else None
        features = blank(self.horizon, FEATURES) if config.has_head("actions") else None
        plan = Plan(blank(length, dim), blank(width), actions, features)
        if (wishes := self._wished.get("steering")) is not None:
            plan = plan._replace(violations=blank(len(wishes.constraints)))
        if self._made[1]:  # detailed
            many = blank(k, length, dim)
            plan = plan._replace(
                proposal=many, candidates=many, values=blank(k), chosen=blank().long()
            )
        unknown = np.full(rows, np.nan)
        return AgentState(plan, None, zeros, self.seed + np.arange(rows), zeros, zeros, unknown)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return move(torch.from_numpy(array), self.device)

    def _places(self, marked: np.ndarray) -> Tensor:
        """Indices of the marked rows."""
        return self._tensor(np.flatnonzero(marked))

    def _plan(self, engine: Engine, context: Context, seeds: np.ndarray, count: np.ndarray) -> Plan:
        return engine.plan(context, torch.from_numpy(seeds), torch.from_numpy(count))

    def _left(self, plan: Plan, rows: np.ndarray) -> Tensor:
        """What is left of the plans of the marked rows at a replan: [b, M, D]."""
        index = self._places(rows)
        return plan.states[index, self.settings.replan_every // self.stride + 1 :]

    def _act(self, states: np.ndarray, plan: Plan, age: np.ndarray) -> np.ndarray:
        """Actions [B, A] at states [B, D], on the way to what the plans have next."""
        planned = plan.actions
        if planned is not None:
            # the plan says one action for each environment step
            index = self._tensor(age)[:, None, None].expand(-1, 1, planned.shape[2])
            acted: np.ndarray = planned.gather(1, index).squeeze(1).numpy(force=True)
            return acted
        # on the way to a plan state ahead, with the strides that are left
        place = np.minimum(age // self.stride + self.model.config.heads.lookahead, self.horizon)
        lag = ((place * self.stride - age) / self.stride).astype(np.float32)
        here, at, due = (torch.from_numpy(x) for x in (states, place, lag))
        return self.engine.read(self.engine.act(here, plan.states, at, due, plan.features))


def _tolerance(given: float | None, model: PlannerModel) -> float | np.ndarray:
    """How far each column of a goal may move; DiffplanError for no distance."""
    if given is None:
        scale: np.ndarray = model.observed.std.numpy(force=True)[list(model.spec.goal_columns)]
        return _GOAL_TOLERANCE * scale
    if not isinstance(given, (int, float)) or not given >= 0:
        raise DiffplanError(f"goal_tolerance is {given!r}, expected a distance of at least 0")
    return given


def _check_finite(actions: np.ndarray, states: np.ndarray) -> None:
    # a sum of finite actions within bounds is finite: one call in place of two
    if not math.isfinite(actions.sum()) and not np.isfinite(actions).all():
        rows = np.flatnonzero(~np.isfinite(actions).all(-1)).tolist()
        raise RowsError(
            f"the networks give no finite action for row {rows[0]}, whose observation reaches "
            f"{np.abs(states[rows[0]]).max():g}: it lies too far outside the training data",
            rows,
        )


def _take(array: Any, rows: np.ndarray | None) -> Any:
    """The marked rows of what may be missing; None: all of them, as they are."""
    return array if array is None or rows is None else array[rows]
