"""The causal transformer and its cache."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffplan.errors import DiffplanError
from diffplan.nn import Cache, CausalTransformer

B, L, INPUT, WIDTH = 4, 7, 3, 16


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(dropout: float = 0.0) -> CausalTransformer:
    torch.manual_seed(0)
    return CausalTransformer(INPUT, WIDTH, 2, 2, 32, dropout, max_length=10).eval()


def stepped(network: CausalTransformer, tokens: Tensor, cache: Cache) -> Tensor:
    features = []
    for position in range(tokens.shape[1]):
        feature, cache = network.step(tokens[:, position], cache, position)
        features.append(feature)
    return torch.stack(features, dim=1)


@pytest.mark.parametrize("length", [L, 10])
def test_cached_steps_are_the_uncached_forward(length: int) -> None:
    network, tokens = build(), normal(B, L, INPUT)
    with torch.no_grad():
        expected = network(tokens)
        actual = stepped(network, tokens, network.init_cache(B, length))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@given(position=st.integers(1, L - 1))
@settings(max_examples=10)
def test_a_feature_does_not_see_later_tokens(position: int) -> None:
    network, tokens = build(), normal(B, L, INPUT)
    later = tokens.clone()
    later[:, position:] = 50.0 * normal(B, L - position, INPUT, seed=1)
    with torch.no_grad():
        before, after = network(tokens), network(later)
    assert torch.equal(before[:, :position], after[:, :position])
    assert (before[:, position:] != after[:, position:]).any(-1).all()


def test_a_feature_sees_all_earlier_tokens() -> None:
    tokens = normal(1, L, INPUT).requires_grad_()
    out = build()(tokens)
    (grad,) = torch.autograd.grad(out[0, -1].square().sum(), tokens)
    assert (grad[0].abs().sum(-1) > 0).all()


def test_a_row_sees_itself_alone_with_and_without_cache() -> None:
    network, tokens = build(), normal(B, L, INPUT)
    other = tokens.clone()
    other[2] = 50.0 * normal(L, INPUT, seed=1)

    def run(tokens: Tensor) -> list[Tensor]:
        return [network(tokens), stepped(network, tokens, network.init_cache(B))]

    with torch.no_grad():
        for before, after in zip(run(tokens), run(other), strict=True):
            changed = (before != after).flatten(1).any(1)
            assert changed.tolist() == [False, False, True, False]


def test_entries_at_and_after_the_position_are_never_read() -> None:
    network, tokens = build(), normal(B, L, INPUT)
    with torch.no_grad():
        expected = network(tokens)
        cache = network.init_cache(B, L)
        for tensor in (*cache.keys, *cache.values):
            tensor.fill_(float("nan"))
        actual = stepped(network, tokens, cache)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_cache_has_the_shape_and_type_asked_for() -> None:
    cache = build().init_cache(3, 5, dtype=torch.float64)
    assert isinstance(cache, Cache)
    assert len(cache.keys) == len(cache.values) == 2
    assert cache.keys[0].shape == cache.values[1].shape == (3, 2, 5, WIDTH // 2)
    assert cache.keys[0].dtype == torch.float64
    assert build().init_cache(1).keys[0].shape[2] == 10


def test_order_matters() -> None:
    network, tokens = build(), normal(B, 1, INPUT).expand(B, L, INPUT)
    with torch.no_grad():
        features = network(tokens)
    assert (features[:, 1:] - features[:, :-1]).abs().amax(-1).min() > 1e-3


def test_dropout_acts_in_training_only() -> None:
    network, tokens = build(dropout=0.5), normal(B, L, INPUT)
    assert torch.equal(network(tokens), network(tokens))
    assert torch.equal(network(tokens), build()(tokens))
    network.train()
    assert not torch.equal(network(tokens), network(tokens))


def test_lengths_that_do_not_fit_are_refused() -> None:
    network = build()
    with pytest.raises(DiffplanError, match="11 tokens do not fit a transformer built for 10"):
        network(normal(B, 11, INPUT))
    with pytest.raises(DiffplanError, match="11 tokens do not fit"):
        network.init_cache(B, 11)
    with pytest.raises(DiffplanError, match="a cache of 4 tokens cannot hold 5"):
        network.step(normal(B, INPUT), network.init_cache(B, 4), 4)
    with pytest.raises(DiffplanError, match="width 10 must be a multiple of heads=4"):
        CausalTransformer(INPUT, width=10)
