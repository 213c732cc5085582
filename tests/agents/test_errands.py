"""Of several things that goals are about one is seen to at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffplan import runtime
from diffplan.agents import PlannerAgent, export
from diffplan.data.info import ObservationLayout
from diffplan.runtime import Errand, Errands

Make = Callable[..., Any]
AFTER = 4
THINGS = (0, 0, 1, 1, -1)  # the last column is no thing's
SCALE = (1.0, 2.0, 1.0, 1.0, 1.0)


def follow(
    places: np.ndarray, goals: np.ndarray, begins: Any = (), known: Any = ((), (), ())
) -> tuple[Any, Any, Any]:
    """Of places [T, B, 5]: what is to be moved [T, B], turns [T, B] and aims [T, B, 5]."""
    errands, state = Errands(THINGS, SCALE, AFTER, *known), None
    found: tuple[list[Any], ...] = ([], [], [])
    for step, here in enumerate(places):
        fresh = np.full(len(here), step in begins)
        state, turns, aims = errands.follow(state, fresh, here, goals)
        for every, each in zip(found, (state.now, turns, aims), strict=True):
            every.append(each)
    thing, turned, aimed = map(np.array, found)
    return thing, turned, aimed


def test_the_farthest_comes_first_and_the_next_when_it_lies_still_again() -> None:
    places, goals = np.zeros((30, 3, 5)), np.array([[2.0, 0, 1, 0, 9]] * 3)
    places[5:9, :, 0] = np.linspace(0.5, 2, 4)[:, None]  # carried to its goal
    places[9:, :, 0] = 2
    places[5:12, 1, 0], places[12:, 1, 0] = 0.2, 0.2  # let go of on the way
    places[:, 2, 0] = np.linspace(0, 0.049, 30)  # trembles: not moved
    thing, turned, aims = follow(places, goals)
    # rest is seen after so many steps in which the thing has stayed
    assert thing[:, 0].tolist() == [0] * (8 + AFTER) + [1] * (22 - AFTER)
    assert set(thing[:, 1]) == {0} and set(thing[:, 2]) == {0}
    assert np.argwhere(turned).tolist() == [[0, 0], [0, 1], [0, 2], [8 + AFTER, 0]]
    assert aims[0, 0].tolist() == [2, 0, 0, 0, 9]  # the other one is to stay where it is
    assert aims[-1, 0].tolist() == [2, 0, 1, 0, 9]
    assert aims[6, 1].tolist() == pytest.approx([2, 0, 0, 0, 9])


def test_distances_count_in_deviations_and_episodes_begin_anew() -> None:
    places, goals = np.zeros((12, 1, 5)), np.array([[0.0, 3, 1.6, 0, 0]])
    thing, turned, _ = follow(places, goals)
    assert set(thing[:, 0]) == {1} and turned.sum() == 1
    places[3:, :, 2] = 1.6
    thing, turned, _ = follow(places, goals, begins=(5,))
    assert thing[:5].ravel().tolist() == [1] * 5 and thing[5:].ravel().tolist() == [0] * 7
    assert np.flatnonzero(turned).tolist() == [0, 5]


def moves(*of: tuple[int, list[float], list[float]]) -> tuple[Any, Any, Any]:
    """16 of each: things, and all places before and after."""
    things, starts, ends = zip(*[each for each in of for _ in range(16)], strict=True)
    return things, np.array(starts), np.array(ends)


# the first thing moves while the second is at (1, 0); that one moves wherever the first is
LOCKED = [
    *((0, [at, 0, 1, 0, 0], [3 - at, 0, 1, 0, 0]) for at in (0.0, 3.0)),
    *(
        (1, [at, 0, lock, 0, 0], [at, 0, 1 - lock, 0, 0])
        for at in (0.0, 3.0)
        for lock in (0.0, 1.0)
    ),
]


def test_what_a_thing_needs_is_brought_about_before_and_undone_last() -> None:
    places, goals = np.zeros((40, 1, 5)), np.array([[3.0, 0, 0, 0, 9]])
    places[4:25, :, 2] = 1  # the lock opens
    places[8:, :, 0] = 3
    places[25:, :, 2] = 0
    now, turned, aims = follow(places, goals, known=moves(*LOCKED))
    rested = 8 + AFTER
    assert now[:, 0].tolist() == [1] * 4 + [0] * (rested - 4) + [1] * (40 - rested)
    assert np.flatnonzero(turned).tolist() == [0, 4, rested]
    assert aims[0, 0].tolist() == [0, 0, 1, 0, 9]  # not the goal's, but what is needed
    assert aims[5, 0].tolist() == [3, 0, 1, 0, 9]
    assert aims[rested, 0].tolist() == [3, 0, 0, 0, 9]


def test_a_lock_stays_open_while_what_needs_it_has_a_way_to_go() -> None:
    # the lock is farther from its goal than what it locks
    places, goals = np.zeros((20, 1, 5)), np.array([[0.6, 0, -4, 0, 9]])
    places[:, :, 2] = 1
    assert set(follow(places, goals, known=moves(*LOCKED))[0][:, 0]) == {0}
    assert set(follow(places, goals)[0][:, 0]) == {1}
    # things that need each other are no endless errand
    both = [LOCKED[0], (1, [7.0, 0, 0, 0, 0], [7, 0, 5, 5, 0])]
    assert set(follow(places, goals, known=moves(*both))[0][:, 0]) <= {0, 1}


def test_what_only_another_takes_along_is_brought_to_where_that_takes_it_up() -> None:
    """The first thing, put at 2 by hand, comes to 4 in the second, a drawer that closes from 6."""
    known = moves(
        *((0, [at, 0, 6, 0, 0], [2, 0, 6, 0, 0]) for at in (-3.0, 0.0)),
        *((1, [at, 0, shut, 0, 0], [at, 0, 6 - shut, 0, 0]) for at in (-3.0, 0) for shut in (0, 6)),
        *((thing, [2, 0, 6, 0, 0], [4, 0, 0, 0, 0]) for thing in (0, 1)),
    )
    here, goal = np.array([[0.0, 0, 0, 0, 0]]), np.array([[4.0, 0, 0, 0, 9]])
    errands, done = Errands(THINGS, SCALE, AFTER, *known), []
    for _ in range(3):
        aims = errands.follow(None, np.array([True]), here, goal)[2]
        done.append(aims[0, [0, 2]].tolist())
        here = np.array([[*aims[0, :4], 0]])
    # opened, put in, closed with it
    assert done == [[0, 6], [2, 6], [4, 0]]


@pytest.fixture
def sorter(join_episodes: Make, tiny_config: Make, tiny_model: Make) -> PlannerAgent:
    """Of data in which two things are moved one after the other."""
    rng, layout = np.random.default_rng(0), ObservationLayout(3, 2, (1, 2), (), ("observation",))
    episodes = []
    for _ in range(8):
        moves = np.zeros((60, 3))
        moves[:, 0] = rng.normal(size=60)
        for step in (5, 20, 35, 50):
            moves[step : step + 5, 1 + rng.integers(2)] = rng.choice((-1, 1))
        episodes.append(moves.cumsum(0))
    actions = [np.zeros((len(each) - 1, 2)) for each in episodes]
    joined = join_episodes(episodes, actions, layout=layout)
    config = tiny_config("trajectory-diffuser", {"data.relabel": "arrivals"})
    model = tiny_model(config, joined)
    assert model.spec.things == (0, 1)
    return PlannerAgent(model, joined.layout, joined.info, config_name="x", engine="eager")


def test_an_agent_plans_for_one_thing_at_a_time(sorter: PlannerAgent) -> None:
    here, goal = np.zeros((2, 3), np.float32), np.array([[9.0, 2.0], [-2.0, 9.0]], np.float32)
    _, state = sorter.predict({"observation": here, "desired_goal": goal})
    assert isinstance(state.errand, Errand) and state.errand.thing.tolist() == [0, 1]
    assert np.array_equal(state.goals, goal)
    # as if only the one were asked for, also where a plan alone is asked for
    only = np.array([[9.0, 0.0], [0.0, 9.0]], np.float32)
    _, alone = sorter.predict({"observation": here, "desired_goal": only})
    torch.testing.assert_close(state.plan.states, alone.plan.states)
    shown = sorter.plan({"observation": here, "desired_goal": goal})
    torch.testing.assert_close(torch.as_tensor(shown.states), state.plan.states)
    assert not np.allclose(state.plan.states[0], state.plan.states[1])


def test_a_row_that_takes_up_another_thing_plans_anew(sorter: PlannerAgent) -> None:
    goal = np.array([[3.0, 9.0], [3.0, 9.0]], np.float32)
    here, state, things, ages = np.zeros((2, 3), np.float32), None, [], []
    steps = sorter.horizon * sorter.stride
    for step in range(2 * steps + 4):
        here[0, 2] = 9.0 * min(step, 3) / 3
        given = {"observation": here, "desired_goal": goal}
        state = sorter.predict(given, state)[1]
        things.append(state.errand.thing.tolist())
        ages.append(state.age.tolist())
    turn = next(step for step, each in enumerate(things) if each[0] == 0)
    assert turn == 3 + steps and ages[turn][0] == 0
    assert all(each[1] == 1 for each in things)


def test_an_export_sees_to_the_same_things(sorter: PlannerAgent, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the engine is an optional extra")
    export(sorter, tmp_path / "robot", (2,))
    other = runtime.load(tmp_path / "robot")
    mine: Any = None
    its: Any = None
    goal, here = np.array([[9.0, 6.0], [6.0, 9.0]]), np.zeros((2, 3))
    seen = set()
    for step in range(60):
        here[:, 1 + step // 20 % 2] += step % 20 < 5
        given = {"observation": here, "desired_goal": goal}
        action, mine = sorter.predict(given, mine, np.arange(2) == step - 30)
        found, its = other.predict(given, its, np.arange(2) == step - 30)
        np.testing.assert_allclose(found, action, atol=2e-5)
        assert all(map(np.array_equal, mine.errand, its.errand))
        seen.add(tuple(mine.errand.thing))
    assert len(seen) > 1
