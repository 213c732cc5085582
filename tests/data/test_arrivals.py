"""Where what a goal is about comes to rest, and windows whose goals lie there."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from diffplan.config.config import Config
from diffplan.config.sections import DataConfig, PlanSpaceConfig
from diffplan.data.arrivals import AFTER, arrivals
from diffplan.data.info import ObservationLayout
from diffplan.data.windows import WindowSampler
from diffplan.errors import DiffplanError

Make = Callable[..., Any]


def moved(stretches: list[tuple[int, int]], length: int) -> np.ndarray:
    """A column [length] that moves by one a step from the first to the second of each stretch."""
    speed = np.zeros(length - 1)
    for first, last in stretches:
        speed[first:last] = 1
    return np.concatenate([[0.0], np.cumsum(speed)])


def episode(stretches: list[tuple[int, int]], length: int) -> np.ndarray:
    """What is carried, what never moves, and a hand that always does: [length, 3]."""
    thing = moved(stretches, length)
    return np.stack([thing, np.full(length, 7.0), np.sin(np.arange(length))], 1)


def found(episodes: list[np.ndarray], scale: float = 1.0) -> list[list[int]]:
    """Where each state of each episode arrives, counted from the episode's first state."""
    starts = np.cumsum([0, *map(len, episodes)])
    states = torch.from_numpy(np.concatenate(episodes) * scale)
    told = arrivals(states, [0, 1], torch.from_numpy(starts)).numpy()
    return [(told[a:b] - a).tolist() for a, b in pairwise(starts)]


@pytest.mark.parametrize("scale", [1.0, 1e-5, 1e5])
def test_a_state_arrives_where_the_motion_ends_that_is_under_way_or_comes_next(
    scale: float,
) -> None:
    first, second, still = found(
        [episode([(10, 20), (40, 60)], 80), episode([(5, 30)], 31), episode([], 12)], scale
    )
    # what has changed over four steps has come to rest at most four steps too late
    for state, told in enumerate(first):
        expected = 20 if state < 20 else 60 if 20 + AFTER <= state < 60 else None
        if state >= 60 + AFTER:
            assert told == 79  # nothing moves any more: the last one
        elif expected is not None:
            assert expected <= told < expected + AFTER and told > state
    assert set(second[:30]) == {30} and second[30] == 30
    assert set(still) == {11}


def test_a_short_rest_is_on_the_way_and_another_episode_is_not() -> None:
    pause, after = found([episode([(10, 20), (20 + AFTER, 40)], 60), episode([(2, 9)], 20)])
    assert set(pause[:36]) == {pause[0]} and 40 <= pause[0] < 40 + AFTER
    assert set(pause[44:]) == {59}
    assert 9 <= after[0] < 9 + AFTER


@pytest.mark.parametrize("elsewhere", [0.0, 3.0])
def test_goals_that_never_move_are_refused(elsewhere: float) -> None:
    other = episode([], 5) + np.array([elsewhere, 0, 0])
    with pytest.raises(DiffplanError, match=r"never move in these data.*--data.relabel hindsight"):
        found([other, episode([], 3)])


def test_what_rests_most_of_the_time_and_trembles_arrives_all_the_same() -> None:
    rng = np.random.default_rng(0)
    still = episode([(100, 110)], 1000)
    still[:, :2] += 1e-5 * rng.normal(size=(1000, 2))
    (told,) = found([still])
    assert all(110 <= each < 110 + AFTER for each in told[:110]) and set(told[114:]) == {999}


def test_of_several_things_the_one_that_is_moved_next_is_what_the_goal_is_about() -> None:
    """Two things: the first is moved, the second, the first again, the second again."""
    one, other = moved([(10, 20), (50, 60)], 100), moved([(30, 40), (70, 80)], 100)
    states = torch.from_numpy(np.stack([one, other], 1))
    goals = states[arrivals(states, [0, 1], torch.tensor([0, 100]))].tolist()
    assert [goals[at] for at in (0, 25, 45, 65, 90)] == [
        *([10.0, 0.0], [10.0, 10.0], [20.0, 10.0], [20.0, 20.0], [20.0, 20.0])
    ]
    # there already but for the steps that a rest is seen over: on to the next
    assert goals[18] == [10.0, 0.0] and goals[22] == [10.0, 10.0]


def test_windows_are_on_their_way_to_the_next_arrival(join_episodes: Make) -> None:
    layout = ObservationLayout(3, 1, (0,), (), ("observation",))
    episodes = [episode([(10, 20), (40, 60), (70, 75)], 90) for _ in range(4)]
    joined = join_episodes(
        episodes, [np.zeros((len(each) - 1, 1)) for each in episodes], layout=layout
    )
    config = Config(data=DataConfig(relabel="arrivals"), plan=PlanSpaceConfig(horizon=4, stride=1))
    sampler = WindowSampler(joined, config, seed=0)
    windows = sampler.sample(2000, torch.Generator().manual_seed(0))
    assert windows.goals is not None
    here, goal = windows.states[:, 0, 0], windows.goals[:, 0]
    # the thing stands at 0, 10, 30 and 35
    stands = torch.tensor([0.0, 10.0, 30.0, 35.0])
    ahead = (stands[None] > here[:, None] + 1e-3).float().argmax(1)
    assert torch.equal(goal[here < 35], stands[ahead[here < 35]])
    assert (goal[here >= 35] == 35).all()  # when nothing comes any more it stays
    assert set(goal.tolist()) == {10.0, 30.0, 35.0}
    assert sampler.goals is not None and sampler.goals.nbytes == 8 * len(joined.states)
