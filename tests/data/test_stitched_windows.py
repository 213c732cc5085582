"""Stitched goals: states of other episodes, with the right steps, weights and limits."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from diffplan.config.config import Config
from diffplan.data.drawing import Drawing
from diffplan.data.episodes import Episodes
from diffplan.data.info import ObservationLayout
from diffplan.data.windows import WindowSampler
from diffplan.errors import DiffplanError

MAZE = ObservationLayout(4, 2, (0, 1), (2, 3), ("observation",))

Make = Callable[..., Any]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def walking(join: Make, lengths: list[int]) -> Episodes:
    """Episode e walks along x at y = 10 e, one unit a step, with velocity (1, 0)."""
    states = [
        np.array([(t, 10 * e, 1, 0) for t in range(n + 1)], float) for e, n in enumerate(lengths)
    ]
    return join(states, [np.zeros((n, 2)) for n in lengths], layout=MAZE)


def steps_config(tiny_config: Make, **changes: Any) -> Config:
    options = {key.replace("__", "."): value for key, value in changes.items()}
    # goals anywhere, however far off
    everywhere = {"planning.subgoal_steps": 0}
    return tiny_config(changes={"plan.horizon": 3, "plan.stride": 2, **everywhere, **options})


def maze_walks(join: Make, *paths: list[tuple[float, float]], repeat: int = 3) -> Episodes:
    """Episodes that walk along corner points, 0.1 units a step, each `repeat` times."""
    states = []
    for corners in paths * repeat:
        places = [np.array(corners[0], float)]
        for corner in corners[1:]:
            way = np.array(corner) - places[-1]
            steps = round(float(np.linalg.norm(way)) / 0.1)
            places += [places[-1] + way * (i + 1) / steps for i in range(steps)]
        velocity = np.diff(np.array(places), axis=0, append=[places[-1]])
        states.append(np.concatenate([places, velocity], axis=1))
    return join(states, [np.zeros((len(s) - 1, 2)) for s in states], layout=MAZE)


def test_stitched_goals_come_from_other_episodes_with_the_right_steps(
    join_episodes: Make, tiny_config: Make
) -> None:
    # two walks that cross at (4, 0): from the first's start to the second's end only by stitching
    episodes = maze_walks(join_episodes, [(0, 0), (4, 0), (4, -4)], [(4, 4), (4, 0), (8, 0)])
    drawing = Drawing(hindsight_share=0.0, advantage_temperature=float("inf"), landmarks=120)
    config = steps_config(tiny_config, data__discount=0.98)
    sampler = WindowSampler(episodes, config, seed=0, drawing=drawing)
    windows = sampler.sample(20_000, generator())
    assert windows.goals is not None
    start, goal = windows.states[:, 0, :2], windows.goals
    first_walk = (start[:, 1].abs() < 1e-3) & (start[:, 0] < 3)
    crossing = first_walk & (goal[:, 0] > 5)
    assert crossing.sum() > 100
    steps = (goal[crossing, 0] - start[crossing, 0]) / 0.1
    estimate = windows.returns[crossing, 0].log() / np.log(0.98)
    assert ((estimate - steps).abs() / steps).max() < 0.2
    # the return-to-go rises as the window comes nearer
    assert (windows.returns[crossing].diff(dim=1) > 0).all()
    back = first_walk & (goal[:, 1] > 1)  # nobody ever went up
    assert back.sum() > 100
    assert windows.returns[back].max() < 1e-6


def test_other_goals_leave_the_window_as_it_was(join_episodes: Make, tiny_config: Make) -> None:
    episodes = walking(join_episodes, [30, 40, 35])
    drawing = Drawing(hindsight_share=0.0, goal_candidates=2, landmarks=40)
    sampler = WindowSampler(episodes, steps_config(tiny_config), seed=0, drawing=drawing)
    windows = sampler.sample(500, generator())
    first = windows.states[:, :1, 0]
    last = torch.tensor([30.0, 40.0, 35.0])[(windows.states[:, :1, 1] / 10).long()]
    expected = torch.minimum(first + 2 * torch.arange(4), last)
    assert torch.equal(windows.states[..., 0], expected)
    assert windows.states[..., 2].eq(1).all()
    assert torch.equal(windows.mask, (first + 2 * torch.arange(1, 4) <= last).float())


def test_detours_weigh_less_than_the_direct_way(join_episodes: Make, tiny_config: Make) -> None:
    detour = [(0.0, 0.0), (0.0, 4.0), (4.0, 4.0), (4.0, 0.0)]
    direct, back = [(0.0, 0.0), (4.0, 0.0)], [(0.0, 4.0), (0.0, 0.0)]
    episodes = maze_walks(join_episodes, detour, direct, back)
    drawing = Drawing(hindsight_share=1.0, landmarks=120, held_out=0.2)
    config = steps_config(tiny_config, plan__stride=4)
    sampler = WindowSampler(episodes, config, seed=0, drawing=drawing)
    windows = sampler.sample(20_000, generator())
    assert windows.goals is not None
    assert windows.weight.min() >= 0
    assert windows.weight.max() <= 1
    x, y = windows.states[:, 0, :2].unbind(1)
    end = (windows.goals - torch.tensor([4.0, 0.0])).norm(dim=1) < 0.1
    away = end & (x < 0.01) & (y > 0.3) & (y < 2)  # going up, on the detour
    along = end & (y < 0.01) & (x > 0.1) & (x < 2)
    assert away.sum() > 10 and along.sum() > 10
    assert windows.weight[along].mean() > 0.7
    assert windows.weight[away].mean() < 0.2 * windows.weight[along].mean()
    # without weighting they count the same
    drawing = dataclasses.replace(drawing, advantage_temperature=float("inf"))
    flat = WindowSampler(episodes, config, seed=0, drawing=drawing)
    assert flat.sample(500, generator()).weight.eq(1).all()


def test_goals_out_of_reach_teach_nothing(join_episodes: Make, tiny_config: Make) -> None:
    ways = [[(0.0, y), (4.0, y), (0.0, y)] for y in (0.0, 100.0)]
    episodes = maze_walks(join_episodes, *ways)
    config = steps_config(tiny_config)
    one = Drawing(hindsight_share=0.0, goal_candidates=1, landmarks=40)
    sampler = WindowSampler(episodes, config, seed=0, drawing=one)
    assert sampler.goals is not None
    assert abs(sampler.goals.offset) < 20  # its zero is that of goals within reach
    windows = sampler.sample(2000, generator())
    assert windows.goals is not None
    apart = (windows.states[:, 0, 1] - windows.goals[:, 1]).abs() > 50
    assert apart.sum() > 500
    assert windows.weight[apart].eq(0).all()
    assert windows.weight[~apart].mean() > 0.1
    several = dataclasses.replace(one, goal_candidates=8)
    sampler = WindowSampler(episodes, config, seed=0, drawing=several)
    picked = sampler.sample(2000, generator())
    assert picked.goals is not None
    apart = (picked.states[:, 0, 1] - picked.goals[:, 1]).abs() > 50
    assert apart.float().mean() < 0.03  # only where all eight candidates are


def test_a_quarter_of_the_windows_to_other_goals_lose_nothing(
    tiny_goal_episodes: Episodes, tiny_config: Make
) -> None:
    drawing = Drawing(hindsight_share=0.0, goal_candidates=2, landmarks=40)
    sampler = WindowSampler(tiny_goal_episodes, steps_config(tiny_config), seed=0, drawing=drawing)
    weight = sampler.sample(4000, generator()).weight
    reached = weight[weight > 0]
    assert len(reached) > 1000
    assert float(reached.eq(1).float().mean()) == pytest.approx(0.25, abs=0.03)


class Apart:
    """Steps between states of one walk, so many more than it took."""

    def __init__(self, more: float) -> None:
        self.more = more

    def __call__(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (b - a).abs() + self.more

    def come_to_rest(
        self, start: torch.Tensor, end: torch.Tensor, stride: int, span: int
    ) -> torch.Tensor:
        return end - start


def test_from_a_goal_within_the_window_there_is_no_way_to_go(
    join_episodes: Make, tiny_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing = Drawing(hindsight_share=1.0, advantage_temperature=1.0, landmarks=40)
    episodes = walking(join_episodes, [30] * 4)
    goals = WindowSampler(episodes, steps_config(tiny_config), seed=0, drawing=drawing).goals
    assert goals is not None
    monkeypatch.setattr(goals, "between", Apart(5.0))
    monkeypatch.setattr(goals, "offset", 5.0)
    aims = goals.aim(torch.zeros(500, dtype=torch.long), generator())
    inside = aims.goal <= goals.span
    assert inside.sum() > 50 and (~inside).sum() > 50
    # n + 5 steps, of which n are done; else 5 more are left, too
    assert aims.weight[inside].eq(1).all()
    expected = torch.full_like(aims.weight[~inside], np.exp(-5))
    torch.testing.assert_close(aims.weight[~inside], expected)


@pytest.mark.parametrize(("more", "kept"), [(5.0, {0.0, 5.0}), (-1.0, {-1.0})])
def test_values_know_the_shorter_way(
    join_episodes: Make,
    tiny_config: Make,
    monkeypatch: pytest.MonkeyPatch,
    more: float,
    kept: set[float],
) -> None:
    """Of the graph's and the episode's own, where there is one."""
    episodes = walking(join_episodes, [30] * 4)
    goals = WindowSampler(episodes, steps_config(tiny_config), seed=0).goals
    assert goals is not None
    monkeypatch.setattr(goals, "between", Apart(more))
    start = torch.zeros(300, dtype=torch.long)
    goal, steps = goals.near_and_far(start, generator())
    assert set((steps - goal).tolist()) == kept


def test_the_share_of_hindsight_goals(join_episodes: Make, tiny_config: Make) -> None:
    episodes = walking(join_episodes, [30] * 40)
    drawing = Drawing(hindsight_share=0.3, goal_candidates=1, landmarks=40)
    sampler = WindowSampler(episodes, steps_config(tiny_config), seed=0, drawing=drawing)
    windows = sampler.sample(4000, generator())
    assert windows.goals is not None
    own = (windows.goals[:, 1] == windows.states[:, 0, 1]).float().mean()
    assert float(own) == pytest.approx(0.3 + 0.7 / 40, abs=0.03)


def test_goals_and_landmarks_come_from_training_episodes(
    join_episodes: Make, tiny_config: Make
) -> None:
    episodes = walking(join_episodes, [30] * 12)
    drawing = Drawing(hindsight_share=0.0, held_out=0.5)
    sampler = WindowSampler(episodes, steps_config(tiny_config), seed=0, drawing=drawing)
    lanes = {}
    for part in ("train", "held-out"):
        windows = sampler.sample(3000, generator(), part)
        assert windows.goals is not None
        lanes[part] = set(windows.states[:, 0, 1].tolist())
        lanes[f"{part} goals"] = set(windows.goals[:, 1].tolist())
    assert len(lanes["train"]) == len(lanes["held-out"]) == 6
    assert not lanes["train"] & lanes["held-out"]
    assert sampler.goals.between is not None
    assert set(sampler.goals.between.graph.centres[:, 1].tolist()) == lanes["train"]
    assert lanes["train goals"] == lanes["held-out goals"] == lanes["train"]


def test_goals_that_never_move_are_an_error(join_episodes: Make, tiny_config: Make) -> None:
    still = join_episodes([np.ones((20, 4))] * 3, [np.zeros((19, 2))] * 3, layout=MAZE)
    with pytest.raises(DiffplanError, match="never move"):
        WindowSampler(still, steps_config(tiny_config), seed=0)
    config = steps_config(tiny_config, data__relabel="hindsight")
    assert len(WindowSampler(still, config, seed=0).sample(4, generator()).states) == 4


def test_data_at_rest_teach_to_stay_and_nothing_else(
    join_episodes: Make, tiny_config: Make
) -> None:
    # two walks of 6 units, a unit a step, that rest where they end for 30 steps
    places = [np.minimum(np.arange(37), 6) + 20 * e for e in range(2)]
    states = [
        np.stack([x, 0 * x, np.append(np.diff(x), 0), 0 * x], 1).astype(float) for x in places
    ]
    # joined by one that only walks; twice, as one episode is held out
    walk = np.stack([np.arange(-2.0, 28), *np.array([[0.0, 1.0, 0.0]] * 30).T], 1)
    every = [*states, walk] * 2
    episodes = join_episodes(every, [np.zeros((len(s) - 1, 2)) for s in every], layout=MAZE)
    drawing = Drawing(hindsight_share=0.5, goal_candidates=1, landmarks=40)
    config = steps_config(tiny_config, plan__horizon=6)
    sampler = WindowSampler(episodes, config, seed=0, drawing=drawing)
    assert sampler.goals is not None
    assert sampler.goals.offset > -6  # resting is no part of what windows usually lose
    windows = sampler.sample(20_000, generator())
    assert windows.goals is not None
    x, goal = windows.states[..., 0], windows.goals[:, 0]
    at_rest = (x[:, 0] == 6) & (windows.states[:, 0, 2] == 0)
    elsewhere, here = at_rest & ((goal - 6).abs() > 6), at_rest & ((goal - 6).abs() < 1)
    assert elsewhere.sum() > 20 and here.sum() > 1000
    assert windows.weight[elsewhere].max() == 0
    assert windows.weight[here].min() > 0.5 and windows.weight[here].median() > 0.95
    assert windows.mask[here, 0].all() and windows.mask[here].mean() > 0.8
    # on the way to a goal further on, what counts is the part that moves
    passing = (x[:, 0] == 0) & (goal > 12) & (windows.states[:, -1, 2] == 0)
    assert passing.sum() > 20
    assert windows.mask[passing, :3].all() and not windows.mask[passing, 4:].any()
    assert windows.weight[passing].min() > 0.5
