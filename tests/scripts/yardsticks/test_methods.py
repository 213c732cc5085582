"""Model-free methods: their formulas on known quantities; each beats cloning where it can."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from diffplan.scripts.yardsticks.methods import IQL, METHODS, TD3BC, expectile_loss
from diffplan.scripts.yardsticks.networks import Ensemble, follow
from diffplan.scripts.yardsticks.replay import Steps
from diffplan.scripts.yardsticks.settings import Settings


def steps(size: int, seed: int = 0, **changes: Any) -> Steps:
    """A bandit in one state: actions uniform, rewards the action's first number."""
    generator = torch.Generator().manual_seed(seed)
    action = 2 * torch.rand(1, size, 2, generator=generator) - 1
    state, flags = torch.zeros(1, size, 3), torch.ones(1, size)
    made = Steps(
        state, action, action[..., 0], state, action.flip(1), 0 * flags, flags, action.flip(1)
    )
    return replace(made, **changes)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_an_ensemble_is_as_many_networks_of_their_own() -> None:
    made = Ensemble(2, 3, 1, generators(0, 1, 0), hidden=5, layer_norm=True)
    torch.nn.init.normal_(made.scales[0])
    torch.nn.init.normal_(made.shifts[1])
    x = torch.randn(3, 7, 3)
    found = torch.zeros(3, 2, 7, 1)
    for s in range(3):
        for k in range(2):
            h = x[s]
            for i in range(3):
                h = h @ made.weights[i][s, k] + made.biases[i][s, k]
                if i < 2:
                    h = torch.nn.functional.layer_norm(h.relu(), (5,), made.scales[i][s, k, 0])
                    h = h + made.shifts[i][s, k]
            found[s, k] = h
    torch.testing.assert_close(made(x), found)
    torch.testing.assert_close(made(x, 1), found[:, :1])
    torch.testing.assert_close(made.alone(1)(x[1:2]), found[1:2])
    drawn = made.weights[0]
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])


def test_targets_follow_by_polyaks_average() -> None:
    source, target = (Ensemble(1, 2, 1, generators(s), hidden=4) for s in (0, 1))
    before = copy.deepcopy(target)
    follow(target, source, 0.25)
    for new, old, aim in zip(
        target.parameters(), before.parameters(), source.parameters(), strict=True
    ):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * aim)


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9])
def test_the_expectile_loss_is_least_at_the_expectile(expectile: float) -> None:
    # of a coin in {0, 1}: expectile (1 - m) = (1 - expectile) m
    coin, m = torch.tensor([[0.0, 1.0]]), torch.tensor(expectile, requires_grad=True)
    expectile_loss(coin - m, expectile).backward()  # type: ignore[no-untyped-call]
    assert m.grad is not None and abs(float(m.grad)) < 1e-6
    assert expectile_loss(coin - 0.5, 0.9) == pytest.approx(0.125)


def gradient(method: TD3BC, batch: Steps) -> torch.Tensor:
    return torch.cat(
        [g.flatten() for g in torch.autograd.grad(method.actor_loss(batch), method.actor.weights)]
    )


@pytest.mark.parametrize("name", ["td3bc", "rebrac"])
def test_the_size_of_values_does_not_change_what_the_actor_learns(name: Any) -> None:
    method, batch = TD3BC([Settings(name)], 3, 2, 1, (0,)), steps(16)
    small = gradient(method, batch)
    with torch.no_grad():
        for held in (method.critics.weights[-1], method.critics.biases[-1]):
            held.mul_(100)
    torch.testing.assert_close(gradient(method, batch), small)


@pytest.mark.parametrize("name", ["td3bc", "rebrac"])
def test_values_over_their_mean_size_are_weighed_against_imitation(name: Any) -> None:
    method = TD3BC([Settings(name, q_weight=4.0, penalties=(0.3, 0.0))], 3, 2, 1, (0,))
    batch = steps(16)
    with torch.no_grad():
        action = method.act(batch.observation)
        both = method.critics(torch.cat([batch.observation, action], 2))[0, ..., 0]
        error = (action - batch.action) ** 2
        if name == "td3bc":
            wanted = error.mean() - 4.0 * both[0].mean() / both[0].abs().mean()
        else:
            least = both.amin(0)
            wanted = 0.3 * error.sum(2).mean() - least.mean() / least.abs().mean()
        torch.testing.assert_close(method.actor_loss(batch), wanted)


def test_values_are_bootstrapped_unless_the_task_ended() -> None:
    batch = steps(64, reward=torch.full((1, 64), 2.0))
    assert (TD3BC([Settings("td3bc")], 3, 2, 1, (0,)).target(batch) == 2).all()
    goes_on = replace(batch, goes_on=torch.ones(1, 64))
    # the same noise in all: seeds are the same
    plain, far = (
        TD3BC([Settings("td3bc", discount=d)], 3, 2, 1, (0,)).target(goes_on) for d in (0.5, 1)
    )
    torch.testing.assert_close(far - 2, 2 * (plain - 2))
    some = replace(goes_on, has_next=(torch.arange(64) % 2).float()[None])
    free, bound = (
        TD3BC([Settings("rebrac", discount=0.5, penalties=(0.01, b))], 3, 2, 1, (0,)).target(some)
        for b in (0.0, 0.2)
    )
    strayed = (free - bound) / (0.5 * 0.2)
    strayed = strayed[0]
    assert (strayed[::2].abs() < 1e-5).all() and (strayed[1::2] > 0).all()


@pytest.mark.parametrize("name", ["td3bc", "rebrac", "iql"])
def test_each_finds_better_actions_than_cloning(name: Any) -> None:
    found = {}
    for each in ("cloning", name):
        method = METHODS[each]([Settings(each, rate=3e-3)], 3, 2, 1000, (0,))
        for update in range(80):
            method.update(steps(64, update))
        with torch.no_grad():
            found[each] = method.act(torch.zeros(1, 1, 3))[0, 0].numpy()
    assert abs(found["cloning"][0]) < 0.2  # the mean action
    assert found[name][0] > 0.4
    if name == "iql":  # it stays among the actions of the data: their mean where they do not matter
        assert abs(found[name][1]) < 0.2


def test_iqls_weights_are_bounded_and_its_actors_rate_falls_to_nothing() -> None:
    method = IQL([Settings("iql", temperature=1e3)], 3, 2, 2, (0,))
    batch = steps(32, reward=torch.full((1, 32), 1e6))
    method.update(batch)
    moved = copy.deepcopy(method.actor)
    method.done.fill_(method.updates)  # the end of the cosine
    method.update(batch)
    for before, after in zip(moved.parameters(), method.actor.parameters(), strict=True):
        assert torch.isfinite(after).all()
        torch.testing.assert_close(before, after, rtol=0, atol=1e-9)
    assert np.isfinite(method.policy.log_deviation.detach().numpy()).all()
