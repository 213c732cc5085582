"""Which model-free method, and its settings; needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Settings:
    """One method with its settings; the defaults are those that the papers share.

    best: share of the steps, by return, that are learned from. spread: of the scaled returns.
    q_weight: alpha of TD3+BC. penalties: of ReBRAC, on actor and critic; with them its networks
    have three hidden layers and the critics LayerNorm. expectile, temperature: of IQL.
    """

    method: Literal["cloning", "td3bc", "rebrac", "iql"]
    discount: float = 0.99
    rate: float = 3e-4
    batch: int = 256
    best: float = 1.0
    normalise: bool = True
    spread: float | None = None
    q_weight: float = 2.5
    penalties: tuple[float, float] = (0.01, 0.01)
    expectile: float = 0.7
    temperature: float = 3.0
