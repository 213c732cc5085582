"""What `diffplan evaluate` can be asked for."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from diffplan.engines import check_engine
from diffplan.errors import DiffplanError
from diffplan.model.run_folder import (
    chosen_by,
    find_checkpoint,
    list_checkpoints,
)
from diffplan.model.tuned import read_tuning
from diffplan.nn.device import check_device
from diffplan.scripts.planning_options import PlanningOptions, as_words
from diffplan.scripts.report.seeds import CHOOSING, REPORTING, check_apart, check_choosing

TaskGiven = Literal["id", "demonstration", "history", "unknown"]
"""What an agent is told of the task that it is evaluated on."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Of which runs, on which episodes, and how decisions are run."""

    runs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint=""),
    ]
    """Folders that `diffplan train --out` wrote."""
    episodes: int = 100
    """Episodes of each policy, of several tasks in each, on the same seeds."""
    num_envs: int = 50
    """Environments stepped together."""
    seed: Annotated[
        int | None,
        tyro.conf.arg(
            metavar="INT",
            help_behavior_hint=f"(default: {REPORTING}; {CHOOSING} where a checkpoint or planning "
            "settings are given, as trying them chooses)",
        ),
    ] = None
    """Of the first episode; episode e starts with seed + e. Seeds below 5000 are held back for
    scores to report."""
    json: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="FILE",
            help_behavior_hint="(default: RUN/results.json, with what was asked for in its name; "
            "beside the RUNs where there are several)",
        ),
    ] = None
    """Where the results go."""
    video: bool = False
    """Write a video of a few episodes of the (first) run beside the pictures."""
    device: str = "cpu"
    """Where the networks run: cpu, cuda, cuda:1, ..."""
    engine: str = "auto"
    """How decisions are run: eager, onnx, onnx-int8 (other plans), cuda-graph, cuda-graph-tf32,
    cuda-graph-bf16, or auto, the fastest that changes no plan."""
    threads: int = 1
    """PyTorch threads; networks of the default size gain nothing from more."""
    workers: int = 1
    """Processes that share the planner's episodes: environments run beside planning."""
    checkpoint: Annotated[str, tyro.conf.arg(metavar="last|best|UPDATES")] = "last"
    """Which checkpoint of a run. best: the one that scores best on the selection seeds."""
    select_episodes: int = 40
    """Episodes that choose the best checkpoint (only with --checkpoint best)."""
    select_seed: int = 100_000
    """Of the first of them."""
    task_given: Annotated[
        TaskGiven | None,
        tyro.conf.arg(
            metavar="{id,demonstration,history,unknown}",
            help_behavior_hint="(default: as in training)",
        ),
    ] = None
    """What a model of several tasks is told of each: its number, one episode of its data, nothing
    but the episode so far, or nothing."""
    tuned: bool = True
    """Plan with what `diffplan tune` chose for the checkpoint; else as it was trained."""
    planning: Annotated[PlanningOptions, tyro.conf.arg(name="")] = field(
        default_factory=PlanningOptions
    )
    env: Annotated[
        str | None, tyro.conf.arg(metavar="ID", help_behavior_hint="(default: the dataset's own)")
    ] = None
    """Gymnasium id of the environment to evaluate in; module:ID imports the module first."""
    time_limit: Annotated[
        int | None,
        tyro.conf.arg(metavar="STEPS", help_behavior_hint="(default: the environment's own)"),
    ] = None
    """Steps after which an episode is cut."""
    step_timeout: float = 300.0
    """Seconds that the environment may take for one step or reset; an episode that waits longer has
    failed."""
    baselines: bool = True
    """Also roll out the controllers of the data and random actions."""
    pictures: bool = True
    """Draw plans, returns and training curves into RUN/pictures."""

    @property
    def first(self) -> int:
        """Seed of the first episode."""
        if self.seed is not None:
            return self.seed
        return CHOOSING if self.by_hand else REPORTING

    @property
    def by_hand(self) -> dict[str, Any]:
        """What is given in place of what the run has: others may have been tried before."""
        at = {"checkpoint": self.checkpoint} if self.checkpoint.isdigit() else {}
        return at | self.planning.given

    @property
    def unusual(self) -> dict[str, Any]:
        """What was asked for in place of the run's own: checkpoint, environment, engine, plans."""
        asked: dict[str, Any] = {
            "checkpoint": self.checkpoint if self.checkpoint != "last" else None,
            "env": self.env,
            "time_limit": self.time_limit,
            "task_given": self.task_given,
            "engine": self.engine if self.engine != "auto" else None,
            "tuned": None if self.tuned else False,
        }
        # also names the files, so that another way of planning does not overwrite the usual one
        return {k: v for k, v in asked.items() if v is not None} | self.planning.given

    @property
    def command(self) -> str:
        """The command line that does the same."""
        words = ["diffplan", "evaluate", *map(str, self.runs)]
        settings: dict[str, Any] = {
            "episodes": self.episodes,
            "num_envs": self.num_envs,
            "seed": self.first,
        }
        # what is as usual is left out: the command is to be read
        settings |= self.unusual
        if self.checkpoint == "best":
            settings |= {"select_episodes": self.select_episodes, "select_seed": self.select_seed}
        for name, value in settings.items():
            words += as_words(f"--{name.replace('_', '-')}", value)
        return shlex.join(words)

    def check(self) -> None:
        """Raise DiffplanError for a number out of range, or a RUN that cannot plan as asked."""
        counts = ("episodes", "num_envs", "threads", "workers", "select_episodes", "time_limit")
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DiffplanError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if not self.step_timeout > 0:
            raise DiffplanError(f"--step-timeout must be above 0, got {self.step_timeout:g}")
        if self.first < 0:
            raise DiffplanError(f"--seed must not be negative, got {self.first}")
        if self.checkpoint not in ("last", "best") and not self.checkpoint.isdigit():
            raise DiffplanError(
                f"--checkpoint is {self.checkpoint!r}, expected last, best or a number of updates"
            )
        if self.checkpoint == "best":
            # a checkpoint chosen on the seeds that judge it would look better than it is
            check_choosing("--select-seed", self.select_seed)
            check_apart(
                range(self.select_seed, self.select_seed + self.select_episodes),
                range(self.first, self.first + self.episodes),
                "--select-seed",
            )
        asked = self.planning.given
        if asked.get("target_return") is not None and "target_quantile" in asked:
            raise DiffplanError(
                f"--target-return {asked['target_return']:g} and --target-quantile "
                f"{asked['target_quantile']:g} are both given; one of them says what to ask for"
            )
        if not self.runs:
            raise DiffplanError("give at least one RUN, a folder that `diffplan train --out` wrote")
        check_device(self.device, "--device")
        check_engine(self.engine, "--engine")
        for folder in self.runs:
            at = "last" if self.checkpoint == "best" else self.checkpoint
            path = find_checkpoint(folder, at)
            self.planning.check(path, self.tuned)
            if self.tuned:
                self._check_tuning(folder, path)
            self._check_selection(path)

    def _check_tuning(self, folder: Path, checkpoint: Path) -> None:
        """Refuse the seeds that chose the settings: these would look better than they are."""
        played = [("--seed", self.first, self.episodes)]
        checkpoints = [checkpoint]
        if self.checkpoint == "best":
            played.append(("--select-seed", self.select_seed, self.select_episodes))
            checkpoints = list_checkpoints(folder)
        for path in checkpoints:
            tuning = read_tuning(path)
            for option, first, count in played:
                if tuning is not None and (seeds := tuning.overlap(first, count)):
                    raise DiffplanError(
                        f"seeds {first} to {first + count - 1} touch {seeds[0]} to {seeds[1]}, by "
                        f"which `diffplan tune` chose how {path} plans; choose another {option}, "
                        "or give --no-tuned"
                    )

    def _check_selection(self, checkpoint: Path) -> None:
        """Refuse the seeds by which the checkpoint was chosen among the run's."""
        # the last one of a run is nobody's choice, and the best one is chosen anew
        if self.checkpoint in ("last", "best") and checkpoint not in self.runs:
            return
        first, last = chosen_by(checkpoint) or (0, -1)
        if first < self.first + self.episodes and self.first <= last:
            raise DiffplanError(
                f"seeds {self.first} to {self.first + self.episodes - 1} touch {first} to {last}, "
                f"by which {checkpoint} was chosen as the best of its run; choose another --seed"
            )
