"""What a run of training is asked for, on the command line, from Python or by a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from diffplan.config.config import Config, with_settings
from diffplan.config.planners import get_config
from diffplan.config.presets import presets_of
from diffplan.errors import DiffplanError
from diffplan.training.run import RunOptions, find_previous
from diffplan.training.trackers import Tracker, check_trackers

EVALUATION_SEED = 100_000
"""Of the first episode that is played on the way: none that a result is reported on."""


@dataclass(frozen=True)
class TrainOptions:
    """What is trained, on which data, for how long, and what is kept and shown of it."""

    dataset: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ID [ID ...]")]
    """A NAME of `diffplan datasets list`, a Minari id, or a .hdf5 or .npz file of your own.
    Several are the tasks of one model."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder for checkpoints, metrics and what the run was asked for (run.yaml)."""
    steps: int = 6000
    """Joint updates in total, also after a resume; every part learns in each."""
    seed: int = 0
    """Of initial weights, data order and noise."""
    resume: bool = False
    """Continue the run in DIR exactly where its last checkpoint stands (or start it)."""
    env: Annotated[str | None, tyro.conf.arg(metavar="ENV_ID")] = None
    """Gymnasium id to evaluate in, if not the dataset's own; module:ID imports module first."""
    layout: Literal["episodes", "environments"] | None = None
    """Of the arrays of a .npz: [episodes, steps, ...] or [steps, environments, ...]."""
    terminations: Literal["as-recorded", "as-truncations"] | None = None
    """What ends at a time limit, though the data call it terminated, is: the end of the task, or
    a cut. Asked for where there are such ends."""
    preset: Literal["auto", "none"] = "auto"
    """Of other papers' planners: as published for this dataset (auto), or not (none)."""
    evaluate_every: int = 0
    """Updates between evaluations on the way, each of a checkpoint; 0: none."""
    evaluate_episodes: int = 20
    """Episodes of each, of several tasks in each, on seeds from 100000 up: results are reported
    on others."""
    track: tuple[Tracker, ...] = ("tensorboard",)
    """Where curves go beside metrics.jsonl: tensorboard, wandb (offline, unless WANDB_MODE says
    otherwise), mlflow, trackio."""
    device: str = "auto"
    """auto: a GPU if there is one."""
    threads: int = 1
    """PyTorch threads on the CPU. Small networks gain little from more."""
    checkpoint_every: int = 2000
    """Updates between checkpoints; 0: only at the end."""
    name: Annotated[str, tyro.conf.Fixed, tyro.conf.Suppress] = "trajectory-diffuser"
    """The configuration that the settings are changes of."""
    given: Annotated[Mapping[str, Any], tyro.conf.Fixed, tyro.conf.Suppress] = field(
        default_factory=dict
    )
    """Settings that were given, "section.key" -> value: they win over those of a preset."""
    command: Annotated[str | None, tyro.conf.Fixed, tyro.conf.Suppress] = None
    """The command line, for the record."""

    @property
    def config(self) -> Config:
        """The configuration with the settings given, before any data are seen."""
        return changed(get_config(self.name), self.given)

    def check(self) -> None:
        """Refuse at once what would fail after the data are loaded.

        The preset depends on the data: settings are refused only where neither the configuration
        itself nor any preset of it goes with them.
        """
        from diffplan.scripts.report.files import check_writable

        for option, value, low, high in (
            ("--steps", self.steps, 1, 2**31 - 1),
            ("--seed", self.seed, 0, 2**31 - 1),
            ("--threads", self.threads, 1, 1024),
            ("--checkpoint-every", self.checkpoint_every, 0, 2**31 - 1),
            ("--evaluate-every", self.evaluate_every, 0, 2**31 - 1),
            ("--evaluate-episodes", self.evaluate_episodes, 1, 10_000_000),
        ):
            if not low <= value <= high:
                raise DiffplanError(f"{option} is {value}, expected {low} to {high}")
        check_trackers(self.track)
        self.check_settings()
        if self.out.exists() and not self.out.is_dir():
            raise DiffplanError(f"--out {self.out} is a file; give the name of a folder")
        check_writable(self.out / "metrics.jsonl" if self.out.is_dir() else self.out, "--out")
        if not self.resume:
            find_previous(get_config(self.name), RunOptions(self.out, self.steps))

    def check_settings(self) -> None:
        """Refuse settings that fit neither the configuration nor any preset of it."""
        try:
            _ = self.config
        except DiffplanError:
            if self.preset == "none" or not any(map(self._fits, presets_of(self.name))):
                raise

    def _fits(self, preset: Any) -> bool:
        try:
            changed(with_settings(get_config(self.name), preset.settings), self.given)
        except DiffplanError:
            return False
        return True


def changed(config: Config, given: Mapping[str, Any]) -> Config:
    """A copy with the settings given; "name" among them is its label."""
    label = given.get("name", config.name)
    rest = {key: value for key, value in given.items() if key != "name"}
    return dataclasses.replace(with_settings(config, rest), name=label)


Say = Callable[[str], object]
"""Takes a line for the person who waits."""
