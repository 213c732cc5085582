"""One running episode: what counts of it, and what is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import concatenate, create_empty_array

from diffplan.envs.rollouts.reading import Step
from diffplan.envs.rollouts.traces import Trace


@dataclass
class Episode:
    """One running episode: what counts, and with `keep` everything for its trace."""

    index: int
    seed: int
    keep: bool
    total: float = 0.0
    length: int = 0
    terminated: bool = False
    success: bool | None = None
    success_step: int | None = None
    observations: list[Any] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    plans: dict[int, Any] = field(default_factory=dict)

    def decided(self, observation: Any, action: np.ndarray, state: Any, row: int) -> None:
        """Keep what the policy saw and did, and the plan if it has just been made."""
        if not self.keep:
            return
        self.observations.append(observation)
        self.actions.append(np.array(action))
        # age 0: the plan was made in this very call
        if getattr(state, "age", None) is not None and state.age[row] == 0:
            self.plans[self.length] = state.plan.row(row).numpy()

    def stepped(self, step: Step) -> None:
        """Count one environment step."""
        self.total += step.reward
        self.length += 1
        self.terminated = step.terminated
        # at any step: some environments report success once and go on
        if step.success is not None:
            self.success = bool(self.success) or step.success
            if self.success and self.success_step is None:
                self.success_step = self.length
        if self.keep:
            self.rewards.append(step.reward)
            if step.over:
                self.observations.append(step.observation)

    def trace(self, space: gym.Space) -> Trace:
        """What was kept of it."""
        return Trace(
            self.index,
            self.seed,
            stack(space, self.observations),
            np.stack(self.actions),
            np.asarray(self.rewards),
            self.success_step,
            self.plans,
        )


def stack(space: gym.Space, observations: list[Any]) -> Any:
    """Observations of single environments as one new batch: an array or a dict of arrays."""
    # a new one each time: a policy may keep what it was given
    empty: Any = create_empty_array(space, len(observations))
    return concatenate(space, observations, empty)
