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


def test_things_that_need_each_other_are_begun_with_all_the_same() -> None:
    """Both are always moved while the other is elsewhere; a third is at its goal."""
    known = moves(
        *((0, [3 - to, 3, 0], [to, 3, 0]) for to in (0.0, 3.0)),
        *((1, [3, 3 - to, 0], [3, to, 0]) for to in (0.0, 3.0)),
        *((2, [0, at, -4], [0, at, 4]) for at in (0.0, 0.0, 3.0)),
    )
    errands = Errands((0, 1, 2), (1.0, 1.0, 1.0), AFTER, *known)
    here, goal = np.zeros((1, 3)), np.array([[3.0, 3.0, 0.0]])
    _, _, aims = errands.follow(None, np.array([True]), here, goal)
    assert aims[0, 2] == 0 and aims[0, :2].max() == 3


def test_another_goal_and_a_thing_that_was_pushed_are_seen_to() -> None:
    errands, none = Errands((0, 1), (1.0, 1.0), AFTER, (), (), ()), np.array([False])
    here = np.zeros((1, 2))
    state, _, _ = errands.follow(None, none, here, np.array([[9.0, 0.1]]))
    assert state.thing.tolist() == [0]
    # the agent says so, as of an episode that begins
    goal = np.array([[0.0, 9.0]])
    state, turns, aims = errands.follow(state, np.array([True]), here, goal)
    assert turns.tolist() == [True] and aims.tolist() == [[0, 9]]
    # what lies at its goal is not waited for
    at_goal = np.array([[0.0, 9.0]])
    things = []
    for step in range(4 * AFTER):
        pushed = at_goal + np.array([[5.0 * (step > AFTER), 0.0]])
        state, _, aims = errands.follow(state, none, pushed, goal)
        things.append(int(state.thing[0]))
    assert things[0] == 1 and things[-1] == 0 and aims.tolist() == [[0, 9]]


def test_the_same_thing_that_is_wanted_elsewhere_is_a_turn() -> None:
    errands, none = Errands((0, 1), (1.0, 1.0), AFTER, (), (), ()), np.array([False])
    here, goal = np.zeros((1, 2)), np.array([[5.0, 0.0]])
    state, _, _ = errands.follow(None, none, here, goal)
    assert not errands.follow(state, none, here, goal)[1].any()
    assert errands.follow(state, none, here, -goal)[1].all()


SPREAD = [-3.0, -1.5, 0.0, 1.5]


def needs_of(known: Any, goal: list[float]) -> tuple[list[int], int]:
    """Things that the first needs to be brought to a goal, and what takes it along."""
    found = Errands(THINGS, SCALE, AFTER, *known)._needs(0, np.array(goal))
    return [other for other, _ in found.others], found.carrier


def test_what_a_thing_needs_is_told_by_moves_and_not_by_odd_ones_or_nudges() -> None:
    def known(odd: int, nudged: bool = False, often: float = 0.5) -> Any:
        """Moves of the first thing to 3, all but some while the second is at 1 of 0 and 1."""
        start = np.zeros((400, 5))
        things = np.repeat([0, 1], 200)
        start[:200, 2] = 1
        start[:odd, 2] = 0
        start[200:, 2] = np.arange(200) < 200 * often
        end = start.copy()
        end[:200, 0], end[200:, 2] = 3, 1 - end[200:, 2]
        if nudged:
            end[:200, 0] = start[:200, 0] = 3
            end[:200, 0] += 0.2
        return things, start, end

    goal = [3.0, 0, 0, 0, 0]
    assert needs_of(known(0), goal) == ([1], -1)
    assert needs_of(known(15), goal) == ([1], -1)
    assert needs_of(known(60), goal) == ([], -1)
    assert needs_of(known(0, nudged=True), goal) == ([], -1)
    # what is there nearly always is there by itself
    always = known(0)
    always[1][:, 2] = 1
    assert needs_of(always, goal) == ([], -1)


def test_what_hands_bring_about_as_well_is_not_left_to_another_that_takes_it_along() -> None:
    along = [(0, [2.0, 0, 6, 0, 0], [4.0, 0, 0, 0, 0])]
    alone = [(0, [at, 0, 0, 0, 0], [4.0, 0, 0, 0, 0]) for at in SPREAD]
    goal = [4.0, 0, 0, 0, 0]
    assert needs_of(moves(*along), goal)[1] == 1
    assert needs_of(moves(*along, *alone), goal)[1] == -1
    few = [np.asarray(each)[:7] for each in moves(*along)]
    assert needs_of(few, goal)[1] == -1
    assert needs_of(moves(*along), [9.0, 0, 0, 0, 0])[1] == -1  # too far from any
    assert needs_of(moves(*along, *alone), [1e30, 0, 0, 0, 0])[1] == -1


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
    """Of data in which a hand takes two things elsewhere, one after the other."""
    rng, layout = np.random.default_rng(0), ObservationLayout(3, 2, (1, 2), (), ("observation",))
    episodes = []
    for _ in range(12):
        hand, things, rows = 0.0, rng.uniform(-2, 2, 2), []
        for _ in range(6):
            held = int(rng.integers(2))
            for target, takes in ((things[held], False), (rng.uniform(-2, 2), True)):
                for at in np.linspace(hand, target, 9)[1:]:
                    hand = at + 0.01 * rng.normal()
                    if takes:
                        things[held] = hand - 0.1
                    rows.append([hand, *things])
        episodes.append(np.array(rows))
    actions = [np.zeros((len(each) - 1, 2)) for each in episodes]
    joined = join_episodes(episodes, actions, layout=layout)
    config = tiny_config("trajectory-diffuser", {"data.relabel": "arrivals"})
    model = tiny_model(config, joined)
    assert model.spec.things == (0, 1) and model.spec.holds == ((0, 0), (1, 0))
    return PlannerAgent(model, joined.layout, joined.info, config_name="x", engine="eager")


def test_a_model_takes_over_what_holds_things_and_how_they_were_moved(sorter: PlannerAgent) -> None:
    model = sorter.model
    for features in (model.proposer.goal, model.denoiser.encoder.goal):
        # where the hand holds the first thing, in deviations of the hand
        for hand, off in ((0.6, 0.0), (0.6 + float(model.states.std[0]), 1.0)):
            z = model.states(torch.tensor([hand, 0.5, 1.7]))
            found = features.weight @ z + features.offset
            assert found[0] == pytest.approx(off, abs=0.05)
    assert set(model.moves.moved.tolist()) == {0, 1}
    went = (model.moves.end - model.moves.start).abs()
    own = went[range(len(went)), model.moves.moved]
    assert (own > 0.2).float().mean() > 0.8 and (went.sum(1) - own).max() < 0.1


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
