"""What looks wrong in data is said."""

from collections.abc import Callable
from typing import Any

import numpy as np

from diffplan.data.doubts import doubts

Make = Callable[..., Any]


def test_shuffled_rows_and_coarse_columns_are_doubted(join_episodes: Make) -> None:
    rng = np.random.default_rng(0)
    walks = [0.1 * rng.normal(size=(41, 2)).cumsum(0) for _ in range(5)]
    actions = [np.zeros((40, 2))] * 5
    assert doubts(join_episodes(walks, actions)) == []
    assert (
        "are the rows shuffled?"
        in doubts(join_episodes([rng.permutation(walk) for walk in walks], actions))[0]
    )
    clocks = [np.stack([walk[:, 0], 1.7e9 + 10.0 * np.arange(41)], axis=1) for walk in walks]
    assert "state column 1 moves by hardly more than" in doubts(join_episodes(clocks, actions))[0]
    assert doubts(join_episodes([np.ones((41, 2))] * 5, actions)) == [
        "no column of the states ever moves"
    ]
    fine = [np.c_[walk, 1e-12 * walk[:, 0]] for walk in walks]
    assert "state column 2 varies by next to nothing" in doubts(join_episodes(fine, actions))[0]
    rewards = [2e7 + np.random.default_rng(1).normal(size=40)] * 5
    assert "reward column 0 moves" in doubts(join_episodes(walks, actions, rewards))[0]
    single = [walk[i : i + 2] for walk in walks for i in range(8)]
    found = doubts(join_episodes(single, [np.zeros((1, 2))] * 40))
    assert "every episode has one step: do the flags mark ends?" in found


def test_ends_that_are_not_marked_where_they_are(join_episodes: Make) -> None:
    rng = np.random.default_rng(0)
    walks = [rng.normal(size=2) + 0.02 * rng.normal(size=(40, 2)).cumsum(0) for _ in range(9)]
    # an angle that jumps by a turn in one column is no end
    for walk in walks:
        walk[20:, 0] += 6.3
    assert doubts(join_episodes(walks, [np.zeros((39, 2))] * 9)) == []
    rows = np.concatenate([walk[:20] for walk in walks])
    joined = join_episodes([rows], [np.zeros((len(rows) - 1, 2))])
    assert "steps inside episodes leap" in doubts(joined)[0]
    # beside a column that rests but for a few steps, which leaps are no multiples of
    rests = join_episodes([np.c_[rows, np.arange(len(rows)) > 90]], [np.zeros((len(rows) - 1, 2))])
    assert "steps inside episodes leap" in doubts(rests)[0]
    # flags at the first step of each episode
    shifted = [rows[:21], *(rows[i + 1 : i + 21] for i in range(20, 160, 20))]
    late = join_episodes(shifted, [np.zeros((len(part) - 1, 2)) for part in shifted])
    assert "steps into the last step of episodes leap" in doubts(late)[0]
