"""`diffplan evaluate RUN`: seeded episodes of a trained planner beside what made its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from diffplan.scripts.evaluate.options import EvaluateOptions


@dataclass(frozen=True)
class Evaluate(EvaluateOptions):
    """Roll a trained planner out on seeded episodes, beside what made its data and random actions.

    Prints one table with 95 % intervals and writes results.json and pictures into RUN. Several
    RUNs, the training seeds of one configuration, get a row each and one row over all. A model of
    several tasks plays each in its own environment and gets a row for each and one for their mean.
    """

    turned: ClassVar[tuple[str, ...]] = (
        *("runs", "episodes", "num_envs", "seed", "video", "checkpoint", "engine", "device"),
        *("workers", "env", "time_limit", "baselines", "tuned", "task_given", "json"),
    )
    """What --help shows beside the planning settings that people turn."""

    def run(self) -> dict[str, Any]:
        """Evaluate, print and write; returns what results.json holds.

        Raises:
            DiffplanError: RUN is no run, a number out of range, a results file that cannot be
                written, no evaluation environment, or no way to draw a video.
            PartialResult: Episodes failed because of their environment; the others are written.
        """
        self.check()
        from diffplan.scripts.evaluate.evaluation import evaluate

        return evaluate(self)
