"""Bodies that got nowhere go elsewhere for a while, and then on."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from diffplan.runtime import Detour, Detours

Make = Callable[..., Any]
GRID = np.stack(np.meshgrid(np.arange(-9.0, 10), np.arange(-9.0, 10)), -1).reshape(-1, 2)
AFTER = 16


@pytest.fixture
def detours() -> Detours:
    """Little is 1 unit, far 8."""
    return Detours(GRID.tolist(), speed=1.0, after=AFTER, reach=8)


def walk(
    detours: Detours, places: np.ndarray, goals: np.ndarray, begins: Any = ()
) -> tuple[list[Detour], np.ndarray]:
    """Of places [T, B, 2]: what is remembered at every step, and turns [T, B]."""
    state: Detour | None = None
    states, turned = [], []
    seeds = np.arange(places.shape[1])
    for step, here in enumerate(places):
        fresh = np.full(len(seeds), step in begins)
        state, turns = detours.follow(state, fresh, here, goals, seeds, np.full(len(seeds), step))
        states.append(state)
        turned.append(turns)
    return states, np.array(turned)


def test_who_stands_still_goes_elsewhere_for_a_while(detours: Detours) -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform(-0.3, 0.3, (60, 5, 2))
    places[:, 3] += 0.2 * np.arange(60)[:, None]  # gets on
    goals = np.full((5, 2), 7.0)
    goals[4] = 0.5  # has arrived
    states, turned = walk(detours, places, goals)
    rows = [np.flatnonzero(turned[:, row]).tolist() for row in range(5)]
    assert rows[0] == rows[1] == rows[2] and rows[3] == rows[4] == []
    first, back, again, *_ = rows[0]
    assert (first, back) == (AFTER, AFTER + AFTER // 2) and again == back + AFTER // 2
    under_way = [step for step, state in enumerate(states) if (state.left > 0)[:3].any()]
    assert under_way == [*range(16, 24), *range(32, 40), *range(48, 56)]
    aims = states[first].aim[:3]
    gap = np.linalg.norm(aims - places[first, :3], axis=1)
    assert ((gap >= 2) & (gap <= 8)).all()
    assert {tuple(aim) for aim in aims} <= {tuple(at) for at in GRID}
    assert len({tuple(aim) for aim in aims}) > 1
    # each draws anew, the same again
    assert not np.array_equal(states[again].aim[:3], aims)
    assert np.array_equal(walk(detours, places, goals)[0][again].aim, states[again].aim)


def test_an_episode_begins_without_a_detour(detours: Detours) -> None:
    places, goals = np.zeros((40, 1, 2)), np.full((1, 2), 7.0)
    states, turned = walk(detours, places, goals, begins=(10, 30))
    assert np.flatnonzero(turned[:, 0]).tolist() == [10 + AFTER]
    assert states[29].left[0] > 0 and states[30].left[0] == 0


def test_without_a_landmark_near_the_nearest_other_one_is_aimed_at() -> None:
    detours = Detours([[0.0], [50.0], [90.0]], speed=1.0, after=AFTER, reach=8)
    places, goals = np.zeros((20, 1, 1)), np.full((1, 1), 70.0)
    assert walk(detours, places, goals)[0][-1].aim.tolist() == [[50.0]]


def test_an_agent_that_got_nowhere_plans_elsewhere(make_agent: Make) -> None:
    agent, other = make_agent(detour_after=6, replan_every=8), make_agent(replan_every=8)
    given = {"observation": np.zeros((2, 4), np.float32), "desired_goal": np.full((2, 2), 3.0)}
    state, plain, ages = None, None, []
    for _ in range(12):
        state, plain = (a.predict(given, s)[1] for a, s in ((agent, state), (other, plain)))
        ages.append(state.age.tolist())
    # a new plan when the detour begins, after 6 steps, and when it ends, after 3 more
    assert [age[0] for age in ages] == [*range(6), *range(3), *range(3)]
    assert plain.detour is None and plain.age.tolist() == [3, 3]
    # the goals stay those that were given: for a task's eyes nothing has moved
    assert np.array_equal(state.goals, given["desired_goal"])
    assert make_agent(rewards=True, detour_after=6).predict(np.zeros((2, 3)))[1].detour is None
