"""Streams: noise levels of their own, and the questions they answer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffplan.config.config import config_from_dict, replace_planning
from diffplan.data.batches import Batch
from diffplan.data.episodes import Episodes
from diffplan.data.windows import WindowSampler
from diffplan.diffusion.ddim import ddim
from diffplan.diffusion.processes import SCHEDULES, ddpm
from diffplan.errors import DiffplanError
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel
from diffplan.model.streams import STREAMS, StreamDenoiser, draw_levels, schedule
from diffplan.planning.chains import StreamChain, chain_of, network_calls
from diffplan.planning.queries import answers_of
from diffplan.planning.stages import make_plan
from diffplan.training.losses import Objective

Make = Callable[..., Any]
PROCESS = ddpm(SCHEDULES["cosine"](20))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def streams_of(model: PlannerModel) -> StreamDenoiser:
    assert model.streams is not None
    return model.streams


# --- Levels --------------------------------------------------------------------------------------


def test_levels_in_training_hold_every_question() -> None:
    levels = draw_levels(40_000, PROCESS, generator())
    assert levels.min() == 0 and levels.max() == PROCESS.T
    equal = (levels == levels[:, :1]).all(1)
    assert equal.float().mean().item() == pytest.approx(0.32, abs=0.02)
    apart = levels[~equal]
    assert (apart == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    s, a, g = levels.unbind(1)
    top = PROCESS.T
    asked = {
        "plan": (g == 0) & (s > 0) & (a > 0),
        "policy": (s == top) & (a > 0) & (a < top),
        "inverse dynamics": (s == 0) & (a > 0),
        "forward model": (a == 0) & (s > 0),
        "evaluation": (s == 0) & (a == 0) & (g > 0),
    }
    for name, rows in asked.items():
        assert rows.float().mean() > 0.02, name
    for level in range(1, top + 1):  # the levels between the ends are even
        share = (apart == level).float().mean().item()
        assert share == pytest.approx((0.18 if level == top else 0.03), abs=0.02)


def test_a_schedule_goes_from_each_level_to_clean() -> None:
    levels = schedule(PROCESS, 2, states=0, actions=(20, 0))
    assert levels == ((0, 20, 20), (0, 10, 20), (0, 0, 20))
    assert schedule(PROCESS, 1, states=(6, 0), actions=3, returns=(20, 0)) == (
        (6, 3, 20),
        (0, 3, 0),
    )


@pytest.mark.parametrize(("rewards", "level"), [(True, 0), (False, PROCESS.T)])
def test_a_return_that_is_asked_for_is_clean_throughout(
    models: Make, rewards: bool, level: int
) -> None:
    """And absent throughout where none is."""
    model = models("streams", rewards=rewards)
    chain = chain_of(model, model.config.planning)
    assert isinstance(chain, StreamChain)
    assert {told for _, _, told in chain.levels} == {level}


# --- Sampling ------------------------------------------------------------------------------------


def _answering(
    model: PlannerModel, answer: Tensor, monkeypatch: pytest.MonkeyPatch
) -> list[Tensor]:
    seen: list[Tensor] = []

    def output(h: Tensor) -> Tensor:
        return answer

    def bodies(proposal: Any, features: Tensor) -> tuple[Any, ...]:
        def body(x: Tensor) -> Tensor:
            seen.append(x)
            return x

        return (body,) * len(features)

    network = streams_of(model).network
    monkeypatch.setattr(network, "bind_features", bodies)
    monkeypatch.setattr(network, "output", output)
    return seen


def _sample(model: PlannerModel, levels: Any, x: Tensor) -> Tensor:
    streams = streams_of(model)
    time = streams.schedule_features(PROCESS, levels)
    context = Context(torch.zeros(len(x), 4), torch.zeros(len(x), 2))
    return streams.sample(PROCESS, levels, x, streams.encoder(context), time, None)


def test_streams_at_one_level_take_ddim_steps(
    models: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models("streams")
    x, answer = (torch.randn(3, 4, model.plan_dim, generator=generator(i)) for i in (0, 1))
    seen = _answering(model, answer, monkeypatch)
    levels = schedule(PROCESS, 3, **dict.fromkeys(STREAMS, (20, 0)))
    found = _sample(model, levels, x)
    visited: list[Tensor] = []

    def denoise(x_t: Tensor, t: int) -> Tensor:
        visited.append(x_t)
        return answer

    torch.testing.assert_close(found, ddim(denoise, PROCESS, (20, 13, 7, 0), x))
    for ours, theirs in zip(seen, visited, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_what_is_given_or_absent_stays_as_it_is(
    models: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models("streams")
    columns = streams_of(model).columns
    x, answer = (torch.randn(3, 4, model.plan_dim, generator=generator(i)) for i in (0, 1))
    _answering(model, answer, monkeypatch)
    found = _sample(model, schedule(PROCESS, 4, states=0, actions=(20, 0)), x)
    assert torch.equal(found[..., columns.states], x[..., columns.states])
    assert torch.equal(found[..., columns.returns], x[..., columns.returns])
    torch.testing.assert_close(found[..., columns.actions], answer[..., columns.actions])


def test_the_loss_of_a_stream_is_its_own(models: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models("streams")
    streams, columns = streams_of(model), streams_of(model).columns
    n = 6
    x0, noise = (torch.randn(n, 4, model.plan_dim, generator=generator(i)) for i in (0, 1))
    levels = torch.tensor(
        [[0, 20, 20], [20, 0, 20], [20, 20, 0], [5, 9, 14], [0, 0, 20], [0, 0, 0]]
    )
    context = Context(torch.zeros(n, 4), torch.zeros(n, 2))
    mask = torch.ones(n, 4)
    found = streams.loss(PROCESS, x0, levels, noise, context, None, mask, mask)
    for i, name in enumerate(STREAMS):
        assert ((found[name] == 0) == (levels[:, i] == 0)).all()
    # at the far level nothing of the clean stream is left to see
    other = x0.clone()
    other[..., columns.states] += 1
    a, sigma = PROCESS.a[20], PROCESS.sigma[20]
    assert abs(a) < 0.01 and sigma > 0.99
    changed = streams.loss(PROCESS, other, levels, noise, context, None, mask, mask)
    torch.testing.assert_close(found["actions"][1], changed["actions"][1])  # given
    torch.testing.assert_close(found["returns"][1], changed["returns"][1], atol=1e-2, rtol=0.05)
    assert not torch.isclose(found["actions"][0], changed["actions"][0], rtol=1e-3)
    # where no action is shown, none is learned
    still = streams.loss(PROCESS, x0, levels, noise, context, None, mask, torch.zeros(n, 4))
    assert (still["actions"] == 0).all()
    torch.testing.assert_close(still["states"], found["states"])
    # of a network that says nothing it is the mean square, of a return a fifth of that
    monkeypatch.setattr(streams.network, "forward", lambda x, proposal, features: 0 * x)
    silent = streams.loss(PROCESS, x0, levels, noise, context, None, mask, mask)
    for name, weight in zip(STREAMS, (1.0, 1.0, 0.2), strict=True):
        expected = weight * x0[3, :, columns.of(name)].square().mean()
        torch.testing.assert_close(silent[name][3], expected)


# --- Planning and questions ----------------------------------------------------------------------


@pytest.mark.parametrize("rewards", [False, True], ids=["goals", "rewards"])
@pytest.mark.parametrize("start", ["noise", "raw", "sdedit"])
def test_plans_bring_actions_and_values(
    rewards: bool, start: str, models: Make, plan_inputs: Make
) -> None:
    model = models(
        "streams",
        rewards=rewards,
        planning__start=start,
        planning__start_level=None if start == "noise" else 6,
        planning__candidates=3,
    )
    settings = model.config.planning
    context, noise = plan_inputs(model, settings)
    plan = make_plan(model, context, noise, settings, chain_of(model, settings))
    assert plan.actions is not None and plan.actions.shape == (3, 4, 2, 2)
    assert (plan.chosen == plan.values.argmax(1)).all()
    assert (model.proposer is None) == (start == "noise")
    calls = 0 if start == "noise" else 4
    assert network_calls(model, settings) == calls + settings.denoising_steps + 1


def test_a_plan_is_made_for_the_return_asked_for(models: Make, plan_inputs: Make) -> None:
    model = models("streams", rewards=True)
    settings = model.config.planning
    context, noise = plan_inputs(model, settings)
    assert context.target_return is not None
    more = Context(context.state, None, context.target_return + 1)
    plans = [
        make_plan(model, c, noise, settings, chain_of(model, settings)).states
        for c in (context, more)
    ]
    assert not torch.allclose(*plans)
    # while an evaluation is not told it
    x = torch.randn(3, 4, model.plan_dim, generator=generator())
    values = [answers_of(model).evaluation(c, x) for c in (context, more)]
    assert torch.equal(*values)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"sampler": "unipc"}, "DDIM steps without noise"),
        ({"eta": 0.5}, "DDIM steps without noise"),
        ({"guidance_weight": 1.5}, "no classifier-free guidance"),
        ({"start": "none", "denoising_steps": 0}, "where no denoiser is run"),
    ],
)
def test_what_streams_cannot_do_is_refused(
    changes: dict[str, Any], part: str, models: Make
) -> None:

    model = models("streams")
    with pytest.raises(DiffplanError, match=part):
        chain_of(model, replace_planning(model.config, **changes).planning)


@pytest.mark.parametrize("section", ["denoiser", "plan"])
def test_wrong_settings_are_refused_in_one_line(section: str) -> None:
    wrong = {"denoiser": {"prediction": "eps"}, "plan": {"space": "absolute"}}[section]
    base: dict[str, Any] = {
        "heads": {"kind": "streams"},
        "denoiser": {"process": "ddpm", "condition_on_proposal": False},
        "planning": {"start": "noise"},
    }
    base[section] = base.get(section, {}) | wrong
    with pytest.raises(DiffplanError, match=r"with heads\.kind streams"):
        config_from_dict(base)


def _trained(name: str, tiny_config: Make, tiny_model: Make, data: Episodes) -> PlannerModel:
    changes = {
        "denoiser.width": 64,
        "denoiser.depth": 2,
        "heads.width": 64,
        "training.batch_size": 64,
    }
    if name == "multi-task":
        changes |= {"heads.aggregation": 1.0}
    model = tiny_model(tiny_config(name, changes), data)
    torch.manual_seed(0)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    sampler, source = WindowSampler(data, model.config, seed=0), generator()
    objective = Objective(model)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(220):
        windows = sampler.sample(64, source)
        plain = sampler.sample(objective.plain_rows, source) if objective.plain_rows else None
        valued = sampler.valued(64, source) if model.tells_of_states else None
        losses = objective(Batch(windows, None, valued, plain), source)
        assert ("head_states" in losses) == model.tells_of_states
        optimiser.zero_grad()
        sum(losses.values()).backward()  # type: ignore[union-attr]
        optimiser.step()
    return model.eval()


@pytest.mark.parametrize("name", ["multi-task", "streams"])
def test_one_network_learns_to_answer(
    name: str, tiny_config: Make, tiny_model: Make, tiny_goal_episodes: Episodes
) -> None:
    """Every question better than what is always said: the mean, or that nothing moves."""
    data = tiny_goal_episodes
    model = _trained(name, tiny_config, tiny_model, data)
    windows = WindowSampler(data, model.config, seed=0).sample(512, generator(5))
    z, goal = model.states(windows.states), model.goal(windows.goals)
    assert windows.actions is not None and windows.acting is not None
    actions = model.scaled_actions(windows.actions)
    returns = model.normalised_returns(windows.returns[:, 0])
    streams = model.streams is not None
    x = model.to_plan(z[:, 0], z[:, 1:], actions if streams else None, returns if streams else None)
    noise = torch.randn(x.shape, generator=generator(6))
    context = Context(z[:, 0], goal, None)
    mask = windows.acting[..., None, None]
    with torch.no_grad():
        led = answers_of(model).inverse_dynamics(context, x, noise)
        wrong = ((led - actions).square() * mask).mean()
        assert wrong < 0.5 * ((actions - actions.mean((0, 1, 2))).square() * mask).mean()
        moved = answers_of(model).forward_model(context, actions, noise, 3)
        ahead = model.from_plan(z[:, 0], moved)
        error = ((ahead - z).square()[:, 1:] * windows.mask[..., None]).mean()
        still = ((z[:, :1] - z).square()[:, 1:] * windows.mask[..., None]).mean()
        assert error < 0.7 * still
        worth = answers_of(model).evaluation(context, x)
        assert np.corrcoef(worth, returns)[0, 1] > 0.7
        if model.tells_of_states:
            valued = WindowSampler(data, model.config, seed=0).valued(512, generator(7))
            states, goals = model.states(valued.states), model.goal(valued.goals)
            assert goals is not None
            told = answers_of(model).state_values(states[:, None], goals[:, None]).squeeze(1)
            assert np.corrcoef(told, model.normalised_returns(valued.returns))[0, 1] > 0.8
        now = answers_of(model).policy(context, noise)
        first = actions[:, 0, 0]
        # of windows that teach nothing about their goal nothing is expected
        weight = windows.weight[:, None] / windows.weight.mean()
        usual = (first * weight).mean(0)
        wrong = ((now - first).square() * weight).mean()
        assert wrong < 0.8 * ((first - usual).square() * weight).mean()
