"""Which of the goal's columns belong to one thing, and what holds it while it is moved."""

import numpy as np
import pytest
import torch

from diffplan.data.things import Things, things

GRASP = 0.3  # the hand holds this far above what it holds


def work(rng: np.random.Generator, places: np.ndarray, rounds: int) -> np.ndarray:
    """A hand that goes to one of two things in a plane, carries it elsewhere and lets go: [T, 6].

    Columns: the hand, then both things.
    """
    rows, hand = [], np.zeros(2)

    def go(target: np.ndarray, held: int | None) -> None:
        nonlocal hand
        for _ in range(12):
            hand = hand + (target - hand) / 4 + 0.01 * rng.normal(size=2)
            if held is not None:
                places[held] = hand - [0, GRASP]
            rows.append(np.concatenate([hand, places.ravel()]))

    for _ in range(rounds):
        held = int(rng.integers(2))
        go(places[held] + [0, GRASP], None)
        go(rng.uniform(-2, 2, 2), held)
        go(rng.uniform(-2, 2, 2), None)
    return np.array(rows)


def found(scale: np.ndarray | float = 1.0, columns: tuple[int, ...] = (2, 3, 4, 5)) -> Things:
    rng = np.random.default_rng(0)
    episodes = [work(rng, rng.uniform(-2, 2, (2, 2)), 10) for _ in range(20)]
    starts = np.cumsum([0, *map(len, episodes)])
    fixed = np.full((starts[-1], 1), 7.0)
    states = np.concatenate([np.concatenate(episodes) * scale, fixed], 1)
    return things(torch.from_numpy(states).float(), columns, torch.from_numpy(starts))


@pytest.mark.parametrize("scale", [1.0, np.array([1e-3, 1e-3, 1e3, 1, 1e-3, 1e-3])])
def test_what_moves_together_is_one_thing_and_a_hand_holds_it(scale: np.ndarray | float) -> None:
    told = found(scale)
    assert told.of == (0, 0, 1, 1)
    assert told.holds == ((0, 0), (0, 1), (1, 0), (1, 1))
    # near 0 where the hand holds the thing, and as large as the hand is off in its deviations
    spread = work(np.random.default_rng(1), np.zeros((2, 2)), 200)[:, :2].std(0)
    for thing in (0, 1):
        for off in (0.0, 1.0):
            places = np.array([[0.5, -1.0], [-0.7, 1.2]])
            hand = places[thing] + [off, GRASP - off]
            state = np.concatenate([hand, places.ravel()]) * scale
            told_off = told.weight[:, :6].double() @ torch.from_numpy(state) + told.offset
            expected = np.array([off, -off]) / spread
            assert told_off[2 * thing : 2 * thing + 2].tolist() == pytest.approx(expected, abs=0.15)


def test_what_never_moves_is_no_thing() -> None:
    assert found(columns=(2, 6, 4)).of == (0, -1, 1)
    # a thing of which the goal says one coordinate still holds the hand's other one loosely
    assert {column for _, column in found(columns=(2, 4)).holds} == {0}


def test_things_that_are_moved_at_once_are_one() -> None:
    rng = np.random.default_rng(0)
    carried = work(rng, np.zeros((2, 2)), 60)[:, :4]
    both = np.concatenate([carried, carried[:, 2:] + 0.5], 1)
    told = things(torch.from_numpy(both).float(), (2, 3, 4, 5), torch.tensor([0, len(both)]))
    assert told.of == (0, 0, 0, 0)


def test_moves_say_where_all_things_were_before_and_after() -> None:
    rng, rows, starts = np.random.default_rng(0), [], [0]
    expected = []
    for _ in range(6):
        at = [0.0, 0.0]
        for which in rng.integers(2, size=9):
            before = list(at)
            for _ in range(10):
                at[which] += 0.3
                rows.append([rng.normal(), *at])
            rows += [[rng.normal(), *at]] * 10
            expected.append((int(which), before, list(at)))
        starts.append(len(rows))
    told = things(torch.tensor(rows, dtype=torch.float32), (1, 2), torch.tensor(starts))
    assert told.of == (0, 1)
    order = sorted(range(len(expected)), key=lambda i: expected[i][0])
    assert told.moved.tolist() == [expected[i][0] for i in order]
    for found, place in ((told.start, 1), (told.end, 2)):
        close = np.array([expected[i][place] for i in order])
        # an episode's first move is seen from its first state on
        np.testing.assert_allclose(found, close, atol=0.31)


def test_too_little_motion_says_nothing_of_a_hand() -> None:
    few = work(np.random.default_rng(0), np.ones((2, 2)), 2)
    told = things(torch.from_numpy(few).float(), (2, 3, 4, 5), torch.tensor([0, len(few)]))
    assert told.holds == () and told.weight.shape == (0, 6)


def test_episodes_too_short_to_show_motion_are_of_no_things() -> None:
    states, starts = torch.arange(12.0).reshape(4, 3), torch.tensor([0, 2, 4])
    told = things(states, (1, 2), starts)
    assert told.of == (-1, -1) and told.holds == () and not len(told.moved)
