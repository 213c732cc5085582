"""Ways around obstacles, over the landmarks of the data."""

import torch

from diffplan.data.landmarks import LandmarkGraph
from diffplan.model.routes import Depth, around
from diffplan.model.subgoals import Subgoals


def at(degrees: float) -> torch.Tensor:
    angle = torch.tensor(degrees).deg2rad()
    return 2 * torch.stack([angle.cos(), angle.sin()])


def ring() -> Subgoals:
    """36 landmarks on a circle of radius 2, ten steps apart by winding ways."""
    places = torch.stack([at(10.0 * i) for i in range(36)])
    hops = (torch.arange(36)[None] - torch.arange(36)[:, None]).remainder(36)
    found = Subgoals(36, 2)
    found.fit(LandmarkGraph(places, 10.0 * torch.minimum(hops, 36 - hops), speed=0.1))
    return found


def obstacle(radius: float) -> Depth:
    """A disc around the middle of the edge from 10 to 20 degrees."""
    return lambda points: (radius - (points - at(15.0)).norm(dim=-1)).clamp(min=0)


def test_where_nothing_is_in_the_way_nothing_changes() -> None:
    found = around(ring(), lambda points: torch.zeros_like(points[..., 0]), 0.0)
    torch.testing.assert_close(found.distances, ring().distances)


def test_a_blocked_edge_sends_one_round_the_other_way() -> None:
    found = around(ring(), obstacle(0.1), 0.0)
    assert float(found.distances[1, 2]) == 350.0
    assert float(found.distances[2, 5]) == 30.0
    # subgoals follow
    here, goal = at(10.0)[None], at(60.0)[None]
    assert float(ring()(here, goal, 20.0)[0, 1]) > 0.5
    assert float(found(here, goal, 20.0)[0, 1]) < 0


def test_a_margin_is_kept_where_there_is_another_way_and_else_given_up() -> None:
    found = around(ring(), obstacle(0.1), 0.1)
    # dearer than ten steps, cheaper than three hundred and fifty
    assert 10.0 < float(found.distances[1, 2]) <= 30.0


def aims(ways: Subgoals, x: float, goal: float) -> float:
    found = ways(torch.tensor([[x, 0.0]]), torch.tensor([[goal, 0.0]]), 12.0)
    return float(found[0, 0])


def in_line(places: list[float]) -> Subgoals:
    centres = torch.tensor([[x, 0.0] for x in places])
    found = Subgoals(len(places), 2)
    found.fit(LandmarkGraph(centres, torch.cdist(centres, centres), speed=1.0))
    return found


def test_an_edge_longer_than_the_reach_is_no_place_to_stay() -> None:
    line = in_line([0.0, 20.0, 40.0, 60.0])
    free = around(line, lambda points: torch.zeros_like(points[..., 0]), 0.0)
    # the last landmark within twelve steps, and there it stays
    assert aims(line, -1.0, 60.0) == 0.0
    found = [aims(free, x, 60.0) for x in (-8.0, -1.0, 0.0, 5.0, 10.0, 20.0, 50.0)]
    assert found == [0, 20, 20, 20, 20, 40, 60]
    # no way at all: the goal, as ever
    apart = around(line, lambda points: (points[..., 0] - 30.0).abs().lt(5).float(), 0.0)
    assert aims(apart, 0.0, 60.0) == 60.0


def test_a_long_edge_is_gone_along_to_its_end() -> None:
    # its far end is none of the nearest landmarks
    dense = in_line([*(-2.0 * i for i in range(12)), 20.0, 40.0])
    ways, x = around(dense, lambda points: torch.zeros_like(points[..., 0]), 0.0), -20.0
    for _ in range(20):
        x += max(-5.0, min(5.0, aims(ways, x, 40.0) - x))
    assert x == 40.0


def test_places_of_three_coordinates_are_led_to_as_well() -> None:
    places = torch.tensor([[0.0, 0.0, 0.0], [0.0, 10.0, 0.0], [0.0, 10.0, 10.0]])
    ways = Subgoals(3, 3)
    ways.fit(LandmarkGraph(places, torch.cdist(places, places, p=1), speed=1.0))
    free = around(ways, lambda points: torch.zeros_like(points[..., 0]), 0.0)
    assert torch.equal(free(places[:1], places[2:], 12.0), places[1:2])
