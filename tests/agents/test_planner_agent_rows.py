"""Rows of the agent's batch: resets, goals, seeds and noise of their own."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from diffplan.agents import AgentState
from diffplan.engines import decision
from diffplan.planning.stages import Noise

Make = Callable[..., Any]


def at(observation: dict[str, np.ndarray], rows: Any) -> dict[str, np.ndarray]:
    return {key: value[rows] for key, value in observation.items()}


def moved(given: dict[str, np.ndarray], /, **changes: np.ndarray) -> dict[str, np.ndarray]:
    return {**given, **changes}


def test_rows_reset_on_their_own(make_agent: Make, observe: Make) -> None:
    agent = make_agent()
    first_action, state = agent.predict(observe(3))
    first = state
    for _ in range(3):
        _, state = agent.predict(observe(3), state)
    restarted = np.array([False, True, False])
    _, after = agent.predict(observe(3), state, restarted)
    assert after.age.tolist() == [4, 0, 4]
    assert after.count.tolist() == [1, 2, 1]
    # a new episode in the same place has noise of its own
    assert not np.allclose(after.plan.states[1], first.plan.states[1], atol=1e-5)
    # with the seed set again it plans as the first one did
    again = agent.reset_rows(state, restarted, first.seeds)
    action, after = agent.predict(observe(3), again, restarted)
    assert after.count.tolist() == [1, 1, 1]
    np.testing.assert_allclose(after.plan.states[1], first.plan.states[1], atol=1e-5)
    np.testing.assert_allclose(action[1], first_action[1], atol=1e-5)
    for row in (0, 2):
        np.testing.assert_array_equal(after.plan.states[row], state.plan.states[row])


def test_a_new_goal_makes_a_new_plan_for_its_row(make_agent: Make, observe: Make) -> None:
    agent = make_agent()
    observation = observe(3)
    _, state = agent.predict(observation)
    _, state = agent.predict(observation, state)
    goals = observation["desired_goal"].copy()
    goals[1, 0] += 0.5
    _, after = agent.predict(moved(observation, desired_goal=goals), state)
    assert after.age.tolist() == [2, 0, 2]
    assert after.count.tolist() == [1, 2, 1]
    assert not np.allclose(after.plan.states[1, 1:], state.plan.states[1, 1:])
    np.testing.assert_array_equal(after.plan.states[[0, 2]], state.plan.states[[0, 2]])
    # and it stays with it
    _, later = agent.predict(moved(observation, desired_goal=goals), after)
    assert later.age.tolist() == [3, 1, 3]


@pytest.mark.parametrize(
    "planning",
    [
        {},
        {"candidates": 3, "select": "softmax"},
        {"start": "noise", "denoising_steps": 3, "eta": 0.5},
        {"start": "sdedit"},
    ],
)
def test_a_row_never_depends_on_the_others(
    make_agent: Make, observe: Make, planning: dict[str, Any]
) -> None:
    agent = make_agent(**planning)
    ours = np.array([0, 2])

    def episode(others: int, fresh: int) -> tuple[list[np.ndarray], AgentState]:
        state = agent.reset_rows(None, np.ones(4, bool), np.array([11, others, 33, others + 1]))
        actions = []
        for step in range(8):
            observation = observe(4, 100 * others + step)
            for key, value in observe(4, step).items():
                observation[key][ours] = value[ours]
            start = np.array([step == 0, step % fresh == 0, step in (0, 3), step % fresh == 1])
            action, state = agent.predict(observation, state, start)
            actions.append(action[ours])
        return actions, state

    one, one_state = episode(1, 5)
    two, two_state = episode(2, 2)
    np.testing.assert_allclose(one, two, atol=1e-4, rtol=1e-4)
    for name in ("states", "candidates", "values"):
        a, b = getattr(one_state.plan, name), getattr(two_state.plan, name)
        np.testing.assert_allclose(a[ours], b[ours], atol=1e-4, rtol=1e-4)
        assert not np.allclose(a[1], b[1], atol=1e-3)
    # nor on where it stands, or how many there are
    _, alone = agent.predict(
        at(observe(4), [2]), agent.reset_rows(None, np.ones(1, bool), np.array([33]))
    )
    _, among = agent.predict(
        at(observe(4), [1, 2]), agent.reset_rows(None, np.ones(2, bool), np.array([7, 33]))
    )
    np.testing.assert_allclose(alone.plan.states[0], among.plan.states[1], atol=1e-4)


def test_seeds_decide_the_plans(make_agent: Make, observe: Make) -> None:
    agent = make_agent(goal_tolerance=0.0)
    here = at(observe(1), [0, 0, 0])  # the same observation in every row

    def plans(seeds: list[int], state: AgentState | None = None) -> np.ndarray:
        fresh = agent.reset_rows(state, np.ones(3, bool), np.array(seeds))
        return agent.predict(here, fresh)[1].plan.states

    first = plans([1, 2, 1])
    np.testing.assert_allclose(first[0], first[2], atol=1e-6)
    assert not np.allclose(first[0], first[1])
    np.testing.assert_array_equal(first, plans([1, 2, 1]))
    np.testing.assert_allclose(first[[1, 0]], plans([2, 1, 5])[:2], atol=1e-6)
    # within an episode every plan has noise of its own, and a new episode begins again
    _, state = agent.predict(here, agent.reset_rows(None, np.ones(3, bool), np.array([1, 2, 1])))
    goals = here["desired_goal"] + np.array([[1e-6, 0]])
    _, second = agent.predict(moved(here, desired_goal=goals), state)
    assert second.count.tolist() == [2, 2, 2]
    assert not np.allclose(second.plan.states, first, atol=1e-3)
    np.testing.assert_array_equal(plans([1, 2, 1], second), first)
    # rows not marked keep their seed, plan and age
    some = agent.reset_rows(second, np.array([False, True, False]), np.array([8, 9, 8]))
    assert some.seeds.tolist() == [1, 9, 1]
    _, third = agent.predict(moved(here, desired_goal=goals), some)
    assert third.age.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(third.plan.states[[0, 2]], second.plan.states[[0, 2]])


def test_the_agent_s_seed_is_the_rows_seed_until_they_get_their_own(
    make_agent: Make, observe: Make
) -> None:
    one, same, other = (make_agent(seed=seed).plan(observe(2)).states for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)


def test_noise_is_drawn_afresh_unless_deterministic(make_agent: Make, observe: Make) -> None:
    agent = make_agent()

    def plan(deterministic: bool) -> np.ndarray:
        return agent.predict(observe(2), deterministic=deterministic)[1].plan.states

    np.testing.assert_array_equal(plan(True), plan(True))
    assert not np.allclose(plan(False), plan(False))
    silent = make_agent(start="none")
    np.testing.assert_array_equal(
        silent.predict(observe(2))[0], silent.predict(observe(2), deterministic=False)[0]
    )


def test_noise_is_standard_and_only_where_it_is_used(
    make_agent: Make, observe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Noise] = []
    make_plan = decision.make_plan

    def spy(model: Any, context: Any, noise: Noise, *args: Any, **options: Any) -> Any:
        seen.append(noise)
        return make_plan(model, context, noise, *args, **options)

    monkeypatch.setattr(decision, "make_plan", spy)
    agent = make_agent(candidates=40, sampler="ancestral", denoising_steps=3, select="softmax")
    agent.plan(observe(2))
    noise = seen[-1]
    assert noise.propose.shape == (2, 40, 4, 5)
    assert noise.start.shape == (2, 40, 4, 4)
    assert noise.steps is not None and noise.steps.shape == (3, 2, 40, 4, 4)
    assert noise.select.shape == (2, 40)
    parts = [noise.propose, noise.start, *noise.steps]
    for part in parts:
        assert abs(float(part.mean())) < 0.1
        assert float(part.std()) == pytest.approx(1, abs=0.1)
    # no two parts are the same numbers
    for i, a in enumerate(parts):
        for b in parts[:i]:
            assert not np.intersect1d(a.numpy(), b.numpy()).size > 3
    assert float(noise.select.mean()) == pytest.approx(0.577, abs=0.4)  # Gumbel
    make_agent(candidates=2).plan(observe(2))
    assert seen[-1].select.shape == (2, 0)
    make_agent(start="raw", denoising_steps=2).plan(observe(2))
    noise = seen[-1]
    assert noise.steps is None
    for part in (noise.propose, noise.start, noise.select):
        assert not part.any()
