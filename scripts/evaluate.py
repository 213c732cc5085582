"""`diffplan evaluate RUN`: seeded episodes of a trained planner beside what made its data."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from diffplan.errors import DiffplanError


def _own(metavar: str) -> Any:
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="(default: the run's own)")


@dataclass(frozen=True)
class PlanningOptions:
    """How to plan, where it should differ from the run's own configuration."""

    start: Annotated[
        Literal["rddm", "sdedit", "published", "noise", "none"] | None,
        _own("{rddm,sdedit,published,noise,none}"),
    ] = None
    """rddm: proposal plus scaled noise. sdedit: noised. published: raw. none: not refined."""
    steps: Annotated[int | None, _own("INT")] = None
    """Reverse steps."""
    start_level: Annotated[int | None, _own("INT")] = None
    """First noise level of the sdedit and published starts."""
    sampler: Annotated[Literal["ddim", "ancestral"] | None, _own("{ddim,ancestral}")] = None
    """Reverse step."""
    eta: Annotated[float | None, _own("FLOAT")] = None
    """Noise of ddim steps; 1 is ancestral."""
    guidance_weight: Annotated[float | None, _own("FLOAT")] = None
    """Classifier-free guidance; 1 is conditional."""
    candidates: Annotated[int | None, _own("INT")] = None
    """Plans per decision, K."""
    temperature: Annotated[float | None, _own("FLOAT")] = None
    """Scale of the proposer's noise in candidates 2 to K."""
    select: Annotated[
        Literal["value", "softmax", "first"] | None, _own("{value,softmax,first}")
    ] = None
    """How one candidate is chosen."""
    keep: Annotated[int | None, _own("INT")] = None
    """Strides a plan is followed before the next one is made."""

    @property
    def given(self) -> dict[str, Any]:
        """The settings that were given, for `load_agent`."""
        return {key: value for key, value in asdict(self).items() if value is not None}


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
        tyro.conf.arg(
            metavar="FILE",
            help_behavior_hint="(default: RUN/results.json, with the planning options in its name)",
        ),
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
    planning: Annotated[PlanningOptions, tyro.conf.arg(name="")] = PlanningOptions()
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
    def command(self) -> str:
        """The command line that does the same."""
        words = ["diffplan", "evaluate", str(self.folder)]
        settings: dict[str, Any] = {
            "episodes": self.episodes,
            "num_envs": self.num_envs,
            "seed": self.seed,
        }
        if self.checkpoint != "last":
            settings["checkpoint"] = self.checkpoint
        if self.env is not None:
            settings["env"] = self.env
        for name, value in (settings | self.planning.given).items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        return shlex.join(words)

    def _check(self) -> None:
        for name in ("episodes", "num_envs", "threads"):
            value = getattr(self, name)
            if value < 1:
                raise DiffplanError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if self.seed < 0:
            raise DiffplanError(f"--seed must not be negative, got {self.seed}")
        if not self.folder.is_dir():
            raise DiffplanError(
                f"{self.folder} is no folder; give one that `diffplan train --out` wrote"
            )
