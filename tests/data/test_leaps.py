"""Steps that leap by chance: found, told from leaps that are ways, and where episodes then end."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch

from diffplan.config import get_config
from diffplan.config.config import Config
from diffplan.data.drawing import Drawing
from diffplan.data.episodes import Episodes
from diffplan.data.info import ObservationLayout
from diffplan.data.leaps import chance_leaps, cut_at_leaps
from diffplan.data.windows import WindowSampler
from diffplan.errors import DiffplanError
from diffplan.training.defaults import decide

PLACES = ((0.0, 40.0), (30.0, 30.0), (40.0, 0.0), (0.0, -40.0))
STEPS = 150  # leaps are rare: fewer than one step in a hundred


def walks(
    count: int, exits: tuple[int, ...], seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Walks by steps of about 1; each leaps once, from near the origin to one of these places.

    Points, offsets of the episodes, and the states before the leaps.
    """
    rng = np.random.default_rng(seed)
    points, leaps = [], []
    for episode in range(count):
        before = 5 + episode % 10
        steps = rng.normal(size=(STEPS, 2)) / np.sqrt(2)
        path = np.cumsum(steps, 0)
        # it comes to the origin before it leaps
        path[: before + 1] -= path[before]
        place = PLACES[rng.choice(exits)]
        path[before + 1 :] += np.array(place) - path[before + 1]
        leaps.append(episode * STEPS + before)
        points.append(path)
    return torch.tensor(np.concatenate(points)).float(), torch.arange(count + 1) * STEPS, leaps


@pytest.mark.parametrize("exits", [(0, 1, 2), (0, 3)], ids=["three", "two opposite ones"])
def test_leaps_to_several_places_are_chance(exits: tuple[int, ...]) -> None:
    points, starts, leaps = walks(60, exits)
    assert chance_leaps(points, starts).tolist() == leaps


def test_a_door_that_leads_to_one_place_is_a_way() -> None:
    points, starts, _ = walks(60, exits=(0,))
    assert not len(chance_leaps(points, starts))


def test_a_leap_that_nothing_repeats_is_chance() -> None:
    points, starts, leaps = walks(60, exits=(0,))
    for at in leaps[1:]:  # one of all is left
        points[at + 1 : at - at % STEPS + STEPS] -= points[at + 1] - points[at]
    assert chance_leaps(points, starts).tolist() == leaps[:1]


@pytest.mark.parametrize(
    "points",
    [
        torch.zeros(60, 2),
        torch.arange(60.0)[:, None].expand(60, 2),
        torch.arange(60)[:, None].div(7, rounding_mode="floor").float(),  # a column of counts
    ],
    ids=["still", "even", "counts"],
)
def test_where_all_moves_are_alike_none_leaps(points: torch.Tensor) -> None:
    # the first state of an episode may lie anywhere
    points = points.clone()
    points[30:] += 1000
    assert not len(chance_leaps(points, torch.tensor([0, 30, 60])))


@pytest.mark.parametrize("kind", ["angle", "bit"])
@pytest.mark.parametrize("count", [6, 60])
def test_columns_that_wrap_or_flip_anywhere_leap_by_no_chance(kind: str, count: int) -> None:
    rng = np.random.default_rng(0)
    place = np.cumsum(rng.normal(scale=0.02, size=(count, 300, 2)), 1)
    if kind == "angle":
        heading = np.cumsum(rng.normal(0.02, 0.02, (count, 300, 1)), 1) + rng.uniform(-3, 3)
        heading = (heading + np.pi) % (2 * np.pi) - np.pi
    else:
        heading = np.cumsum(rng.random((count, 300, 1)) < 0.005, 1) % 2
    points = torch.tensor(np.concatenate([place, heading], 2)).float().flatten(0, 1)
    starts = torch.arange(count + 1) * 300
    moved = (points[1:] - points[:-1]).norm(dim=1)
    moved[starts[1:-1] - 1] = 0
    assert (moved > 0.9).sum() > 5
    assert not len(chance_leaps(points, starts))


def test_pieces_know_their_episodes_and_each_task_its_own_pace() -> None:
    points, starts, leaps = walks(40, exits=(0, 1, 2))
    tasks = torch.arange(40) % 2
    slow = tasks.repeat_interleave(STEPS) == 1
    points[slow] *= 1e-3
    pieces, episode, leapt = cut_at_leaps(points, starts, tasks)
    assert pieces.tolist() == sorted([*starts.tolist(), *(at + 1 for at in leaps)])
    assert torch.equal(episode, pieces[:-1] // STEPS)
    assert (pieces[1:][leapt] - 1).tolist() == leaps


@pytest.fixture
def leaping(join_episodes: Callable[..., Episodes]) -> Episodes:
    points, _, _ = walks(60, exits=(0, 1, 2))
    states = np.pad(points.numpy().reshape(60, STEPS, 2), ((0, 0), (0, 0), (0, 2)))
    layout = ObservationLayout(4, 2, (0, 1), (2, 3), ("observation",))
    return join_episodes(list(states), list(np.zeros((60, STEPS - 1, 2))), layout=layout)


def test_nothing_is_learned_across_a_leap(
    leaping: Episodes, tiny_config: Callable[..., Config]
) -> None:
    config = tiny_config(changes={"plan.horizon": 3, "plan.stride": 1})
    own = Drawing(hindsight_share=1.0, landmarks=40)
    sampler = WindowSampler(leaping, config, seed=0, drawing=own)
    generator = torch.Generator().manual_seed(0)
    windows = sampler.sample(5000, generator)
    seen = windows.mask.bool()
    steps = windows.states[..., :2].diff(dim=1).norm(dim=-1)
    assert steps[seen].max() < 8 and seen.all(1).any() and not seen.all()
    assert windows.goals is not None  # ten steps from the origin, and not beyond the leap
    assert (windows.goals - windows.states[:, 0, :2]).norm(dim=1).max() < 25
    pairs = sampler.transitions(5000, generator)
    assert (pairs.ahead - pairs.states)[:, :2].norm(dim=1).max() < 25
    # of all ways that are known none leads to where only leaps have led
    assert sampler.graph is not None
    here = sampler.graph.locate(torch.zeros(1, 2))
    there = sampler.graph.locate(torch.tensor(PLACES[:3]))
    assert (sampler.graph.steps_between(here, there) > 1e8).all()


def test_a_way_past_a_hole_costs_what_a_leap_may_cost(
    join_episodes: Callable[..., Episodes], tiny_config: Callable[..., Config]
) -> None:
    """Nine of ten leap in the middle of the short way, of 20 units; the long one has 30."""
    rng, walks = np.random.default_rng(0), []
    for k in range(120):
        corners = [(0, 0), (0, 5), (20, 5), (20, 0)] if k % 2 else [(0, 0), (10, 0), (20, 0)]
        parts = [np.array(corners[:1], float)]
        for begin, end in pairwise(np.array(corners, float)):
            steps = int(np.abs(end - begin).sum() * 4)
            parts.append(begin + (end - begin) * np.arange(1, steps + 1)[:, None] / steps)
        way = np.concatenate(parts)
        if not k % 2 and k % 20:
            way = np.concatenate([way[:40], np.add(PLACES[rng.integers(3)], way[40:] - way[40])])
        walks.append(np.pad(np.concatenate([way, way[-1:].repeat(20, 0)]), ((0, 0), (0, 2))))
    layout = ObservationLayout(4, 2, (0, 1), (2, 3), ("observation",))
    actions = [np.zeros((len(walk) - 1, 2)) for walk in walks]
    episodes = join_episodes(walks, actions, layout=layout)
    sampler = WindowSampler(episodes, tiny_config(), seed=0, drawing=Drawing(landmarks=120))
    assert sampler.graph is not None
    ends = (sampler.graph.locate(torch.tensor([place])) for place in ((0.0, 0.0), (20.0, 0.0)))
    assert 4 * 28 < float(sampler.graph.steps_between(*ends)) < 4 * 32


def test_a_decision_says_where_episodes_were_cut(leaping: Episodes) -> None:
    config, decisions = decide(get_config("trajectory-diffuser"), leaping)
    (reason,) = [each.reason for each in decisions if each.setting == "data.relabel"]
    assert config.data.relabel == "stitched"
    assert reason.endswith("episodes end where they leap by chance, in 60 steps")


def test_pieces_too_short_for_a_plan_are_refused(
    leaping: Episodes, tiny_config: Callable[..., Config]
) -> None:
    config = tiny_config(changes={"plan.horizon": 148, "plan.stride": 1})
    with pytest.raises(DiffplanError, match="longest episode of tiny, cut where it leaps by chanc"):
        WindowSampler(leaping, config, seed=0)
