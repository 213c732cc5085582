"""Agents that see a few columns at a time."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffplan.agents import export
from diffplan.constraints import Limit
from diffplan.errors import DiffplanError
from diffplan.planning import Aim

Make = Callable[..., Any]


def masked(seen: dict[str, Any], asks: np.ndarray) -> dict[str, Any]:
    return {**seen, "observation": np.where(asks, seen["observation"], np.nan)}


def test_who_sees_everything_acts_as_ever(make_agent: Make, observe: Make) -> None:
    agent, state, other = make_agent(), None, None
    sensing = agent.sensing(2)
    for step in range(2 * agent.settings.replan_every + 1):
        seen = observe(3, step)
        expected, state = agent.predict(seen, state)
        found, other = sensing.predict(seen, other)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(other.asks.sum(1), 2)


def test_what_was_never_measured_is_asked_for_in_time(make_agent: Make, observe: Make) -> None:
    agent = make_agent()
    every, seen = agent.settings.replan_every, observe(4)
    blind = agent.sensing(1, choice=(0,))
    state, spread = None, []
    for step in range(4 * every + 1):
        given = seen if state is None else masked(seen, state.asks)
        actions, state = blind.predict(given, state)
        assert np.isfinite(actions).all()
        if step and step % every == 0:
            spread.append(state.belief.std(1).mean(0))
    # a column that is measured is known, and doubt about the others grows
    assert (np.array(spread)[:, 0] < 1e-5).all()
    assert (spread[-1][1:] > spread[0][1:]).all()
    asked = agent.sensing(3)
    _, state = asked.predict(seen)
    asks = [state.asks]
    for _ in range(4 * every):
        _, state = asked.predict(masked(seen, state.asks), state)
        asks.append(state.asks)
    assert np.any(asks, (0, 1)).all()


def test_what_nobody_measures_is_where_the_plan_has_it(make_agent: Make, observe: Make) -> None:
    agent, seen = make_agent(), observe(2)
    blind = agent.sensing(1, choice=(0,))
    _, state = blind.predict(seen)
    plan = state.plan.states.numpy()
    for step in range(1, agent.settings.replan_every):
        _, state = blind.predict(masked(seen, state.asks), state)
        low, share = divmod(step / agent.stride, 1)
        between = plan[:, int(low)] + share * (plan[:, int(low) + 1] - plan[:, int(low)])
        np.testing.assert_allclose(state.estimate[:, 1:], between[:, 1:], atol=1e-5)


@pytest.mark.parametrize("every", [1, 3])
def test_plans_are_made_between_their_states_or_at_every_step(
    make_agent: Make, observe: Make, every: int
) -> None:
    agent = make_agent(replan_every=every)
    assert agent.stride > 1
    sensing, state = agent.sensing(1, choice=(0,)), None
    for step in range(7):
        seen = observe(2, step)
        _, state = sensing.predict(seen if state is None else masked(seen, state.asks), state)
    assert (state.belief.std(1)[:, 1:] > 1e-4).all()
    np.testing.assert_allclose(state.belief[:, :, 0].std(1), 0.0, atol=1e-6)


def test_goals_that_move_at_every_call_leave_doubt(make_agent: Make, observe: Make) -> None:
    sensing, state, asks = make_agent().sensing(1), None, []
    seen = observe(2)
    for step in range(8):
        given = {**seen, "desired_goal": observe(2, step)["desired_goal"]}
        _, state = sensing.predict(given if state is None else masked(given, state.asks), state)
        asks.append(state.asks)
    assert (state.age == 0).all()
    assert len({row.tobytes() for row in np.array(asks)[:, 0]}) > 1
    assert (state.belief.std(1).max(1) > 1e-4).all()


def test_a_state_of_other_particles_and_starts_of_other_rows_are_refused(
    make_agent: Make, observe: Make
) -> None:
    agent, seen = make_agent(), observe(2)
    _, state = agent.sensing(1, particles=8).predict(seen)
    with pytest.raises(DiffplanError, match="8 particles"):
        agent.sensing(1).predict(seen, state)
    with pytest.raises(DiffplanError, match="episode_start has 3 entries"):
        agent.sensing(1).predict(seen, None, np.ones(3, bool))


def test_particles_of_plans_from_noise_follow_them(make_agent: Make, observe: Make) -> None:
    sensing = make_agent(start="noise").sensing(1)
    _, state = sensing.predict(observe(2))
    every = np.ones(2, bool)
    found = sensing._particles(state, state.measured, every)
    moved = dataclasses.replace(state, plan=state.plan._replace(states=state.plan.states + 2.0))
    # the plan's start moves, too: the same way from elsewhere would be no difference
    moved.plan.states[:, 0] -= 2.0
    strayed = sensing._particles(moved, state.measured, every) - found
    assert np.abs(strayed[:, :, 1:]).mean() > 0.1


def test_rows_are_alone_and_episodes_begin_whole(make_agent: Make, observe: Make) -> None:
    sensing = make_agent().sensing(2, choice="random")
    seen, state, alone = observe(3), None, None
    for _ in range(6):
        given = seen if state is None else masked(seen, state.asks)
        one = {key: value[:1] for key, value in given.items()}
        actions, state = sensing.predict(given, state)
        first, alone = sensing.predict(one, alone)
        np.testing.assert_allclose(first, actions[:1], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(alone.asks, state.asks[:1])
    begins = np.array([False, True, False])
    with pytest.raises(DiffplanError, match=r"column \d of an observation that begins"):
        sensing.predict(masked(seen, np.zeros((3, 4), bool)), state, begins)
    fresh = sensing.reset_rows(state, begins, np.arange(3))
    _, after = sensing.predict(seen, fresh)
    np.testing.assert_array_equal(after.step, [6, 0, 6])


def test_sensors_with_an_array_and_without_a_batch(make_agent: Make) -> None:
    agent = make_agent(rewards=True)
    sensing = agent.sensing(1, sensors=((0, 1), (2,)), choice=(1,))
    observation = np.array([0.1, 0.2, 0.3])
    action, state = sensing.predict(observation)
    np.testing.assert_array_equal(state.asks, [[False, False, True]])
    again, state = sensing.predict(np.array([np.nan, np.nan, 0.4]), state)
    assert action.shape == again.shape == (len(agent.info.action_low),)
    np.testing.assert_allclose(state.estimate[0, 2], 0.4)


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("trajectory-diffuser", {}, {"columns": 9}, "columns is 9, but there are 4 sensors"),
    (
        "trajectory-diffuser",
        {},
        {"sensors": ((7,),)},
        r"\(7,\) was given, .* 0 to 3",
    ),
    ("trajectory-diffuser", {}, {"choice": (0, 1)}, "expected 1 of the sensors 0 to 3"),
    ("trajectory-diffuser", {}, {"choice": (1, 1), "columns": 2}, "each once"),
    ("trajectory-diffuser", {}, {"choice": 0}, "0 was given, expected a list"),
    ("trajectory-diffuser", {}, {"sensors": (0, 1)}, "0 was given, expected a list"),
    ("trajectory-diffuser", {}, {"choice": "greedy"}, "'greedy', expected 'active'"),
    ("trajectory-diffuser", {}, {"particles": 1}, "particles is 1"),
    ("trajectory-diffuser", {"plan.columns": "goal"}, {}, "plan.columns all"),
    ("streams", {}, {}, "take a model with a denoiser"),
]


@pytest.mark.parametrize(("name", "config", "asked", "message"), REFUSED)
def test_what_cannot_be_sensed_is_refused(
    make_agent: Make, name: str, config: Any, asked: Any, message: str
) -> None:
    with pytest.raises(DiffplanError, match=message):
        make_agent(name, config=config).sensing(**asked)


def test_sensors_are_not_lost_on_the_way(make_agent: Make, tmp_path: Path) -> None:
    sensing = make_agent().sensing(1)
    for lose in (
        lambda: export(sensing, tmp_path / "export"),
        lambda: sensing.composed(Aim()),
        lambda: sensing.constrained(Limit(0, low=0.0)),
        lambda: sensing.sensing(2),
    ):
        with pytest.raises(DiffplanError, match="sens"):
            lose()
