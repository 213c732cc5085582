"""Runs the cases and prints their table."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from diffplan.errors import DiffplanError
from diffplan.scripts.checks.torture.machinery import Judge
from diffplan.scripts.checks.torture.scene import Scene


@dataclass(frozen=True)
class Torture:
    """Kill, stop, starve and mislead commands, and count what they let through."""

    large: bool = False
    """All cases and a hundred kills, which take minutes; else what CI runs."""
    only: tuple[str, ...] = ()
    """Kinds of cases, where not all."""

    def run(self) -> None:
        """Run, print the table; DiffplanError where anything was not as it should be."""
        from diffplan.scripts.checks.torture import (
            bad_data,
            bad_machines,
            environment_cases,
            stopping_cases,
        )

        kinds = {
            "environments": environment_cases.environments,
            "workers": environment_cases.workers,
            "signals": stopping_cases.signals,
            "kills": stopping_cases.kills,
            "disks and names": bad_machines.disks,
            "sizes": bad_machines.sizes,
            "code in data": bad_data.code,
            "divergence": bad_data.divergence,
        }
        if unknown := [name for name in self.only if name not in kinds]:
            raise DiffplanError(f"no kind {unknown[0]!r}; there are {', '.join(kinds)}")
        judge = Judge()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            root = Path(folder).resolve()
            names = ("DIFFPLAN_CACHE", "MINARI_DATASETS_PATH", "D4RL_DATASET_DIR")
            os.environ |= {name: str(root / name.lower()) for name in names}
            os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
            scene = Scene(root, self.large)
            for name in self.only or kinds:
                kinds[name](judge, scene)
        print(judge.table())
        wrong = sum(bool(outcome.wrong) for outcome in judge.outcomes)
        if wrong:
            raise DiffplanError(
                f"{wrong} of {len(judge.outcomes)} cases were not as they should be"
            )
