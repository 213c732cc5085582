"""The value function: expectiles of what it is shown, and the inputs it listens to."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from diffplan.data.episodes import Episodes
from diffplan.data.windows import WindowSampler
from diffplan.model.value import BootstrappedValue, Value
from diffplan.nn.embeddings import GoalFeatures
from diffplan.training.losses import bootstrapped

Make = Callable[..., Any]


def small(goal: bool = False, actions: int = 0, expectile: float = 0.5, members: int = 1) -> Value:
    torch.manual_seed(0)
    columns = (0, 1) if goal else ()
    return Value(
        3,
        GoalFeatures(3, columns),
        actions,
        width=16,
        depth=1,
        expectile=expectile,
        members=members,
    )


@pytest.mark.parametrize("goal", [True, False])
@pytest.mark.parametrize("actions", [0, 2])
def test_it_listens_to_its_inputs_row_by_row(goal: bool, actions: int) -> None:
    value = small(goal, actions)
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(4, n, generator=generator) for n in (3, 2, 2)]
    state, target, action = inputs[0], inputs[1] if goal else None, inputs[2] if actions else None
    before = value(state, target, action)
    assert before.shape == (4,)
    assert value.uses_action == bool(actions)
    for given in (state, target, action):
        if given is not None:
            given[2] += 1
            after = value(state, target, action)
            assert torch.equal(after.ne(before), torch.tensor([False, False, True, False]))
            before = after


@pytest.mark.parametrize(("expectile", "share"), [(0.5, 0.5), (0.7, 0.3), (0.9, 0.1)])
def test_it_learns_the_expectile_of_the_returns(expectile: float, share: float) -> None:
    # where returns of 0 and 1 are equally frequent, the expectile tau is tau itself
    value = small(expectile=expectile)
    state = torch.zeros(200, 3)
    returns = torch.arange(200).remainder(2).float()
    optimiser = torch.optim.Adam(value.parameters(), lr=0.03)
    for _ in range(150):
        optimiser.zero_grad()
        value.loss(state, None, None, returns).backward()
        optimiser.step()
    assert float(value(state[0], None).detach()) == pytest.approx(1 - share, abs=0.02)


def test_the_loss_by_hand() -> None:
    value = small(expectile=0.8)
    for parameter in value.parameters():
        torch.nn.init.zeros_(parameter)
    loss = value.loss(torch.zeros(2, 3), None, None, torch.tensor([2.0, -1.0]))
    assert float(loss.detach()) == pytest.approx((2 * 0.8 * 4 + 2 * 0.2 * 1) / 2)
    value.expectile = 0.5
    loss = value.loss(torch.zeros(2, 3), None, None, torch.tensor([2.0, -1.0]))
    assert float(loss.detach()) == pytest.approx(2.5)  # the mean squared error


def test_members_are_averaged_and_learn_apart() -> None:
    value = small(members=3)
    state = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    each = value.each(state, None)
    assert each.shape == (3, 5)
    assert not torch.allclose(each[0], each[1])
    torch.testing.assert_close(value(state, None), each.mean(0))
    # each is fitted to the returns itself: an error of the average would leave the third at rest
    value.loss(state, None, None, each[2].detach()).backward()
    gradients = [
        sum(float(p.grad.abs().sum()) for p in member.parameters()) for member in value.members
    ]
    assert gradients[0] > 0 and gradients[1] > 0 and gradients[2] == 0


def test_the_loss_of_members_is_the_sum_of_theirs() -> None:
    value = small(members=2)
    state, returns = torch.zeros(1, 3), torch.ones(1)
    alone = [(1 - float(v)) ** 2 for v in value.each(state, None).detach()[:, 0]]
    loss = value.loss(state, None, None, returns)
    assert float(loss.detach()) == pytest.approx(sum(alone), rel=1e-5)


# --- Bootstrapped --------------------------------------------------------------------------------


def test_what_it_follows_by_moves_slowly_and_has_no_gradient() -> None:
    torch.manual_seed(0)
    value = BootstrappedValue(3, GoalFeatures(3, ()), width=16, depth=1, expectile=0.7, members=2)
    state = torch.randn(5, 3)
    torch.testing.assert_close(value.ahead(state, None), value(state, None))
    with torch.no_grad():
        for parameter in value.members.parameters():
            parameter.add_(1.0)
    before = value.ahead(state, None)
    value.follow()
    assert value.following is not None
    for slow, fast in zip(value.following.parameters(), value.members.parameters(), strict=True):
        torch.testing.assert_close(fast - slow, torch.full_like(fast, 0.995))
        assert not slow.requires_grad
    assert not torch.equal(value.ahead(state, None), before)
    assert not value.ahead(state, None).requires_grad


def test_a_bootstrapped_value_reaches_the_returns_of_a_chain(
    tiny_config: Make, tiny_model: Make, join_episodes: Make
) -> None:
    """States 0 to 9 in a row, reward 1 at the last step alone: V = discount^(9 - i)."""
    states = [np.eye(10, dtype=np.float32) for _ in range(30)]
    actions = [np.zeros((9, 2), np.float32) for _ in range(30)]
    rewards = [np.eye(9)[8] for _ in range(30)]
    episodes = join_episodes(states, actions, rewards)
    ends = np.tile(np.eye(9, dtype=bool)[8], 30)
    episodes = dataclasses.replace(episodes, terminations=ends, truncations=np.zeros(270, bool))
    changes = {
        "heads.value": "bootstrapped",
        "heads.expectile": 0.5,
        "data.discount": 0.8,
        "plan.stride": 1,
        "heads.width": 32,
    }
    model = tiny_model(tiny_config(changes=changes), episodes).train()
    sampler = WindowSampler(episodes, model.config, seed=0)
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(model.value.members.parameters(), lr=5e-3)
    for _ in range(1200):
        valued = sampler.valued(64, generator)
        assert valued.step is not None
        seen = model.normalised_valued(valued)
        target = bootstrapped(model, model.value, seen.step, model.context_of(seen))
        loss = model.value.loss(seen.states, None, None, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    seen = model.states(torch.eye(10)[:9])
    with torch.no_grad():
        found = model.returns.inverse(model.value(seen, None).unsqueeze(-1)).squeeze(-1)
    expected = 0.8 ** torch.arange(8, -1, -1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.08)


def test_towards_a_goal_the_step_that_reaches_it_ends(
    tiny_goal_episodes: Episodes, tiny_config: Make
) -> None:
    config = tiny_config(changes={"heads.value": "bootstrapped"})
    sampler = WindowSampler(tiny_goal_episodes, config, seed=0)
    valued = sampler.valued(4000, torch.Generator().manual_seed(0))
    assert valued.step is not None and valued.goals is not None
    there = (valued.states[:, :2] == valued.goals).all(1)
    assert there.any() and not there.all()
    assert torch.equal(valued.step.ended.bool(), there)
    assert torch.equal(valued.step.rewards, there.float())
    states = torch.from_numpy(np.asarray(tiny_goal_episodes.states))
    for row in range(20):
        (index,) = (states == valued.states[row]).all(1).nonzero()[:1, 0].tolist()
        assert torch.equal(valued.step.states[row], states[index + 1])
