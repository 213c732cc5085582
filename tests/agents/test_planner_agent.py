"""The agent: Stable-Baselines3's predict with state as a value, rows on their own, closed loop."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffplan.agents import AgentState, PlannerAgent, PlanView, load_agent, planner_agent
from diffplan.checkpoint import Header, save_checkpoint
from diffplan.data.episodes import Episodes, ObservationLayout
from diffplan.errors import DiffplanError
from diffplan.model import PlannerModel
from diffplan.planner import Noise, matching_level

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def make_agent(
    tiny_config: Make, tiny_model: Make, tiny_episodes: Episodes, tiny_goal_episodes: Episodes
) -> Callable[..., PlannerAgent]:
    """Makes an agent for the goal dict of 4 + 2 numbers, or for a Box of 3 with `rewards`."""
    models: dict[str, PlannerModel] = {}

    def make(
        name: str = "trajectory-diffuser",
        *,
        rewards: bool = False,
        seed: int = 0,
        config: dict[str, Any] | None = None,
        **planning: Any,
    ) -> PlannerAgent:
        episodes = tiny_episodes if rewards else tiny_goal_episodes
        key = f"{name} {rewards} {config}"
        if key not in models:
            models[key] = tiny_model(tiny_config(name, config), episodes)
        return PlannerAgent(
            models[key], episodes.layout, episodes.info, config_name=name, seed=seed, **planning
        )

    return make


def observe(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A batched goal observation in environment units."""
    rng = np.random.default_rng(seed)
    state = rng.normal(size=(rows, 4))
    return {
        "observation": state,
        "achieved_goal": state[:, :2],
        "desired_goal": rng.normal(size=(rows, 2)),
    }


def at(observation: dict[str, np.ndarray], rows: Any) -> dict[str, np.ndarray]:
    return {key: value[rows] for key, value in observation.items()}


def moved(given: dict[str, np.ndarray], /, **changes: np.ndarray) -> dict[str, np.ndarray]:
    return {**given, **changes}


def arrays(state: AgentState) -> dict[str, np.ndarray]:
    """Every array of a state, copied."""
    plan = {f.name: getattr(state.plan, f.name) for f in dataclasses.fields(PlanView)}
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


# --- Shapes and units ----------------------------------------------------------------------------


@pytest.mark.parametrize("rewards", [True, False])
def test_a_batch_and_a_single_observation(make_agent: Make, rewards: bool) -> None:
    agent = make_agent(rewards=rewards)
    goals = observe(3)
    batch: Any = goals["observation"][:, :3] if rewards else goals
    single: Any = batch[1] if rewards else at(goals, 1)
    actions, state = agent.predict(batch)
    assert actions.shape == (3, 2)
    assert actions.dtype == np.float32
    assert (actions >= -2).all() and (actions <= 1).all()
    assert state.age.tolist() == [0, 0, 0]
    alone, one = agent.predict(single)
    assert alone.shape == (2,)
    assert one.age.shape == (1,)
    np.testing.assert_allclose(alone, actions[1], atol=1e-5)
    alone, one = agent.predict(single, one)
    assert one.age.tolist() == [1]


def test_plans_are_in_environment_units(make_agent: Make) -> None:
    agent = make_agent(candidates=3, start="none")
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
    proposal = model.proposer.propose(state, goal, None)
    by_hand = model.states.inverse(proposal.states)
    np.testing.assert_allclose(view.candidates[:, 0, 1:], by_hand.detach(), atol=1e-4)
    value = model.value(proposal.states[:, -1], goal)
    in_units = model.returns.inverse(value[:, None])[:, 0]
    np.testing.assert_allclose(view.values[:, 0], in_units.detach(), atol=1e-4)


def test_the_target_return_is_asked_for(make_agent: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, asked = make_agent(rewards=True), []
    make_plan = planner_agent.make_plan

    def spy(model: Any, context: Any, *args: Any) -> Any:
        asked.append(context.returns)
        return make_plan(model, context, *args)

    monkeypatch.setattr(planner_agent, "make_plan", spy)
    agent.plan(np.zeros((2, 3)))
    expected = agent.model.normalised_returns(agent.model.target_return)
    torch.testing.assert_close(asked[0], expected.expand(2))
    assert not torch.allclose(expected, torch.zeros(()))


def test_a_goal_the_model_cannot_use_is_ignored(make_agent: Make) -> None:
    agent = make_agent(rewards=True)
    layout = ObservationLayout(3, 2, dict_keys=("observation",))
    other = PlannerAgent(agent.model, layout, agent.info, config_name="x")
    observation = observe(2)
    given = moved(observation, observation=observation["observation"][:, :3])
    np.testing.assert_array_equal(other.predict(given)[0], agent.predict(given["observation"])[0])


# --- State is a value ----------------------------------------------------------------------------


def test_the_agent_never_changes_and_states_are_values(make_agent: Make) -> None:
    agent = make_agent(candidates=2, steps=2, sampler="ancestral")
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


def test_observations_are_left_alone(make_agent: Make) -> None:
    observation = observe(2)
    before = {key: value.copy() for key, value in observation.items()}
    make_agent().predict(observation)
    for key, value in before.items():
        np.testing.assert_array_equal(observation[key], value)


def test_a_plan_is_kept_for_its_strides(make_agent: Make) -> None:
    agent = make_agent(keep=2)  # strides of 2 environment steps
    state, ages, plans, counts = None, [], [], []
    for step in range(9):
        here = moved(observe(2), observation=observe(2, step)["observation"])
        _, state = agent.predict(here, state, np.array([step == 0] * 2))
        ages.append(state.age.tolist())
        counts.append(state.count.tolist())
        plans.append(state.plan.states)
    assert ages == [[n % 4] * 2 for n in range(9)]
    assert counts == [[n // 4 + 1] * 2 for n in range(9)]
    for step in range(1, 9):
        same = np.array_equal(plans[step], plans[step - 1])
        assert same == (step % 4 != 0)


def test_a_kept_plan_can_be_followed_to_its_end(make_agent: Make) -> None:
    agent = make_agent(keep=4)  # the whole horizon
    state = None
    for step in range(8):
        _, state = agent.predict(observe(1), state)
        assert state.age.tolist() == [step]
    assert agent.predict(observe(1), state)[1].age.tolist() == [0]


def test_actions_are_decoded_in_closed_loop(
    make_agent: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, calls = make_agent(config={"plan.stride": 3}, keep=2), []
    decode = planner_agent.decode

    def spy(*args: Any) -> Any:
        calls.append(args)
        return decode(*args)

    monkeypatch.setattr(planner_agent, "decode", spy)
    state = None
    for step in range(14):
        here = moved(observe(2), observation=observe(2, step)["observation"])
        start = np.array([step == 0, step in (0, 4)])  # the second row runs out of step
        action, state = agent.predict(here, state, start)
        model, now, ahead, lag = calls[step]
        ages = np.array([step % 6, step if step < 4 else (step - 4) % 6])
        np.testing.assert_array_equal(state.age, ages)
        # from where it is now to the plan's next state, in the time left
        np.testing.assert_allclose(
            model.states.inverse(now), here["observation"], atol=1e-5, rtol=1e-5
        )
        due = state.plan.states[[0, 1], ages // 3 + 1]
        np.testing.assert_allclose(model.states.inverse(ahead), due, atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(lag, (3 - ages % 3) / 3, rtol=1e-6)
        np.testing.assert_array_equal(action, decode(model, now, ahead, lag).detach())
    assert len(calls) == 14


# --- Rows ----------------------------------------------------------------------------------------


def test_rows_reset_on_their_own(make_agent: Make) -> None:
    agent = make_agent()
    first_action, state = agent.predict(observe(3))
    first = state
    for _ in range(3):
        _, state = agent.predict(observe(3), state)
    action, after = agent.predict(observe(3), state, np.array([False, True, False]))
    assert after.age.tolist() == [4, 0, 4]
    assert after.count.tolist() == [1, 1, 1]
    # a new episode in the same place plans as the first one did, with the row's own seed
    np.testing.assert_allclose(after.plan.states[1], first.plan.states[1], atol=1e-5)
    np.testing.assert_allclose(action[1], first_action[1], atol=1e-5)
    for row in (0, 2):
        np.testing.assert_array_equal(after.plan.states[row], state.plan.states[row])


def test_a_new_goal_makes_a_new_plan_for_its_row(make_agent: Make) -> None:
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
        {"start": "noise", "steps": 3, "eta": 0.5},
        {"start": "sdedit"},
    ],
)
def test_a_row_never_depends_on_the_others(make_agent: Make, planning: dict[str, Any]) -> None:
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


def test_seeds_decide_the_plans(make_agent: Make) -> None:
    agent = make_agent()
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


def test_the_agent_s_seed_is_the_rows_seed_until_they_get_their_own(make_agent: Make) -> None:
    one, same, other = (make_agent(seed=seed).plan(observe(2)).states for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)


def test_noise_is_drawn_afresh_unless_deterministic(make_agent: Make) -> None:
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
    make_agent: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Noise] = []
    make_plan = planner_agent.make_plan

    def spy(model: Any, context: Any, noise: Noise, settings: Any) -> Any:
        seen.append(noise)
        return make_plan(model, context, noise, settings)

    monkeypatch.setattr(planner_agent, "make_plan", spy)
    agent = make_agent(candidates=40, sampler="ancestral", steps=3, select="softmax")
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
    make_agent(start="published", steps=2).plan(observe(2))
    noise = seen[-1]
    assert noise.steps is None
    for part in (noise.propose, noise.start, noise.select):
        assert not part.any()


# --- Mistakes ------------------------------------------------------------------------------------


def test_wrong_observations_get_one_line(make_agent: Make) -> None:
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


def test_a_state_for_other_rows_is_refused(make_agent: Make) -> None:
    agent = make_agent()
    _, state = agent.predict(observe(2))
    message = refusal(lambda: agent.predict(observe(3), state))
    assert "3 rows" in message and "2" in message and "state=None" in message
    message = refusal(lambda: agent.predict(observe(2), state, np.zeros(3, bool)))
    assert "episode_start" in message


@pytest.mark.parametrize(
    ("planning", "parts"),
    [
        ({"stepz": 3}, ["'stepz'", "'steps'"]),
        ({"start": "nosie"}, ["'nosie'", "'noise'"]),
        ({"steps": 99}, ["planning.steps is 99", "10 levels"]),
        ({"keep": 5}, ["planning.keep is 5", "(4)"]),
    ],
)
def test_wrong_planning_settings_are_refused_at_once(
    make_agent: Make, planning: dict[str, Any], parts: list[str]
) -> None:
    message = refusal(lambda: make_agent(**planning))
    assert all(part in message for part in parts)


# --- Loading -------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, make_agent: Make) -> Path:
    """A run with checkpoints at 10 and 20 updates; the first has other weights."""
    agent = make_agent()
    weights = agent.model.state_dict()
    for step, factor in ((10, 1.1), (20, 1.0)):
        header = Header(
            agent.model.config, agent.model.spec, agent.layout, agent.info, "f", step, 0, 3.5
        )
        scaled = {key: value * factor for key, value in weights.items()}
        save_checkpoint(tmp_path / "run", header, scaled, {})
    return tmp_path / "run"


def test_a_loaded_agent_acts_as_the_one_that_was_saved(run: Path, make_agent: Make) -> None:
    agent, loaded = make_agent(), load_agent(run)
    action, state = loaded.predict(observe(2))
    np.testing.assert_array_equal(action, agent.predict(observe(2))[0])
    assert_equal(state, agent.predict(observe(2))[1])
    assert loaded.config_name == "trajectory-diffuser"
    assert loaded.train_seconds == 3.5
    assert (loaded.layout, loaded.info) == (agent.layout, agent.info)
    assert (loaded.stride, loaded.horizon) == (2, 4)
    np.testing.assert_array_equal(load_agent(run, checkpoint=20).predict(observe(2))[0], action)
    for older in (load_agent(run, checkpoint=10), load_agent(run / "checkpoint-00000010")):
        assert not np.array_equal(older.predict(observe(2))[0], action)


def test_planning_settings_of_a_loaded_agent(run: Path) -> None:
    agent = load_agent(run, seed=4, steps=3, candidates=2, keep=1)
    assert agent.plan(observe(1)).candidates.shape == (1, 2, 5, 4)
    assert agent.seed == 4
    recorded = json.loads(json.dumps(agent.planning))
    assert (recorded["steps"], recorded["candidates"], recorded["keep"]) == (3, 2, 1)
    sdedit = load_agent(run, start="sdedit")
    level = matching_level(sdedit.model, sdedit.settings.steps)
    assert sdedit.settings.start_level == sdedit.planning["start_level"] == level


def test_loading_nonsense_gets_one_line(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, expected in (
        (tmp_path / "nowhere", "no folder"),
        (tmp_path / "empty", "holds no checkpoint"),
    ):
        assert expected in refusal(lambda p=path: load_agent(p))
    assert "'newest'" in refusal(lambda: load_agent(run, checkpoint="newest"))
    assert "checkpoint-00000015" in refusal(lambda: load_agent(run, checkpoint=15))
    assert "'stepz'" in refusal(lambda: load_agent(run, stepz=3))
    if not torch.cuda.is_available():
        assert "'cuda'" in refusal(lambda: load_agent(run, device="cuda"))
    weights = run / "checkpoint-00000020" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    assert "truncated" in refusal(lambda: load_agent(run))
