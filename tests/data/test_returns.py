"""Discounted returns: what a loop over the steps gives, however episodes and chunks lie."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffplan.data import returns
from diffplan.data.episodes import Episodes
from diffplan.data.returns import discounted_returns, penalised, returns_to_go


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


def test_an_end_before_the_time_limit_can_cost(tiny_episodes: Episodes) -> None:
    starts, states = tiny_episodes.step_starts, tiny_episodes.state_starts
    ends = np.zeros(len(tiny_episodes.rewards), np.bool_)
    ends[starts[1::2] - 1] = True
    falling = replace(tiny_episodes, terminations=ends)
    cost = penalised(falling, -100.0) - falling.rewards
    assert (cost[ends] < -99).all() and (cost[~ends] == 0).all()
    lost = returns_to_go(falling, 1.0, -100.0) - returns_to_go(falling, 1.0)
    for e, last in enumerate(starts[1:] - 1):
        assert lost[states[e]] == pytest.approx(-100.0 if ends[last] else 0.0, abs=1e-4)
