"""Ends that look like a time limit's: found where the limit or the lengths give them away."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from diffplan.data.ends import as_truncations, ends_at_limit
from diffplan.data.episodes import Episodes

Make = Callable[..., Any]


@pytest.fixture
def recorded(join_episodes: Make) -> Callable[..., Episodes]:
    """Episodes of these lengths, those marked terminated and the others truncated."""

    def make(lengths: list[int], terminated: list[bool]) -> Episodes:
        states = [np.arange(2 * (n + 1), dtype=float).reshape(-1, 2) for n in lengths]
        actions = [np.zeros((n, 2)) for n in lengths]
        episodes: Episodes = join_episodes(states, actions, [np.ones(n) for n in lengths])
        last = np.asarray(episodes.step_starts)[1:] - 1
        flags = np.zeros((2, episodes.num_steps), bool)
        flags[0, last], flags[1, last] = terminated, ~np.array(terminated)
        return dataclasses.replace(episodes, terminations=flags[0], truncations=flags[1])

    return make


@pytest.mark.parametrize(
    ("lengths", "terminated", "limit", "suspicious"),
    [
        ([9, 9, 9], [True] * 3, 9, [True] * 3),
        ([9, 9, 9], [True] * 3, None, [True] * 3),
        ([9, 9, 9], [True] * 3, 20, [True] * 3),  # the data had another limit
        ([9, 4, 9], [True] * 3, 9, [True, False, True]),  # falls stay falls
        ([9, 9, 4], [True, True, False], None, [True, True, False]),  # the last was cut short
        ([9], [True], 9, [True]),
        ([9], [True], None, None),
        ([9, 4, 7], [True] * 3, None, None),
        ([9, 4, 7], [True] * 3, 20, None),
        ([19, 19, 7, 19], [True] * 4, None, [True, True, False, True]),  # most, and falls
        ([19, 19, 7, 19, 30], [True] * 4 + [False], None, None),  # one goes on
        ([19, 19, 7, 8, 19, *range(2, 12)], [True] * 15, None, None),  # few
        ([9, 9, 12], [True, True, False], None, None),  # one goes on: no limit of 9
        ([9, 9], [False] * 2, 9, None),
        ([1, 1, 1], [True] * 3, None, None),  # bandits
        ([*range(2, 42), 50], [True] * 41, 50, None),  # one by chance
    ],
)
def test_terminations_that_a_time_limit_explains(
    recorded: Callable[..., Episodes],
    lengths: list[int],
    terminated: list[bool],
    limit: int | None,
    suspicious: list[bool] | None,
) -> None:
    episodes = recorded(lengths, terminated)
    found = ends_at_limit(episodes, [limit])
    assert (None if found is None else found.episodes.tolist()) == suspicious
    if found is None:
        return
    cut = as_truncations(episodes, found.episodes).validate()
    last = np.asarray(episodes.step_starts)[1:] - 1
    assert cut.truncations[last][found.episodes].all()
    assert cut.terminations[last].tolist() == [
        ended and not doubtful for ended, doubtful in zip(terminated, found.episodes, strict=True)
    ]
    assert ends_at_limit(cut, [limit]) is None
