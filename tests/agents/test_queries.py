"""Questions to one network through the public interface, of one task and of several."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from diffplan.agents import PlannerAgent, Queries
from diffplan.data.combine import combine
from diffplan.data.episodes import Episodes
from diffplan.errors import DiffplanError

Make = Callable[..., Any]
B, H, STRIDE = 3, 4, 2


@pytest.fixture(params=["goals", "rewards"])
def data(
    request: pytest.FixtureRequest, tiny_episodes: Episodes, tiny_goal_episodes: Episodes
) -> Episodes:
    return tiny_goal_episodes if request.param == "goals" else tiny_episodes


@pytest.fixture(params=["one task", "id", "prompt"])
def agent_of(
    request: pytest.FixtureRequest, data: Episodes, tiny_config: Make, tiny_model: Make
) -> Callable[[str], PlannerAgent]:
    """Makes an agent of a named configuration, for one task or two that are told in one way."""
    several = request.param != "one task"
    parts = [
        dataclasses.replace(data, info=dataclasses.replace(data.info, id=name)) for name in "ab"
    ]
    episodes = combine(parts, "both") if several else data

    def make(name: str, **changes: Any) -> PlannerAgent:
        if several:
            changes["data.tasks"] = request.param
        model = tiny_model(tiny_config(name, changes), episodes)
        return PlannerAgent(model, episodes.layout, episodes.info, config_name=name)

    return make


def told(agent: PlannerAgent, task: int) -> PlannerAgent:
    """The agent, told of a task the way it is told."""
    if agent.model.tasks is None:
        return agent
    if agent.model.tasks.given == "id":
        return agent.for_task(task)
    rng = np.random.default_rng(task)
    return agent.for_demonstration(rng.normal(size=(9, agent.layout.state_dim)))


def observation_of(agent: PlannerAgent, rng: np.random.Generator) -> Any:
    state = rng.normal(size=(B, agent.layout.state_dim)).astype(np.float32)
    if not agent.layout.goal_dim:
        return state
    return {
        "observation": state,
        "achieved_goal": state[:, :2],
        "desired_goal": rng.normal(size=(B, 2)).astype(np.float32),
    }


def answers(asked: Queries) -> dict[str, np.ndarray]:
    """What is said to every question that the model can be asked."""
    agent, rng = asked.agent, np.random.default_rng(0)
    observation = observation_of(agent, rng)
    states = rng.normal(size=(B, H + 1, agent.layout.state_dim)).astype(np.float32)
    actions = rng.normal(size=(B, H * STRIDE, 2)).astype(np.float32)
    goals = observation["desired_goal"] if agent.layout.goal_dim else None
    found = {
        "plan": asked.plan(observation).states,
        "policy": asked.policy(observation),
        "inverse dynamics": asked.inverse_dynamics(states),
        "evaluation": asked.evaluate(states, goals),
    }
    if agent.model.streams is not None:
        found["forward model"] = asked.forward_model(states[:, 0], actions)
    if "task" in agent.model.config.heads.modalities and agent.model.multi_task is not None:
        found["task"] = asked.task(states)
    return found


@pytest.mark.parametrize("name", ["multi-task", "streams"])
def test_every_question_is_answered_for_one_task_and_for_several(
    agent_of: Callable[..., PlannerAgent], name: str
) -> None:
    agent = agent_of(name)
    dim = agent.layout.state_dim
    found = answers(Queries(agent))
    expected = {
        "plan": (B, H + 1, dim),
        "policy": (B, 2),
        "inverse dynamics": (B, H * STRIDE, 2),
        "evaluation": (B,),
    }
    if name == "streams":
        expected["forward model"] = (B, H + 1, dim)
    assert {question: answer.shape for question, answer in found.items()} == expected
    assert all(np.isfinite(answer).all() for answer in found.values())
    again = answers(Queries(agent))
    for question, answer in found.items():
        np.testing.assert_array_equal(again[question], answer)
    # what an agent is told of its task is heard in every answer
    first, second = (answers(Queries(told(agent, task))) for task in (0, 1))
    for question, answer in first.items():
        assert np.array_equal(answer, second[question]) == (agent.model.tasks is None), question


def test_a_head_names_the_task_of_a_plan(agent_of: Callable[..., PlannerAgent]) -> None:
    modalities = ("actions", "returns", "task")
    try:
        agent = agent_of("multi-task", **{"heads.modalities": modalities})
    except DiffplanError as error:
        assert "needs a dataset of several tasks" in str(error)
        return
    found = answers(Queries(agent))["task"]
    assert found.shape == (B, 2)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)


def test_wrong_shapes_and_models_are_refused(agent_of: Callable[..., PlannerAgent]) -> None:
    with pytest.raises(DiffplanError, match="separate networks"):
        Queries(agent_of("trajectory-diffuser"))
    asked = Queries(agent_of("streams"))
    dim = asked.agent.layout.state_dim
    with pytest.raises(DiffplanError, match=r"plan states have shape \(2, 3, \d\), expected"):
        asked.inverse_dynamics(np.zeros((2, 3, dim)))
    with pytest.raises(DiffplanError, match="1 states but 2 rows of actions"):
        asked.forward_model(np.zeros((1, dim)), np.zeros((2, H * STRIDE, 2)))
    if asked.agent.layout.goal_dim:
        with pytest.raises(DiffplanError, match=r"goals \[B, 2\] are missing"):
            asked.evaluate(np.zeros((1, H + 1, dim)))
