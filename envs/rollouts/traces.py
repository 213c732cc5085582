"""What a rollout keeps of single episodes: observations, actions, rewards and plans."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PlanRecord:
    """One plan of one row, in environment units; plan states are a stride apart."""

    step: int
    """Environment step at which it was made; states[0] is the state at that step."""
    proposal: np.ndarray
    """[K, H+1, D] what the proposer gave."""
    candidates: np.ndarray
    """[K, H+1, D] after optimisation."""
    values: np.ndarray
    """[K] value of each candidate."""
    chosen: int
    """Index of the candidate that was followed."""
    states: np.ndarray
    """[H+1, D] the plan that was followed."""

    @staticmethod
    def of(plan: Any, row: int, step: int) -> "PlanRecord":
        """Row `row` of a batched plan with these fields, copied: a trace must not hold batches."""
        return PlanRecord(
            step,
            np.array(plan.proposal[row]),
            np.array(plan.candidates[row]),
            np.array(plan.values[row]),
            int(plan.chosen[row]),
            np.array(plan.states[row]),
        )


@dataclass(frozen=True)
class Trace:
    """One whole episode of T steps."""

    episode: int
    seed: int
    observations: Any
    """[T+1, ...] array, or dict of such arrays, as the environment gave them."""
    actions: np.ndarray
    """[T, A]"""
    rewards: np.ndarray
    """[T]"""
    success_step: int | None
    """First step (from 1) after which the environment reported success; None if it never did."""
    plans: tuple[PlanRecord, ...]
    """Every plan made, in order; empty for policies that do not plan."""
