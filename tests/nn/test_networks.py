"""What every denoiser network promises, whatever is inside."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from diffplan.errors import DiffplanError
from diffplan.nn import NETWORKS, DiT, Network, TemporalUNet
from diffplan.nn.embeddings import GoalFeatures, GoalMap, chosen_columns, mlp, sinusoidal

H, D, F = 6, 3, 8
SMALL = {
    "mlp": {"width": 16, "depth": 2},
    "unet": {"width": 8, "mults": (1, 2, 4), "groups": 4},
    "dit": {"width": 16, "depth": 2, "heads": 2},
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(name: str, horizon: int = H, use_proposal: bool = True) -> Network:
    """A small network with random weights, its zero layers included."""
    torch.manual_seed(0)
    network = NETWORKS[name](horizon, D, F, use_proposal=use_proposal, **SMALL[name])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return network.eval()


@pytest.mark.parametrize("use_proposal", [True, False])
@pytest.mark.parametrize("horizon", [1, 4, 7, 16])
@pytest.mark.parametrize("name", NETWORKS)
def test_any_horizon_any_batch(name: str, horizon: int, use_proposal: bool) -> None:
    network = build(name, horizon, use_proposal)
    for rows in (1, 5):
        proposal = normal(rows, horizon, D) if use_proposal else None
        out = network(normal(rows, horizon, D), proposal, normal(rows, F))
        assert out.shape == (rows, horizon, D)
        assert out.isfinite().all()


@pytest.mark.parametrize("name", NETWORKS)
def test_an_untrained_network_answers_zero(name: str) -> None:
    network = NETWORKS[name](H, D, F, **SMALL[name])
    assert torch.equal(
        network(normal(4, H, D), normal(4, H, D), normal(4, F)), torch.zeros(4, H, D)
    )


@pytest.mark.parametrize("name", NETWORKS)
@given(row=st.integers(0, 4), what=st.sampled_from(["x", "proposal", "features"]))
@settings(max_examples=15)
def test_a_row_sees_itself_alone(name: str, row: int, what: str) -> None:
    network = build(name)
    inputs = {
        "x": normal(5, H, D),
        "proposal": normal(5, H, D, seed=1),
        "features": normal(5, F, seed=2),
    }
    with torch.no_grad():
        before = network(**inputs)
        inputs[what] = inputs[what].clone()
        inputs[what][row] = 100.0 * normal(*inputs[what].shape[1:], seed=3)
        after = network(**inputs)
    changed = (before != after).flatten(1).any(1)
    assert changed.tolist() == [i == row for i in range(5)]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("proposed", [True, False, None])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_bound_network_is_the_network_at_every_level(
    name: str, proposed: bool | None, shared: bool
) -> None:
    """proposed: None for a network that takes none. shared: one row of features for all."""
    network = build(name, use_proposal=proposed is not None).double()
    x, features = normal(5, H, D).double(), normal(3, 1 if shared else 5, F, seed=2).double()
    proposal = normal(5, H, D, seed=1).double() if proposed else None
    bound = network.bind(proposal, features)
    assert len(bound) == 3
    if proposed is False:
        proposal = torch.zeros_like(x)
    for level, at in zip(features, bound, strict=True):
        expected = network(x, proposal, level.expand(5, F))
        torch.testing.assert_close(at(x), expected, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(bound[0](x), bound[1](x), rtol=1e-2)


@pytest.mark.parametrize("columns", [(0, 1), (1, 2), (3, 0), (2,)])
def test_a_goal_map_gives_the_goal_features(columns: tuple[int, ...]) -> None:
    state, goal = normal(6, 4), normal(6, len(columns), seed=1)
    assert torch.equal(chosen_columns(state, columns), state[:, list(columns)])
    things = tuple(range(len(columns)))
    for features in (
        GoalFeatures(4, columns),
        GoalFeatures(4, columns, things),
        GoalFeatures(4, columns, things, [(thing, 3) for thing in things]),
    ):
        features.fit(normal(len(columns), 4, seed=2), normal(len(columns), seed=3))
        found = torch.cat(GoalMap(4, columns).bind(goal, features.asked)(state), -1)
        assert found.shape[1] == features.size
        torch.testing.assert_close(found, features(state, goal), rtol=1e-6, atol=1e-5)


def test_of_several_things_the_features_tell_how_far_off_the_one_is_that_has_a_way_to_go() -> None:
    # two things at columns 0 and 1, a hand at 2 that holds either where it is
    features = GoalFeatures(3, (0, 1), (0, 1), ((0, 2), (1, 2)))
    features.fit(torch.tensor([[-1.0, 0, 1], [0, -1, 1]]), torch.zeros(2))
    state, there = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([1.0, -2.0])
    told = {}
    for name, way in {"none": [0, 0], "first": [3, 0], "other": [0, 3]}.items():
        goes, off, hand = features.asked(state, torch.tensor(way, dtype=torch.float32))
        torch.testing.assert_close(off, state[2] - there)
        told[name] = goes, hand
    assert told["none"][0].tolist() == [0, 0] and not told["none"][1].any()
    for name, place in {"first": 0, "other": 1}.items():
        goes, hand = told[name]
        assert goes[place] > 0.99 and goes[1 - place] == 0
        gap = float(state[2] - there[place])
        expected = [gap, gap**2 / (gap**2 + 0.01)]
        expected += [f(w * gap) for w in (4, 12) for f in (math.sin, math.cos)]
        torch.testing.assert_close(hand, goes[place] * torch.tensor(expected))
    # of another holding column the same features lie beside
    both = GoalFeatures(3, (0,), (0,), ((0, 1), (0, 2)))
    assert both.size == 14 + 1 + 2 + 12


@pytest.mark.parametrize("name", NETWORKS)
def test_every_plan_state_sees_every_other(name: str) -> None:
    x = normal(1, H, D).requires_grad_()
    out = build(name)(x, normal(1, H, D, seed=1), normal(1, F, seed=2))
    for k in range(H):
        (grad,) = torch.autograd.grad(out[0, k].sum(), x, retain_graph=True)
        assert (grad[0].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_learns(name: str) -> None:
    network = build(name)
    target = normal(4, H, D, seed=3)
    out = network(normal(4, H, D), normal(4, H, D, seed=1), normal(4, F, seed=2))
    (out - target).square().mean().backward()
    idle = [
        key
        for key, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert idle == []


def test_the_unet_s_padding_repeats_the_last_state() -> None:
    """A horizon of 7 runs as 8 whose last state is the seventh once more."""
    short, full = build("unet", 7), build("unet", 8)
    full.load_state_dict(short.state_dict())
    x, proposal, features = normal(2, 7, D), normal(2, 7, D, seed=1), normal(2, F, seed=2)
    longer = [torch.cat([value, value[:, -1:]], dim=1) for value in (x, proposal)]
    torch.testing.assert_close(short(x, proposal, features), full(*longer, features)[:, :7])


def test_the_default_unet_has_the_published_size() -> None:
    """Blocks per level 2, two in the middle, 64 to 512 channels, without the finest skip."""
    network = TemporalUNet(32, 11, 64, use_proposal=False)
    inputs = {block.first[0].in_channels for level in network.up for block in [level.first]}
    assert inputs == {1024, 512, 256}
    assert [level.second.second[0].out_channels for level in network.down] == [64, 128, 256, 512]
    assert len(network.shrink) == len(network.grow) == 3


@pytest.mark.parametrize("level", [1, 2])
def test_the_unet_s_skips_carry_the_input_past_the_levels_below(level: int) -> None:
    network = build("unet", 8)
    assert isinstance(network, TemporalUNet)
    # nothing below `level` sees the input, and of the skips only this level's is kept
    with torch.no_grad():
        lower = network.middle if level == 2 else network.shrink[level]
        for parameter in lower.parameters():
            parameter.zero_()
        if level == 2:
            network.middle.first.skip = torch.nn.Conv1d(32, 32, 1, bias=False)
            torch.nn.init.zeros_(network.middle.first.skip.weight)
        features = normal(2, F)
        change = network(normal(2, 8, D), normal(2, 8, D, seed=1), features) - network(
            normal(2, 8, D, seed=2), normal(2, 8, D, seed=1), features
        )
    assert change.abs().max() > 1e-3


def test_an_untrained_dit_block_is_the_identity() -> None:
    """adaLN-zero: tokens do not mix and features do not act before training."""
    torch.manual_seed(0)
    network = DiT(H, D, F, use_proposal=False, **SMALL["dit"])
    torch.nn.init.normal_(network.leave.weight)
    x = normal(1, H, D)
    other = x.clone()
    other[:, 0] += 1.0
    with torch.no_grad():
        out, moved = network(x, None, normal(1, F)), network(other, None, normal(1, F, seed=1))
    assert torch.equal(out[:, 1:], moved[:, 1:])
    assert (out[:, 0] != moved[:, 0]).any()


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(DiffplanError, match="width 10 must be a multiple of heads=4"):
        DiT(H, D, F, width=10)
    with pytest.raises(DiffplanError, match="width 20 must be a multiple of groups=8"):
        TemporalUNet(H, D, F, width=20)
    with pytest.raises(DiffplanError, match="odd kernel, got 4"):
        TemporalUNet(H, D, F, kernel=4)


def test_sinusoidal_is_unit_phasors_from_fast_to_slow() -> None:
    values = torch.tensor([0.0, 1.0, 250.0])
    embedded = sinusoidal(values, 8)
    assert embedded.shape == (3, 8)
    sines, cosines = embedded.chunk(2, dim=-1)
    torch.testing.assert_close(sines**2 + cosines**2, torch.ones(3, 4))
    torch.testing.assert_close(sines[:, 0], values.sin(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sines[1, 2], torch.tensor(1e-2).sin(), rtol=1e-4, atol=1e-6)
    with pytest.raises(DiffplanError, match="even size of 2 or more, got 7"):
        sinusoidal(values, 7)


def test_mlp_layers() -> None:
    network = mlp(3, (5, 4), 2, activation=nn.Mish, zero_last=True)
    assert [type(layer).__name__ for layer in network] == [
        "Linear",
        "Mish",
        "Linear",
        "Mish",
        "Linear",
    ]
    assert torch.equal(network(normal(4, 3)), torch.zeros(4, 2))
    assert mlp(3, (), 2)(normal(4, 3)).any()
