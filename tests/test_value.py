"""The value function: expectiles of what it is shown, and the inputs it listens to."""

import pytest
import torch

from diffplan.value import Value


def small(goal: bool = False, actions: int = 0, expectile: float = 0.5, members: int = 1) -> Value:
    torch.manual_seed(0)
    columns = (0, 1) if goal else ()
    return Value(3, 2 if goal else 0, actions, columns, 16, 1, expectile, members)


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
