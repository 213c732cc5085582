"""One run of training: its options, and which earlier one it goes on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffplan.config.config import Config, adopted, config_to_dict, settled
from diffplan.config.decisions import Decision
from diffplan.errors import DiffplanError
from diffplan.model.run_folder import Header, list_checkpoints, read_header


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation on the way found: figures by name, and PNG files by name."""

    scores: Mapping[str, float]
    pictures: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """Where a run stands: after `step` of `steps` updates and so many `seconds` of training.

    metrics: the line of metrics.jsonl, losses and times. evaluation: scores of the evaluation
    after this update, None where there was none. checkpoint: the last one, None before the first.
    """

    step: int
    steps: int
    seconds: float
    metrics: Mapping[str, float]
    evaluation: Mapping[str, float] | None
    checkpoint: Path | None


Callback = Callable[[Progress], object]
"""Called every 50 updates and after every evaluation; where it returns True the run saves a
checkpoint and ends."""


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; nothing here changes what is learned but `steps` and `seed`.

    steps: total number of joint updates, also after a resume. device: "auto", "cpu" or "cuda".
    checkpoint_every: updates between checkpoints; 0: only the last. threads: PyTorch's on the CPU
    while it trains; networks of the default size lose by more than one. command: the command line,
    for the record. stop: asked after every update whether to save a checkpoint and leave it at
    that. tell: is handed what the data decided, before training and after it. track: trackers,
    see `diffplan.training.trackers`. callback: see `Callback`. evaluate: plays the checkpoint it
    is given, every `evaluate_every` updates (0: never), in the main process. record: what the run
    was asked for, kept as run.yaml.
    """

    out: Path
    steps: int
    seed: int = 0
    resume: bool = False
    device: str = "auto"
    checkpoint_every: int = 2000
    progress: bool = True
    threads: int = 1
    command: str | None = None
    stop: Callable[[], bool] = bool
    tell: Callable[[Sequence[Decision]], object] = list
    track: Sequence[Any] = ("tensorboard",)
    callback: Callback | None = None
    evaluate: Callable[[Path], Evaluated] | None = None
    evaluate_every: int = 0
    record: str | None = None


def find_previous(config: Config, options: RunOptions) -> tuple[Path, Header] | None:
    """The checkpoint that `train` would resume, None for a run that starts at the beginning.

    Raises DiffplanError if the folder holds a run and `resume` is off, or one of another seed, of
    other settings or with more updates. Looks at no data: can be asked before they are loaded.
    """
    run = options.out
    found = list_checkpoints(run)
    if not options.resume:
        if found:
            raise DiffplanError(
                f"{run} already holds {found[-1].name}; add --resume to continue it or choose "
                "another --out"
            )
        return None
    if not found:
        return None
    header = read_header(found[-1])
    if header.seed != options.seed:
        raise DiffplanError(
            f"{run} was started with --seed {header.seed}, got {options.seed}; resume with the same"
        )
    data = header.layout.goal_dim > 0, header.spec.tasks
    wanted = _learned(adopted(config, header.config), *data)
    if difference := _first_difference(_learned(header.config, *data), wanted):
        key, was, now = difference
        raise DiffplanError(
            f"{run} was started with {key} = {was!r}, got {now!r}; resume with the same settings"
        )
    if header.step > options.steps:
        raise DiffplanError(
            f"{run} has already {header.step} updates, more than --steps {options.steps}"
        )
    return found[-1], header


def _learned(config: Config, goal: bool, tasks: int) -> dict[str, Any]:
    """The settings that decide what is learned: how to plan may change, which parts exist not."""
    config = settled(config, goal, tasks)
    settings, planning = config_to_dict(config), config.planning
    parts = {
        "start": planning.start,
        "value_guidance": planning.value_guidance > 0,
        "subgoal_steps": planning.subgoal_steps,  # goals are drawn as far off as plans aim
    }
    return {**settings, "name": None, "planning": parts}


def _first_difference(
    a: dict[str, Any], b: dict[str, Any], prefix: str = ""
) -> tuple[str, Any, Any] | None:
    for key in sorted(a.keys() | b.keys()):
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            if inner := _first_difference(left, right, f"{prefix}{key}."):
                return inner
        elif left != right:
            return prefix + key, left, right
    return None
