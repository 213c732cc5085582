"""Constraints: how far off a plan is, and the nearest plan that is not."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from diffplan.constraints import Avoid, Box, Custom, Disc, Limit, Reach, Waypoint
from diffplan.errors import DiffplanError


def plan(*rows: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """One plan, its states two steps apart from step 10 on."""
    return torch.tensor([rows]), 10.0 + 2 * torch.arange(float(len(rows)))[None]


def test_a_disc_is_left_by_the_shortest_way_and_its_margin_kept() -> None:
    states, clock = plan([0.0, 0.5, 7.0], [0.0, 3.0, 7.0])
    avoid = Avoid(Disc((0.0, 0.0), 1.0), margin=0.25)
    torch.testing.assert_close(avoid.excess(states, clock), torch.tensor([[0.75, 0.0]]))
    moved = avoid.nearest(states, clock)
    torch.testing.assert_close(moved, torch.tensor([[[0.0, 1.25, 7.0], [0.0, 3.0, 7.0]]]))


def test_a_box_knows_the_distance_to_its_sides_and_corners() -> None:
    box = Box((0.0, 0.0), (2.0, 4.0))
    points = torch.tensor([[1.0, 1.5], [3.0, 1.0], [5.0, 8.0], [2.0, 2.0]])
    torch.testing.assert_close(box(points), torch.tensor([-1.0, 1.0, 5.0, 0.0]))
    # the nearest side is that at x = 0
    states, clock = plan([0.25, 2.0])
    torch.testing.assert_close(
        Avoid(box).nearest(states, clock), torch.tensor([[[0.0, 2.0]]]), atol=1e-6, rtol=0
    )


def test_any_signed_distance_will_do_in_any_columns() -> None:
    half_plane = Avoid(lambda p: 2 * (p[..., 0] - p[..., 1]), columns=(2, 0))
    states, clock = plan([1.0, 9.0, 0.0])
    torch.testing.assert_close(half_plane.excess(states, clock), torch.tensor([[2.0]]))
    moved = half_plane.nearest(states, clock)
    # a Newton step, as it grows twice as fast in each column as a distance along it would
    torch.testing.assert_close(moved, torch.tensor([[[0.5, 9.0, 0.5]]]))
    with pytest.raises(DiffplanError, match=r"has shape \[1, 1, 2\], expected \[1, 1\]"):
        Avoid(lambda p: p).nearest(*plan([1.0, 9.0]))


def test_a_bound_holds_by_value_or_by_change() -> None:
    states, clock = plan([0.0], [4.0], [5.0], [1.0])
    below = Limit(0, high=3.0)
    torch.testing.assert_close(below.excess(states, clock), torch.tensor([[0.0, 1.0, 2.0, 0.0]]))
    torch.testing.assert_close(below.nearest(states, clock)[0, :, 0], torch.tensor([0.0, 3, 3, 1]))
    slow = Limit(0, low=-0.5, high=1.0, change=True)  # per environment step, two between states
    torch.testing.assert_close(slow.excess(states, clock), torch.tensor([[0.0, 1.0, 0.0, 1.5]]))
    moved = slow.nearest(states, clock)
    torch.testing.assert_close(moved[0, :, 0], torch.tensor([0.0, 2.0, 4.0, 3.0]))
    assert float(slow.excess(moved, clock).max()) == 0.0


@pytest.mark.parametrize("bounds", [{}, {"low": 1.0, "high": 0.0}, {"high": math.nan}])
def test_a_bound_is_one(bounds: dict[str, Any]) -> None:
    with pytest.raises(DiffplanError, match=r"Limit\(0, .*expected a low, a high"):
        Limit(0, **bounds)


def test_a_waypoint_in_time_moves_the_state_that_is_due_then() -> None:
    states, clock = plan([0.0, 0.0], [1.0, 0.0], [2.0, 0.0])
    by = Waypoint((1.0, 2.0), step=12, within=0.5)
    torch.testing.assert_close(by.excess(states, clock), torch.tensor([[0.0, 1.5, 0.0]]))
    torch.testing.assert_close(by.nearest(states, clock)[0, 1], torch.tensor([1.0, 1.5]))
    # neither before nor after: nothing of this plan is due
    for step in (8, 16):
        assert not Waypoint((1.0, 2.0), step=step).excess(states, clock).any()
    # between two states the earlier is due
    assert Waypoint((9.0, 9.0), step=13).excess(states, clock).nonzero()[:, 1].tolist() == [1]


def test_to_reach_is_to_end_there() -> None:
    states, clock = plan([0.0, 0.0], [3.0, 4.0])
    reach = Reach((0.0, 0.0), within=1.0)
    torch.testing.assert_close(reach.excess(states, clock), torch.tensor([[0.0, 4.0]]))
    torch.testing.assert_close(reach.nearest(states, clock)[0, 1], torch.tensor([0.6, 0.8]))


def test_a_cost_has_a_value_for_every_state() -> None:
    states, clock = plan([1.0, 2.0], [3.0, 4.0])
    cost = Custom(lambda s: s[..., 0] - 2.0)
    torch.testing.assert_close(cost.excess(states, clock), torch.tensor([[0.0, 1.0]]))
    with pytest.raises(DiffplanError, match=r"'glare'.*shape \[1\], expected \[1, 2\]"):
        Custom(lambda s: s.sum((1, 2)), name="glare").excess(states, clock)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Disc((0.0, math.nan), 1.0), "a disc's centre is .0.0, nan., expected finite"),
        (lambda: Disc((0.0, 0.0), math.nan), "radius is nan"),
        (lambda: Box((0.0, math.nan), (1.0, 1.0)), "expected each low below"),
        (lambda: Avoid(Disc((0.0, 0.0), 1.0), margin=math.nan), "margin is nan, expected a finite"),
        (lambda: Waypoint((math.nan, 0.0)), "at is .nan, 0.0., expected finite numbers"),
        (lambda: Waypoint((0.0, 0.0), within=math.nan), "within is nan, expected a finite"),
        (lambda: Reach((0.0, 0.0), within=-1.0), "within is -1.0, expected a finite"),
        (lambda: Limit(0, low=math.nan), "expected a low, a high"),
    ],
)
def test_what_is_no_place_or_distance_is_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(DiffplanError, match=said):
        make()


def test_shapes_have_a_size_and_the_columns_coordinates() -> None:
    with pytest.raises(DiffplanError, match="radius is 0"):
        Disc((0.0, 0.0), 0)
    with pytest.raises(DiffplanError, match="expected each low below"):
        Box((0.0, 1.0), (1.0, 1.0))
    with pytest.raises(DiffplanError, match="3 coordinates were given for 2 columns"):
        Avoid(Disc((0.0, 0.0, 0.0), 1.0)).excess(*plan([1.0, 2.0]))
