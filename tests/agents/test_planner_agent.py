"""The agent: Stable-Baselines3's predict with state as a value, plans followed in closed loop."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from diffplan.agents import AgentState, PlannerAgent
from diffplan.data.info import ObservationLayout
from diffplan.engines import decision
from diffplan.errors import DiffplanError
from diffplan.model.context import Context

Make = Callable[..., Any]


def moved(given: dict[str, np.ndarray], /, **changes: np.ndarray) -> dict[str, np.ndarray]:
    return {**given, **changes}


def arrays(state: AgentState) -> dict[str, np.ndarray]:
    """Every array of a state, copied."""
    plan = state.plan.numpy()._asdict()
    own = {"goals": state.goals, "age": state.age, "seeds": state.seeds, "count": state.count}
    return {key: np.array(value) for key, value in {**plan, **own}.items() if value is not None}


def assert_equal(one: AgentState, other: AgentState) -> None:
    a, b = arrays(one), arrays(other)
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(DiffplanError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


# --- Shapes and units -----------------------------------------------------------------------------


@pytest.mark.parametrize("rewards", [True, False])
def test_a_batch_and_a_single_observation(make_agent: Make, observe: Make, rewards: bool) -> None:
    agent = make_agent(rewards=rewards)
    goals = observe(3)
    batch: Any = goals["observation"][:, :3] if rewards else goals
    single: Any = batch[0] if rewards else {key: value[0] for key, value in goals.items()}
    actions, state = agent.predict(batch)
    assert actions.shape == (3, 2)
    assert actions.dtype == np.float32
    assert (actions >= -2).all() and (actions <= 1).all()
    assert state.age.tolist() == [0, 0, 0]
    alone, one = agent.predict(single)
    assert alone.shape == (2,)
    assert one.age.shape == (1,)
    np.testing.assert_allclose(alone, actions[0], atol=1e-5)
    alone, one = agent.predict(single, one)
    assert one.age.tolist() == [1]


def test_plans_are_in_environment_units(make_agent: Make, observe: Make) -> None:
    agent = make_agent(candidates=3, start="none", subgoal_steps=0)
    observation = observe(2)
    view = agent.plan(observation)
    assert view.proposal.shape == view.candidates.shape == (2, 3, 5, 4)
    assert view.states.shape == (2, 5, 4)
    assert view.values.shape == (2, 3)
    np.testing.assert_allclose(view.states[:, 0], observation["observation"], atol=1e-5)
    np.testing.assert_array_equal(view.chosen, view.values.argmax(1))
    for row in range(2):
        np.testing.assert_array_equal(view.states[row], view.candidates[row, view.chosen[row]])
    # the same through the networks by hand
    model = agent.model
    state = model.states(torch.tensor(observation["observation"], dtype=torch.float32))
    goal = model.goal(torch.tensor(observation["desired_goal"], dtype=torch.float32))
    proposal = model.proposer.propose(Context(state, goal))
    by_hand = model.states.inverse(proposal.states)
    np.testing.assert_allclose(view.candidates[:, 0, 1:], by_hand.detach(), atol=1e-4)
    value = model.value(proposal.states[:, -1], goal)
    in_units = model.returns.inverse(value[:, None])[:, 0]
    np.testing.assert_allclose(view.values[:, 0], in_units.detach(), atol=1e-4)


def test_a_goal_the_model_cannot_use_is_ignored(make_agent: Make, observe: Make) -> None:
    agent = make_agent(rewards=True)
    layout = ObservationLayout(3, 2, dict_keys=("observation",))
    other = PlannerAgent(agent.model, layout, agent.info, config_name="x", engine="eager")
    observation = observe(2)
    given = moved(observation, observation=observation["observation"][:, :3])
    np.testing.assert_array_equal(other.predict(given)[0], agent.predict(given["observation"])[0])


# --- State is a value -----------------------------------------------------------------------------


def test_the_agent_never_changes_and_states_are_values(make_agent: Make, observe: Make) -> None:
    agent = make_agent(candidates=2, denoising_steps=2, sampler="ancestral")
    before = dict(vars(agent))
    weights = {key: value.clone() for key, value in agent.model.state_dict().items()}
    _, first = agent.predict(observe(3))
    kept = arrays(first)
    one_action, one = agent.predict(observe(3, 1), first)
    agent.predict(observe(3, 7), first, np.array([True, False, True]))
    agent.reset_rows(first, np.array([True, True, False]), np.array([5, 6, 7]))
    agent.plan(observe(5))
    same_action, same = agent.predict(observe(3, 1), first)
    np.testing.assert_array_equal(one_action, same_action)
    assert_equal(one, same)
    for key, value in arrays(first).items():
        np.testing.assert_array_equal(value, kept[key])
    assert vars(agent).keys() == before.keys()
    assert all(vars(agent)[key] is value for key, value in before.items())
    assert all(torch.equal(weights[k], v) for k, v in agent.model.state_dict().items())


def test_observations_are_left_alone(make_agent: Make, observe: Make) -> None:
    observation = observe(2)
    before = {key: value.copy() for key, value in observation.items()}
    make_agent().predict(observation)
    for key, value in before.items():
        np.testing.assert_array_equal(observation[key], value)


def test_a_plan_is_followed_for_its_steps(make_agent: Make, observe: Make) -> None:
    agent = make_agent(replan_every=3)  # in the middle of a stride of 2
    state, ages, plans, counts = None, [], [], []
    for step in range(9):
        here = moved(observe(2), observation=observe(2, step)["observation"])
        _, state = agent.predict(here, state, np.array([step == 0] * 2))
        ages.append(state.age.tolist())
        counts.append(state.count.tolist())
        plans.append(state.plan.states)
    assert ages == [[n % 3] * 2 for n in range(9)]
    assert counts == [[n // 3 + 1] * 2 for n in range(9)]
    for step in range(1, 9):
        same = np.array_equal(plans[step], plans[step - 1])
        assert same == (step % 3 != 0)


def test_a_kept_plan_can_be_followed_to_its_end(make_agent: Make, observe: Make) -> None:
    agent = make_agent(replan_every=8)  # the whole horizon
    state = None
    for step in range(8):
        _, state = agent.predict(observe(1), state)
        assert state.age.tolist() == [step]
    assert agent.predict(observe(1), state)[1].age.tolist() == [0]


def test_plans_go_on_from_the_ones_before(make_agent: Make, observe: Make) -> None:
    # 4 plan states, 2 steps apart
    agent = make_agent(start="none", replan_every=6, reuse=True, candidates=1)
    observation, state, plans = observe(2), None, []
    for step in range(13):
        goal = observe(2, 1)["desired_goal"].copy()
        goal[1] += step >= 12  # the second row is sent elsewhere
        here = moved(observation, desired_goal=goal)
        _, state = agent.predict(here, state)
        plans.append(state.plan.states)
    assert state is not None and state.count.tolist() == [3, 3]
    np.testing.assert_allclose(plans[6][:, 1], plans[0][:, 4], atol=1e-5)
    np.testing.assert_allclose(plans[12][0, 1], plans[6][0, 4], atol=1e-5)
    # the rest is proposed from there, for the same goal
    model = agent.model
    normalised = [plans[0][:, 4]]
    goals = model.goal(torch.as_tensor(observe(2, 1)["desired_goal"], dtype=torch.float32))
    assert model.proposer is not None
    rest = Context(model.states(normalised[0]), goals)
    tail = model.proposer.propose(rest, horizon=3).states
    found = torch.as_tensor(plans[6][:, 2:])
    torch.testing.assert_close(model.states.inverse(tail), found, atol=1e-4, rtol=1e-4)
    # where the goal moved there is nothing to go on from
    alone = make_agent(start="none", replan_every=6, candidates=1)
    fresh = alone.predict(moved(here), alone.reset_rows(None, np.ones(2, bool), state.seeds))[1]
    assert not np.allclose(plans[12][1, 1], plans[6][1, 4], atol=1e-3)
    assert fresh.plan.states.shape == plans[12].shape


@pytest.mark.parametrize("name", ["trajectory-diffuser", "multi-task"])
def test_actions_are_decoded_in_closed_loop(
    name: str, make_agent: Make, observe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, calls = make_agent(name, config={"plan.stride": 3}, replan_every=6), []
    decode = decision.decode

    def spy(*args: Any) -> Any:
        calls.append(args)
        return decode(*args)

    monkeypatch.setattr(decision, "decode", spy)
    state = None
    for step in range(14):
        here = moved(observe(2), observation=observe(2, step)["observation"])
        start = np.array([step == 0, step in (0, 4)])  # the second row runs out of step
        action, state = agent.predict(here, state, start)
        # of rows that are due the plan decodes their first action itself, before
        model, now, ahead, lag, told = calls[-1]
        ages = np.array([step % 6, step if step < 4 else (step - 4) % 6])
        np.testing.assert_array_equal(state.age, ages)
        # from where it is now to the plan's next state, in the time left
        np.testing.assert_allclose(
            model.states.inverse(now), here["observation"], atol=1e-5, rtol=1e-5
        )
        due = state.plan.states[[0, 1], ages // 3 + 1]
        np.testing.assert_allclose(model.states.inverse(ahead), due, atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(lag, (3 - ages % 3) / 3, rtol=1e-6)
        if name == "multi-task":  # by what its head kept of that state
            assert torch.equal(told, state.plan.features[[0, 1], ages // 3])
        np.testing.assert_array_equal(action, decode(model, now, ahead, lag, told).detach())
    assert len(calls) == 14 + 4  # four times one row of the two is due


def test_copies_of_a_plan_are_made_once(make_agent: Make, observe: Make) -> None:
    with pytest.warns(UserWarning, match="8 candidates would be copies of one plan"):
        agent = make_agent(start="none", temperature=0.0, candidates=8)
    assert agent.planning["candidates"] == 1
    alone = make_agent(start="none", temperature=0.0, candidates=1)
    here = observe(2)
    np.testing.assert_array_equal(agent.predict(here)[0], alone.predict(here)[0])
    assert make_agent(start="none", temperature=0.5, candidates=8).settings.candidates == 8


# --- Mistakes -------------------------------------------------------------------------------------


def test_wrong_observations_get_one_line(make_agent: Make, observe: Make) -> None:
    agent, boxed = make_agent(), make_agent(rewards=True)
    good = observe(2)
    bad = good["observation"].copy()
    bad[1, 2] = np.nan
    assert "nan" in refusal(lambda: agent.predict(moved(good, observation=bad)))
    goals = good["desired_goal"].copy()
    goals[0, 1] = np.inf
    assert "desired_goal" in refusal(lambda: agent.predict(moved(good, desired_goal=goals)))
    message = refusal(lambda: agent.predict(moved(good, observation=np.zeros((2, 5)))))
    assert "(2, 5)" in message and "4" in message
    missing = {key: value for key, value in good.items() if key != "desired_goal"}
    assert "'desired_goal' is missing" in refusal(lambda: agent.predict(missing))
    assert "dict" in refusal(lambda: agent.predict(good["observation"]))
    assert "dict" in refusal(lambda: boxed.predict(good))
    assert "(2, 4)" in refusal(lambda: boxed.predict(np.zeros((2, 4))))
    for call in (boxed.predict, boxed.plan):
        message = refusal(lambda call=call: call(np.zeros((2, 2, 3))))
        assert "(2, 2, 3)" in message and "[B, 3]" in message


def test_a_state_for_other_rows_is_refused(make_agent: Make, observe: Make) -> None:
    agent = make_agent()
    _, state = agent.predict(observe(2))
    message = refusal(lambda: agent.predict(observe(3), state))
    assert "3 rows" in message and "2" in message and "state=None" in message
    message = refusal(lambda: agent.predict(observe(2), state, np.zeros(3, bool)))
    assert "episode_start" in message


@pytest.mark.parametrize(
    ("planning", "parts"),
    [
        ({"stepz": 3}, ["'stepz'", "'denoising_steps'"]),
        ({"replan_evry": 3}, ["did you mean 'replan_every'?"]),
        ({"start": "nosie"}, ["'nosie'", "'noise'"]),
        ({"denoising_steps": 99}, ["planning.denoising_steps is 99", "10 levels"]),
        ({"replan_every": 9}, ["planning.replan_every is 9", "at most the 8 environment steps"]),
        ({"replan_every": 8, "reuse": True}, ["is 8", "a multiple of plan.stride (2) below the 8"]),
        ({"replan_every": 3, "reuse": True}, ["is 3", "a multiple of plan.stride (2) below the 8"]),
    ],
)
def test_wrong_planning_settings_are_refused_at_once(
    make_agent: Make, planning: dict[str, Any], parts: list[str]
) -> None:
    message = refusal(lambda: make_agent(**planning))
    assert all(part in message for part in parts)
