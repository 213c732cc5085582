"""Steps that leap by chance: teleports, and resets that no flag marks.

Where the same place led to several others, a way over the one that lay near a goal is luck, not a
way: shortest paths over recorded steps would take it every time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffplan.data.parts import of_tasks
from diffplan.data.rows import Rows

_FASTEST, _FAR = 0.99, 4.0  # a leap goes so many times as far as 99 of 100 steps that move at most
_SAMPLE = 1_000_000  # steps behind that quantile
_ALIKE = 64  # other leaps at most, those that begin nearest
_REPEATED, _SURE = 8, 0.9  # of them at least, and of all, end in one place where a leap is a way
_SAME = 0.25  # of a leap's length: ends so near are one place
_CHUNK = 4096  # leaps at once


def chance_leaps(points: Tensor, starts: Tensor) -> Tensor:
    """States [L], in order, from which the next step leaps to where others like it do not.

    points: [M, G] achieved goals of all states in time order. starts: [E+1] offsets of the
    episodes. A leap that others repeat, such as that of an angle from pi to -pi or of a door that
    leads to one place, is a way. What is kept by mistake costs most: one joins what none should.
    """
    moved = (points[1:] - points[:-1]).norm(dim=-1)
    moved[starts[1:-1] - 1] = 0  # an episode's last state and the next one's first
    moving = moved[moved > 0]
    if not len(moving):
        return torch.empty(0, dtype=torch.long)
    sample = moving[:: max(1, len(moving) // _SAMPLE)]
    far = _FAR * sample.quantile(_FASTEST)
    leaps = torch.nonzero(moved > far).squeeze(1)
    chance = torch.ones_like(leaps, dtype=torch.bool)
    begins, ends = points[leaps], points[leaps + 1]
    for part in torch.arange(len(leaps)).split(_CHUNK):
        apart = torch.cdist(begins[part], begins)
        apart[torch.arange(len(part)), part] = torch.inf  # itself
        near = apart.topk(min(_ALIKE, len(leaps)), largest=False)
        gap = (ends[near.indices] - ends[part, None]).norm(dim=-1)
        alike = near.values <= far
        same = (gap <= _SAME * moved[leaps[part], None]) & alike
        repeats = same.sum(1)
        chance[part] = (repeats < _SURE * alike.sum(1)) | (repeats < _REPEATED)
    return leaps[chance]


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
