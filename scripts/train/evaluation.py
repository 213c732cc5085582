"""Evaluations on the way: a checkpoint plays seeded episodes while its training waits."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from diffplan.data.episodes import Episodes
from diffplan.envs.simulators.tasks import task_infos
from diffplan.errors import DiffplanError
from diffplan.scripts.evaluate.drawing import draw_plans
from diffplan.scripts.evaluate.measure import measure, places
from diffplan.scripts.evaluate.options import EvaluateOptions
from diffplan.scripts.evaluate.runs import load_runs
from diffplan.scripts.evaluate.scores import Evaluation
from diffplan.scripts.report.intervals import Estimate
from diffplan.scripts.train.options import EVALUATION_SEED, Say
from diffplan.training.run import Evaluated

_ROWS = 50  # environments stepped together


@dataclass(frozen=True)
class OnTheWay:
    """Plays a checkpoint; plans are drawn into `out`/pictures/update-N.

    episodes: of each task. device: where the networks run.
    """

    out: Path
    episodes: int
    device: str
    say: Say

    def check(self, episodes: Episodes) -> None:
        """Raise DiffplanError for data that name no environment to play in."""
        if any(info.env_id is None for info in task_infos(episodes.info)):
            raise DiffplanError(
                f"--evaluate-every needs an environment, and {episodes.info.id} names none; give "
                "--env GYMNASIUM_ID"
            )

    def __call__(self, checkpoint: Path) -> Evaluated:
        """Scores with their 95 % intervals, and pictures; nothing, and a line, where it failed."""
        options = EvaluateOptions(
            (checkpoint,),
            episodes=self.episodes,
            num_envs=min(self.episodes, _ROWS),
            seed=EVALUATION_SEED,
            baselines=False,
            device=self.device,
            engine="eager",  # no graphs for a few episodes
            tuned=False,
        )
        try:
            runs = load_runs(options)
            where = places(runs[0].agent, None, None)
            found = measure(options, runs, where, quiet=True)
        except DiffplanError as error:
            self.say(f"note: {checkpoint.name} was not evaluated: {error}")
            return Evaluated({})
        folder = self.out / "pictures" / f"update-{runs[0].header.step}"
        pictures = {}
        with contextlib.suppress(OSError):  # a full disk keeps its room for checkpoints
            pictures = {file.stem: file for file in draw_plans(folder, found)}
        return Evaluated(_scores(found), pictures)


def _scores(found: Evaluation) -> dict[str, float]:
    mean = found.mean
    estimates: dict[str, Estimate | None] = {
        "return": mean.return_estimate,
        "success": mean.success_estimate,
        "score": mean.normalised_estimate(*found.references),
    }
    scores = {}
    for name, each in estimates.items():
        if each is not None:
            scores[f"evaluation/{name}"] = each.mean
            scores[f"evaluation/{name}_low"] = each.low
            scores[f"evaluation/{name}_high"] = each.high
    return {name: value for name, value in scores.items() if value == value}  # no NaN bounds
