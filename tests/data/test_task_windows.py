"""Windows of several tasks: drawn evenly, and nothing of one task in another."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffplan.config.config import Config
from diffplan.data.combine import combine
from diffplan.data.drawing import Drawing
from diffplan.data.episodes import Episodes
from diffplan.data.info import ObservationLayout
from diffplan.data.rows import Rows, TaskRows
from diffplan.data.windows import WindowSampler
from diffplan.errors import DiffplanError

MAZE = ObservationLayout(4, 2, (0, 1), (2, 3), ("observation",))
NO_PATH = 1e8

Make = Callable[..., Any]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def steps_config(tiny_config: Make, **changes: Any) -> Config:
    options = {key.replace("__", "."): value for key, value in changes.items()}
    return tiny_config(changes={"plan.horizon": 3, "plan.stride": 2, **options})


def named(episodes: Episodes, name: str) -> Episodes:
    return dataclasses.replace(episodes, info=dataclasses.replace(episodes.info, id=name))


@pytest.fixture
def uneven(join_episodes: Make) -> Episodes:
    """Three tasks of 3, 40 and 8 episodes; the second column of a state is its task."""
    parts = []
    for task, count in enumerate((3, 40, 8)):
        states = [np.array([(t, task) for t in range(21)], float) for _ in range(count)]
        actions = [np.full((20, 2), -task / 10) for _ in range(count)]
        rewards = [np.full(20, float(10 * task)) for _ in range(count)]
        parts.append(named(join_episodes(states, actions, rewards), str(task)))
    return combine(parts, "uneven")


def walks(join: Make, x: float, direction: float, count: int = 12) -> Episodes:
    """Episodes that walk 30 steps of 0.1 from x on, all at the same places."""
    places = x + 0.1 * direction * np.arange(31)
    states = np.stack([places, 0 * places, 0 * places + direction, 0 * places], axis=1)
    return join([states] * count, [np.full((30, 2), direction / 10)] * count, layout=MAZE)


@pytest.fixture
def mirrored(join_episodes: Make) -> Episodes:
    """Two tasks in the same places: in one all walk right, in the other all walk left."""
    right, left = walks(join_episodes, 0, 1), walks(join_episodes, 3, -1, 4)
    return combine([named(right, "right"), named(left, "left")], "mirrored")


def shares(task: Tensor | None, count: int) -> list[float]:
    assert task is not None and task.dtype == torch.long
    return (task.bincount(minlength=count) / len(task)).tolist()


def test_every_task_is_drawn_equally_often(uneven: Episodes, tiny_config: Make) -> None:
    sampler = WindowSampler(uneven, steps_config(tiny_config), seed=0)
    even = pytest.approx([1 / 3] * 3, abs=0.03)
    for part in ("train", "held-out"):
        windows = sampler.sample(6000, generator(), part)
        assert shares(windows.task, 3) == even
        assert torch.equal(windows.task, windows.states[:, 0, 1].long())
        assert torch.equal(windows.task, windows.states[:, -1, 1].long())
    transitions = sampler.transitions(6000, generator())
    assert shares(transitions.states[:, 1].long(), 3) == even
    assert torch.allclose(transitions.actions[:, 0], -transitions.states[:, 1] / 10)
    valued = sampler.valued(6000, generator())
    assert shares(valued.task, 3) == even
    assert torch.equal(valued.task, valued.states[:, 1].long())


def test_every_state_of_a_task_is_as_likely(uneven: Episodes, tiny_config: Make) -> None:
    sampler = WindowSampler(uneven, steps_config(tiny_config), seed=0)
    valued = sampler.valued(30_000, generator())
    assert valued.task is not None
    for task in range(3):
        steps = valued.states[valued.task == task, 0].long().bincount(minlength=21)
        assert (steps / steps.sum() - 1 / 21).abs().max() < 0.01


def test_good_returns_are_preferred_within_a_task(uneven: Episodes, tiny_config: Make) -> None:
    config = steps_config(tiny_config, data__best_of_windows=8)
    sampler = WindowSampler(uneven, config, seed=0, drawing=Drawing(return_temperature=0.05))
    windows = sampler.sample(6000, generator())
    # the third task pays most: across tasks nearly all candidates kept would be its own
    assert shares(windows.task, 3) == pytest.approx([1 / 3] * 3, abs=0.03)


def test_episodes_are_held_out_in_every_task(uneven: Episodes, tiny_config: Make) -> None:
    drawing = Drawing(held_out=0.25)
    sampler = WindowSampler(uneven, steps_config(tiny_config), seed=0, drawing=drawing)
    assert uneven.tasks is not None
    episodes = uneven.tasks[sampler.parts["held-out"].tensor().numpy() // 21]
    assert np.bincount(episodes).tolist() == [n * 19 for n in (1, 10, 2)]
    seen = set(sampler.parts["train"].tensor().tolist())
    assert not seen & set(sampler.parts["held-out"].tensor().tolist())


def test_a_task_of_short_episodes_is_named(join_episodes: Make, tiny_config: Make) -> None:
    def part(name: str, steps: int) -> Episodes:
        return named(join_episodes([np.zeros((steps + 1, 2))], [np.zeros((steps, 2))]), name)

    episodes = combine([part("long", 9), part("short", 1)], "both")
    with pytest.raises(DiffplanError, match="task short of both has no episode of more than 2"):
        WindowSampler(episodes, steps_config(tiny_config), seed=0)


STITCHED = Drawing(hindsight_share=0.0, landmarks=60)


def test_stitched_goals_and_paths_stay_in_their_task(mirrored: Episodes, tiny_config: Make) -> None:
    sampler = WindowSampler(mirrored, steps_config(tiny_config), seed=0, drawing=STITCHED)
    assert sampler.goals is not None and mirrored.tasks is not None
    assert sampler.goals.between is not None
    assert shares(sampler.sample(4000, generator()).task, 2) == pytest.approx([0.5] * 2, abs=0.03)
    # each goes one way only, though the states of the other would lead back
    right, left = torch.arange(31), 12 * 31 + torch.arange(31)
    for states in (right, left):
        there = sampler.goals.between(states[:1], states[20:])
        assert (there - torch.arange(20, 31)).abs().max() < 8
        assert sampler.goals.between(states[20:], states[:1]).min() >= NO_PATH
    assert sampler.goals.between(right[:, None], left).min() >= NO_PATH
    start = sampler.parts["train"].draw((500,), generator(), torch.tensor([0, 1]).repeat(250))
    goal, *_ = sampler.goals._pick(start, sampler.goals.between, generator())
    assert torch.equal(sampler.task_of[goal], sampler.task_of[start])  # type: ignore[index]
    valued = sampler.valued(4000, generator())
    assert valued.goals is not None and valued.task is not None
    behind = torch.where(valued.task == 0, 1, -1) * (valued.goals - valued.states[:, :2])[:, 0] < -1
    assert behind.sum() > 100 and valued.returns[behind].max() < 1e-6


def test_one_task_has_the_graph_of_no_tasks(mirrored: Episodes, tiny_config: Make) -> None:
    plain = dataclasses.replace(
        mirrored, tasks=None, info=dataclasses.replace(mirrored.info, tasks=())
    )
    one = combine([named(plain, "one")], "one")
    config = steps_config(tiny_config)
    samplers = [WindowSampler(e, config, seed=0, drawing=STITCHED) for e in (plain, one)]
    states = torch.arange(0, len(plain.states), 7)
    first, second = (s.goals.between(states[:, None], states) for s in samplers)
    assert torch.equal(first, second)


def test_prompts_show_an_episode_of_the_task(uneven: Episodes, tiny_config: Make) -> None:
    sampler = WindowSampler(uneven, steps_config(tiny_config), seed=0)
    task = torch.tensor([2, 0, 1, 1])
    prompts = sampler.prompts(task, 5, generator())
    assert prompts.shape == (4, 5, 2)
    assert torch.equal(prompts[..., 0], torch.tensor([0.0, 5, 10, 15, 20]).expand(4, 5))
    assert torch.equal(prompts[..., 1], task[:, None].float().expand(4, 5))


def test_prompts_come_from_training_episodes(join_episodes: Make, tiny_config: Make) -> None:
    states = [np.full((9, 2), e, float) for e in range(20)]
    episodes = combine([named(join_episodes(states, [np.zeros((8, 2))] * 20), "a")], "one")
    drawing = Drawing(held_out=0.5)
    sampler = WindowSampler(episodes, steps_config(tiny_config), seed=0, drawing=drawing)
    shown = sampler.prompts(torch.zeros(2000, dtype=torch.long), 3, generator())[:, 0, 0]
    held = sampler.sample(2000, generator(), "held-out").states[:, 0, 0]
    assert len(shown.unique()) == 10 and not set(shown.tolist()) & set(held.tolist())
    assert (shown.long().bincount()[shown.unique().long()] - 200).abs().max() < 60


def test_prompts_without_tasks_are_refused(tiny_episodes: Episodes, tiny_config: Make) -> None:
    sampler = WindowSampler(tiny_episodes, tiny_config(), seed=0)
    with pytest.raises(DiffplanError, match="these data have none"):
        sampler.prompts(torch.zeros(1, dtype=torch.long), 3, generator())


def test_without_tasks_the_random_numbers_are_those_of_one_draw() -> None:
    first, counts = torch.tensor([0, 10, 20]), torch.tensor([4, -1, 7])
    rows, plain = TaskRows(first, counts), Rows(first, counts)
    ours, theirs = generator(), generator()
    for _ in range(3):
        assert rows.draw_tasks((5,), ours) is None
        drawn = rows.draw((5, 2), ours, None)
        assert torch.equal(drawn, plain[torch.randint(11, (5, 2), generator=theirs)])
        assert torch.equal(ours.get_state(), theirs.get_state())


def test_a_run_without_tasks_carries_none(tiny_episodes: Episodes, tiny_config: Make) -> None:
    sampler = WindowSampler(tiny_episodes, tiny_config(), seed=0)
    drawn = (sampler.sample(4, generator()), sampler.valued(4, generator()))
    assert all(batch.task is None for batch in drawn)


def test_rows_of_tasks_that_alternate() -> None:
    tasks = torch.tensor([1, 0, 1, 3])
    rows = TaskRows(torch.tensor([0, 10, 20, 30]), torch.tensor([2, 3, 1, 5]), tasks)
    assert rows.tensor().tolist() == [10, 11, 12, 0, 1, 20, 30, 31, 32, 33, 34]
    task = rows.draw_tasks((900,), generator())
    assert task is not None
    assert task.bincount().tolist() == pytest.approx([300, 300, 0, 300], abs=60)
    drawn = rows.draw((900,), generator(), task)
    for index, members in ((0, {10, 11, 12}), (1, {0, 1, 20}), (3, {30, 31, 32, 33, 34})):
        assert set(drawn[task == index].tolist()) == members
