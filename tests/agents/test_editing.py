"""Edited plans: the same where nothing is another, else as far as conditions reach."""

import copy
import dataclasses
from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
import pytest

from diffplan.constraints import Avoid, Disc
from diffplan.diffusion import guidance
from diffplan.diffusion.inversion import METHODS
from diffplan.errors import DiffplanError
from diffplan.planning import Aim, editing, stages

Make = Callable[..., Any]
FEW: Any = {"config": {"denoiser.levels": 6, "planning.denoising_steps": 3}}
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("trajectory-diffuser", {}),
    ("trajectory-diffuser", {"start": "raw", "denoising_steps": 3}),
    ("trajectory-diffuser", {"guidance_weight": 1.5, "start": "noise"}),
    ("resfusion", {}),
    ("diffuse-vae", {}),
    ("multi-task", {}),
    ("diffuser", FEW),
]


@pytest.mark.parametrize(
    ("name", "planning", "method"),
    [(*kind, method) for kind, method in zip(KINDS, cycle(METHODS), strict=False)],
)
def test_with_nothing_else_plans_come_back_and_with_a_goal_they_go_there(
    make_agent: Make, observe: Make, name: str, planning: dict[str, Any], method: str
) -> None:
    agent, seen = make_agent(name, **planning), observe(3)
    plan = agent.plan(seen)
    same = agent.edit(plan, seen, method=method)
    # of planned actions those that environments take
    np.testing.assert_allclose(same.states, plan.states, rtol=0, atol=2e-4)
    np.testing.assert_allclose(same.first, plan.first, rtol=0, atol=2e-3)
    other = agent.edit(plan, seen, goal=(0.3, -0.7), method=method)
    assert np.abs(other.states[:, 1:] - plan.states[:, 1:]).max() > 1e-3
    np.testing.assert_array_equal(other.states[:, 0], plan.states[:, 0])
    goals = np.tile((0.3, -0.7), (3, 1))
    few = agent.edit(plan, seen, goal=goals, skip=np.float32(0.8), method=method).states
    assert np.abs(few - other.states).max() > 0


def test_edits_are_the_same_again_and_the_first_row_is_alone(
    make_agent: Make, observe: Make
) -> None:
    agent, seen = make_agent(), observe(3)
    plan, goal = agent.plan(seen), (0.3, -0.7)
    found = agent.edit(plan, seen, goal=np.tile(goal, (3, 1))).states
    np.testing.assert_array_equal(agent.edit(plan, seen, goal=goal).states, found)
    first = {key: value[:1] for key, value in seen.items()}
    alone = agent.edit(plan.states[:1], first, goal=goal).states
    np.testing.assert_allclose(alone, found[:1], rtol=0, atol=1e-5)


def test_what_was_done_is_asked_about_as_what_was_planned(make_agent: Make, observe: Make) -> None:
    agent, seen = make_agent(), observe(2)
    done = agent.plan(seen).states + np.r_[0.0, np.full(agent.horizon, 0.2)][:, None]
    np.testing.assert_allclose(agent.edit(done, seen).states, done, rtol=0, atol=1e-5)
    returns = make_agent("trajectory-diffuser", rewards=True)
    state = np.random.default_rng(0).normal(size=(2, 3))
    plan = returns.plan(state)
    had = returns.context(state).target_return.numpy()
    same = returns.edit(plan, state, returns=had, had=had).states
    np.testing.assert_allclose(same, plan.states, rtol=0, atol=1e-5)
    more = returns.edit(plan, state, returns=had + 3).states
    np.testing.assert_allclose(
        *(more, returns.edit(plan, state, returns=had[0] + 3, had=had[0]).states), rtol=0, atol=1e-5
    )
    assert np.abs(more - plan.states).max() > 1e-3


def test_what_is_given_is_in_environment_units(make_agent: Make, observe: Make) -> None:
    """A column kept as its difference to 100."""
    near, seen = make_agent(), observe(3)
    agent, offset = copy.copy(near), np.array([100.0, 0.0, 0.0, 0.0])
    close: Any = {"rtol": 0, "atol": 2e-4}
    agent.layout = dataclasses.replace(near.layout, offset=tuple(offset.tolist()))
    away = {"observation": seen["observation"] + offset}
    away["desired_goal"] = seen["desired_goal"] + offset[:2]
    plan = agent.plan(away)
    done = plan.states + offset
    np.testing.assert_allclose(plan.states, near.plan(seen).states, **close)
    for given in (plan, done):
        same = agent.edit(given, away, goal=away["desired_goal"], states={2: done[:, 2]})
        np.testing.assert_allclose(same.states, plan.states, **close)
    aim = Aim((100.3, -0.7), weight=2.0)
    found = agent.composed(aim).plan(away).states
    expected = near.composed(Aim((0.3, -0.7), weight=2.0)).plan(seen).states
    np.testing.assert_allclose(found, expected, **close)
    np.testing.assert_array_equal(agent.composed(aim).to("cpu").plan(away).states, found)
    with pytest.raises(DiffplanError, match=r"source has states less \[0.0, .* less \[100.0, 0.0"):
        agent.edit(plan, away, source=near)


@pytest.mark.parametrize("space", ["displacement", "absolute"])
def test_states_are_held(make_agent: Make, observe: Make, space: str) -> None:
    agent, seen = make_agent(config={"plan.space": space}), observe(3)
    plan = agent.plan(seen)
    here, there = seen["observation"] + 0.5, np.array([0.1, np.nan, 0.2, np.nan])
    asked = {0: here, 2: there, -1: [1.0, 1.0, 0.0, 0.0]}
    for skip in (0.0, 0.6):
        found = agent.edit(plan, seen, states=asked, skip=skip)
        np.testing.assert_allclose(found.states[:, 0], here, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.states[:, 2, [0, 2]], [[0.1, 0.2]] * 3, atol=1e-5)
        np.testing.assert_allclose(found.states[:, -1], [[1.0, 1.0, 0.0, 0.0]] * 3, atol=1e-5)
        assert found.violations is None


@pytest.mark.parametrize("space", ["displacement", "absolute"])
def test_from_another_start_places_stay_what_they_are_to_the_denoiser(
    make_agent: Make, observe: Make, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Late states less than early ones, where x_t says where they are: here all of them.

    Between the start and them lies what the network makes of it; this one believes x_t.
    """
    agent, seen = make_agent(config={"plan.space": space}), observe(3)
    plan, guide = agent.plan(seen), stages.guide

    def believing(*args: Any) -> Any:
        guided, process = guide(*args), args[-1].process

        def denoise(x: Any, t: int) -> Any:
            shift = 0 if guided.shift is None else process.r[t] * guided.shift
            x0 = (x - shift) / process.a[t]
            start = guidance.pin(lambda x, t: x, 0, agent.model.pinned_start(args[1].state))
            return start(x0, t) if space == "absolute" else x0

        return dataclasses.replace(guided, denoise=denoise)

    monkeypatch.setattr(editing, "guide", believing)
    here = seen["observation"] + 0.5
    moved = agent.edit(plan, seen, states={0: here}, skip=0.6).states - plan.states
    np.testing.assert_allclose(moved[:, 0], 0.5, atol=1e-5)
    np.testing.assert_allclose(moved[:, 1:], 0.0, atol=1e-5)


def test_the_agents_constraints_are_kept_to(make_agent: Make, observe: Make) -> None:
    agent, seen = make_agent(), observe(2)
    plan = agent.plan(seen)
    disc = Disc(tuple(plan.states[0, 2, :2]), 0.05)
    careful = agent.constrained(Avoid(disc))
    assert careful.edit(plan, seen).violations.max() < 1e-5
    held = careful.edit(plan, seen, states={1: plan.states[:, 1]})
    assert held.violations.shape == (2, 1)
    np.testing.assert_allclose(held.states[:, 1], plan.states[:, 1], atol=1e-5)


def test_a_plan_of_another_model_becomes_what_this_one_would_do(
    make_agent: Make, observe: Make
) -> None:
    agent, seen = make_agent(), observe(3)
    source = copy.copy(agent)
    source.model = copy.deepcopy(agent.model)
    source.model.residual_rms.mul_(2)
    theirs = source.plan(seen)
    twin = agent.edit(agent.plan(seen), seen, source=agent)
    np.testing.assert_allclose(twin.states, agent.plan(seen).states, rtol=0, atol=1e-5)
    carried = agent.edit(theirs, seen, source=source)
    assert np.isfinite(carried.states).all()
    assert np.abs(carried.states - theirs.states).max() > 1e-4
    back = source.edit(carried, seen, source=agent)
    np.testing.assert_allclose(back.states, theirs.states, rtol=0, atol=0.2)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("trajectory-diffuser", {"goal": (1.0,)}, r"goal has shape \[1\], expected \[2, 2\] or \[2\]"),
    ("trajectory-diffuser", {"goal": (1.0, np.nan)}, "goal holds numbers that are not finite"),
    ("trajectory-diffuser", {"goal": "north"}, "goal is 'north', expected numbers"),
    ("trajectory-diffuser", {"returns": 1.0}, "returns was given, but .* made for no return"),
    ("trajectory-diffuser", {"had": 1.0}, "had was given, but .* made for no return"),
    ("trajectory-diffuser", {"states": {9: np.zeros(4)}}, "states has place 9, expected 0 to 4"),
    ("trajectory-diffuser", {"states": {1: np.zeros(3)}}, r"states\[1\] has shape \[3\], expected"),
    ("trajectory-diffuser", {"method": "ddim"}, "method is 'ddim', expected edit-friendly or"),
    ("trajectory-diffuser", {"states": [0.0]}, "states is a list, expected a dict of places, 0 to"),
    ("trajectory-diffuser", {"source": "runs/x"}, "source is a str, expected the agent"),
    ("trajectory-diffuser", {"method": ["ddim"]}, "method is .'ddim'., expected edit-friendly or"),
    ("trajectory-diffuser", {"skip": 2}, "skip is 2, expected a share of the levels, 0 to 1"),
    ("trajectory-diffuser", {"plan": np.zeros((3, 5, 4))}, r"plan has shape \[3, 5, 4\], expected"),
    ("trajectory-diffuser", {"plan": np.full((2, 5, 4), np.nan)}, "no finite numbers"),
    ("rectified-flow", {}, "edit-friendly needs noise, but process 'rectified-flow' has none"),
    ("proposer-only", {}, "trained without one"),
    ("streams", {}, "heads.kind streams have a level for each stream"),
]


def _without_plan(asked: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in asked.items() if name != "plan"}


@pytest.mark.parametrize(("name", "asked", "said"), REFUSED)
def test_what_no_plan_can_be_is_refused(
    make_agent: Make, observe: Make, name: str, asked: dict[str, Any], said: str
) -> None:
    agent, seen = make_agent(name), observe(2)
    with pytest.raises(DiffplanError, match=said):
        agent.edit(asked.get("plan", agent.plan(seen)), seen, **_without_plan(asked))


def test_agents_without_a_common_code_are_refused(make_agent: Make, observe: Make) -> None:
    agent, seen = make_agent(), observe(2)
    plan = agent.plan(seen)
    with pytest.raises(DiffplanError, match=r"plan.horizon 8, this agent 4"):
        agent.edit(plan, seen, source=make_agent(config={"plan.horizon": 8}))
    with pytest.raises(DiffplanError, match=r"along resfusion of .* along rddm"):
        agent.edit(plan, seen, source=make_agent("resfusion"))
    with pytest.raises(DiffplanError, match="several aims"):
        agent.composed(Aim()).edit(plan, seen)
    box = np.zeros((2, 3))
    with pytest.raises(DiffplanError, match=r"goal was given, but plans of .* have none"):
        make_agent(rewards=True).edit(make_agent(rewards=True).plan(box), box, goal=(1.0, 2.0))
