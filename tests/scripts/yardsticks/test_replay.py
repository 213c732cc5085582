"""Steps of a dataset for model-free methods: ends, the best of them, goals in hindsight."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from diffplan.data.episodes import Episodes
from diffplan.data.info import DatasetInfo, ObservationLayout
from diffplan.errors import DiffplanError
from diffplan.scripts.yardsticks.methods import METHODS
from diffplan.scripts.yardsticks.policy import BLOCK, Learner, Training, train
from diffplan.scripts.yardsticks.replay import Replay
from diffplan.scripts.yardsticks.settings import Settings


def episodes(lengths: list[int], *, goal: bool = False, extra: int = 1) -> Episodes:
    """State column 0 is the row among all states; actions in [0, 4] are the episode's number."""
    states = np.array([length + extra for length in lengths])
    starts, steps = np.append(0, np.cumsum(states)), np.append(0, np.cumsum(lengths))
    rows, count = int(starts[-1]), int(steps[-1])
    flags = np.zeros(count, np.bool_)
    layout = ObservationLayout(2, 1, (0,), (), ("observation",)) if goal else ObservationLayout(2)
    number = np.repeat(np.arange(len(lengths)), lengths)
    return Episodes(
        np.stack([np.arange(rows), np.ones(rows)], 1).astype(np.float32),
        np.zeros((rows, 1), np.float32) if goal else None,
        number[:, None].astype(np.float32),
        number.astype(np.float32),
        flags,
        flags,
        starts,
        steps,
        layout,
        DatasetInfo("mine", "arrays", None, {}, (0.0,), (4.0,), {}),
    )


def test_a_cut_episode_goes_on_and_a_terminated_one_does_not() -> None:
    data = episodes([3, 2])
    data.terminations[4] = True
    drawn = Replay(data, 0, normalise=False).draw(400)
    rows = drawn.observation[:, 0].int()
    assert sorted(set(rows.tolist())) == [0, 1, 2, 4, 5]  # rows 3 and 6 are after the last step
    last = rows == 5
    assert (drawn.goes_on == (~last).float()).all()
    assert (drawn.following[:, 0] == drawn.observation[:, 0] + 1).all()
    assert (drawn.has_next == ((rows != 2) & ~last).float()).all()
    assert set(drawn.action[rows < 4].flatten().tolist()) == {-1.0}  # 0 of [0, 4]
    # without the state after it a cut step teaches no value; an end needs none
    data = episodes([3, 2], extra=0)
    data.terminations[4] = True
    rows = Replay(data, 0, normalise=False).draw(400).observation[:, 0].int()
    assert sorted(set(rows.tolist())) == [0, 1, 3, 4]


def test_the_best_tenth_is_of_steps_by_return() -> None:
    data = episodes([10, 10, 5, 5, 10])  # returns 0, 10, 10, 15, 40
    for share, kept in ((0.1, {4}), (0.3, {4, 3}), (1.0, {0, 1, 2, 3, 4})):
        drawn = Replay(data, 0, best=share).draw(500)
        assert set(drawn.reward.int().tolist()) == kept
    assert Replay(data, 0, spread=1000.0).rewards.max() == pytest.approx(4 * 1000 / 40)


def test_goals_are_later_states_or_any_and_end_the_task_where_they_are_reached() -> None:
    data = episodes([4, 6], goal=True)
    replay = Replay(data, 0, normalise=False, goals="future")
    drawn = replay.draw(2000)
    row, goal = drawn.observation[:, 0], drawn.observation[:, 2]
    assert (goal > row).all() and ((row < 5) == (goal < 5)).all()
    of_first = torch.bincount(goal[row == 0].int())[1:5]
    assert (of_first / of_first.sum() - 0.25).abs().max() < 0.1
    assert (drawn.following[:, 2] == goal).all()
    assert (drawn.reward == -1).all() and (drawn.goes_on == (goal != row + 1).float()).all()
    mixed = Replay(data, 0, normalise=False, discount=0.5).draw(2000)
    row, goal = mixed.observation[:, 0], mixed.observation[:, 2]
    assert (goal < row).any() and 0.7 * 0.5 < (goal == row + 1).float().mean() < 0.7
    with pytest.raises(DiffplanError, match="mine does not say in which columns"):
        Replay(replace(data, layout=replace(data.layout, goal_columns=())), (0,))


def test_an_actor_answers_in_the_units_of_the_environment() -> None:
    learner = Learner([Training(Settings("cloning"), episodes([4, 6], goal=True), 0)], 1)
    assert learner.replays[0].mean.tolist() == [pytest.approx(5.5), 1.0, pytest.approx(5.5)]
    with torch.no_grad():
        learner.method.actor.weights[-1].zero_()
        learner.method.actor.biases[-1].fill_(100.0)
    seen = {"observation": np.ones((5, 2)), "desired_goal": np.ones((5, 1))}
    actions, state = learner.policies()[0].predict(seen)
    assert actions.tolist() == [[4.0]] * 5 and state is None


def trained(
    name: Any, seeds: tuple[int, ...], marks: tuple[int, ...] = (1, 3), device: str = "cpu"
) -> list[tuple[int, list[float]]]:
    """Updates at each mark, and what every actor does then; their data and settings differ."""
    trainings = [
        Training(
            Settings(
                name,
                batch=8,
                discount=0.9 + seed / 100,
                best=seed / 4 + 0.25,
                normalise=seed > 1,
                spread=100.0 * seed or None,
                q_weight=1.0 + seed,
                penalties=(0.1 * seed, 0.2 * seed),
                expectile=0.5 + seed / 10,
                temperature=1.0 + seed,
            ),
            episodes([6, 6 + seed]),
            seed,
        )
        for seed in seeds
    ]
    learner, seen = Learner(trainings, marks[-1], device), np.linspace(-1, 1, 10).reshape(5, 2)
    return [
        (updates, [float(policy.predict(seen)[0].sum()) for policy in policies])
        for _, updates, policies in train([learner], [marks])
    ]


def test_training_is_the_same_for_the_same_seed_and_stops_at_its_marks() -> None:
    runs = [trained("iql", (seed,)) for seed in (0, 0, 1)]
    assert [n for n, _ in runs[0]] == [1, 3]
    assert runs[0] == runs[1] and runs[0][-1] != runs[2][-1] and runs[0][0] != runs[0][1]


@pytest.mark.parametrize("name", METHODS)
def test_trainings_at_once_learn_what_each_does_alone(name: str) -> None:
    together = trained(name, (3, 1, 2))
    for place, seed in enumerate((3, 1, 2)):
        for (_, alone), (_, found) in zip(trained(name, (seed,)), together, strict=True):
            assert found[place] == pytest.approx(alone[0], rel=1e-4)
    assert len(set(together[-1][1])) == 3


@pytest.mark.cuda
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", METHODS)
def test_a_gpu_learns_by_graphs(name: str) -> None:
    marks = (4 * BLOCK, 6 * BLOCK)
    found, again = (trained(name, (3, 1), marks, "cuda") for _ in range(2))
    assert [n for n, _ in found] == list(marks) and found[0] != found[1]
    for (_, one), (_, same) in zip(found, again, strict=True):
        assert one == pytest.approx(same, rel=1e-2)
    # a captured update is the one that is called
    captured, called = (
        Learner([Training(Settings(name), episodes([6, 6]), 0)], marks[-1], "cuda")
        for _ in range(2)
    )
    for _ in range(5):
        captured.update()
        called._block()
    torch.cuda.synchronize()
    one, other = (each.method.actor.weights[1] for each in (captured, called))
    torch.testing.assert_close(one, other, rtol=0.02, atol=2e-3)
