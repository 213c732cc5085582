"""What each loss teaches."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from diffplan.data.batches import Batch, Windows
from diffplan.data.episodes import Episodes
from diffplan.data.windows import WindowSampler
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel
from diffplan.training.losses import Objective

Make = Callable[..., Any]
SPACES = ["displacement", "absolute"]


@pytest.fixture(params=["goals", "rewards"])
def data(
    request: pytest.FixtureRequest, tiny_episodes: Episodes, tiny_goal_episodes: Episodes
) -> Episodes:
    return tiny_goal_episodes if request.param == "goals" else tiny_episodes


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(model: PlannerModel, data: Episodes, rows: int = 32) -> Batch:
    sampler, source = WindowSampler(data, model.config, seed=0), generator(7)
    objective = Objective(model)
    return Batch(
        sampler.sample(rows, source),
        sampler.transitions(rows, source),
        sampler.valued(rows, source),
        sampler.sample(objective.plain_rows, source) if objective.plain_rows else None,
        sampler.sample(rows, source, acted=True) if objective.follows_proposals else None,
    )


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("trajectory-diffuser", {}),
    ("trajectory-diffuser", {"heads.train_on_proposals": True}),
    ("trajectory-diffuser", {"proposer.kind": "gru"}),
    ("trajectory-diffuser", {"proposer.kind": "one-shot"}),
    ("trajectory-diffuser", {"denoiser.condition_on_proposal": False}),
    ("trajectory-diffuser", {"plan.space": "absolute", "denoiser.network": "dit"}),
    ("trajectory-diffuser-published", {}),
    ("proposer-only", {}),
    ("from-noise", {}),
]


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_every_loss_teaches_its_own_part_alone(
    name: str,
    changes: dict[str, Any],
    data: Episodes,
    tiny_config: Make,
    tiny_model: Make,
) -> None:
    config = tiny_config(name, changes)
    model: PlannerModel = tiny_model(config, data)
    losses = Objective(model)(batch_of(model, data), generator())
    parts = {
        name: list(part.parameters())
        for name, part in model.named_children()
        if list(part.parameters())
    }
    expected = {"inverse_dynamics", "value", "proposer", "denoiser"}
    expected -= {"proposer-only": {"denoiser"}, "from-noise": {"proposer"}}.get(name, set())
    assert parts.keys() == expected
    assert losses.keys() - {"denoiser_plain", "inverse_dynamics_proposed"} == expected
    assert ("inverse_dynamics_proposed" in losses) == config.heads.train_on_proposals
    plain = name == "trajectory-diffuser" and config.denoiser.condition_on_proposal
    assert ("denoiser_plain" in losses) == plain
    for loss_name, loss in losses.items():
        assert loss.shape == ()
        assert torch.isfinite(loss)
        for part_name, parameters in parts.items():
            taught = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            moved = [g is not None and bool(g.abs().sum() > 0) for g in taught]
            if loss_name.startswith(part_name):
                # a few parameters are idle: null vectors never used, keys' biases
                assert sum(moved) >= 0.8 * len(moved)
            else:
                assert not any(moved)


def test_following_looks_at_the_first_proposed_state(
    tiny_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    model = tiny_model(tiny_config(changes={"heads.train_on_proposals": True}), tiny_episodes)
    batch = batch_of(model, tiny_episodes)
    assert batch.followed is not None and model.proposer is not None
    acted = batch.followed.acted
    assert acted is not None
    z = model.states(batch.followed.states[:, 0])
    target = model.normalised_returns(batch.followed.returns[:, 0])
    first = model.proposer.propose(Context(z, None, target)).states[:, 0]
    lag = acted.lag / model.config.plan.stride
    guess = model.inverse_dynamics(model.states(acted.states), first, lag)
    error = (guess - model.scaled_actions(acted.actions)).square().mean(-1)
    expected = (error * acted.mask).sum() / acted.mask.sum()
    found = Objective(model)(batch, generator())["inverse_dynamics_proposed"]
    torch.testing.assert_close(found, expected)


def test_window_weights_scale_what_a_window_teaches(
    tiny_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    config = tiny_config()
    model = tiny_model(config, tiny_episodes)
    batch = batch_of(model, tiny_episodes)

    def losses(weight: Tensor) -> dict[str, Tensor]:
        windows = dataclasses.replace(batch.windows, weight=weight)
        return Objective(model)(dataclasses.replace(batch, windows=windows), generator())

    alike, halved = losses(torch.ones(32)), losses(torch.full((32,), 0.5))
    first = torch.eye(32)[0]
    only = losses(first)
    assert torch.equal(only["denoiser_plain"], alike["denoiser_plain"])  # has its own windows
    for name in ("proposer", "denoiser"):
        torch.testing.assert_close(alike[name], halved[name])  # a share of the batch's weight
        assert not torch.allclose(alike[name], only[name])
        assert torch.isfinite(losses(torch.zeros(32))[name])
        assert float(losses(torch.zeros(32))[name].detach()) == 0
    total = sum(losses(row)["proposer"] for row in torch.eye(32))
    torch.testing.assert_close(total / 32, alike["proposer"])


def test_plain_windows_have_their_share(
    tiny_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    model = tiny_model(tiny_config(), tiny_episodes)
    main = model.config.training.batch_size * model.config.denoiser.noise_draws
    objective = Objective(model)
    assert objective.plain_rows / (objective.plain_rows + main) == pytest.approx(0.4, abs=0.01)
    for name in ("proposer-only", "from-noise", "trajectory-diffuser-published"):
        assert Objective(tiny_model(tiny_config(name), tiny_episodes)).plain_rows == 0


def test_what_a_silent_denoiser_costs(
    tiny_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    # it returns the proposal, and without one the middle of the data, zero
    model: PlannerModel = tiny_model(tiny_config(), tiny_episodes)
    batch = batch_of(model, tiny_episodes)
    assert model.denoiser is not None and model.proposer is not None and batch.plain is not None
    for parameter in model.denoiser.parameters():
        torch.nn.init.zeros_(parameter)
    losses = Objective(model)(batch, generator())

    def cost(windows: Windows, proposed: bool) -> Tensor:
        z = model.states(windows.states)
        x0 = model.to_plan(z[:, 0], z[:, 1:])
        target = model.normalised_returns(windows.returns[:, 0])
        proposal = model.proposer.propose(Context(z[:, 0], None, target)).states
        guess = model.to_plan(z[:, 0], proposal) if proposed else torch.zeros_like(x0)
        error = (guess - x0).square().mean(-1) * windows.mask
        return (error.sum(1) / windows.mask.sum(1)).mean()

    torch.testing.assert_close(losses["denoiser"], cost(batch.windows, True))
    torch.testing.assert_close(losses["denoiser_plain"], cost(batch.plain, False))


def test_plain_samples_do_not_see_the_proposal(
    tiny_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    model: PlannerModel = tiny_model(tiny_config(), tiny_episodes)
    batch = batch_of(model, tiny_episodes)
    before = Objective(model)(batch, generator())
    assert model.proposer is not None
    with torch.no_grad():
        for parameter in model.proposer.parameters():
            parameter.mul_(1.3)
    after = Objective(model)(batch, generator())
    assert torch.equal(after["denoiser_plain"], before["denoiser_plain"])
    assert not torch.allclose(after["denoiser"], before["denoiser"])


def test_noise_in_the_losses_comes_from_the_generator(
    tiny_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    config = tiny_config()
    model = tiny_model(config, tiny_episodes)
    batch = batch_of(model, tiny_episodes)
    torch.manual_seed(1)
    one = Objective(model)(batch, generator(5))
    torch.manual_seed(2)
    assert torch.equal(Objective(model)(batch, generator(5))["denoiser"], one["denoiser"])
    assert not torch.equal(Objective(model)(batch, generator(6))["denoiser"], one["denoiser"])


def test_states_after_the_end_teach_the_proposer_nothing(
    tiny_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    for space in SPACES:
        config = tiny_config(changes={"plan.space": space})
        model = tiny_model(config, tiny_episodes)
        batch = batch_of(model, tiny_episodes, 200)
        windows = batch.windows
        assert windows.mask.eq(0).any()
        gone = torch.cat([torch.zeros(200, 1), 1 - windows.mask], 1).unsqueeze(-1)
        moved = dataclasses.replace(windows, states=windows.states + 5 * gone)
        losses = Objective(model)(batch, generator())
        changed = Objective(model)(dataclasses.replace(batch, windows=moved), generator())
        torch.testing.assert_close(changed["proposer"], losses["proposer"])


def test_a_velocity_learns_from_noise_of_both_signs(
    data: Episodes, tiny_config: Make, tiny_model: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draws 2 i and 2 i + 1 of a window share their level and have opposite noise."""
    changes = {"denoiser.process": "interpolant", "denoiser.prediction": "velocity"}
    model = tiny_model(tiny_config(changes=changes), data)
    seen: list[tuple[Any, ...]] = []
    assert model.denoiser is not None
    loss = model.denoiser.loss

    def spy(*args: Any, **options: Any) -> Tensor:
        seen.append(args)
        return loss(*args, **options)

    monkeypatch.setattr(model.denoiser, "loss", spy)
    losses = Objective(model)(batch_of(model, data), generator())
    samples = seen[0][0]
    plain, levels, noise = samples.plain, samples.levels, samples.noise
    main = int((~plain).sum())
    assert torch.equal(noise[1:main:2], -noise[:main:2])
    assert torch.equal(levels[1:main:2], levels[:main:2])
    assert len(levels[:main].unique()) > main // 4
    assert not torch.equal(noise[main + 1 :: 2][:3], -noise[main::2][:3])
    assert torch.isfinite(losses["denoiser"])
