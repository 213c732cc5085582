"""Kinds of data beside a plan's states: what each is, and where a batch has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diffplan.data.batches import Windows
from diffplan.model.space import Path, PlanSpace

Values = Mapping[str, Tensor]
"""Name of a modality -> its values, see `Modality.columns`."""


@dataclass(frozen=True)
class Modality:
    """One kind of data: its shape, its likelihood, its weight and where a batch has it.

    columns: numbers of every plan state (by_row, values [B, rows, columns]) or of a plan (values
    [B, columns]); classes: how many there are (values [B], int64). likelihood: "gaussian" is a
    squared error; "bins" a cross-entropy over two-hot bins of one number, robust to its scale
    (Bellemare et al. 2017, arXiv 1707.06887); "classes" a cross-entropy. weight: lambda of its
    loss. read: values and weights ([B, rows] or [B]) of
    windows in plan units.
    """

    by_row: bool
    likelihood: Literal["gaussian", "bins", "classes"]
    weight: float
    columns: Callable[[PlanSpace], int]
    read: Callable[[PlanSpace, Windows], tuple[Tensor, Tensor]]


def _rows(space: PlanSpace, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Values [B, H, C] of the future states and weights [B, H] as rows of the plan."""
    if space.absolute:  # nothing leads to the current state
        values, mask = F.pad(values, (0, 0, 1, 0)), F.pad(mask, (1, 0))
    return values, mask


def _actions(space: PlanSpace, windows: Windows) -> tuple[Tensor, Tensor]:
    assert windows.actions is not None and windows.acting is not None
    return _rows(space, windows.actions.flatten(2), windows.acting)


def _rewards(space: PlanSpace, windows: Windows) -> tuple[Tensor, Tensor]:
    assert windows.rewards is not None
    return _rows(space, windows.rewards.unsqueeze(-1), windows.mask)


def _returns(space: PlanSpace, windows: Windows) -> tuple[Tensor, Tensor]:
    returns = windows.returns[:, :1]
    return returns, torch.ones_like(returns[:, 0])


def _goal(space: PlanSpace, windows: Windows) -> tuple[Tensor, Tensor]:
    assert windows.goals is not None
    return windows.goals, torch.ones_like(windows.goals[:, 0])


def _task(space: PlanSpace, windows: Windows) -> tuple[Tensor, Tensor]:
    assert windows.task is not None
    return windows.task, torch.ones_like(windows.task, dtype=torch.float32)


MODALITIES: dict[str, Modality] = {
    "actions": Modality(
        True,
        "gaussian",
        0.3,
        lambda space: space.config.plan.stride * space.spec.action_dim,
        _actions,
    ),
    "rewards": Modality(True, "gaussian", 0.15, lambda space: 1, _rewards),
    "returns": Modality(False, "bins", 0.06, lambda space: 1, _returns),
    "goal": Modality(False, "gaussian", 0.15, lambda space: space.spec.goal_dim, _goal),
    "task": Modality(False, "classes", 0.03, lambda space: space.spec.tasks, _task),
}
"""Kinds of data beside the plan's states, which are the diffusion space itself."""


@dataclass(frozen=True)
class Taken:
    """Actions of the data, n on the way along each of B windows.

    step: [B, n] int64, steps since the window's first state. states: [B, n, D] where they were
    taken, normalised. actions: [B, n, A], scaled. weight: [B, n], 0 where the data show none.
    towards: plan states [B, H+1, D] that they led along, None: those that the network makes.
    """

    step: Tensor
    states: Tensor
    actions: Tensor
    weight: Tensor
    towards: Tensor | None = None

    def joined(self, other: Taken) -> Taken:
        """The windows of both, which have plan states of their own."""
        return Taken(*map(torch.cat, zip(*(astuple(x) for x in (self, other)), strict=True)))


@dataclass(frozen=True)
class Told:
    """What the heads' data are in training: values and weights by modality.

    known: bool [B] by modality: whether E holds it; a plan knows little of this. path: from plan
    tensor to states. taken: what the head of actions learns from, if there is one.
    """

    values: Values
    weights: Values
    known: Values
    path: Path
    taken: Taken | None = None


@dataclass(frozen=True)
class Telling:
    """What heads are given of some plans, and where they write down what they say of them.

    path: from plan tensor to states. known: data that are given, in E. asked: heads that are to say
    something at the last level. blind: rows at the end that are given nothing. said: takes what
    heads say, raw (`Heads.decode`), and as "kept" what `ActingHead.keep` keeps of the plans.
    """

    path: Path
    known: Values = field(default_factory=dict)
    asked: tuple[str, ...] = ()
    blind: int = 0
    said: dict[str, Tensor] = field(default_factory=dict)

    def halved(self, rows: int) -> Telling:
        """For twice as many rows; the second half, that of no conditions, is given nothing."""

        def path(x: Tensor) -> Tensor:
            return torch.cat([self.path(part) for part in x.chunk(2)])

        return Telling(path, self.known, self.asked, rows)

    def keep_first_half(self, doubled: Telling) -> None:
        """Take over what was said of the first half of `halved`."""
        self.said.update({name: raw.chunk(2)[0] for name, raw in doubled.said.items()})
