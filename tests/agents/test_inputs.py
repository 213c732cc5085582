"""What `predict` takes: anything that holds real numbers; all else is refused in one line."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from diffplan.errors import DiffplanError

Make = Callable[..., Any]
ROWS = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "given",
    [
        ROWS.tolist(),
        ROWS.astype(np.float64),
        ROWS[::-1][::-1],
        np.asfortranarray(ROWS),
        torch.tensor(ROWS, requires_grad=True),
        np.ma.masked_array(ROWS, mask=False),
    ],
    ids=["list", "float64", "negative strides", "columns first", "gradient", "nothing masked"],
)
def test_numbers_are_taken_from_whatever_holds_them(make_agent: Make, given: Any) -> None:
    agent = make_agent(rewards=True)
    assert np.array_equal(agent.predict(given)[0], agent.predict(ROWS)[0])


def test_no_rows_are_no_actions(make_agent: Make) -> None:
    action, state = make_agent(rewards=True).predict(np.zeros((0, 3)))
    assert action.shape == (0, 2)
    assert len(state.age) == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.array([["a", "b", "c"]]), "holds str"),
        ([[1.0, 2.0, 3.0], [1.0]], "ragged"),
        (np.ones((1, 3), complex), "holds complex128"),
        (np.full((1, 3), np.datetime64("2020-01-01")), "holds datetime64"),
        (np.ma.masked_array(ROWS, mask=ROWS > 0), "masked entries"),
        (np.array([[None, 1, 2]], object), "holds object"),
        (np.array([[1e300, 0, 0]]), "1e\\+300 at index \\(0, 0\\)"),
        (np.array([[np.nan, 0, 0]]), "nan at index"),
        (np.zeros((1, 4)), "shape \\(1, 4\\)"),
        (np.zeros(()), "shape \\(\\)"),
    ],
)
def test_what_holds_no_real_numbers_is_refused(make_agent: Make, given: Any, message: str) -> None:
    with pytest.raises(DiffplanError, match=message) as error:
        make_agent(rewards=True).predict(given)
    assert "\n" not in str(error.value)


def test_an_absurd_observation_gives_no_absurd_action_in_silence(make_agent: Make) -> None:
    with pytest.raises(
        DiffplanError, match="no finite action for row 1, whose observation reaches"
    ):
        make_agent(rewards=True).predict(np.array([[0, 0, 0], [3e38, -3e38, 3e38]]))


def test_states_that_are_not_the_agents_own_are_refused(make_agent: Make) -> None:
    agent = make_agent(rewards=True)
    other = make_agent(rewards=True, config={"plan.horizon": 5})
    with pytest.raises(DiffplanError, match="another agent's; pass state=None"):
        agent.predict(ROWS, other.predict(ROWS)[1])
    with pytest.raises(DiffplanError, match="state is a dict"):
        agent.predict(ROWS, {})
    acting = make_agent("multi-task", rewards=True)
    for one, other in ((agent, acting), (acting, agent)):
        with pytest.raises(DiffplanError, match=r"plans hold .* another agent's; pass state=None"):
            one.predict(ROWS, other.predict(ROWS)[1])


def test_a_goal_changed_in_place_is_noticed_and_jitter_is_not(make_agent: Make) -> None:
    agent = make_agent()
    rng = np.random.default_rng(1)
    states, goal = rng.normal(size=(1, 4)), np.ones((1, 2), np.float32)
    given = {"observation": states, "achieved_goal": states[:, :2], "desired_goal": goal}
    state = agent.predict(given)[1]
    for _ in range(5):
        goal += np.float32(1e-6)
        state = agent.predict(given, state)[1]
    assert state.count.tolist() == [1]
    goal[:] = -1
    state = agent.predict(given, state)[1]
    assert state.count.tolist() == [2]
    # small steps add up: what counts is the goal that the plan was made for
    for _ in range(200):
        goal += np.float32(1e-4)
        state = agent.predict(given, state)[1]
    assert state.count[0] > 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed is -1, expected a whole number from 0 on"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": 1 << 63}, "seed is 9223372036854775808"),
        ({"goal_tolerance": -1.0}, "goal_tolerance is -1.0, expected a distance"),
        ({"goal_tolerance": float("nan")}, "goal_tolerance is nan"),
        ({"goal_tolerance": "near"}, "goal_tolerance is 'near'"),
    ],
)
def test_options_of_an_agent_are_checked_when_it_is_made(
    make_agent: Make, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DiffplanError, match=message):
        make_agent(**options)


def test_counts_and_seeds_of_calls_are_checked(make_agent: Make) -> None:
    agent = make_agent(rewards=True)
    with pytest.raises(DiffplanError, match="batch size is 0, expected a whole number from 1 on"):
        agent.prepare(0)
    with pytest.raises(DiffplanError, match="seed is 'x'"):
        agent.predict(ROWS, deterministic=False, seed="x")


def test_a_seed_repeats_what_is_drawn_afresh(make_agent: Make) -> None:
    agent = make_agent(rewards=True, denoising_steps=3, eta=1.0)
    one, other = (agent.predict(ROWS, deterministic=False, seed=s)[0] for s in (5, 6))
    again = agent.predict(ROWS, deterministic=False, seed=5)[0]
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
