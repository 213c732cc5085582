"""`diffplan evaluate RUN`: seeded episodes of a trained planner beside what made its data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from diffplan.errors import DiffplanError

_RunsOwn = Annotated[
    int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: the run's own)")
]


@dataclass(frozen=True)
class Evaluate:
    """Roll a trained planner out on seeded episodes, beside what made its data and random actions.

    Prints one table with 95 % intervals and writes results.json and pictures into RUN.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder that `diffplan train --out` wrote."""
    episodes: int = 100
    """Episodes of each policy, on the same seeds."""
    num_envs: int = 50
    """Environments stepped together."""
    seed: int = 1000
    """Of the first episode; episode e starts with seed + e."""
    json: Annotated[
        Path | None,
        tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: RUN/results.json)"),
    ] = None
    """Where the results go."""
    video: bool = False
    """Write a video of a few episodes into RUN/pictures."""
    device: str = "cpu"
    """Where the networks run: cpu, cuda, cuda:1, ..."""
    threads: int = 1
    """PyTorch threads; networks of the default size gain nothing from more."""
    checkpoint: str = "last"
    """Which checkpoint of the run."""
    replan_every: _RunsOwn = None
    """Strides for which a plan is kept."""
    candidates: _RunsOwn = None
    """Candidates per plan."""
    steps: _RunsOwn = None
    """Refinement steps per plan."""
    env: Annotated[
        str | None, tyro.conf.arg(metavar="ID", help_behavior_hint="(default: the dataset's own)")
    ] = None
    """Gymnasium id of the environment to evaluate in."""
    baselines: bool = True
    """Also roll out the controllers of the data and random actions."""
    pictures: bool = True
    """Draw plans, returns and training curves into RUN/pictures."""

    def run(self) -> dict[str, Any]:
        """Evaluate, print and write; returns what results.json holds.

        Raises:
            DiffplanError: RUN is no run, a number out of range, a results file that cannot be
                written, no evaluation environment, or no way to draw a video.
        """
        self._check()
        from diffplan.scripts.evaluation import evaluate

        return evaluate(self)

    @property
    def overrides(self) -> dict[str, int]:
        """The planner's settings that were given, for `load_agent`."""
        given = {name: getattr(self, name) for name in ("replan_every", "candidates", "steps")}
        return {name: value for name, value in given.items() if value is not None}

    def _check(self) -> None:
        for name in ("episodes", "num_envs", "threads", "replan_every", "candidates"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DiffplanError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        for name in ("seed", "steps"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise DiffplanError(f"--{name} must not be negative, got {value}")
        if not self.folder.is_dir():
            raise DiffplanError(
                f"{self.folder} is no folder; give one that `diffplan train --out` wrote"
            )
