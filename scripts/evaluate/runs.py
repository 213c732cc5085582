"""The trained runs of an evaluation: which checkpoint of each, and whether they belong together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffplan.agents import PlannerAgent, load_agent
from diffplan.config.config import config_to_dict
from diffplan.data.info import DatasetInfo
from diffplan.envs.rollouts.references import normalised_score, reference_key
from diffplan.envs.rollouts.serial import rollout
from diffplan.envs.simulators.tasks import task_env_factory
from diffplan.errors import DiffplanError
from diffplan.model.run_folder import (
    BEST,
    Header,
    checkpoint_updates,
    find_checkpoint,
    list_checkpoints,
)
from diffplan.model.run_folder import read_header as read_checkpoint_header
from diffplan.model.tuned import Tuning
from diffplan.scripts.evaluate.options import EvaluateOptions
from diffplan.scripts.report.files import write_json
from diffplan.scripts.report.intervals import Estimate, estimate_mean

_RUN_FIELDS = (
    "return_mean", "return_ci95", "normalised_score", "normalised_ci95", "success_rate",
    "success_ci95", "episodes", "decision_ms_median", "replan_ms_median",
)  # fmt: skip


@dataclass(frozen=True)
class Selection:
    """Which of a run's kept checkpoints scored best, on seeds that are not evaluated."""

    scores: dict[int, Estimate]
    """Updates of a checkpoint -> its mean score (return, where there is no reference)."""
    first_seed: int
    last_seed: int

    @property
    def seeds(self) -> tuple[int, int]:
        return self.first_seed, self.last_seed

    @property
    def chosen(self) -> int:
        """Updates of the best checkpoint, of equal ones the last."""
        # of equals the one that has trained longest
        return max(self.scores, key=lambda step: (self.scores[step].mean, step))

    @property
    def line(self) -> str:
        return (
            f"best of {len(self.scores)} checkpoints, chosen by score on seeds "
            f"{self.first_seed}-{self.last_seed}; not comparable with last-checkpoint scores"
        )

    def summary(self) -> dict[str, Any]:
        """For results.json."""
        return {
            "note": self.line,
            "chosen": self.chosen,
            "seeds": list(self.seeds),
            "scores": {str(k): [e.mean, e.low, e.high] for k, e in self.scores.items()},
        }


@dataclass(frozen=True)
class Run:
    """One training run and the agent of the checkpoint under evaluation."""

    folder: Path
    agent: PlannerAgent
    header: Header
    selection: Selection | None = None

    @property
    def tuning(self) -> Tuning | None:
        """What `diffplan tune` found, where it chose how the agent plans."""
        tuning = None if self.agent.origin is None else self.agent.origin.tuning
        return tuning if tuning is not None and tuning.planning else None

    @property
    def tuned(self) -> str | None:
        """The same in a line."""
        return None if self.tuning is None else self.tuning.line

    @property
    def seed(self) -> int:
        """Training seed."""
        return self.header.seed


def load_runs(options: EvaluateOptions) -> list[Run]:
    """The runs asked for, with their last checkpoints where the best is to be found yet.

    Raises:
        DiffplanError: A folder that is no run; several that are not the training seeds of one
            configuration on the same data; no such checkpoint.
    """
    # the best one is looked for once its environment is known
    checkpoint = "last" if options.checkpoint == "best" else options.checkpoint
    runs = []
    for folder in options.runs:
        agent = _agent(folder, checkpoint, options)
        runs.append(Run(folder, agent, read_header(folder, checkpoint)))
    _check_one_configuration(runs)
    return runs


def read_header(folder: Path, checkpoint: str) -> Header:
    """What a run folder's (or checkpoint folder's) config.json says."""
    return read_checkpoint_header(find_checkpoint(folder, checkpoint))


def run_summary(run: Run, own: Mapping[str, Any]) -> dict[str, Any]:
    """A run for results.json; own: figures of its planner."""
    return {
        "folder": str(run.folder),
        "training_seed": run.seed,
        "updates": run.header.step,
        "train_seconds": run.agent.train_seconds,
        "selection": run.selection.summary() if run.selection else None,
        "tuned": run.tuned,
        "decided": [str(each) for each in run.header.decisions],
        **{key: own[key] for key in _RUN_FIELDS if key in own},
    }


def with_best_checkpoint(
    run: Run,
    options: EvaluateOptions,
    infos: Sequence[DatasetInfo],
    tell: Callable[[PlannerAgent, int], PlannerAgent],
) -> Run:
    """The run with the checkpoint that scores best on the selection seeds.

    Every kept checkpoint plays the same episodes. infos: the environment of each task; all
    are played, and their mean counts. tell: tells an agent the number of its task.
    """
    steps = [checkpoint_updates(path) for path in list_checkpoints(run.folder)]
    if not steps:
        raise DiffplanError(
            f"{run.folder} holds no checkpoints to choose from; give the run folder that "
            "`diffplan train --out` wrote"
        )
    scores: dict[int, Estimate] = {}
    for step in steps:
        agent = _agent(run.folder, str(step), options)
        found = []
        for index, own in enumerate(infos):
            played = rollout(
                tell(agent, index),
                task_env_factory(own, agent.layout),
                episodes=options.select_episodes,
                num_envs=options.num_envs,
                seed=options.select_seed,
                description=f"{run.folder.name}, {step} updates",
            )
            # on D4RL's scale where there is one: tasks of other sizes weigh alike
            score = normalised_score(reference_key(own), played.returns)
            found.append(played.returns if score is None else score)
        # tasks play as many episodes each, so together they weigh alike
        scores[step] = estimate_mean(np.concatenate(found))
    last_seed = options.select_seed + options.select_episodes - 1
    selection = Selection(scores, options.select_seed, last_seed)
    # for `load_agent` and other commands
    write_json(run.folder / BEST, {**selection.summary(), "command": options.command})
    chosen = selection.chosen
    header = read_header(run.folder, str(chosen))
    return Run(run.folder, _agent(run.folder, str(chosen), options), header, selection)


def _agent(folder: Path, checkpoint: str, options: EvaluateOptions) -> PlannerAgent:
    return load_agent(
        folder,
        checkpoint=checkpoint,
        device=options.device,
        engine=options.engine,
        # what is drawn of a plan beside the plan itself
        detailed=options.pictures or options.video,
        tuned=options.tuned,
        **options.planning.given,
    )


def _check_one_configuration(runs: Sequence[Run]) -> None:
    """Refuse to pool what differs in more than the training seed."""
    first = runs[0]
    for run in runs[1:]:
        mine, its = _identity(first.header), _identity(run.header)
        for key in mine.keys() | its.keys():
            if mine.get(key) != its.get(key):
                raise DiffplanError(
                    f"{run.folder} has {key} = {its.get(key)!r}, {first.folder} "
                    f"{mine.get(key)!r}; several RUNs must be the training seeds of one "
                    "configuration on the same data: evaluate these one by one"
                )
    # twice the same seed would count one model as two
    seeds, counts = np.unique([run.seed for run in runs], return_counts=True)
    if (counts > 1).any():
        twice = int(seeds[counts > 1][0])
        same = [str(run.folder) for run in runs if run.seed == twice]
        raise DiffplanError(
            f"{' and '.join(same)} both have the training seed {twice}; the row over RUNs needs "
            "different ones"
        )


def _identity(header: Header) -> dict[str, Any]:
    """Everything that must agree, flat: settings, data, environment, length of training."""
    flat: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, entry in value.items():
                add(f"{prefix}.{key}" if prefix else key, entry)
        else:
            flat[prefix] = value

    # the training seed is left out: it is what may differ
    add("", config_to_dict(header.config))
    # not of the settings, but a pooled row would hide that they differ
    return flat | {
        "data": header.fingerprint,
        "env_id": header.info.env_id,
        "env_kwargs": header.info.env_kwargs,
        "updates": header.step,
    }
