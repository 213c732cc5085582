"""Agents under constraints: plans keep to them, waypoints come before the goal."""

import contextlib
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from diffplan.agents import PlannerAgent, export
from diffplan.agents.constrained import ConstrainedState
from diffplan.constraints import Avoid, Box, Custom, Disc, Limit, Reach, Waypoint
from diffplan.engines.cuda_graph import GraphEngine
from diffplan.errors import DiffplanError
from diffplan.planning.wanted import Way

Make = Callable[..., Any]


def seen(goal: Any, at: Any = (0.0, 0.0), rows: int = 2) -> dict[str, np.ndarray]:
    states = np.zeros((rows, 4))
    states[:, :2] = at
    goals = np.tile(np.asarray(goal, float), (rows, 1))
    return {"observation": states, "desired_goal": goals, "achieved_goal": states[:, :2]}


@pytest.fixture(scope="module")
def agent(make_agent: Make) -> PlannerAgent:
    made: PlannerAgent = make_agent(detailed=False)
    return made


def test_plans_keep_to_a_bound_and_say_so(agent: PlannerAgent) -> None:
    _, free = agent.predict(seen((1.0, 1.0)))
    bound = Limit(0, high=float(free.plan.states[0, 1:, 0].min()) - 0.1)
    kept = agent.constrained(bound)
    _, state = kept.predict(seen((1.0, 1.0)))
    assert free.plan.violations is None
    assert state.plan.violations.shape == (2, 1)
    assert float(state.plan.violations.max()) < 1e-4
    assert float(state.plan.states[:, 1:, 0].max()) <= bound.high + 1e-4  # type: ignore[operator]
    # a plan to look at has it as well, and of an agent that was asked for nothing nothing changed
    assert kept.plan(seen((1.0, 1.0))).violations.shape == (2, 1)
    np.testing.assert_array_equal(agent.predict(seen((1.0, 1.0)))[1].plan.states, free.plan.states)


@pytest.mark.parametrize("way", get_args(Way))
def test_what_no_graph_holds_is_called_and_says_so(agent: PlannerAgent, way: Way) -> None:
    graphs = copy.copy(agent)
    graphs.engine = GraphEngine(agent.model, agent.settings)
    told: Any = contextlib.nullcontext()
    if way != "reject":
        told = pytest.warns(UserWarning, match=f"no CUDA graph for constraints by way '{way}'")
    with told:
        kept = graphs.constrained(Limit(0, high=5.0), way=way)
    assert kept.engine.name == ("cuda-graph" if way == "reject" else "eager")


def test_waypoints_are_goals_on_the_way_one_after_the_other(agent: PlannerAgent) -> None:
    first, second, goal = (0.5, 0.0), (0.5, 0.5), (1.0, 1.0)
    by = agent.constrained(Waypoint(first, within=0.1), Waypoint(second, within=0.1))
    action, state = by.predict(seen(goal))
    np.testing.assert_array_equal(action, agent.predict(seen(first))[0])
    assert isinstance(state, ConstrainedState)
    # one row arrives: its plan is for the next
    at = np.array([[0.45, 0.0], [0.0, 0.0]])
    action, state = by.predict(seen(goal, at), state)
    assert state.passed.tolist() == [1, 0]  # type: ignore[attr-defined]
    np.testing.assert_allclose(state.goals, [second, first])
    _, state = by.predict(seen(goal, second), state)
    _, state = by.predict(seen(goal, second), state)
    np.testing.assert_allclose(state.goals, [goal, first])
    # a new episode begins with the first again
    _, state = by.predict(seen(goal), state, np.array([True, False]))
    np.testing.assert_allclose(state.goals, [first, first])


def test_constraints_add_up(agent: PlannerAgent) -> None:
    both = agent.constrained(Limit(0, high=5.0)).constrained(Waypoint((0.5, 0.5)), Limit(1, low=-5))
    _, state = both.predict(seen((1.0, 1.0)))
    assert state.plan.violations.shape == (2, 2)
    np.testing.assert_allclose(state.goals, [(0.5, 0.5)] * 2)
    # a plan to look at is for the first waypoint as well
    found = both.plan(seen((1.0, 1.0))).states
    np.testing.assert_allclose(found, state.plan.states, rtol=1e-4, atol=1e-5)


def test_to_reach_takes_the_place_of_the_goal(agent: PlannerAgent) -> None:
    _, state = agent.constrained(Reach((0.3, 0.2))).predict(seen((1.0, 1.0)))
    np.testing.assert_allclose(state.goals, [(0.3, 0.2)] * 2)


def test_a_waypoint_in_time_moves_with_the_episode(agent: PlannerAgent) -> None:
    stride = agent.stride
    late = agent.constrained(Waypoint((3.0, 3.0), step=agent.settings.replan_every + stride))
    _, state = late.predict(seen((1.0, 1.0), rows=1))
    for _ in range(agent.settings.replan_every):
        _, state = late.predict(seen((1.0, 1.0), rows=1), state)
    # the plan made last is at its place a stride later
    assert state.age[0] == 0
    np.testing.assert_allclose(state.plan.states[0, 1, :2], (3.0, 3.0), atol=1e-4)


REFUSED: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    ((), {}, "was given nothing"),
    ((3,), {}, "was given 3, expected Avoid, Limit"),
    ((Limit(9, high=1.0),), {}, "looks at column 9, but observations have 4"),
    ((Limit(0, high=1.0),), {"way": "hope"}, "way is 'hope', expected project"),
    ((Limit(0, high=1.0),), {"candidates": 0}, "candidates is 0, expected a whole number from 1"),
    ((Limit(0, high=1.0),), {"candidates": "4"}, "candidates is '4', expected a whole number"),
    ((Limit(0, high=1.0),), {"weight": float("nan")}, "weight is nan, expected a finite number"),
    ((Limit(0, high=1.0),), {"weight": 0}, "weight is 0, expected a finite number above 0"),
    ((Waypoint((1.0, 1.0), columns=(2, 3)),), {}, r"but goals are in \[0, 1\]"),
    ((Waypoint((1.0, 1.0, 1.0), step=3),), {}, "3 coordinates for 2 columns"),
    ((Waypoint((0.1, 0.1)), Avoid(Disc((0.0, 0.0), 1.0))), {}, "does not let it"),
]


@pytest.mark.parametrize(("constraints", "options", "said"), REFUSED)
def test_what_plans_cannot_hold_is_refused(
    agent: PlannerAgent, constraints: tuple[Any, ...], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(DiffplanError, match=said):
        agent.constrained(*constraints, **options)


def test_models_without_goals_or_with_actions_in_their_plans_say_what_they_lack(
    make_agent: Make,
) -> None:
    with pytest.raises(DiffplanError, match="takes a model that plans to goals; give step="):
        make_agent(rewards=True).constrained(Waypoint((1.0, 1.0)))
    with pytest.raises(DiffplanError, match="no map of the data to tell when it is passed; give w"):
        make_agent(config={"data.relabel": "hindsight"}).constrained(Waypoint((1.0, 1.0)))
    with pytest.raises(DiffplanError, match="bring their actions"):
        make_agent("streams").constrained(Limit(0, high=1.0))
    # without goals to reach is to end there
    _, state = make_agent(rewards=True).constrained(Reach((1.0, 1.0))).predict(np.zeros((1, 3)))
    np.testing.assert_allclose(state.plan.states[0, -1, :2], (1.0, 1.0), atol=1e-4)


@pytest.mark.parametrize("name", ["trajectory-diffuser", "multi-task"])
@pytest.mark.parametrize("way", ["dps", "smc", "smc-gradient", "red-diff"])
def test_every_way_plans_for_an_agent(make_agent: Make, way: Any, name: str) -> None:
    agent = make_agent(name)
    kept = agent.constrained(Limit(0, high=5.0), way=way, candidates=3)
    action, _ = kept.predict(seen((1.0, 1.0)))
    assert np.isfinite(action).all()
    assert kept.plan(seen((1.0, 1.0))).candidates.shape[1] == 3


def test_constraints_go_along_to_a_device_and_are_not_lost_in_a_file(
    agent: PlannerAgent, tmp_path: Path
) -> None:
    kept = agent.constrained(Limit(0, high=0.0), Waypoint((0.5, 0.5)))
    moved = kept.to("cpu", "eager")
    np.testing.assert_array_equal(
        moved.predict(seen((1.0, 1.0)))[0], kept.predict(seen((1.0, 1.0)))[0]
    )
    with pytest.raises(DiffplanError, match="aims and sensors are not part of what is written"):
        export(kept, tmp_path / "export")


@pytest.mark.parametrize(("way", "engine"), [("project", "onnx"), ("dps", "eager")])
def test_a_graph_holds_constraints_and_gradients(make_agent: Make, way: Any, engine: str) -> None:
    pytest.importorskip("onnxruntime")
    agents = [make_agent(engine=name, detailed=False) for name in ("eager", "onnx")]
    given = [
        Avoid(Disc((0.5, 0.5), 0.4)),
        Avoid(Disc((-1.5, 0.5), 0.4)),
        Avoid(Box((1.0, 1.0), (2.0, 2.0))),
        Limit(0, high=0.6, change=True),
        Waypoint((0.2, 0.3), step=4, within=0.1),
    ]
    kept = [each.constrained(*given, way=way, candidates=3) for each in agents]
    assert [each.engine.name for each in kept] == ["eager", engine]
    plans = [each.predict(seen((1.0, 1.0)))[1].plan for each in kept]
    for eager, onnx in zip(*plans, strict=True):
        if eager is not None:
            np.testing.assert_allclose(onnx, eager, rtol=1e-3, atol=1e-4)
    free = agents[0].predict(seen((1.0, 1.0)))[1].plan.states
    assert float((plans[0].states - free).abs().max()) > 1e-2


def test_what_a_graph_would_freeze_is_called(make_agent: Make) -> None:
    pytest.importorskip("onnxruntime")
    agent = make_agent(engine="onnx", detailed=False)
    for given in (Custom(lambda states: states[..., 0]), Avoid(lambda points: points[..., 0])):
        assert agent.constrained(given).engine.name == "eager"
