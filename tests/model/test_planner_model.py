"""The model: units, and which parts it has."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from diffplan.data.combine import combine
from diffplan.data.episodes import Episodes
from diffplan.data.windows import WindowSampler
from diffplan.engines.decision import PlanStep
from diffplan.errors import DiffplanError
from diffplan.planning.chains import chain_of
from diffplan.planning.stages import make_plan

Make = Callable[..., Any]
SPACES = ["displacement", "absolute"]


@pytest.fixture(params=["goals", "rewards"])
def data(
    request: pytest.FixtureRequest, tiny_episodes: Episodes, tiny_goal_episodes: Episodes
) -> Episodes:
    return tiny_goal_episodes if request.param == "goals" else tiny_episodes


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- Units ---------------------------------------------------------------------------------------


def test_fitted_plans_have_unit_size(data: Episodes, tiny_config: Make, tiny_model: Make) -> None:
    config = tiny_config()
    model, sampler = tiny_model(config, data), WindowSampler(data, config, seed=0)
    windows = sampler.sample(6000, generator(3))
    z = model.states(windows.states)
    x = model.to_plan(z[:, 0], z[:, 1:])
    assert x.shape == (6000, 4, data.states.shape[1])
    mask = windows.mask.unsqueeze(-1)
    rms = ((x.square() * mask).sum(0) / mask.sum(0)).sqrt()
    torch.testing.assert_close(rms, torch.ones_like(rms), atol=0.1, rtol=0)
    one_step = ((z[:, 1] - z[:, 0]).square() * mask[:, 0]).sum(0) / mask[:, 0].sum()
    found = model.inverse_dynamics.step_scale
    torch.testing.assert_close(found, one_step.sqrt(), atol=0, rtol=0.1)
    every = model.states(sampler.states[sampler.parts["train"]])
    torch.testing.assert_close(every.std(0, unbiased=False), torch.ones(z.shape[-1]))
    torch.testing.assert_close(
        model.normalised_returns(sampler.valued(6000, generator(4)).returns).std(),
        torch.ones(()),
        atol=0.1,
        rtol=0,
    )


def test_padding_does_not_shrink_the_scales(
    join_episodes: Make, tiny_config: Make, tiny_model: Make
) -> None:
    # one unit a step, but most windows end early: step k of those inside is 2 k units away
    states = [np.stack([np.arange(10.0), np.zeros(10)], 1) for _ in range(6)]
    episodes = join_episodes(states, [np.zeros((9, 1))] * 6)
    model = tiny_model(tiny_config(), episodes)
    away = model.plan_scale[:, 0] * model.states.std[0]
    torch.testing.assert_close(away, torch.tensor([2.0, 4.0, 6.0, 8.0]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("space", SPACES)
def test_plans_come_back_as_states(
    space: str, tiny_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    config = tiny_config(changes={"plan.space": space})
    model = tiny_model(config, tiny_episodes)
    states = torch.randn(5, 5, 3, generator=generator()) * 4
    x = model.to_plan(states[:, 0], states[:, 1:])
    assert x.shape == (5, model.rows, 3)
    back = model.from_plan(states[:, 0], x)
    assert torch.equal(back[:, 0], states[:, 0])
    torch.testing.assert_close(back, states)
    if space == "absolute":
        assert model.rows == 5
        assert torch.equal(x, states)
    else:
        moved = model.to_plan(states[:, 0] + 3, states[:, 1:] + 3)  # displacements only
        torch.testing.assert_close(moved, x, atol=1e-4, rtol=1e-4)


def test_goals_share_the_units_of_their_columns(
    tiny_goal_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    model = tiny_model(tiny_config(), tiny_goal_episodes)
    states = torch.from_numpy(tiny_goal_episodes.states[:7])
    goal = model.goal(states[:, :2])
    torch.testing.assert_close(goal, model.states(states)[:, :2])
    assert model.goal(None) is None


def test_a_goal_nobody_can_read_off_the_state_is_ignored(
    tiny_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    model = tiny_model(tiny_config(), tiny_episodes)
    assert model.goal(torch.randn(3, 2)) is None


def test_actions_are_scaled_between_their_bounds(
    tiny_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    model = tiny_model(tiny_config(), tiny_episodes)  # actions in [-2, 1]
    actions = torch.tensor([[-2.0, 1.0], [-0.5, -0.5]])
    torch.testing.assert_close(
        model.scaled_actions(actions), torch.tensor([[-1.0, 1.0], [0.0, 0.0]])
    )


# --- Tasks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["id", "prompt"])
def test_networks_are_told_of_a_window_s_task_or_of_none(
    given: str, tiny_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    parts = [
        dataclasses.replace(tiny_episodes, info=dataclasses.replace(tiny_episodes.info, id=name))
        for name in "ab"
    ]
    episodes = combine(parts, "both")
    model = tiny_model(tiny_config(changes={"data.tasks": given}), episodes)
    sampler = WindowSampler(episodes, model.config, seed=0)
    windows = model.normalised_windows(sampler.sample(600, generator()))
    assert windows.task is not None and windows.task.unique().tolist() == [0, 1]
    tasks = model.tasks
    code = tasks.from_id(windows.task) if given == "id" else tasks.from_states(windows.prompt)
    assert torch.equal(model.context_of(windows).task, code)
    in_training = model.context_of(windows, generator()).task
    untold = (in_training == tasks.unknown).all(1)
    assert torch.equal(in_training[~untold], code[~untold])
    assert float(untold.float().mean()) == pytest.approx(0.2, abs=0.05)


# --- Candidates ----------------------------------------------------------------------------------


def test_a_value_is_trained_where_planning_reads_one(
    tiny_episodes: Episodes, tiny_goal_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    def has_value(episodes: Episodes = tiny_episodes, **planning: Any) -> bool:
        changes = {f"planning.{key}": value for key, value in planning.items()}
        model = tiny_model(tiny_config(changes={"heads.value": "auto", **changes}), episodes)
        # copies of one plan are what an agent makes once
        step = PlanStep(model, model.config.planning)
        assert model.config.trains_value == (
            model.config.planning.candidates > 1 and step.draws_anything
        )
        return model.value is not None

    assert has_value(tiny_goal_episodes, candidates=2) and has_value(candidates=2)
    assert not has_value() and not has_value(tiny_goal_episodes, candidates=1)
    assert not has_value(candidates=2, start="none", temperature=0.0)
    copies = {"candidates": 2, "temperature": 0.0, "start": "raw", "start_level": 5}
    assert not has_value(**copies)
    assert has_value(**copies, sampler="ancestral")


def test_a_model_without_a_value_neither_chooses_nor_tells_one(
    tiny_episodes: Episodes, tiny_config: Make, tiny_model: Make, plan_inputs: Make
) -> None:
    model = tiny_model(tiny_config(changes={"heads.value": "auto"}), tiny_episodes)
    settings = model.config.planning
    chain = chain_of(model, settings)
    plan = make_plan(model, *plan_inputs(model, settings), settings, chain, valued=True)
    assert plan.values.isnan().all() and plan.states.isfinite().all()
    with pytest.raises(
        DiffplanError, match=r"^planning\.candidates is 16, .*--heads\.value returns$"
    ):
        PlanStep(model, dataclasses.replace(settings, candidates=16))


def test_parts_a_config_never_uses_are_not_built(
    tiny_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    published = tiny_model(tiny_config("trajectory-diffuser-published"), tiny_episodes)
    assert published.absolute and published.rows == 5
    assert published.noise_scale is None
    assert published.value.uses_action
    assert not published.denoiser.use_proposal
    assert tiny_model(tiny_config("proposer-only"), tiny_episodes).denoiser is None
    assert tiny_model(tiny_config("from-noise"), tiny_episodes).proposer is None
