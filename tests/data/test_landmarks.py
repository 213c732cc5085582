"""Steps-to-goal over landmarks: near the truth, across episodes, honest about what is unknown."""

import pytest
import torch
from torch import Tensor

from diffplan.data import landmarks
from diffplan.data.landmarks import LandmarkGraph, fit_landmarks
from diffplan.errors import DiffplanError

SPEED = 0.1


def walks(*paths: list[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    """Points [M, 2] of episodes that walk along corner points at SPEED, and their starts."""
    points, starts = [], [0]
    for corners in paths:
        episode = [torch.tensor(corners[0], dtype=torch.float32)]
        for corner in corners[1:]:
            way = torch.tensor(corner, dtype=torch.float32) - episode[-1]
            steps = round(float(way.norm()) / SPEED)
            episode += [episode[-1] + way * (i + 1) / steps for i in range(steps)]
        points.append(torch.stack(episode))
        starts.append(starts[-1] + len(episode))
    return torch.cat(points), torch.tensor(starts)


def between(graph: LandmarkGraph, a: tuple[float, float], b: tuple[float, float]) -> float:
    start, end = (graph.locate(torch.tensor([p], dtype=torch.float32)) for p in (a, b))
    return float(graph.steps_between(start, end))


def test_the_speed_and_one_way_steps_of_a_straight_walk() -> None:
    graph = fit_landmarks(*walks([(0, 0), (10, 0)]), count=60, seed=0)
    assert graph.speed == pytest.approx(SPEED, rel=1e-3)
    for length in (0.5, 2.0, 6.0, 9.0):
        assert between(graph, (0.5, 0), (0.5 + length, 0)) == pytest.approx(length / SPEED, rel=0.1)
    # nobody ever walked back
    assert between(graph, (8, 0), (2, 0)) > 1e8


def test_a_way_that_exists_only_across_episodes() -> None:
    first, second = [(0.0, 0.0), (4.0, 0.0), (4.0, -4.0)], [(4.0, 4.0), (4.0, 0.0), (8.0, 0.0)]
    graph = fit_landmarks(*walks(first, second), count=80, seed=0)
    # from the first's start to the second's end: 8 units, joined where they cross
    assert between(graph, (0, 0), (8, 0)) == pytest.approx(80, rel=0.1)
    assert between(graph, (0, 0), (4, 4)) > 1e8
    alone = fit_landmarks(*walks(first), count=80, seed=0)
    assert between(alone, (0, 0), (4, -4)) == pytest.approx(80, rel=0.1)


def test_detours_of_single_episodes_are_cut_short() -> None:
    # the only episode from (0, 0) to (4, 0) goes round; a second one shows the direct way
    detour, direct = [(0.0, 0.0), (0.0, 4.0), (4.0, 4.0), (4.0, 0.0)], [(-2.0, 0.0), (6.0, 0.0)]
    alone = fit_landmarks(*walks(detour), count=80, seed=0)
    both = fit_landmarks(*walks(detour, direct), count=120, seed=0)
    assert between(alone, (0, 0), (4, 0)) == pytest.approx(120, rel=0.1)
    assert between(both, (0, 0), (4, 0)) == pytest.approx(40, rel=0.15)


def test_no_edge_crosses_from_one_episode_to_the_next() -> None:
    # consecutive in memory, 0.1 apart in time only
    graph = fit_landmarks(*walks([(0, 0), (4, 0)], [(50, 50), (54, 50)]), count=60, seed=0)
    assert between(graph, (0, 0), (54, 50)) > 1e8
    assert between(graph, (3.9, 0), (50.5, 50)) > 1e8


def test_landmarks_cover_the_points_and_stop_at_distinct_ones() -> None:
    points, starts = walks([(0, 0), (10, 0)])
    graph = fit_landmarks(points, starts, count=20, seed=0)
    gaps = torch.cdist(points, graph.centres).amin(1)
    assert len(graph.centres) == 20
    assert float(gaps.max()) <= 10 / 20
    few = fit_landmarks(points.round(), starts, count=400, seed=0)
    assert len(few.centres) == 11


def test_centred_landmarks_keep_away_from_the_edge() -> None:
    generator = torch.Generator().manual_seed(0)
    along = torch.arange(4000) * SPEED / 10
    points = torch.stack([along, torch.rand(4000, generator=generator) * 2 - 1], 1)
    plain, centred = (
        fit_landmarks(points, torch.tensor([0, 4000]), 80, 0, centred=way).centres
        for way in (False, True)
    )
    assert plain.shape == centred.shape
    outer = [float((graph[:, 1].abs() > 0.8).float().mean()) for graph in (plain, centred)]
    assert outer[0] > 0.3 > 0.1 > outer[1]
    # still everywhere
    assert float(torch.cdist(points, centred).amin(1).max()) < 1.2


def test_the_graph_is_deterministic_in_its_seed() -> None:
    data = walks([(0, 0), (3, 0), (3, 3)], [(1, 1), (3, 1)])
    one, same = fit_landmarks(*data, count=30, seed=4), fit_landmarks(*data, count=30, seed=4)
    assert torch.equal(one.centres, same.centres)
    assert torch.equal(one.distances, same.distances)
    assert not torch.equal(one.centres, fit_landmarks(*data, count=30, seed=5).centres)


def test_many_points_are_taken_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    data = walks([(0, 0), (3, 0), (3, 3)], [(1, 1), (3, 1)])
    at_once = fit_landmarks(*data, count=30, seed=4)
    monkeypatch.setattr(landmarks, "_CHUNK", 7)
    assert torch.equal(fit_landmarks(*data, count=30, seed=4).distances, at_once.distances)
    monkeypatch.setattr(landmarks, "_SUBSAMPLE", 50)  # fewer than there are points
    graph = fit_landmarks(*data, count=30, seed=4)
    assert between(graph, (0, 0), (3, 2)) == pytest.approx(50, rel=0.15)
    same = fit_landmarks(*data, count=30, seed=4)
    assert torch.equal(graph.centres, same.centres)


@pytest.mark.parametrize("steps", [1, 30])
def test_goals_that_never_move_are_an_error(steps: int) -> None:
    points = torch.ones(steps, 2)
    with pytest.raises(DiffplanError, match=r"never move.*--data.relabel hindsight") as error:
        fit_landmarks(points, torch.tensor([0, steps]), count=5, seed=0)
    assert "\n" not in str(error.value)


def test_a_short_reach_after_which_the_data_rest_takes_as_long_as_it_takes() -> None:
    generator = torch.Generator().manual_seed(0)
    ends = 2 * torch.rand(200, 2, 2, generator=generator)
    # four steps from one point to another, then forty at rest, but for some jitter
    share = (torch.arange(45) / 4).clamp(max=1)[:, None]
    points = ends[:, :1] * (1 - share) + ends[:, 1:] * share
    points = points + 0.01 * torch.randn(points.shape, generator=generator)
    starts = 45 * torch.arange(201)
    brisk, speed = landmarks.pace(points.flatten(0, 1), starts)
    assert brisk == 4
    graph = fit_landmarks(points.flatten(0, 1), starts, count=200, seed=0)
    assert graph.speed == speed
    way = (ends[:, 0] - ends[:, 1]).norm(dim=1)
    far = way > 1
    here, there = (graph.locate(ends[far, i]) for i in (0, 1))
    assert graph.steps_between(here, there).median() < 8
    # what keeps on moving is measured over as long as there is
    assert landmarks.pace(*walks([(0, 0), (10, 0)]))[0] == 16
    assert landmarks.pace(*walks([(0, 0), (0.5, 0)]))[0] == 4


def test_marked_columns_are_drawn_alike_by_rank() -> None:
    marked = torch.tensor([[False, True, False, True, True], [True, False, False, False, False]])
    drawn = landmarks._by_rank(marked, 30_000, torch.Generator().manual_seed(0))
    shares = torch.stack([(drawn == column).double().mean(1) for column in range(5)], 1)
    expected = marked / marked.sum(1, keepdim=True)
    assert (shares - expected).abs().max() < 4 * (0.25 / 30_000) ** 0.5
    assert not shares[~marked].any()
