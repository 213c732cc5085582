"""Episode counts of PointMaze data made here, beside those of the published Minari sets."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from diffplan.errors import DiffplanError
from diffplan.scripts.checks import main

# Episodes in 1,000,000 steps of D4RL/pointmaze/{umaze,medium}-v2.
PUBLISHED = {"umaze": 13210, "medium": 4752}
PUBLISHED_STEPS = 1_000_000


@dataclass(frozen=True)
class PointmazeCounts:
    """Make PointMaze steps in memory and compare the number of episodes with the published sets.

    Fails if a maze with a published count is off by more than the tolerance.
    """

    mazes: tuple[str, ...] = ("umaze", "medium", "large", "open")
    """Which mazes; only umaze and medium have published counts."""
    env_steps: int = PUBLISHED_STEPS
    """Steps of each maze; published counts are scaled to it."""
    seed: int = 123
    """Seed of the run; 123 is the published one, but the noise is not the same."""
    tolerance: float = 0.03
    """Largest relative difference allowed."""
    json: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path(
        "docs/results/pointmaze_counts.json"
    )
    """Where to write the counts."""

    def run(self) -> None:
        """Make the steps, print and write the counts."""
        from diffplan.envs.makers.catalogue import POINTMAZES
        from diffplan.scripts.report.files import check_writable, write_json

        if self.env_steps < 1 or self.seed < 0:
            raise DiffplanError(
                f"--env-steps is {self.env_steps} and --seed {self.seed}, expected at least 1 and 0"
            )
        for maze in self.mazes:
            if f"pointmaze-{maze}" not in POINTMAZES:
                raise DiffplanError(f"unknown maze '{maze}'; known: umaze, medium, large, open")
        check_writable(self.json, "--json")

        # after the checks: refusals load no simulator
        from diffplan.envs.formats.minari_write import software_versions
        from diffplan.envs.makers.pointmaze_data import run_pointmaze

        rows: dict[str, dict[str, Any]] = {}
        for maze in self.mazes:
            begin = time.perf_counter()
            run = run_pointmaze(POINTMAZES[f"pointmaze-{maze}"], self.env_steps, self.seed)
            seconds = time.perf_counter() - begin
            count = int(run.success.sum())
            rows[maze] = {"episodes": count, "steps_per_second": round(self.env_steps / seconds)}
            line = f"{maze}: {count} episodes in {self.env_steps} steps"
            if maze in PUBLISHED:
                expected = PUBLISHED[maze] * self.env_steps / PUBLISHED_STEPS
                difference = count / expected - 1.0
                rows[maze] |= {"published": expected, "difference": round(difference, 4)}
                line += f", published {expected:g} ({difference:+.1%})"
            print(line, flush=True)
        result = {
            "command": self.command,
            "steps": self.env_steps,
            "seed": self.seed,
            "path_rule": "depth-first",
            "versions": software_versions(),
            "mazes": rows,
        }
        write_json(self.json, result)
        print(f"written: {self.json}")
        # after the file is written: a difference is to be looked at
        off = [m for m, row in rows.items() if abs(row.get("difference", 0.0)) > self.tolerance]
        if off:
            raise DiffplanError(
                f"episode counts of {', '.join(off)} differ from the published ones by more than "
                f"{self.tolerance:.0%}"
            )

    @property
    def command(self) -> str:
        """The command line that does the same."""
        words = ["python", "-m", __name__, "--mazes", *self.mazes]
        words += ["--env-steps", f"{self.env_steps}", "--seed", f"{self.seed}"]
        words += ["--tolerance", f"{self.tolerance}", "--json", f"{self.json}"]
        return shlex.join(words)


if __name__ == "__main__":
    sys.exit(main(PointmazeCounts, __spec__.name, sys.argv[1:]))
