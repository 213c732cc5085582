"""An agent whose plans keep to constraints that its data never showed."""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, get_args

import numpy as np
import torch
from torch import Tensor

from diffplan.agents.planner_agent import PlannerAgent
from diffplan.agents.state import AgentState
from diffplan.config.sections import PlanningConfig
from diffplan.constraints.kinds import Avoid, Constraint, Custom, Reach, Waypoint
from diffplan.constraints.together import together
from diffplan.engines.cuda_graph import GraphEngine
from diffplan.engines.decision import PlanStep
from diffplan.engines.eager import EagerEngine
from diffplan.engines.table import Engine
from diffplan.errors import DiffplanError
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel
from diffplan.model.routes import around
from diffplan.model.subgoals import Subgoals
from diffplan.planning.wanted import Way
from diffplan.planning.wishes import SAMPLED, Wishes
from diffplan.runtime import whole_number

_NEAR = 0.5  # of a stride of brisk motion: how near a waypoint without a width is passed


@dataclass(frozen=True)
class ConstrainedState(AgentState):
    """passed: [B] how many of the waypoints without a time each row's episode has been at."""

    passed: np.ndarray = dataclasses.field(kw_only=True)


class ConstrainedAgent(PlannerAgent):
    """A `PlannerAgent` under constraints; made by `PlannerAgent.constrained`."""

    way: Way | None
    _free: PlannerAgent  # the same without constraints
    _asked: dict[str, Any]
    _aims: np.ndarray
    _within: np.ndarray

    def to(self, device: str | torch.device, engine: str | None = None) -> Self:
        """As `PlannerAgent.to`, under the same constraints."""
        free = copy.copy(self._free)
        free._memory = self._memory  # what was told since
        moved: Any = free.to(device, engine).constrained(*self.constraints, **self._asked)
        return moved

    def predict(
        self,
        observation: Any,
        state: AgentState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
        seed: int | None = None,
    ) -> tuple[np.ndarray, AgentState]:
        """As `PlannerAgent.predict`, by way of the waypoints, in the order they were given."""
        if not len(self._aims):
            return super().predict(observation, state, episode_start, deterministic, seed)
        states, goals, _ = self._split(observation)
        assert goals is not None
        passed = np.zeros(len(states), np.int64)
        if isinstance(state, ConstrainedState) and len(state.passed) == len(states):
            passed = np.where(state.begun(episode_start), 0, state.passed)
        here = states[:, list(self.layout.goal_columns)]
        gap = np.linalg.norm(here[:, None] - self._aims, axis=-1)
        # `Reach`, which comes last, is never passed
        near = np.pad(gap[:, : len(self._within)] <= self._within, ((0, 0), (0, 1)))
        passed = passed + near[np.arange(len(here)), np.minimum(passed, len(self._within))]
        given = self._by_way(observation, goals, passed)
        action, following = super().predict(given, state, episode_start, deterministic, seed)
        fields = {f.name: getattr(following, f.name) for f in dataclasses.fields(AgentState)}
        return action, ConstrainedState(**fields, passed=passed)

    def context(self, observation: Any) -> Context:
        """As `PlannerAgent.context`, on the way to the first waypoint."""
        if len(self._aims):
            states, goals, _ = self._split(observation)
            assert goals is not None
            observation = self._by_way(observation, goals, np.zeros(len(states), np.int64))
        return super().context(observation)

    def _by_way(self, observation: Any, goals: np.ndarray, passed: np.ndarray) -> dict[str, Any]:
        """The observation with the goals [B, G] that are next after so many waypoints [B]."""
        aims = self._aims[np.minimum(passed, len(self._aims) - 1)]
        aims = np.where(passed[:, None] < len(self._aims), aims, goals)
        told = np.asarray(observation["desired_goal"])
        offset = told.reshape(goals.shape) - goals
        return {**observation, "desired_goal": (aims + offset).reshape(told.shape)}


def constrained(
    agent: PlannerAgent,
    constraints: Sequence[Constraint],
    *,
    way: Way | None,
    candidates: int,
    weight: float,
) -> ConstrainedAgent:
    """See `PlannerAgent.constrained`."""
    if isinstance(agent, ConstrainedAgent):  # more of them, on the same agent
        free, constraints = copy.copy(agent._free), (*agent.constraints, *constraints)
        free._memory, agent = agent._memory, free
    if agent._wished or not agent.sees_all:
        raise DiffplanError(
            "this agent has aims or sensors (composed, sensing), which constraints would drop"
        )
    if way is not None and way not in get_args(Way):
        raise DiffplanError(f"way is {way!r}, expected {', '.join(get_args(Way))}")
    candidates = whole_number(candidates, "candidates", least=1)
    if not isinstance(weight, int | float | np.floating | np.integer) or not 0 < weight < math.inf:
        raise DiffplanError(f"weight is {weight!r}, expected a finite number above 0")
    model, goals = agent.model, agent.layout.goal_dim > 0
    if model.config.actions_in_plan:
        raise DiffplanError(
            f"constraints move states, but plans of {agent.config_name} bring their actions with "
            "them; take a model with inverse dynamics, e.g. trajectory-diffuser"
        )
    aims: list[Waypoint | Reach] = [
        c for c in constraints if isinstance(c, Waypoint) and c.step is None
    ]
    last: list[Waypoint | Reach] = [c for c in constraints if isinstance(c, Reach) and goals]
    _check(agent, constraints, aims + last)
    planned = tuple(c for c in constraints if c not in aims + last)
    twin = ConstrainedAgent.__new__(ConstrainedAgent)
    twin.__dict__.update(agent.__dict__)
    twin.constraints, twin._free = tuple(constraints), agent
    twin._asked = {"way": way, "candidates": candidates, "weight": weight}
    places = [np.asarray(c.at, np.float64) for c in aims + last]
    twin._aims = np.array(places).reshape(len(places), agent.layout.goal_dim)
    twin._within = np.array([c.within or _near(model, c) for c in aims])
    if not planned:
        twin.way = None
        return twin
    chosen: Way = way or _by_default(planned)
    own: dict[str, Any] = {"candidates": candidates}
    if chosen in SAMPLED:
        own["eta"] = 1.0
    elif chosen == "red-diff":
        own["denoising_steps"] = model.main_process.T
    twin.way = chosen
    twin.settings = dataclasses.replace(agent.settings, **own)
    wishes = Wishes(planned, chosen, float(weight))
    wished: dict[str, Any] = {
        "steering": wishes,
        "routes": _routes(agent, [c for c in planned if isinstance(c, Avoid)]),
    }
    twin.engine = _engine(agent, twin.settings, wishes, wished)
    detailed = agent._made[1]
    twin._fields = PlanStep(model, twin.settings, detailed=detailed, **wished).fields
    twin._wished = wished
    return twin


def _engine(
    agent: PlannerAgent, settings: PlanningConfig, wishes: Wishes, wished: dict[str, Any]
) -> Engine:
    """The agent's own kind of engine where it can run these plans, else plain calls."""
    model, kind, (name, detailed, _) = agent.model, agent.engine.name, agent._made
    if kind == "onnx" and wishes.exports:
        from diffplan.engines.onnx import OnnxEngine, exports_gradients

        if not wishes.differentiates or exports_gradients(model):
            # kept nowhere: constraints come and go
            return OnnxEngine(model, settings, detailed, **wished)
    if kind.startswith("cuda-graph") and wishes.way == "reject":
        bf16, tf32 = (name.endswith(each) for each in ("bf16", "tf32"))
        return GraphEngine(model, settings, detailed, bf16, tf32, **wished)
    if kind.startswith("cuda-graph"):
        warnings.warn(
            f"no CUDA graph for constraints by way {wishes.way!r}, which takes gradients or looks "
            "at its particles; calling eagerly",
            stacklevel=4,
        )
    return EagerEngine(model, settings, detailed, **wished)


def _by_default(planned: Sequence[Constraint]) -> Way:
    """The way that scored best (docs/constraints.md): what cannot be moved to is weighed."""
    black = any(isinstance(c, Custom) and not c.differentiable for c in planned)
    return "smc" if black else "project"


def _check(agent: PlannerAgent, given: Sequence[Constraint], aims: Sequence[Constraint]) -> None:
    """Raise DiffplanError for what the plans of this agent cannot hold."""
    layout, model = agent.layout, agent.model
    if not given:
        raise DiffplanError("constrained() was given nothing; see diffplan.constraints")
    for each in given:
        if not hasattr(each, "excess"):
            raise DiffplanError(
                f"constrained() was given {each!r}, expected Avoid, Limit, Waypoint, Reach or "
                "Custom of diffplan.constraints"
            )
        for column in each.columns:
            if not 0 <= column < layout.state_dim:
                raise DiffplanError(
                    f"{each} looks at column {column}, but observations have {layout.state_dim}"
                )
            if model.spec.planned and column not in model.spec.planned:
                raise DiffplanError(
                    f"{each} looks at column {column}, which plans of this model do not hold; they "
                    f"hold {list(model.spec.planned)} (plan.columns)"
                )
            if layout.offset and layout.offset[column]:
                raise DiffplanError(
                    f"{each} looks at column {column}, which is kept as its difference to "
                    f"{layout.offset[column]:g}; subtract that from the data first"
                )
        if isinstance(each, Waypoint | Reach) and len(each.at) != len(each.columns):
            raise DiffplanError(
                f"{each} has {len(each.at)} coordinates for {len(each.columns)} columns"
            )
    for each in aims:
        if not layout.goal_columns:
            raise DiffplanError(
                f"{each} has no step, which takes a model that plans to goals; give step="
            )
        if each.columns != layout.goal_columns:
            raise DiffplanError(
                f"{each} looks at columns {list(each.columns)}, but goals are in "
                f"{list(layout.goal_columns)}; give those, or step="
            )
        probe = torch.tensor([[[*_whole(agent, each)]]])  # [1, 1, D]
        for other in given:
            avoids = isinstance(other, Avoid) and set(other.columns) <= set(layout.goal_columns)
            if avoids and float(other.excess(probe, torch.zeros(1, 1))):
                raise DiffplanError(f"{each} lies where {other} does not let it")


def _whole(agent: PlannerAgent, aim: Constraint) -> list[float]:
    """The place of an aim as an observation, 0 in all other columns."""
    assert isinstance(aim, Waypoint | Reach)
    place = [0.0] * agent.layout.state_dim
    for column, value in zip(aim.columns, aim.at, strict=True):
        place[column] = float(value)
    return place


def _near(model: PlannerModel, aim: Constraint) -> float:
    """How near a waypoint without a width has to be passed."""
    if model.subgoals is None:
        raise DiffplanError(
            f"{aim} has no width, and this model no map of the data to tell when it is passed; "
            "give within="
        )
    return _NEAR * model.config.plan.stride * float(model.subgoals.speed)


def _routes(agent: PlannerAgent, obstacles: Sequence[Avoid]) -> Subgoals | None:
    """Ways around obstacles in goal space; None where the model's own stay."""
    columns, ways = agent.layout.goal_columns, agent.model.subgoals
    inside = [each for each in obstacles if set(each.columns) <= set(columns)]
    if ways is None or not inside:
        return None
    groups = together(inside)

    def depth(points: Tensor) -> Tensor:
        parts = [torch.zeros_like(points[..., 0])] * agent.layout.state_dim
        for place, column in enumerate(columns):
            parts[column] = points[..., place]
        states = torch.stack(parts, -1)
        return torch.cat([group.each(states, parts[0]) for group in groups], -1).amax(-1)

    return around(ways, depth, max(each.margin for each in inside))
