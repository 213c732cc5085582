"""Plans that hold actions, goals that are pinned, and values that guide: Diffuser's ways."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from diffplan.agents import PlannerAgent
from diffplan.config.config import replace_planning
from diffplan.data.batches import Batch
from diffplan.data.episodes import Episodes
from diffplan.data.windows import WindowSampler
from diffplan.engines.table import make_engine
from diffplan.errors import DiffplanError
from diffplan.model.planner_model import PlannerModel
from diffplan.planning.chains import Chain, chain_of, network_calls
from diffplan.planning.stages import guide, make_plan
from diffplan.training.denoising import noisy_value_loss
from diffplan.training.losses import Objective

Make = Callable[..., Any]
PINNED = {"plan.pin_goal": True, "plan.stride": 2}


@pytest.fixture
def diffuser(tiny_goal_episodes: Episodes, tiny_config: Make, tiny_model: Make) -> PlannerModel:
    config = tiny_config("diffuser", PINNED)
    model: PlannerModel = tiny_model(config, tiny_goal_episodes)
    return model


def sampler_of(episodes: Episodes, model: PlannerModel) -> WindowSampler:
    return WindowSampler(episodes, model.config, seed=0)


def batch_of(sampler: WindowSampler, size: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        sampler.sample(size, generator),
        sampler.transitions(size, generator),
        sampler.valued(size, generator),
    )


def test_windows_hold_the_actions_that_lead_from_state_to_state(
    tiny_episodes: Episodes, tiny_config: Make
) -> None:
    config = tiny_config("diffuser", {"plan.stride": 2})
    sampler = WindowSampler(tiny_episodes, config, seed=0)
    windows = sampler.sample(32, torch.Generator().manual_seed(1))
    assert windows.actions is not None
    assert windows.actions.shape == (32, config.plan.horizon, 2, tiny_episodes.actions.shape[1])
    states = torch.from_numpy(np.asarray(tiny_episodes.states))
    actions = torch.from_numpy(np.asarray(tiny_episodes.actions))
    starts, steps = tiny_episodes.state_starts, tiny_episodes.step_starts
    checked = 0
    for row in range(32):
        (index,) = (states == windows.states[row, 0]).all(1).nonzero()[:1, 0].tolist()
        episode = int(np.searchsorted(starts, index, side="right")) - 1
        step = index - starts[episode] + steps[episode]
        for k in range(config.plan.horizon):
            shown = step + 2 * k + 2 <= steps[episode + 1]
            assert windows.acting is not None and bool(windows.acting[row, k]) == shown
            if windows.mask[row, k] and shown:
                expected = actions[step + 2 * k : step + 2 * k + 2]
                assert torch.equal(windows.actions[row, k], expected)
                checked += 1
    assert checked > 32


def test_after_its_end_a_window_s_actions_rest(
    tiny_goal_episodes: Episodes, diffuser: PlannerModel
) -> None:
    windows = sampler_of(tiny_goal_episodes, diffuser).sample(64, torch.Generator().manual_seed(1))
    assert windows.actions is not None
    low = torch.tensor(tiny_goal_episodes.info.action_low)
    high = torch.tensor(tiny_goal_episodes.info.action_high)
    ended = windows.mask[:, -1] == 0
    resting = (windows.states[:, -1] == windows.states[:, -2]).all(1) & ~ended
    assert resting.any()
    assert windows.acting is not None and (windows.acting[resting, -1] == 0).all()
    assert torch.equal(
        windows.actions[resting, -1], ((low + high) / 2).expand_as(windows.actions[resting, -1])
    )


def test_units_go_there_and_back(diffuser: PlannerModel) -> None:
    generator = torch.Generator().manual_seed(0)
    horizon, stride = diffuser.config.plan.horizon, diffuser.config.plan.stride
    start, states = torch.randn(5, 4, generator=generator), torch.randn(5, horizon, 4)
    actions = torch.rand(5, horizon, stride, 2, generator=generator) * 2 - 1
    x = diffuser.to_plan(start, states, actions)
    assert x.shape == (5, diffuser.rows, diffuser.plan_dim)
    assert torch.equal(diffuser.planned_actions(x), actions)
    torch.testing.assert_close(diffuser.from_plan(start, x)[:, 1:], states)
    assert torch.equal(x[:, 0], diffuser.pinned_start(start))
    environment = diffuser.environment_actions(actions)
    torch.testing.assert_close(diffuser.scaled_actions(environment), actions)


def test_a_plan_ends_at_the_goal_and_begins_at_the_state(
    diffuser: PlannerModel, plan_inputs: Make
) -> None:
    settings = replace_planning(diffuser.config, candidates=3, value_guidance=0.0).planning
    context, noise = plan_inputs(diffuser, settings)
    plan = make_plan(diffuser, context, noise, settings, chain_of(diffuser, settings))
    columns = list(diffuser.spec.goal_columns)
    assert torch.equal(plan.states[:, 0], context.state)
    assert torch.equal(plan.states[:, -1, columns], context.goal)
    assert torch.equal(plan.candidates[:, 1, -1, columns], context.goal)
    chosen = plan.candidates[torch.arange(3), plan.chosen]
    assert torch.equal(plan.states, chosen)
    assert plan.actions is not None
    assert plan.actions.shape == (3, diffuser.config.plan.horizon, 2, 2)


def test_the_network_sees_held_entries_clean_and_learns_nothing_there(
    tiny_goal_episodes: Episodes, diffuser: PlannerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(sampler_of(tiny_goal_episodes, diffuser))
    seen: list[torch.Tensor] = []
    assert diffuser.denoiser is not None
    network = diffuser.denoiser.network
    bodies = network.bind_features

    def watched(proposal: Any, features: torch.Tensor) -> tuple[Any, ...]:
        return tuple(
            lambda x, body=body: seen.append(x) or body(x) for body in bodies(proposal, features)
        )

    monkeypatch.setattr(network, "bind_features", watched)
    assert diffuser.noisy_value is not None
    diffuser.noisy_value.register_forward_pre_hook(lambda value, given: seen.append(given[0]))
    losses = Objective(diffuser)(batch, torch.Generator().manual_seed(0))
    z = diffuser.states(batch.windows.states)
    columns = list(diffuser.spec.goal_columns)
    assert len(seen) == 2
    for x in seen:  # of the denoiser and of the noisy value
        assert torch.equal(x[:, 0, :4], z[:, 0])
        assert torch.equal(x[:, -1, columns], z[:, -1, columns])
        assert not torch.equal(x[:, -1, 2:4], z[:, -1, 2:4])
    assert set(losses) >= {"denoiser", "noisy_value", "value"}
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_the_actions_executed_first_weigh_ten_times(
    tiny_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    model = tiny_model(tiny_config("diffuser"), tiny_episodes)
    weights = model.loss_weights()
    assert weights is not None
    first = weights[1, model.columns.actions]
    assert (first == 10).all() and weights.sum() == weights.numel() + 9 * first.numel()
    batch = batch_of(sampler_of(tiny_episodes, model))
    before, after = (
        Objective(model)(batch, torch.Generator().manual_seed(0))["denoiser"].item()
        for model.loss_weights in (lambda: None, lambda: weights)
    )
    assert before != after


def test_the_noisy_value_learns_what_a_plan_is_worth(
    tiny_goal_episodes: Episodes, diffuser: PlannerModel
) -> None:
    batch = batch_of(sampler_of(tiny_goal_episodes, diffuser), 32)
    windows, value = diffuser.normalised_batch(batch).windows, diffuser.noisy_value
    assert value is not None
    context = diffuser.context_of(windows)
    optimiser = torch.optim.Adam(value.parameters(), lr=1e-2)
    losses = []
    for step in range(40):
        generator = torch.Generator().manual_seed(step % 5)
        loss = noisy_value_loss(diffuser, value, windows, context, generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])


def test_value_guidance_moves_plans_up_the_noisy_value(
    diffuser: PlannerModel, plan_inputs: Make
) -> None:
    """By its gradient at the level, in units of the return, where nothing is held."""
    value, level = diffuser.noisy_value, 5
    assert value is not None
    weighed = [
        replace_planning(diffuser.config, candidates=1, value_guidance=weight, clip=None).planning
        for weight in (0.0, 0.2)
    ]
    context, noise = plan_inputs(diffuser, weighed[0], rows=16)
    x = noise.start.flatten(0, 1)
    held = diffuser.held()
    assert held is not None
    x = torch.where(held, diffuser.pinned_start(context.state).unsqueeze(1), x).requires_grad_()
    worth = value(x, torch.full((16,), level / 20), diffuser.value_condition(context))
    (slope,) = torch.autograd.grad(worth.sum() * diffuser.returns.std[0], x)
    told: list[float] = []
    value.register_forward_pre_hook(lambda _, given: told.append(float(given[1][0])))
    with torch.no_grad():
        plain, moved = (
            guide(diffuser, context, None, each, chain).denoise(x, level)
            for each in weighed
            if isinstance(chain := chain_of(diffuser, each), Chain)
        )
    assert told == [level / 20] * 2  # of T
    assert torch.equal(plain[:, held], moved[:, held])
    assert (((moved - plain) * slope).sum((1, 2)) > 0).all()


def test_the_agent_takes_the_planned_actions_one_a_step(
    tiny_goal_episodes: Episodes, diffuser: PlannerModel
) -> None:
    agent = PlannerAgent(
        diffuser,
        tiny_goal_episodes.layout,
        tiny_goal_episodes.info,
        config_name="diffuser",
        replan_every=4,
        value_guidance=0.0,
    )
    values = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
    observation = {"observation": values[:, :4], "desired_goal": values[:, 4:]}
    state, start = None, np.ones(2, bool)
    planned = None
    for step in range(5):
        action, state = agent.predict(observation, state, start, deterministic=True)
        start = np.zeros(2, bool)
        if step in (0, 4):  # two strides of two steps
            planned = state.plan.actions
        assert planned is not None
        np.testing.assert_allclose(action, planned[:, step % 4], rtol=1e-6)


def test_engines_and_guidance(diffuser: PlannerModel) -> None:
    settings = replace_planning(diffuser.config, value_guidance=0.1).planning
    with pytest.raises(DiffplanError, match="engine onnx cannot take gradients"):
        make_engine("onnx", diffuser, settings)
    assert make_engine("auto", diffuser, settings).name == "eager"


def test_network_calls_count_every_kind(models: Make) -> None:
    ours = models()
    horizon = ours.config.plan.horizon

    def calls(model: PlannerModel, **changes: Any) -> int:
        return network_calls(model, replace_planning(model.config, **changes).planning)

    assert calls(ours, start="none", denoising_steps=0) == horizon
    assert calls(ours, start="process", denoising_steps=3) == horizon + 3
    assert calls(ours, start="process", denoising_steps=3, guidance_weight=2.0) == horizon + 3
    assert calls(ours, start="noise", denoising_steps=10) == 10
    assert calls(ours, start="noise", denoising_steps=20, sampler="s-pndm") == 21
    guided = models("diffuser")
    assert (
        calls(guided, denoising_steps=20, value_guidance=0.1, value_guidance_until=3) == 20 + 2 * 18
    )
    assert dataclasses.replace(guided.config.planning).candidates >= 1
