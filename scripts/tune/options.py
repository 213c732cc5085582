"""What `diffplan tune` can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from diffplan.errors import DiffplanError
from diffplan.model.run_folder import find_checkpoint
from diffplan.nn.device import check_device
from diffplan.scripts.report.seeds import check_choosing


@dataclass(frozen=True)
class TuneOptions:
    """Of which run, on how many episodes, and where they are played."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder that `diffplan train --out` wrote."""
    budget: int = 400
    """Episodes in all: of every setting in every task, the final included."""
    settings: Annotated[
        int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: by the budget)")
    ] = None
    """Ways of planning that are tried, the run's own among them."""
    by: Literal["auto", "return", "success"] = "auto"
    """What is to be high: the return, or the rate of success; auto: of several tasks success,
    where they report it, as their returns weigh differently, else the return."""
    seed: Annotated[
        int | None,
        tyro.conf.arg(
            metavar="INT", help_behavior_hint="(default: 200000, or behind an earlier tuning's)"
        ),
    ] = None
    """Of the first episode, and of the combinations that are tried."""
    checkpoint: Annotated[str, tyro.conf.arg(metavar="last|best|UPDATES")] = "last"
    """Which checkpoint of the run: the settings belong to its weights."""
    env: Annotated[
        str | None, tyro.conf.arg(metavar="ID", help_behavior_hint="(default: the dataset's own)")
    ] = None
    """Gymnasium id of the environment to play in; module:ID imports the module first."""
    time_limit: Annotated[
        int | None,
        tyro.conf.arg(metavar="STEPS", help_behavior_hint="(default: the environment's own)"),
    ] = None
    """Steps after which an episode is cut."""
    step_timeout: float = 300.0
    """Seconds that the environment may take for one step or reset; an episode that waits longer has
    failed."""
    num_envs: int = 50
    """Environments stepped together."""
    workers: int = 1
    """Processes that share the settings."""
    device: str = "cpu"
    """Where the networks run."""
    threads: int = 1
    """PyTorch threads of each process."""

    def check(self) -> None:
        """Raise DiffplanError for a number out of range, or a folder that is no run."""
        for name in ("budget", "num_envs", "workers", "threads", "time_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DiffplanError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if self.settings is not None and self.settings < 2:
            raise DiffplanError(f"--settings must be at least 2, got {self.settings}")
        if self.seed is not None:
            check_choosing("--seed", self.seed)
        if not self.step_timeout > 0:
            raise DiffplanError(f"--step-timeout must be above 0, got {self.step_timeout:g}")
        check_device(self.device, "--device")
        find_checkpoint(self.folder, self.checkpoint)
