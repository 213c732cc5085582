"""Kinds of data beside a plan's states: what each is, and where a batch has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diffplan.data.batches import Windows
from diffplan.model.space import PlanSpace


@dataclass(frozen=True)
class Modality:
    """One kind of data: its shape, its likelihood, its weight and where a batch has it.

    columns: numbers of every plan state (by_row, values [B, rows, columns]) or of a plan (values
    [B, columns]); classes: how many there are (values [B], int64). likelihood: "gaussian" is a
    squared error; "bins" a cross-entropy over two-hot bins of one number, robust to its scale
    (Bellemare et al. 2017, arXiv 1707.06887); "classes" a cross-entropy. weight: lambda of its
    loss. read: values and weights ([B, rows] or [B]) of windows.
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
    actions = space.scaled_actions(windows.actions).flatten(2)
    return _rows(space, actions, windows.acting)


def _rewards(space: PlanSpace, windows: Windows) -> tuple[Tensor, Tensor]:
    assert windows.rewards is not None
    return _rows(space, space.rewards(windows.rewards.unsqueeze(-1)), windows.mask)


def _returns(space: PlanSpace, windows: Windows) -> tuple[Tensor, Tensor]:
    returns = space.normalised_returns(windows.returns[:, :1])
    return returns, torch.ones_like(returns[:, 0])


def _goal(space: PlanSpace, windows: Windows) -> tuple[Tensor, Tensor]:
    goal = space.goal(windows.goals)
    assert goal is not None
    return goal, torch.ones_like(goal[:, 0])


def _task(space: PlanSpace, windows: Windows) -> tuple[Tensor, Tensor]:
    assert windows.task is not None
    return windows.task, torch.ones_like(windows.task, dtype=torch.float32)


MODALITIES: dict[str, Modality] = {
    "actions": Modality(
        True,
        "gaussian",
        1.0,
        lambda space: space.config.plan.stride * space.spec.action_dim,
        _actions,
    ),
    "rewards": Modality(True, "gaussian", 0.5, lambda space: 1, _rewards),
    "returns": Modality(False, "bins", 0.2, lambda space: 1, _returns),
    "goal": Modality(False, "gaussian", 0.5, lambda space: space.spec.goal_dim, _goal),
    "task": Modality(False, "classes", 0.1, lambda space: space.spec.tasks, _task),
}
"""Kinds of data beside the plan's states, which are the diffusion space itself."""
