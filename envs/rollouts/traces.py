"""What a rollout keeps of single episodes: observations, actions, rewards and plans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from diffplan.engines.decision import Plan


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
    plans: dict[int, Plan]
    """Every plan made, by the environment step at which it was made, in order; empty for policies
    that do not plan."""
