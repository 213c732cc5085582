"""An agent that does not see every column, and says which it wants to see next."""

from __future__ import annotations

import copy
import dataclasses
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch

from diffplan.agents.planner_agent import PlannerAgent
from diffplan.agents.state import AgentState, check_state
from diffplan.config.sections import PlanningConfig
from diffplan.engines.counter_rng import standard_normal
from diffplan.engines.decision import PlanStep
from diffplan.errors import DiffplanError
from diffplan.model.planner_model import PlannerModel
from diffplan.planning.chains import Chain, chain_of
from diffplan.planning.sensing import most_telling, posterior
from diffplan.runtime import whole_number

_PARTICLES, _CHOICES = 1 << 40, 1 << 41  # where counts of other random numbers begin

Choice = Literal["active", "random"] | Sequence[int]


@dataclass(frozen=True)
class SensingState(AgentState):
    """asks: [B, D] true for the columns to measure for the next call. measured: [B, H+1, D] what
    was, at the states of each row's plan, NaN where nothing was. belief: [B, K, D] particles of the
    states in which the plans were made. estimate: [B, D] the states that the last actions were for.
    """

    asks: np.ndarray = dataclasses.field(kw_only=True)
    measured: np.ndarray = dataclasses.field(kw_only=True)
    belief: np.ndarray = dataclasses.field(kw_only=True)
    estimate: np.ndarray = dataclasses.field(kw_only=True)


class SensingAgent(PlannerAgent):
    """A `PlannerAgent` that reads a few sensors; made by `PlannerAgent.sensing`."""

    sees_all = False
    _full: PlannerAgent  # the same that sees everything
    _asked: dict[str, Any]
    _sensors: tuple[tuple[int, ...], ...]
    _step: PlanStep
    _chain: Chain
    _spread: PlanningConfig  # how particles are made

    def to(self, device: str | torch.device, engine: str | None = None) -> Self:
        """As `PlannerAgent.to`, with the same sensors."""
        full = copy.copy(self._full)
        full._memory = self._memory  # what was told since
        moved: Any = full.to(device, engine).sensing(**self._asked)
        return moved

    def predict(
        self,
        observation: Any,
        state: AgentState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
        seed: int | None = None,
    ) -> tuple[np.ndarray, SensingState]:
        """As `PlannerAgent.predict`, for observations with NaN in the columns nobody measured.

        The state that comes back says in `asks` which to measure for the next call; others may be
        known and these missing. Episodes begin with whole observations.
        """
        states, goals, known, single = self._halves(observation)
        before = self._own(state, len(states))
        begins = before.begun(episode_start)
        if not known[begins].all():
            column = int(np.argwhere(~known & begins[:, None])[0, 1])
            raise DiffplanError(
                f"column {column} of an observation that begins an episode is NaN; measure all of "
                "it once"
            )
        measured, belief = self._noted(before, states, known), before.belief.copy()
        ends = before.age + 1 >= self.settings.replan_every
        if (moved := before.moved(goals, self.goal_tolerance)) is not None:
            ends |= moved
        states = np.where(known, states, self._between(before))
        due = ends & ~begins & ~known.all(1)
        if due.any():
            found = _at(self._particles(before, measured, due), self._place(before.age[due] + 1))
            belief[due] = np.where(known[due, None], states[due, None], found)
            states[due] = belief[due].mean(1)
        actions, after = self._decide(states, goals, before, episode_start, deterministic, seed)
        made = after.age == 0
        measured[made] = np.nan
        belief = np.where((made & ~due)[:, None, None], states[:, None], belief)
        fields = {f.name: getattr(after, f.name) for f in dataclasses.fields(AgentState)}
        following = SensingState(
            **fields,
            asks=before.asks.copy(),
            measured=measured,
            belief=belief,
            estimate=states,
        )
        # sensors stay on until the next plan
        choose = made & (begins | due) | (after.age + 1 >= self.settings.replan_every)
        if choose.any():
            following.asks[choose] = self._chosen(following, choose)
        return (actions[0] if single else actions), following

    def reset_rows(
        self, state: AgentState | None, rows: np.ndarray, seeds: np.ndarray
    ) -> SensingState:
        """As `PlannerAgent.reset_rows`."""
        return self._own(super().reset_rows(state, rows, seeds), len(rows))

    # --- Inside ----------------------------------------------------------------------------------

    def _own(self, state: AgentState | None, rows: int) -> SensingState:
        """The state of a call, which knows all of where its plans began unless it says else."""
        state = self._blank(rows) if state is None else state
        check_state(state, rows, (self.horizon + 1, self.layout.state_dim), self._fields)
        if isinstance(state, SensingState):
            if state.belief.shape[1] != self._spread.candidates:
                raise DiffplanError(
                    f"the state holds {state.belief.shape[1]} particles a row, this agent's "
                    f"{self._spread.candidates}: it is another agent's; pass state=None"
                )
            return state
        start = state.plan.states[:, 0].numpy(force=True)
        fields = {f.name: getattr(state, f.name) for f in dataclasses.fields(AgentState)}
        return SensingState(
            **fields,
            asks=np.ones(start.shape, bool),
            measured=np.full(tuple(state.plan.states.shape), np.nan, np.float32),
            belief=np.repeat(start[:, None], self._spread.candidates, 1),
            estimate=start,
        )

    def _halves(self, observation: Any) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, bool]:
        """States and goals as `_split`, which columns [B, D] are known, and whether it was one."""
        keys = self.layout.dict_keys
        if isinstance(observation, Mapping):
            unknown = [_unknown(observation.get(key)) for key in keys]
            parts = {key: _filled(observation.get(key)) for key in keys if key in observation}
            states, goals, single = self._split({**observation, **parts})
        else:
            unknown = [_unknown(observation)]
            states, goals, single = self._split(_filled(observation))
        missing = np.concatenate(unknown, -1).reshape(states.shape)
        return states.copy(), goals, ~missing, single

    def _noted(self, state: SensingState, states: np.ndarray, known: np.ndarray) -> np.ndarray:
        """What was measured of the plans so far, and now."""
        measured, age = state.measured.copy(), state.age + 1
        at = np.flatnonzero((age % self.stride == 0) & (age <= self.horizon * self.stride))
        measured[at, age[at] // self.stride] = np.where(known[at], states[at], np.nan)
        return measured

    def _place(self, age: np.ndarray) -> np.ndarray:
        """Where on a plan, in strides, bodies are after so many steps [B]."""
        place: np.ndarray = np.minimum(age / self.stride, self.horizon)
        return place

    def _between(self, state: SensingState) -> np.ndarray:
        """Where plans expect to be now [B, D], on straight lines between their states."""
        return _at(state.plan.states.numpy(force=True)[:, None], self._place(state.age + 1))[:, 0]

    def _particles(self, state: SensingState, measured: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Particles [b, K, H+1, D] of the states along the plans of the marked rows."""
        index = self._places(rows)
        plan, goals = state.plan.states[index], _rows(state.aims, rows)
        starts = plan[:, 0].numpy(force=True)
        step = (state.step - state.age)[rows]
        codes = self._memory.codes(_rows(state.history, rows), state.step[rows])
        context = self._context(starts, goals, state.target_return[rows], codes, step=step)
        seeds = torch.from_numpy(state.seeds[rows])
        # other numbers than those of the plans
        count = torch.from_numpy(state.count[rows] + _PARTICLES)
        with torch.no_grad():
            normalised = self.model.normalised_context(self._step.aimed(context.to(self.device)))
            shape = (self._spread.candidates, self.model.rows, self.model.plan_dim)
            noise = standard_normal(seeds, count, int(np.prod(shape))).to(self.device)
            found = posterior(
                self.model,
                normalised,
                plan,
                self._tensor(state.belief[rows]),
                self._tensor(measured[rows]),
                noise.unflatten(1, shape),
                self._spread,
                self._chain,
            )
        return found.numpy(force=True)

    def _chosen(self, state: SensingState, rows: np.ndarray) -> np.ndarray:
        """The columns [b, D] to measure next in the marked rows."""
        count, choice = self._asked["columns"], self._asked["choice"]
        many, dim = int(rows.sum()), self.layout.state_dim
        if choice == "random":
            # by the row's seed and the plan's number
            draws = standard_normal(
                torch.from_numpy(state.seeds[rows]),
                torch.from_numpy(state.count[rows] + _CHOICES),
                len(self._sensors),
            )
            order = draws.argsort(1).numpy()[:, :count]
            marked = np.zeros((many, len(self._sensors)), bool)
            np.put_along_axis(marked, order, True, 1)
        elif choice == "active":
            place = self._place(np.full(many, self.settings.replan_every))
            found = self._tensor(_at(self._particles(state, state.measured, rows), place))
            # in units of how far plans move until then
            scale = self.model.plan_scale[max(int(np.ceil(place[0])), 1) - 1]
            told = most_telling(self.model.states(found) / scale, self._sensors, count)
            marked = told.numpy(force=True)
        else:
            marked = np.zeros((many, len(self._sensors)), bool)
            marked[:, list(choice)] = True
        asks = np.zeros((many, dim), bool)
        for sensor, columns in enumerate(self._sensors):
            asks[:, list(columns)] |= marked[:, sensor, None]
        return asks


def sensing(
    agent: PlannerAgent,
    columns: int,
    sensors: Sequence[Sequence[int]] | None,
    choice: Choice,
    particles: int,
) -> SensingAgent:
    """See `PlannerAgent.sensing`."""
    if agent._wished or not agent.sees_all:
        raise DiffplanError(
            "this agent is under constraints, composed or sensing already; sensing() takes the "
            "agent as it was loaded"
        )
    model, dim = agent.model, agent.layout.state_dim
    if model.spec.planned:
        raise DiffplanError(
            f"plans of this model hold columns {list(model.spec.planned)} alone, and say nothing "
            "of others that nobody measured; expected a run with plan.columns all"
        )
    if not isinstance(chain_of(model, agent.settings), Chain) or model.config.actions_in_plan:
        raise DiffplanError(
            f"what is not measured is denoised out of plans of states, which {agent.config_name} "
            "has none of; take a model with a denoiser and inverse dynamics, e.g. "
            "trajectory-diffuser"
        )
    read = _sensors_of(sensors, dim)
    count = whole_number(columns, "columns", least=0)
    if count > len(read):
        raise DiffplanError(f"columns is {count}, but there are {len(read)} sensors")
    if not isinstance(choice, str):
        choice = _numbers(choice, len(read))
        if len(set(choice)) != count or len(choice) != count:
            raise DiffplanError(
                f"choice is {list(choice)}, expected {count} of the sensors 0 to {len(read) - 1}, "
                "each once"
            )
    elif choice not in ("active", "random"):
        raise DiffplanError(f"choice is {choice!r}, expected 'active', 'random' or sensors")
    twin = SensingAgent.__new__(SensingAgent)
    twin.__dict__.update(agent.__dict__)
    twin._full, twin._sensors = agent, read
    twin._asked = {
        "columns": count,
        "sensors": sensors,
        "choice": choice,
        "particles": whole_number(particles, "particles", least=2),
    }
    # particles differ by the noise that they start from; a plan is followed from the middle level
    # where the process itself would forget it
    followed = any(model.main_process.r)
    settings = dataclasses.replace(
        agent.settings,
        candidates=particles,
        start="process" if followed else "sdedit",
        start_level=None if followed else _middle(model, agent.settings.denoising_steps),
        eta=0.0,
        sampler="ddim",
    )
    found = chain_of(model, settings)
    assert isinstance(found, Chain)
    twin._chain, twin._spread, twin._step = found, settings, PlanStep(model, agent.settings)
    return twin


def _middle(model: PlannerModel, steps: int) -> int:
    top = model.plain_process.T
    return min(top, max(steps, top // 2))


def _sensors_of(sensors: Sequence[Sequence[int]] | None, dim: int) -> tuple[tuple[int, ...], ...]:
    """The columns that each sensor reads; DiffplanError for what are none."""
    if sensors is None:
        return tuple((column,) for column in range(dim))
    read = tuple(_numbers(each, dim) for each in sensors)
    if not all(read):
        raise DiffplanError("a sensor has no columns")
    return read


def _numbers(given: Any, below: int) -> tuple[int, ...]:
    """Whole numbers from 0 on."""
    try:
        found = tuple(operator.index(each) for each in given)
    except TypeError:
        found = (-1,)
    if not all(0 <= each < below for each in found):
        raise DiffplanError(f"{given!r} was given, expected a list of numbers 0 to {below - 1}")
    return found


def _at(states: np.ndarray, place: np.ndarray) -> np.ndarray:
    """States [B, K, D] of [B, K, N, D] at places [B] along N, on straight lines between them."""
    low = np.minimum(place.astype(np.int64), states.shape[2] - 2)
    share = (place - low)[:, None, None].astype(np.float32)
    rows = np.arange(len(states))
    between: np.ndarray = (1 - share) * states[rows, :, low] + share * states[rows, :, low + 1]
    return between


def _unknown(part: Any) -> np.ndarray:
    """Where a part of an observation holds NaN; what holds no numbers is refused elsewhere."""
    try:
        array = np.asarray(part, np.float64)
    except (TypeError, ValueError):
        return np.zeros(np.shape(part), bool)
    found: np.ndarray = np.isnan(array)
    return found


def _filled(part: Any) -> Any:
    """The same with 0 for NaN."""
    missing = _unknown(part)
    return np.where(missing, 0, np.asarray(part)) if missing.any() else part


def _rows(array: Any, rows: np.ndarray) -> Any:
    return None if array is None else array[rows]
