"""What an agent's decisions leave behind: plans, and all that it remembers between calls."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from diffplan.engines.decision import Planned


class PlanView:
    """A batch of plans in environment units; states are `stride` environment steps apart.

    proposal, candidates: [B, K, H+1, D], before and after optimisation. values: [B, K] in units
    of the return-to-go, in a state of `predict` NaN where there was nothing to choose. chosen:
    [B], index into K. states: [B, H+1, D], the chosen candidate; index 0 is the state the plan was
    made in. actions: [B, H * stride, A], None where plans hold none. They are fetched from the
    device when they are read.
    """

    def __init__(self, planned: Planned) -> None:
        self.planned = planned

    @cached_property
    def proposal(self) -> np.ndarray:
        return as_array(self.planned.proposal)

    @cached_property
    def candidates(self) -> np.ndarray:
        return as_array(self.planned.candidates)

    @cached_property
    def values(self) -> np.ndarray:
        return as_array(self.planned.values)

    @cached_property
    def chosen(self) -> np.ndarray:
        return as_array(self.planned.chosen)

    @cached_property
    def states(self) -> np.ndarray:
        return as_array(self.planned.states)

    @cached_property
    def actions(self) -> np.ndarray | None:
        return None if self.planned.actions is None else as_array(self.planned.actions)

    def replaced(self, rows: np.ndarray, new: PlanView) -> PlanView:
        """A copy with the plans of the marked rows [B] taken from `new`, in order."""
        index = torch.from_numpy(np.flatnonzero(rows)).to(self.planned.states.device)
        pairs = zip(self.planned, new.planned, strict=True)
        both = ((old, made) for old, made in pairs if old is not None and made is not None)
        return PlanView(Planned(*(old.index_copy(0, index, made) for old, made in both)))


@dataclass(frozen=True)
class AgentState:
    """What the agent remembers between calls; hand back what `predict` returned.

    plan: each row's current plan. goals: [B, G] goals the plans were made for, None without.
    age: [B] environment steps since each row's plan was made, 0 right after a replan.
    seeds: [B] random seed of each row. count: [B] plans made since it was set.
    step: [B] environment steps since the episode began. target: [B] return-to-go that was asked
    for, less what `observe` was told since (`planning.target` decremented). history: [B, N, D]
    states at the ends of strides, the first `step // stride + 1` of them, for `from_history`.
    """

    plan: PlanView
    goals: np.ndarray | None
    age: np.ndarray
    seeds: np.ndarray
    count: np.ndarray
    step: np.ndarray
    target: np.ndarray
    history: np.ndarray | None = None


def as_array(tensor: Tensor) -> np.ndarray:
    """The tensor on the host."""
    result: np.ndarray = tensor.cpu().numpy()
    return result
