"""The return-to-go an agent asks for: fixed, by step, or less what it has received."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from diffplan.agents import AgentState, PlannerAgent
from diffplan.data.targets import BINS, QUANTILES
from diffplan.engines import decision
from diffplan.envs.rollouts.serial import rollout
from diffplan.errors import DiffplanError

Make = Callable[..., Any]
Asked = list[list[float]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Every plan's target returns in the rewards' units, row by row."""
    found: Asked = []
    make_plan = decision.make_plan

    def spy(model: Any, context: Any, *args: Any, **options: Any) -> Any:
        found.append(model.returns.inverse(context.target_return[:, None])[:, 0].tolist())
        return make_plan(model, context, *args, **options)

    monkeypatch.setattr(decision, "make_plan", spy)
    return found


def run(
    agent: PlannerAgent, steps: int, rewards: list[float] | None = None, rows: int = 2
) -> AgentState:
    """Act `steps` times, told of the same rewards after each."""
    state = None
    for _ in range(steps):
        _, state = agent.predict(np.zeros((rows, 3)), state)
        if rewards is not None:
            state = agent.observe(state, np.array(rewards), np.ones(rows, bool))
    assert state is not None
    return state


def sinking() -> torch.Tensor:
    """A table of targets that go to 0 at a time limit."""
    return torch.linspace(90, 0, BINS).expand(len(QUANTILES), -1)


def test_one_target_is_kept_whatever_is_received(make_agent: Make, asked: Asked) -> None:
    agent = make_agent(rewards=True, replan_every=2, target="fixed", target_quantile=0.75)
    run(agent, 2 * agent.stride + 1, [1.0, 5.0])
    expected = float(agent.model.targets(0.75))
    assert asked == [pytest.approx([expected] * 2, rel=1e-4)] * 3
    assert expected != pytest.approx(float(agent.model.targets(0.1)))


def test_by_step_asks_for_what_the_data_still_reach(
    make_agent: Make, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_agent(rewards=True, replan_every=2, target="by-step", target_quantile=0.9)
    table = agent._targets._table
    monkeypatch.setitem(table._buffers, "by_step", sinking())
    run(agent, 2 * agent.stride + 1)
    expected = table(0.9, torch.arange(3) * agent.stride).tolist()
    assert [row[0] for row in asked] == pytest.approx(expected, rel=1e-4)
    assert len(set(expected)) == 3


def test_received_rewards_lower_the_target_row_by_row(make_agent: Make, asked: Asked) -> None:
    options = {"target": "decremented", "target_return": 50.0, "replan_every": 2}
    agent = make_agent(rewards=True, **options)
    discount = agent.model.config.data.discount
    run(agent, agent.stride + 1, [1.0, 4.0])
    left = np.array([50.0, 50.0])
    for _ in range(agent.stride):
        left = (left - [1.0, 4.0]) / discount
    assert asked == [pytest.approx([50, 50], rel=1e-5), pytest.approx(left.tolist(), rel=1e-4)]


def test_the_target_does_not_fall_below_its_floor(make_agent: Make, asked: Asked) -> None:
    options = {"target": "decremented", "target_return": 50.0, "replan_every": 2}
    agent = make_agent(rewards=True, **options)
    run(agent, agent.stride + 1, [100.0, 0.0])
    assert asked[1][0] == pytest.approx(50 / 3, rel=1e-4)
    assert asked[1][1] > 50  # nothing came in, and time went by


def test_a_negative_target_has_no_floor(make_agent: Make, asked: Asked) -> None:
    agent = make_agent(rewards=True, target="decremented", target_return=-5.0, replan_every=2)
    run(agent, agent.stride + 1, [10.0, 0.0])
    assert asked[1][0] < -20


def test_received_starts_from_the_first_step_s_quantile(
    make_agent: Make, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"rewards": True, "target": "decremented", "target_quantile": 0.9}
    targets = make_agent(**options).model.targets
    monkeypatch.setitem(targets._buffers, "by_step", sinking())
    run(make_agent(**options), 1)
    assert asked[0] == pytest.approx([90, 90], rel=1e-4)


def test_a_new_episode_starts_anew(make_agent: Make, asked: Asked) -> None:
    agent = make_agent(rewards=True, target="decremented", target_return=50.0)
    state = run(agent, 2, [3.0, 3.0])
    _, after = agent.predict(np.zeros((2, 3)), state, np.array([True, False]))
    assert (after.step[0], after.step[1]) == (0, 2)
    assert after.target_return[0] == 50 and after.target_return[1] == pytest.approx(
        state.target_return[1]
    )
    reset = agent.reset_rows(state, np.array([False, True]), np.array([0, 7]))
    _, after = agent.predict(np.zeros((2, 3)), reset)
    assert (after.step[0], after.step[1]) == (2, 0)
    assert after.target_return[1] == 50


def test_rows_not_stepped_receive_nothing(make_agent: Make) -> None:
    agent = make_agent(rewards=True, target="decremented", target_return=50.0)
    state = run(agent, 1)
    after = agent.observe(state, np.array([3.0, 3.0]), np.array([True, False]))
    assert after.target_return[1] == 50 and after.target_return[0] != 50
    kept = make_agent(rewards=True, target="fixed")
    state = run(kept, 1)
    assert kept.observe(state, np.array([3.0, 3.0]), np.ones(2, bool)) is state


def test_an_explicit_target_by_step_is_refused(make_agent: Make) -> None:
    with pytest.raises(DiffplanError, match="by-step reads every target off the data"):
        make_agent(rewards=True, target="by-step", target_return=3.0)


class Paying(gym.Env[np.ndarray, np.ndarray]):
    """Pays 2 a step for six steps."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,))
    action_space = gym.spaces.Box(-1, 1, (2,))

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.t = 0
        return np.zeros(3, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return np.zeros(3, np.float32), 2.0, self.t == 6, False, {}


def test_rollouts_tell_the_agent_what_it_received(make_agent: Make, asked: Asked) -> None:
    agent = make_agent(rewards=True, target="decremented", target_return=50.0, replan_every=2)
    rollout(agent, Paying, episodes=1, num_envs=1, seed=0, progress=False)
    left, expected = 50.0, []
    for step in range(6):
        if step % agent.stride == 0:
            expected.append(left)
        left = (left - 2) / agent.model.config.data.discount
    assert [row[0] for row in asked] == pytest.approx(expected, rel=1e-4)


def test_rows_are_asked_alike_alone_and_together(make_agent: Make, asked: Asked) -> None:
    options = {"target": "decremented", "target_quantile": 0.9, "replan_every": 2}
    agent = make_agent(rewards=True, **options)
    steps = 2 * agent.stride + 1
    run(agent, steps, [0.5, 3.0, -1.0], rows=3)
    together = np.array(asked).T
    for row, reward in enumerate([0.5, 3.0, -1.0]):
        asked.clear()
        run(agent, steps, [reward], rows=1)
        assert together[row] == pytest.approx(np.array(asked)[:, 0], rel=1e-5)
    assert len(np.unique(together[:, -1])) == 3


def test_a_plan_alone_asks_for_an_episode_s_first_target(make_agent: Make, asked: Asked) -> None:
    agent = make_agent(rewards=True, target="decremented", target_return=50.0)
    agent.plan(np.zeros((2, 3)))
    assert asked == [pytest.approx([50, 50], rel=1e-5)]


def test_the_target_decides_the_plan(make_agent: Make) -> None:
    plans = [
        make_agent(rewards=True, target_return=target).plan(np.zeros((1, 3))).states
        for target in (1.0, 1.0, 50.0)
    ]
    assert np.array_equal(plans[0], plans[1])
    assert not np.allclose(plans[0][:, 1:], plans[2][:, 1:], atol=1e-3)


def test_published_settings_of_a_dataset_lower_their_target(make_agent: Make, asked: Asked) -> None:
    preset = {
        "planning.target": "decremented",
        "planning.target_return": 60.0,
    }
    agent = make_agent("trajectory-diffuser-published", rewards=True, config=preset)
    assert agent.model.config.data.discount == 1
    run(agent, 4, [15.0, 1.0])
    # a plan a step; undiscounted; not below a third
    lowered = zip([60, 45, 30, 20], [60, 59, 58, 57], strict=True)
    assert asked == [pytest.approx(list(row), rel=1e-4) for row in lowered]


@pytest.mark.parametrize("options", [{"target_quantile": 0.5}, {"target": "by-step"}])
def test_a_quantile_takes_the_place_of_the_model_s_own_return(
    make_agent: Make, asked: Asked, options: dict[str, Any]
) -> None:
    config = {"planning.target_return": 1000.0}
    run(make_agent(rewards=True, config=config), 1)
    agent = make_agent(rewards=True, config=config, **options)
    assert agent.planning["target_return"] is None
    run(agent, 1)
    assert asked[0][0] == pytest.approx(1000, rel=1e-4)
    assert asked[1][0] < 100


def test_targets_without_effect_are_refused(make_agent: Make) -> None:
    for options in ({"target_return": 3.0}, {"target_quantile": 0.5}, {"target": "by-step"}):
        message = f"planning.{next(iter(options))} is given, but this model plans for a goal"
        with pytest.raises(DiffplanError, match=message):
            make_agent(**options)
    # the model's own settings, named again, are no change
    make_agent(**make_agent().planning)
    with pytest.raises(DiffplanError, match="with a goal the returns count steps"):
        make_agent("trajectory-diffuser-published", target="decremented")
