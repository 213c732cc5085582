"""Discounted returns: what a loop over the steps gives, however episodes and chunks lie."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffplan.data import returns
from diffplan.data.returns import discounted_returns


def by_hand(
    rewards: np.ndarray, starts: np.ndarray, discount: float, tail: np.ndarray
) -> np.ndarray:
    result = np.zeros(len(rewards))
    for e, after in enumerate(tail):
        total = float(after)
        for t in range(starts[e + 1] - 1, starts[e] - 1, -1):
            total = float(rewards[t]) + discount * total
            result[t] = total
    return result


@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=12),
    discount=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    chunk=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_any_episodes_in_any_chunks(
    lengths: list[int], discount: float, chunk: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *lengths])
    rewards = rng.normal(size=starts[-1]).astype(np.float32)
    tail = rng.normal(size=len(lengths))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(returns, "_CHUNK", chunk)
        result = discounted_returns(rewards, starts, discount, tail)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, by_hand(rewards, starts, discount, tail), atol=2e-6)


@pytest.mark.parametrize("discount", [0.9, 0.9999, 1.0])
def test_one_long_episode_among_short_ones(discount: float) -> None:
    rng = np.random.default_rng(0)
    lengths = [1, 7, 150_000, 1, 1, 3000]
    starts = np.cumsum([0, *lengths])
    rewards = rng.random(starts[-1], np.float32)
    rewards.flags.writeable = False
    tail = np.array([3.0, 0.0, 50.0, 0.0, 1.0, 7.0])
    result = discounted_returns(rewards, starts, discount, tail)
    np.testing.assert_allclose(result, by_hand(rewards, starts, discount, tail), rtol=1e-6)
