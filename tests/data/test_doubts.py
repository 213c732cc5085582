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
    # nothing moves, nothing is known
    assert doubts(join_episodes([np.ones((41, 2))] * 5, actions)) == []
