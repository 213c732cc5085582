"""A finished run of training, or one that was stopped."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffplan.model.run_folder import find_checkpoint

if TYPE_CHECKING:
    from diffplan.agents import PlannerAgent


@dataclass(frozen=True)
class Run:
    """The folder of a run and what is in it."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """The folder of the last checkpoint."""
        return find_checkpoint(self.folder)

    @property
    def metrics(self) -> list[dict[str, float]]:
        """The lines of metrics.jsonl: losses, times, evaluations; each with its `step`."""
        text = (self.folder / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def load_agent(self, **options: Any) -> PlannerAgent:
        """The trained agent; options as of `diffplan.load_agent`."""
        from diffplan.agents import load_agent

        return load_agent(self.folder, **options)
