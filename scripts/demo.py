"""`diffplan demo`: the main job once, on data made here: make, train, evaluate, draw.

diffplan demo                        # PointMaze-Medium, about 5 minutes on two cores
diffplan demo --maze large --steps 10000 --out runs/large
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffplan.errors import DiffplanError


@dataclass(frozen=True)
class Demo:
    """Make a PointMaze dataset, train a planner on it, evaluate it beside the data's controller."""

    maze: Literal["open", "umaze", "medium", "large"] = "medium"
    """Which maze."""
    env_steps: int = 200_000
    """Environment steps of data (seed 0)."""
    steps: int = 4000
    """Joint training updates."""
    episodes: int = 100
    """Evaluation episodes of each policy."""
    seed: int = 0
    """Training seed; the evaluation always starts at seed 1000."""
    out: Path = Path("runs/demo")
    """Folder of the run; a finished or interrupted one is continued."""

    def run(self) -> dict[str, Any]:
        """Run all of it; returns what results.json holds.

        Raises:
            DiffplanError: A number out of range.
        """
        for name, least in (("env_steps", 1), ("steps", 1), ("episodes", 1), ("seed", 0)):
            if (value := getattr(self, name)) < least:
                option = f"--{name.replace('_', '-')}"
                raise DiffplanError(f"{option} is {value}, expected at least {least}")
        from diffplan.envs.makers.pointmaze_data import make_pointmaze
        from diffplan.scripts.evaluate.command import Evaluate
        from diffplan.scripts.train import Train

        name = f"pointmaze-{self.maze}"
        print(f"1/3  data: {self.env_steps:,} steps of {name} by its depth-first controller")
        # an id of its own: a dataset of the plain name may have been made with other settings
        dataset = make_pointmaze(
            name,
            self.env_steps,
            0,
            dataset_id=f"diffplan/demo-{self.maze}-{self.env_steps}-v0",
        )
        print(f"\n2/3  training: trajectory-diffuser, {self.steps} updates")
        # resumed: a demo that was cut goes on, a finished one is evaluated again
        words = ["trajectory-diffuser", "--dataset", dataset, "--out", str(self.out)]
        words += ["--steps", str(self.steps), "--seed", str(self.seed)]
        Train.parse([*words, "--resume"]).run()
        print(f"\n3/3  evaluation: {self.episodes} episodes, beside the data's own controller")
        results = Evaluate((self.out,), episodes=self.episodes).run()
        print(_closing(self.out, results))
        return results


def _closing(out: Path, results: dict[str, Any]) -> str:
    # one run: the interval is over its episodes
    low, high = results["return_ci95"]
    return f"""
The planner returned {results["return_mean"]:.0f} [{low:.0f}, {high:.0f}] and reached the goal in \
{100 * results["success_rate"]:.0f} % of {results["episodes"]} episodes.
The controller that made its data returned {results["controller_return_mean"]:.0f} on the same \
seeds; one that walks shortest paths, {results["shortest_path_return_mean"]:.0f}.

Look at
  {out}/pictures/plans.png      proposals, optimised plans and executed paths in the maze
  {out}/pictures/returns.png    returns beside the controllers
  {out}/pictures/training.png   losses and free-running error
  {out}/results.json            every figure, with the seeds and versions behind it
Try next
  diffplan evaluate {out} --start none                          the proposal alone, not optimised
  diffplan evaluate {out} --start noise --denoising-steps 10    diffusion without a proposal
  diffplan evaluate {out} --replan-every 8 --video              plans made anew more often, a video
  diffplan study {out} --rows ways --out {out}-ways         all ways of planning in one table
  diffplan demo --maze large --out runs/large --steps 8000
(the command is .venv/bin/diffplan unless the environment is active)"""


def main() -> None:
    """Entry of `python -m diffplan.scripts.demo`."""
    from diffplan.scripts.cli import main as command

    raise SystemExit(command(["demo"]))


if __name__ == "__main__":
    main()
