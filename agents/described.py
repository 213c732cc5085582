"""An agent in a few lines, for whoever prints one."""

from __future__ import annotations

import torch

from diffplan.config.sections import PlanningConfig
from diffplan.constraints.kinds import Constraint
from diffplan.data.info import DatasetInfo, without_folders
from diffplan.engines.table import Engine

_STARTS = {
    "process": "from its proposal, as the process starts",
    "sdedit": "from its proposal with some noise",
    "raw": "from its proposal as it is",
    "noise": "from noise",
}


class Described:
    """The part of `PlannerAgent` that tells what it is."""

    config_name: str
    updates: int
    info: DatasetInfo
    settings: PlanningConfig
    engine: Engine
    device: torch.device
    constraints: tuple[Constraint, ...]
    horizon: int
    stride: int

    def __repr__(self) -> str:
        """Configuration, data, environment and engine, and how it plans, in three lines."""
        settings, name = self.settings, without_folders(self.info.id)
        where = self.info.env_id or "unknown"
        plan = f"{self.horizon} states {self.stride} environment steps apart"
        steps = f"{settings.denoising_steps} step{'s' if settings.denoising_steps != 1 else ''}"
        refined = f"optimised in {steps} {_STARTS.get(settings.start, '')}"
        lines = [
            f"PlannerAgent: {self.config_name}, {self.updates:,} updates on {name}",
            f"environment {where}, engine {self.engine.name} on {self.device}",
            f"plans {plan}, anew every {settings.replan_every} steps; "
            + ("the proposal itself" if settings.start == "none" else refined)
            + (f", one of {settings.candidates}" if settings.candidates > 1 else ""),
        ]
        if self.constraints:
            lines.append(f"under {', '.join(type(each).__name__ for each in self.constraints)}")
        return "\n  ".join(lines)
