"""Inverse dynamics: the action, from the change and the time left for it."""

import torch

from diffplan.model.inverse_dynamics import InverseDynamics


def small() -> InverseDynamics:
    torch.manual_seed(0)
    model = InverseDynamics(3, 2, 32, 2)
    model.step_scale.copy_(torch.tensor([0.1, 10.0, 1.0]))
    return model


def test_shapes_and_rows() -> None:
    model = small()
    state, ahead = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    lag = torch.rand(2, 5)
    actions = model(state, ahead, lag)
    assert actions.shape == (2, 5, 2)
    lag[0, 1] += 0.5
    changed = model(state, ahead, lag).ne(actions).any(-1)
    assert changed.sum() == 1 and changed[0, 1]


def test_changes_are_seen_in_steps() -> None:
    model, state, lag = small(), torch.zeros(3, 3), torch.ones(3)
    first = model.network[0]
    with torch.no_grad():
        first.weight.zero_()
        first.bias.zero_()
        first.weight[0, 3:6] = 1.0  # the inputs after the state's own columns
    seen: list[torch.Tensor] = []
    first.register_forward_hook(lambda *args: seen.append(args[2][..., 0]))
    model(state, state + torch.diag(model.step_scale), lag)
    torch.testing.assert_close(seen[0], torch.ones(3))


def test_it_leads_as_far_as_the_gain_says_and_learns_as_far_as_there_is() -> None:
    model, (state, ahead), lag = small(), torch.randn(2, 5, 3), torch.ones(5)
    plain, loss = model(state, ahead, lag), model.loss(state, ahead, lag, torch.zeros(5, 2))
    torch.testing.assert_close(model.lead(state, ahead, lag), plain, rtol=0, atol=0)
    model.gain = 2.5
    farther = model(state, state + 2.5 * (ahead - state), lag)
    torch.testing.assert_close(model.lead(state, ahead, lag), farther)
    assert (farther != plain).any()
    torch.testing.assert_close(model(state, ahead, lag), plain, rtol=0, atol=0)
    assert model.loss(state, ahead, lag, torch.zeros(5, 2)) == loss


def test_it_learns_to_go_there_in_the_time_left() -> None:
    torch.manual_seed(0)
    model = InverseDynamics(2, 2, 32, 2)
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(512, 2, generator=generator)
    action = torch.rand(512, 2, generator=generator) * 2 - 1
    lag = torch.randint(1, 3, (512,), generator=generator) / 2
    ahead = state + action * lag[:, None]  # speed times time
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(200):
        optimiser.zero_grad()
        loss = model.loss(state, ahead, lag, action)
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.02
    there = torch.tensor([[0.4, -0.2]])
    slow, fast = (model(torch.zeros(1, 2), there, torch.tensor([t])) for t in (1.0, 0.5))
    torch.testing.assert_close(slow.detach(), there, atol=0.15, rtol=0)
    torch.testing.assert_close(fast.detach(), 2 * there, atol=0.25, rtol=0)


def test_the_loss_is_the_mean_squared_error() -> None:
    model = small()
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    action = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    loss = model.loss(torch.randn(2, 3), torch.randn(2, 3), torch.ones(2), action)
    assert float(loss.detach()) == 1.5
