"""Steps that leap by chance, as teleports do, and episodes that end before them.

Where the same place led to several others, a way over the one that lay near a goal is luck, not a
way: shortest paths over recorded steps would take it every time.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diffplan.data.parts import of_tasks
from diffplan.data.rows import Rows

_FASTEST, _FAR = 0.99, 4.0  # a leap goes so many times as far as 99 of 100 steps that move at most
_SAMPLE = 1_000_000  # steps behind that quantile
_ALIKE, _OTHERS = 64, 10_000  # other leaps that begin nearest, of so many at most
_SURE = 0.9  # of them do likewise where a leap is a way
_BESIDE, _LIKEWISE = 8, 4  # at least, of those that begin beside it and of those anywhere
_SAME = 0.25  # of a leap's length: ends so near are one place
_CHUNK = 2048  # leaps at once


def chance_leaps(points: Tensor, starts: Tensor) -> Tensor:
    """States [L], in order, from which the next step leaps to where others like it do not.

    points: [M, G] achieved goals of all states in time order. starts: [E+1] offsets of the
    episodes. A leap is a way if nearly all that begin beside it end where it does, as through a
    door, or nearly all of the nearest go by the same difference or its opposite, as an angle that
    wraps or a bit that flips. What is kept by mistake costs most: one joins what none should.
    """
    moved = (points[1:] - points[:-1]).norm(dim=-1)
    moved[starts[1:-1] - 1] = 0  # an episode's last state and the next one's first
    moving = moved[moved > 0]
    if not len(moving):
        return torch.empty(0, dtype=torch.long)
    sample = moving[:: max(1, len(moving) // _SAMPLE)]
    far = _FAR * sample.quantile(_FASTEST)
    leaps = torch.nonzero(moved > far).squeeze(1)
    if not len(leaps):
        return leaps
    chance = torch.ones_like(leaps, dtype=torch.bool)
    # far from zero `cdist` loses digits
    begins, ends = (points[at] - points[leaps].mean(0) for at in (leaps, leaps + 1))
    differences = ends - begins
    others = torch.arange(0, len(leaps), math.ceil(len(leaps) / _OTHERS))
    for part in torch.arange(len(leaps)).split(_CHUNK):
        apart = torch.cdist(begins[part], begins[others])
        apart[part[:, None] == others] = torch.inf  # itself
        near = apart.topk(min(_ALIKE, len(others)), largest=False)
        alike = others[near.indices]
        within = _SAME * moved[leaps[part], None]
        ends_there = (ends[alike] - ends[part, None]).norm(dim=-1) <= within
        own, theirs = differences[part, None], differences[alike]
        beside, known = near.values <= far, near.values < torch.inf
        forth, back = ((theirs - sign * own).norm(dim=-1) <= within for sign in (1, -1))
        # from one place to two opposite ones leads no way
        likewise = forth | (back & ~beside)
        is_way = _sure(ends_there, beside, _BESIDE) | _sure(likewise, known, _LIKEWISE)
        chance[part] = ~is_way
    return leaps[chance]


def _sure(does: Tensor, among: Tensor, least: int) -> Tensor:
    """Where [B] nearly all of those [B, K] that count do so, and enough of them."""
    count = (does & among).sum(1)
    return (count >= _SURE * among.sum(1)) & (count >= least)


def cut_at_leaps(
    points: Tensor, starts: Tensor, tasks: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Episodes that end before every step that leaps by chance.

    points: [M, G] achieved goals of all states. starts: [E+1] offsets of the episodes. tasks: [E],
    None without; each is looked at alone. Returns the offsets of what the episodes are cut into
    [P+1], which episode each piece is of [P], and which end in a leap, [P] bool.
    """
    counts, cuts = starts.diff(), [starts]
    for own in of_tasks(tasks, len(counts)):
        states = Rows(starts[own], counts[own]).tensor()
        offsets = nn.functional.pad(counts[own].cumsum(0), (1, 0))
        cuts.append(states[chance_leaps(points[states], offsets)] + 1)
    pieces = torch.cat(cuts).sort().values
    episode = torch.searchsorted(starts, pieces[:-1], right=True) - 1
    return pieces, episode, pieces[1:] < starts[1:][episode]
