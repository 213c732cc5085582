"""Obstacles in groups: the same as one after the other."""

import torch

from diffplan.constraints import Avoid, Box, Disc, Limit
from diffplan.constraints.shapes import distance_and_slope
from diffplan.constraints.together import together


def test_discs_apart_move_plans_as_one_after_the_other() -> None:
    discs = [
        Avoid(Disc((0.0, 0.0), 1.0), margin=0.2),
        Avoid(Disc((3.0, 0.0), 0.5)),
        Avoid(Disc((0.0, 3.0), 0.7), margin=0.1),
    ]
    (group,) = together(discs)
    states = 4 * torch.rand(2, 50, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    clock = torch.zeros(2, 50)
    moved = states
    for each in discs:
        moved = each.nearest(moved, clock)
    assert float((moved != states).float().mean()) > 0.1
    torch.testing.assert_close(group.nearest(states, clock), moved)
    apart = torch.stack([each.excess(states, clock) for each in discs], -1)
    torch.testing.assert_close(group.each(states, clock), apart)


def test_what_overlaps_or_is_no_disc_stays_by_itself_and_in_order() -> None:
    given = [
        Avoid(Disc((0.0, 0.0), 1.0)),
        Avoid(Disc((1.9, 0.0), 1.0)),  # overlaps the first
        Avoid(Disc((9.0, 0.0), 1.0)),
        Avoid(Disc((5.0, 5.0), 1.0), columns=(1, 2)),
        Limit(0, high=1.0),
    ]
    states, clock = torch.rand(1, 4, 3), torch.zeros(1, 4)
    groups = together(given)
    assert [group.each(states, clock).shape[-1] for group in groups] == [1, 2, 1, 1]
    together_ = torch.cat([group.each(states, clock) for group in groups], -1)
    torch.testing.assert_close(
        together_, torch.stack([each.excess(states, clock) for each in given], -1)
    )


def test_shapes_know_their_slopes() -> None:
    points = 4 * torch.rand(200, 2, generator=torch.Generator().manual_seed(1)) - 1
    for shape in (Disc((0.5, 0.2), 1.0), Box((0.0, 0.0), (2.0, 1.0))):
        _, known = distance_and_slope(shape, points)
        _, derived = distance_and_slope(lambda p, shape=shape: shape(p), points)
        torch.testing.assert_close(known, derived)
