"""Subgoals: within reach on the shortest way of the data, the goal itself where it is near."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from diffplan.config.config import replace_planning, settled
from diffplan.data.episodes import Episodes
from diffplan.data.landmarks import LandmarkGraph
from diffplan.data.windows import WindowSampler
from diffplan.engines.decision import PlanStep
from diffplan.errors import DiffplanError
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel
from diffplan.model.spec import ModelSpec
from diffplan.model.subgoals import Subgoals

Make = Callable[..., Any]
FAR = 1e9


def corridor() -> Subgoals:
    """Eleven landmarks on a line, a unit and ten steps apart; the way leads to the right only."""
    places = torch.arange(11.0)
    steps = 10 * (places[None] - places[:, None])
    steps[steps < 0] = FAR
    found = Subgoals(11, 2)
    found.fit(LandmarkGraph(torch.stack([places, torch.zeros(11)], 1), steps, speed=0.1))
    return found


def aim(here: tuple[float, float], goal: tuple[float, float], reach: float) -> list[float]:
    found: list[float] = corridor()(torch.tensor([here]), torch.tensor([goal]), reach)[0].tolist()
    return found


def test_the_farthest_landmark_within_reach_is_aimed_at() -> None:
    assert aim((0.0, 0.0), (10.0, 0.0), 32.0) == [3.0, 0.0]
    assert aim((0.0, 0.0), (10.0, 0.0), 45.0) == [4.0, 0.0]
    # from between two landmarks: the steps to the next count
    assert aim((0.5, 0.0), (10.0, 0.0), 32.0) == [3.0, 0.0]


def test_a_goal_within_reach_is_aimed_at_itself() -> None:
    assert aim((7.0, 0.0), (9.5, 0.0), 32.0) == [9.5, 0.0]
    assert aim((0.0, 0.0), (9.5, 0.0), 500.0) == [9.5, 0.0]


def test_where_no_way_is_known_the_goal_stays() -> None:
    assert aim((8.0, 0.0), (1.0, 0.0), 32.0) == [1.0, 0.0]  # nobody ever went back
    assert aim((8.0, 9.0), (9.5, 0.0), 32.0) == [9.5, 0.0]  # no landmark is within reach


def test_rows_do_not_know_each_other() -> None:
    here = torch.tensor([[0.0, 0.0], [7.0, 0.0], [8.0, 0.0]])
    goal = torch.tensor([[10.0, 0.0], [9.5, 0.0], [1.0, 0.0]])
    together = corridor()(here, goal, 32.0)
    alone = torch.cat([corridor()(here[i : i + 1], goal[i : i + 1], 32.0) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=0)


def test_without_a_graph_there_are_no_subgoals(tiny_config: Make) -> None:
    assert PlannerModel(ModelSpec(4, 2, (0, 1)), tiny_config()).subgoals is None


def test_how_far_plans_aim_is_settled_by_what_goals_are(tiny_config: Make) -> None:
    config = tiny_config(changes={"plan.horizon": 5, "plan.stride": 3})
    hindsight = tiny_config(changes={"data.relabel": "hindsight"})
    assert settled(config, has_goal=True).planning.subgoal_steps == 15
    assert settled(config, has_goal=True, tasks=2).planning.subgoal_steps == 0
    assert settled(config, has_goal=False).planning.subgoal_steps == 0
    assert settled(hindsight, has_goal=True).planning.subgoal_steps == 0
    asked = replace_planning(config, subgoal_steps=7)
    assert settled(asked, has_goal=True).planning.subgoal_steps == 7


def test_plans_are_made_for_the_subgoal(models: Make, plan_inputs: Make) -> None:
    model = models()
    assert model.subgoals is not None
    reach = model.config.planning.subgoal_steps
    aimed, straight = (
        PlanStep(model, replace_planning(model.config, subgoal_steps=steps).planning)
        for steps in (reach, 0)
    )
    context, _ = plan_inputs(model, model.config.planning, rows=8)
    draws = aimed.draw(torch.arange(8), torch.zeros(8, dtype=torch.long))
    here = context.state[:, list(model.spec.goal_columns)]
    goal = model.subgoals(here, context.goal, float(reach))
    moved = (goal != context.goal).any(-1)
    assert moved.any()
    at_subgoals = straight(Context(context.state, goal), draws)
    torch.testing.assert_close(aimed(context, draws).states, at_subgoals.states)
    at_goals = straight(context, draws)
    assert (at_goals.states[moved] != at_subgoals.states[moved]).any()


def test_goals_in_training_lie_within_reach(
    tiny_goal_episodes: Episodes, tiny_config: Make
) -> None:
    """As far off as plans aim, with room for what the landmarks round off; else anywhere."""
    far = {}
    for steps in (4, 0):
        config = tiny_config(changes={"planning.subgoal_steps": steps})
        sampler = WindowSampler(tiny_goal_episodes, config, seed=0)
        windows = sampler.sample(4000, torch.Generator().manual_seed(0))
        valued = sampler.valued(4000, torch.Generator().manual_seed(0))
        assert windows.goals is not None and valued.goals is not None
        graph = sampler.graph
        assert graph is not None
        for name, here, goals in (
            ("windows", windows.states[:, 0, :2], windows.goals),
            ("valued", valued.states[:, :2], valued.goals),
        ):
            steps_to = graph.steps_between(graph.locate(here), graph.locate(goals))
            far[name, steps] = steps_to[steps_to < 1e8].quantile(0.95)
    assert far["windows", 4] < 12 < 20 < far["windows", 0]
    assert far["valued", 4] < 12 < 20 < far["valued", 0]


# --- Plans of the goal's columns alone -----------------------------------------------------------

GOAL_ONLY = {"plan.columns": "goal", "heads.lookahead": 2}


def test_plans_hold_the_goals_columns_alone(models: Make) -> None:
    model = models(plan__columns="goal")
    generator = torch.Generator().manual_seed(0)
    states, goals = (torch.randn(3, width, generator=generator) for width in (4, 2))
    context, step = Context(states, goals), PlanStep(model, model.config.planning)
    plan = step(context, step.draw(torch.arange(3), torch.zeros(3, dtype=torch.long)))
    assert plan.states.shape == (3, model.config.plan.horizon + 1, 4)
    assert plan.states[..., :2].isfinite().all() and plan.states[..., 2:].isnan().all()
    torch.testing.assert_close(plan.states[:, 0, :2], context.state[:, :2])
    assert plan.first.isfinite().all()
    # what is not planned says nothing of the way, and something of the action
    other = Context(states + torch.tensor([0.0, 0.0, 1.0, -1.0]), goals)
    again = step(other, step.draw(torch.arange(3), torch.zeros(3, dtype=torch.long)))
    torch.testing.assert_close(again.states[..., :2], plan.states[..., :2])
    assert (again.first != plan.first).any()


def test_a_gait_is_the_same_everywhere(models: Make) -> None:
    acts = models(plan__columns="goal").inverse_dynamics
    state, ahead, lag = torch.randn(5, 4), torch.randn(5, 2), torch.ones(5)
    shift = torch.tensor([3.0, -2.0])
    moved = torch.cat([state[:, :2] + shift, state[:, 2:]], 1)
    torch.testing.assert_close(
        acts(moved, ahead + shift, lag), acts(state, ahead, lag), atol=1e-4, rtol=1e-4
    )


def test_pairs_are_as_far_apart_as_the_lookahead(
    tiny_goal_episodes: Episodes, tiny_config: Make
) -> None:
    config = tiny_config(changes=GOAL_ONLY)
    sampler = WindowSampler(tiny_goal_episodes, config, seed=0)
    pairs = sampler.transitions(2000, torch.Generator().manual_seed(0))
    assert pairs.states.shape == (2000, 4) and pairs.ahead.shape == (2000, 2)
    assert sorted(pairs.lag.unique().tolist()) == [1, 2, 3, 4]
    states, starts = tiny_goal_episodes.states, tiny_goal_episodes.state_starts
    for state, ahead, lag in zip(pairs.states[:50], pairs.ahead[:50], pairs.lag[:50], strict=True):
        row = int(np.flatnonzero((states == state.numpy()).all(1))[0])
        np.testing.assert_array_equal(states[row + int(lag), :2], ahead.numpy())
        episode = np.searchsorted(starts, row, side="right")
        assert row + int(lag) < starts[episode]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**GOAL_ONLY, "planning.reuse": True}, "planning.reuse is True"),
        ({**GOAL_ONLY, "heads.value": "critic"}, "heads.value is 'critic'"),
        ({"heads.lookahead": 5}, "at most the 4 states"),
    ],
)
def test_what_does_not_go_together_is_refused(
    changes: dict[str, Any], message: str, tiny_config: Make
) -> None:
    with pytest.raises(DiffplanError, match=message):
        tiny_config(changes={"planning.replan_every": 4, **changes})


def test_data_without_a_goal_have_no_columns_of_one(
    tiny_episodes: Episodes, tiny_config: Make
) -> None:
    with pytest.raises(DiffplanError, match=r"plan.columns is 'goal', but tiny has no goal"):
        WindowSampler(tiny_episodes, tiny_config(changes={"plan.columns": "goal"}), seed=0)
