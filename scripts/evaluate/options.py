"""What `diffplan evaluate` can be asked for."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from diffplan.config.sections import Sampler
from diffplan.errors import DiffplanError

TaskGiven = Literal["id", "demonstration", "history", "unknown"]
"""What an agent is told of the task that it is evaluated on."""


def _own(metavar: str) -> Any:
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="(default: the run's own)")


@dataclass(frozen=True)
class PlanningOptions:
    """How to plan, where it should differ from the run's own configuration."""

    start: Annotated[
        Literal["process", "sdedit", "published", "noise", "none"] | None,
        _own("{process,sdedit,published,noise,none}"),
    ] = None
    """process: its far end, for rddm proposal plus scaled noise. sdedit: the proposal noised.
    published: raw. noise: no proposal. none: not refined."""
    steps: Annotated[int | None, _own("INT")] = None
    """Reverse steps."""
    start_level: Annotated[int | None, _own("INT")] = None
    """First noise level of the sdedit and published starts."""
    start_rule: Annotated[Literal["residual", "cosine"] | None, _own("{residual,cosine}")] = None
    """sdedit: the level by the proposals' held-out error, or by their cosine to the data."""
    sampler: Annotated[Sampler | None, _own("{" + ",".join(get_args(Sampler)) + "}")] = None
    """How a reverse step is taken; dpm-solver-v3 needs `diffplan calibrate`."""
    grid: Annotated[
        Literal["uniform", "logsnr", "quadratic"] | None, _own("{uniform,logsnr,quadratic}")
    ] = None
    """Which levels are visited."""
    eta: Annotated[float | None, _own("FLOAT")] = None
    """Noise of ddim steps; 1 is ancestral."""
    noise: Annotated[float | None, _own("FLOAT")] = None
    """Scale of the start noise and the steps' noise; below 1: low temperature."""
    guidance_weight: Annotated[float | None, _own("FLOAT")] = None
    """Classifier-free guidance; 1 is conditional."""
    value_guidance: Annotated[float | None, _own("FLOAT")] = None
    """Weight of the noisy value's gradient (a model with heads.noisy_value)."""
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
    reuse: Annotated[bool | None, _own("BOOL")] = None
    """Go on from the plan before: propose only its missing tail."""
    target: Annotated[
        Literal["kept", "by-step", "received"] | None, _own("{kept,by-step,received}")
    ] = None
    """Return asked for: one; the data's at the step; the first, lowered by each reward."""
    target_quantile: Annotated[float | None, _own("FLOAT")] = None
    """Quantile of the data's returns-to-go that is asked for, instead of a target return."""
    target_return: Annotated[float | None, _own("FLOAT")] = None
    """Return-to-go asked for, discounted as in training, instead of a quantile."""

    @property
    def given(self) -> dict[str, Any]:
        """The settings that were given, for `load_agent`."""
        return {key: value for key, value in asdict(self).items() if value is not None}


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
    seed: int = 1000
    """Of the first episode; episode e starts with seed + e."""
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
    engine: str = "eager"
    """How decisions are run: eager, onnx (fastest on a CPU), cuda-graph, or auto."""
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
    planning: Annotated[PlanningOptions, tyro.conf.arg(name="")] = PlanningOptions()
    env: Annotated[
        str | None, tyro.conf.arg(metavar="ID", help_behavior_hint="(default: the dataset's own)")
    ] = None
    """Gymnasium id of the environment to evaluate in; module:ID imports the module first."""
    time_limit: Annotated[
        int | None,
        tyro.conf.arg(metavar="STEPS", help_behavior_hint="(default: the environment's own)"),
    ] = None
    """Steps after which an episode is cut."""
    baselines: bool = True
    """Also roll out the controllers of the data and random actions."""
    pictures: bool = True
    """Draw plans, returns and training curves into RUN/pictures."""

    @property
    def unusual(self) -> dict[str, Any]:
        """What was asked for in place of the run's own: checkpoint, environment, engine, plans."""
        asked: dict[str, Any] = {
            "checkpoint": self.checkpoint if self.checkpoint != "last" else None,
            "env": self.env,
            "time_limit": self.time_limit,
            "task_given": self.task_given,
            "engine": self.engine if self.engine != "eager" else None,
        }
        return {k: v for k, v in asked.items() if v is not None} | self.planning.given

    @property
    def command(self) -> str:
        """The command line that does the same."""
        words = ["diffplan", "evaluate", *map(str, self.runs)]
        settings: dict[str, Any] = {
            "episodes": self.episodes,
            "num_envs": self.num_envs,
            "seed": self.seed,
        }
        settings |= self.unusual
        if self.checkpoint == "best":
            settings |= {"select_episodes": self.select_episodes, "select_seed": self.select_seed}
        for name, value in settings.items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        return shlex.join(words)

    def check(self) -> None:
        """Raise DiffplanError for a number out of range, or a RUN that is no folder."""
        counts = ("episodes", "num_envs", "threads", "workers", "select_episodes", "time_limit")
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DiffplanError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        for name in ("seed", "select_seed"):
            if (value := getattr(self, name)) < 0:
                raise DiffplanError(f"--{name.replace('_', '-')} must not be negative, got {value}")
        if self.checkpoint not in ("last", "best") and not self.checkpoint.isdigit():
            raise DiffplanError(
                f"--checkpoint is {self.checkpoint!r}, expected last, best or a number of updates"
            )
        if self.checkpoint == "best":
            judged = range(self.seed, self.seed + self.episodes)
            chosen = range(self.select_seed, self.select_seed + self.select_episodes)
            if max(judged.start, chosen.start) < min(judged.stop, chosen.stop):
                raise DiffplanError(
                    f"selection seeds {chosen.start} to {chosen.stop - 1} overlap evaluation seeds "
                    f"{judged.start} to {judged.stop - 1}; choose another --select-seed"
                )
        planning = self.planning
        if planning.target_return is not None and planning.target_quantile is not None:
            raise DiffplanError(
                f"--target-return {planning.target_return:g} and --target-quantile "
                f"{planning.target_quantile:g} are both given; one of them says what to ask for"
            )
        if not self.runs:
            raise DiffplanError("give at least one RUN, a folder that `diffplan train --out` wrote")
        for folder in self.runs:
            if not folder.is_dir():
                raise DiffplanError(
                    f"{folder} is no folder; give one that `diffplan train --out` wrote"
                )
