"""A small planner for tests: straight plans, closed-loop pursuit, the agent's interface."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from diffplan.data.info import DatasetInfo, ObservationLayout
from diffplan.engines.decision import Plan

HORIZON, CANDIDATES, REPLAN_EVERY = 5, 3, 8


@dataclass(frozen=True)
class StubState:
    plan: Plan
    age: np.ndarray


class StubPlanner:
    """Plans a straight line from the state and follows it for REPLAN_EVERY steps."""

    stride = 2
    config_name = "stub"
    train_seconds = 12.5
    planning: ClassVar[dict[str, Any]] = {"replan_every": REPLAN_EVERY}
    uses_returns = False
    origin = None
    engine = SimpleNamespace(name="eager")
    device = torch.device("cpu")
    settings = SimpleNamespace(subgoal_steps=REPLAN_EVERY)
    model = SimpleNamespace(moves=None, subgoals=lambda here, goal, reach: (here + goal) / 2)

    def __init__(self, info: DatasetInfo, layout: ObservationLayout) -> None:
        self.info, self.layout = info, layout

    def predict(
        self,
        observation: Any,
        state: StubState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, StubState]:
        here, goal = self.layout.split(observation)
        fresh = np.ones(len(here), bool)
        if state is not None:
            fresh = (state.age + 1 >= REPLAN_EVERY) | episode_start
        plan = self.plan(here, goal)
        if state is not None:
            index = torch.from_numpy(np.flatnonzero(fresh))
            made = Plan(*(part if part is None else part[index] for part in plan))
            plan = state.plan.replaced(index, made)
        age = np.where(fresh, 0, 0 if state is None else state.age + 1)
        actions = np.zeros((len(here), len(self.info.action_low)), np.float32)
        if goal is not None:
            actions = np.clip(goal - here[:, :2] - here[:, 2:], -1, 1)
        return actions, StubState(plan, age)

    def plan(self, here: np.ndarray, goal: np.ndarray | None) -> Plan:
        shape = (len(here), CANDIDATES, HORIZON + 1, here.shape[1])
        states = np.repeat(here[:, None], HORIZON + 1, axis=1)
        if goal is not None:
            share = np.linspace(0, 1, HORIZON + 1)[None, :, None]
            states[..., :2] += share * (goal - here[:, :2])[:, None]
        spread = (
            0.1 * np.arange(CANDIDATES)[:, None, None] * np.linspace(0, 1, HORIZON + 1)[:, None]
        )
        candidates = np.broadcast_to(states[:, None], shape) + spread
        values = np.tile(-np.arange(CANDIDATES, dtype=float), (len(here), 1))
        chosen = np.zeros(len(here), int)
        fields = {
            "states": states,
            "first": np.zeros((len(here), len(self.info.action_low)), np.float32),
            "proposal": candidates + spread,
            "candidates": candidates,
            "values": values,
            "chosen": chosen,
        }
        return Plan(**{name: torch.from_numpy(value) for name, value in fields.items()})


@pytest.fixture(scope="session")
def tiny_options() -> list[str]:
    """Options of `diffplan train` for networks that train in no time."""
    return [
        "--plan.horizon=4",
        "--planning.replan-every=4",
        "--proposer.width=16",
        "--denoiser.width=16",
        "--heads.width=16",
        "--training.batch-size=8",
    ]


@pytest.fixture(scope="session")
def tables() -> Any:
    """The module that writes the tables of docs/, which only a checkout has."""
    return pytest.importorskip("diffplan.scripts.checks.tables", reason="of a checkout")


@pytest.fixture
def maze_agent() -> StubPlanner:
    """A planner for short episodes of PointMaze UMaze."""
    kwargs = {"reset_target": False, "continuing_task": True, "max_episode_steps": 40}
    bounds = ((-1.0, -1.0), (1.0, 1.0))
    details = {"path_rule": "depth-first"}
    info = DatasetInfo(
        "pointmaze/umaze-v0", "minari", "PointMaze_UMaze-v3", kwargs, *bounds, details
    )
    return StubPlanner(info, ObservationLayout(4, 2, (0, 1), (2, 3), ("observation",)))


@pytest.fixture
def hopper_agent() -> Callable[[str], StubPlanner]:
    """Makes a planner for Hopper-v5 whose dataset has a given id."""

    def make(dataset_id: str) -> StubPlanner:
        bounds = ((-1.0,) * 3, (1.0,) * 3)
        info = DatasetInfo(dataset_id, "arrays", "Hopper-v5", {}, *bounds, {})
        return StubPlanner(info, ObservationLayout(11))

    return make
