"""Returns of D4RL's maze2d controllers in D4RL's frame, beside D4RL's reference scores."""

from __future__ import annotations

import contextlib
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from diffplan.errors import DiffplanError
from diffplan.scripts.checks import main


@dataclass(frozen=True)
class Maze2dControllers:
    """Measure the maze2d controller that plans at every start, and the one that plans once.

    D4RL's reference maxima are means over 100 episodes of the one that plans once. Fails if the
    difference is more than four standard errors of both means. Returns are also given without the
    episodes that start in the goal's cell.
    """

    mazes: tuple[str, ...] = ("umaze", "medium", "large")
    """Which mazes. The references of the open maze are of another version: none are compared."""
    episodes: int = 300
    """Episodes of each controller and maze."""
    seed: int = 1000
    """Seed of the first episode; the others follow."""
    json: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path(
        "docs/results/maze2d_controllers.json"
    )
    """Where to write the returns."""

    def run(self) -> None:
        """Run the episodes, print and write the returns."""
        from diffplan.envs.makers.catalogue import MAZES
        from diffplan.scripts.report.files import check_writable, write_json

        if self.episodes < 2 or self.seed < 0:
            raise DiffplanError(
                f"--episodes is {self.episodes} and --seed {self.seed}, expected at least 2 and 0"
            )
        for maze in self.mazes:
            if maze not in MAZES:
                raise DiffplanError(f"unknown maze '{maze}'; known: {', '.join(MAZES)}")
        check_writable(self.json, "--json")

        from diffplan.envs.formats.minari_write import software_versions

        rows = {maze: self._measure(maze) for maze in self.mazes}
        result = {
            "command": self.command,
            "episodes": self.episodes,
            "seed": self.seed,
            "versions": software_versions(),
            "mazes": rows,
        }
        write_json(self.json, result)
        print(f"written: {self.json}")
        off = [maze for maze, row in rows.items() if abs(row.get("standard_errors", 0.0)) > 4.0]
        if off:
            raise DiffplanError(
                f"returns in {', '.join(off)} differ from D4RL's reference maxima by more than "
                f"four standard errors"
            )

    def _measure(self, maze: str) -> dict[str, Any]:
        from diffplan.data.info import DatasetInfo
        from diffplan.envs.makers.maze2d_controllers import Maze2DController
        from diffplan.envs.rollouts.references import REFERENCE_SCORES
        from diffplan.envs.rollouts.serial import rollout
        from diffplan.envs.simulators.environments import evaluation_env_factory, make_env
        from diffplan.envs.simulators.registration import MAZE2D_VERSIONS

        env_id = f"diffplan/maze2d-{maze}-v{MAZE2D_VERSIONS[maze]}"
        info = DatasetInfo(maze, "d4rl", env_id, {}, (-1.0,) * 2, (1.0,) * 2, {})
        with contextlib.closing(make_env(info)) as env:
            starts = [env.reset(seed=self.seed + e)[0] for e in range(self.episodes)]
        # an episode that starts at its goal says little about the controller
        elsewhere = np.array(
            [np.abs(start["achieved_goal"] - start["desired_goal"]).max() > 0.5 for start in starts]
        )
        row: dict[str, Any] = {}
        for name, replan in (("plans at every start", True), ("plans once", False)):
            result = rollout(
                Maze2DController(maze, replan, seed=self.seed),
                evaluation_env_factory(info),
                episodes=self.episodes,
                num_envs=1,  # the route of the first episode is for all the others
                seed=self.seed,
                description=f"{maze}, {name}",
            )
            deviation = float(result.returns.std(ddof=1))
            row[name] = {
                "return": round(float(result.returns.mean()), 2),
                "standard_error": round(float(deviation / np.sqrt(self.episodes)), 2),
                "return_from_other_cells": round(float(result.returns[elsewhere].mean()), 2),
                "reached": round(float(np.mean(result.returns > 0)), 3),
            }
            print(f"{maze}, {name}: {row[name]}", flush=True)
        if maze != "open":
            # D4RL's own mean is over 100 episodes of the same spread, that of planning once
            reference = REFERENCE_SCORES[f"maze2d-{maze}"].maximum
            error = float(deviation * np.sqrt(1 / self.episodes + 1 / 100))
            difference = row["plans once"]["return"] - reference
            row["d4rl_reference_maximum"] = reference
            row["difference"] = round(difference, 2)
            row["standard_errors"] = round(difference / error, 2)
            print(f"{maze}: D4RL's maximum is {reference}, {row['standard_errors']} errors away")
        return row

    @property
    def command(self) -> str:
        """The command line that does the same."""
        words = ["python", "-m", __name__, "--mazes", *self.mazes]
        words += ["--episodes", f"{self.episodes}", "--seed", f"{self.seed}"]
        return shlex.join([*words, "--json", f"{self.json}"])


if __name__ == "__main__":
    sys.exit(main(Maze2dControllers, __spec__.name, sys.argv[1:]))
