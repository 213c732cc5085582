"""All that an agent remembers between calls."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import torch

from diffplan.engines.decision import Plan
from diffplan.errors import DiffplanError
from diffplan.runtime import Detour, Errand


@dataclass(frozen=True)
class AgentState:
    """What the agent remembers between calls; hand back what `predict` returned.

    plan: each row's current plan, on the device. goals: [B, G] goals that were asked for, None
    without. age: [B] environment steps since each row's plan was made, 0 right after a replan.
    seeds: [B] random seed of each row. count: [B] plans made since it was set. step: [B]
    environment steps since the episode began. target_return: [B] return-to-go that was asked for,
    less what `observe` was told since (`planning.target` decremented). history: [B, N, D] states
    at the ends of strides, the first `step // stride + 1` of them, for `from_history`. detour: how
    rows get on, where they may take one. errand: what they see to, of several things.
    """

    plan: Plan
    goals: np.ndarray | None
    age: np.ndarray
    seeds: np.ndarray
    count: np.ndarray
    step: np.ndarray
    target_return: np.ndarray
    history: np.ndarray | None = None
    detour: Detour | None = None
    errand: Errand | None = None

    @property
    def aims(self) -> np.ndarray | None:
        """What the plans aim at [B, G], which of several things is one's goal; None without."""
        return self.goals if self.errand is None else self.errand.aim

    def begun(self, episode_start: np.ndarray | None) -> np.ndarray:
        """Rows [B] whose episode begins: said so, or without a plan yet.

        DiffplanError where as many are not said.
        """
        # also after `reset_rows`, whoever forgets to say episode_start
        begins = self.count == 0
        if episode_start is None:
            return begins
        fresh, rows = np.asarray(episode_start, bool).reshape(-1), len(self.count)
        if len(fresh) != rows:
            raise DiffplanError(
                f"episode_start has {len(fresh)} entries, the observation {rows} rows"
            )
        return begins | fresh

    def moved(self, goals: np.ndarray | None, tolerance: float | np.ndarray) -> np.ndarray | None:
        """Rows [B] whose goal is another than their plan was made for; None without goals."""
        if goals is None or self.goals is None:
            return None
        found: np.ndarray = (np.abs(goals - self.goals) > tolerance).any(-1)
        return found

    def to(self, device: torch.device) -> AgentState:
        """With the plans on a device."""
        if self.plan.states.device == device:
            return self
        plan = Plan(*(None if part is None else part.to(device) for part in self.plan))
        return replace(self, plan=plan)


def check_state(state: object, rows: int, shape: tuple[int, int], fields: Collection[str]) -> None:
    """Raise DiffplanError for what no call with so many rows and plans [*shape] returned.

    fields: what those plans hold.
    """
    if not isinstance(state, AgentState):
        raise DiffplanError(
            f"state is a {type(state).__name__}, expected None or what predict returned"
        )
    if len(state.age) != rows:
        raise DiffplanError(
            f"the observation has {rows} rows but the state was made for {len(state.age)}; "
            "pass state=None when the number of environments changes"
        )
    found = state.plan.states.shape[1:]
    if found != shape:
        raise DiffplanError(
            f"the state holds plans of shape {list(found)}, this agent's have {list(shape)}: it "
            "is another agent's; pass state=None"
        )
    held = [name for name, part in zip(Plan._fields, state.plan, strict=True) if part is not None]
    if held != list(fields):
        raise DiffplanError(
            f"the state's plans hold {', '.join(held)}, this agent's {', '.join(fields)}: it is "
            "another agent's; pass state=None"
        )
