"""Evaluation of models of several tasks: the same seeded episodes of each, and their mean."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diffplan.agents import PlannerAgent
from diffplan.data.info import DatasetInfo
from diffplan.envs.datasets import training_data
from diffplan.envs.rollouts.parallel import rollout_in_processes
from diffplan.envs.rollouts.references import normalised_score, reference_key
from diffplan.envs.rollouts.rollout import Policy, time_decisions
from diffplan.envs.rollouts.traces import Trace
from diffplan.envs.simulators.compatibility import check_environment
from diffplan.envs.simulators.mazes import maze_of
from diffplan.envs.simulators.tasks import task_env_factory, task_infos
from diffplan.errors import DiffplanError
from diffplan.scripts.evaluate.baselines import baselines
from diffplan.scripts.evaluate.options import EvaluateOptions
from diffplan.scripts.evaluate.runs import Run, run_summary, with_best_checkpoint
from diffplan.scripts.evaluate.task_given import TaskGiven, teller, what_is_given
from diffplan.scripts.report import pictures
from diffplan.scripts.report.results import (
    TASK_PROTOCOL,
    Score,
    aligned,
    interval,
    machine,
    protocol,
    speed_line,
)

_PANELS = 4


@dataclass(frozen=True)
class TaskScores:
    """One task: where it is evaluated, and how the policies did.

    planner: over all runs. others: of what made the data and of chance, by key. reference: of its
    normalised scores, None where D4RL has none.
    """

    name: str
    info: DatasetInfo
    planner: Score
    others: dict[str, Score]
    reference: str | None


@dataclass(frozen=True)
class TaskEvaluation:
    """What an evaluation of several tasks found.

    runs: with the checkpoints that were played. given: what they were told. mean: over tasks and
    runs; per_run: over tasks, of each run. scaled: the same as `mean` of the normalised scores,
    None unless every task has a reference. traces: of each task's first episodes.
    """

    runs: tuple[Run, ...]
    given: TaskGiven | None
    tasks: tuple[TaskScores, ...]
    mean: Score
    per_run: tuple[Score, ...]
    scaled: Score | None
    traces: tuple[tuple[Trace, ...], ...]


def check(options: EvaluateOptions) -> None:
    """Refuse what makes no sense for several tasks."""
    if options.env is not None:
        raise DiffplanError(
            f"--env {options.env} goes with a model of one task; each of several is evaluated in "
            "its own environment"
        )
    if options.video:
        raise DiffplanError("--video goes with a model of one task; leave it out")


def measure(options: EvaluateOptions, runs: Sequence[Run], info: DatasetInfo) -> TaskEvaluation:
    """Play every task with every run, and what each is compared with.

    info: of all tasks. Raises DiffplanError for an environment that does not fit the data.
    """
    first = runs[0]
    infos = [_limited(own, options.time_limit) for own in task_infos(info)]
    for own in infos:
        check_environment(first.agent.layout, own)
    given = what_is_given(options.task_given, first.header.config)
    tell = teller(given, info, partial(training_data, info, first.header.fingerprint), options.seed)
    if options.checkpoint == "best":
        runs = [with_best_checkpoint(run, options, info, tell) for run in runs]
    scores, traces = [], []
    for index, own in enumerate(infos):
        found = []
        for run in runs:
            timed = index == 0  # planning takes as long in every task
            score, recorded = _score(
                options,
                f"{own.tasks[0].name}, seed {run.seed}" if len(runs) > 1 else own.tasks[0].name,
                tell(run.agent, index),
                own,
                first.agent,
                timed=timed,
            )
            found.append(score)
            if run is runs[0]:
                traces.append(recorded)
        others = _others(options, own, first.agent) if options.baselines else {}
        planner = found[0] if len(runs) == 1 else Score.pooled(found[0].name, found)
        scores.append(TaskScores(own.tasks[0].name, own, planner, others, reference_key(own)))
    per_run = tuple(_over_tasks(scores, run) for run in range(len(runs)))
    mean = per_run[0] if len(runs) == 1 else Score.pooled("planner", per_run)
    return TaskEvaluation(
        tuple(runs), given, tuple(scores), mean, per_run, _scaled(scores, mean), tuple(traces)
    )


def _limited(info: DatasetInfo, limit: int | None) -> DatasetInfo:
    if limit is None:
        return info
    return replace(info, env_kwargs={**info.env_kwargs, "max_episode_steps": limit})


def _score(
    options: EvaluateOptions,
    name: str,
    policy: Policy,
    info: DatasetInfo,
    agent: PlannerAgent,
    *,
    timed: bool = False,
    rows: int | None = None,
) -> tuple[Score, tuple[Trace, ...]]:
    factory = task_env_factory(info, agent.layout)
    result = rollout_in_processes(
        policy,
        factory,
        episodes=options.episodes,
        num_envs=min(options.num_envs, rows or options.num_envs),
        seed=options.seed,
        workers=options.workers if rows is None else 1,
        record=_PANELS if options.pictures else 0,
        description=name,
    )
    times = time_decisions(policy, factory, seed=options.seed) if timed else None
    return Score.of(name, result, times), result.traces


def _others(options: EvaluateOptions, info: DatasetInfo, agent: PlannerAgent) -> dict[str, Score]:
    return {
        found.key: _score(
            options,
            f"{info.tasks[0].name}, {found.name}",
            found.policy,
            info,
            agent,
            rows=found.rows or options.num_envs,
        )[0]
        for found in baselines(info, options.seed)
    }


def _over_tasks(tasks: Sequence[TaskScores], run: int) -> Score:
    """One run's episodes of all tasks, one task after the other."""
    runs = tasks[0].planner.runs

    def joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.split(array, runs)[run] for array in arrays])

    success = [task.planner.success for task in tasks if task.planner.success is not None]
    return Score(
        "planner",
        joined([task.planner.returns for task in tasks]),
        joined([task.planner.lengths for task in tasks]),
        joined(success) if len(success) == len(tasks) else None,
        tasks[0].planner.times,
        np.concatenate([t.planner.batched_ms for t in tasks if t.planner.batched_ms is not None]),
        strata=len(tasks),
    )


def _scaled(tasks: Sequence[TaskScores], mean: Score) -> Score | None:
    rows = [normalised_score(task.reference, task.planner.returns) for task in tasks]
    known = [np.split(row, mean.runs) for row in rows if row is not None]
    if len(known) < len(tasks):
        return None
    by_run = [np.concatenate([row[r] for row in known]) for r in range(mean.runs)]
    return replace(mean, returns=np.concatenate(by_run))


# --- What is said --------------------------------------------------------------------------------


def report(options: EvaluateOptions, found: TaskEvaluation) -> str:
    """The printed page."""
    runs = found.runs
    agent, last = runs[0].agent, options.seed + options.episodes - 1
    settings = (
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in agent.planning.items()
        if value is not None and (agent.uses_returns or not key.startswith("target"))
    )
    chosen = "".join(f"{run.folder}: {run.selection.line}\n" for run in runs if run.selection)
    times = f" x {len(runs)} training seeds" if len(runs) > 1 else ""
    return (
        f"{agent.config_name} trained on {agent.info.id}, {len(found.tasks)} tasks, each evaluated "
        f"in its own environment: {options.episodes} episodes{times}, seeds {options.seed} to "
        f"{last}\n"
        f"planning: {', '.join(settings)}\n"
        f"told of its task: {_GIVEN[found.given]}\n\n"
        f"{table(found)}\n\n{chosen}"
        f"{speed_line(found.mean, min(options.num_envs, options.episodes))}"
    )


_GIVEN: dict[TaskGiven | None, str] = {
    "id": "its number",
    "demonstration": "one episode of the data",
    "history": "nothing, it infers it from what it has seen",
    "unknown": "nothing",
    None: "nothing, as in training",
}


def table(found: TaskEvaluation) -> str:
    """A line per task and one of the mean, with what each is compared with in a few figures."""
    keys = list(dict.fromkeys(key for task in found.tasks for key in task.others))
    scored = any(task.reference for task in found.tasks)
    rows = [(t.name, t.planner, t.planner.normalised_estimate(t.reference)) for t in found.tasks]
    scaled = None if found.scaled is None else found.scaled.return_estimate
    rows.append(("mean over tasks", found.mean, scaled))
    success = any(score.success is not None for _, score, _ in rows)
    header = ["task", "return [95 % CI]"]
    header += ["success [95 % CI]"] if success else []
    header += ["D4RL scale [95 % CI]"] if scored else []
    lines = [[*header, "n", *(key.replace("_", " ") for key in keys)]]
    for index, (name, score, scale) in enumerate(rows):
        line = [name, interval(score.return_estimate)]
        if success:
            rate = score.success_estimate
            line.append(interval(rate, 100, " %") if rate else "-")
        if scored:
            line.append(interval(scale) if scale else "-")
        each = len(score.returns) // score.runs
        line.append(str(each) if score.runs == 1 else f"{score.runs} x {each}")
        others = found.tasks[index].others if index < len(found.tasks) else {}
        lines.append([*line, *(_briefly(others.get(key)) for key in keys)])
    return aligned(lines)


def _briefly(score: Score | None) -> str:
    if score is None:
        return ""
    success = "" if score.success is None else f", {100 * score.success.mean():.0f} %"
    return f"{score.returns.mean():.1f}{success}"


def results(options: EvaluateOptions, found: TaskEvaluation) -> dict[str, Any]:
    """What results.json holds; the top says of the mean what it says of one task otherwise."""
    runs = found.runs
    agent = runs[0].agent
    mean = found.mean.summary(None)
    if found.scaled is not None:
        scale = found.scaled.return_estimate
        mean |= {"normalised_score": scale.mean, "normalised_ci95": [scale.low, scale.high]}
    mean = {k: v for k, v in mean.items() if k not in ("returns", "lengths", "success")}
    each = zip(runs, found.per_run, strict=True)
    own = {f"planner_seed_{run.seed}": score.summary(None) for run, score in each}
    seconds = [s for run in runs if (s := run.agent.train_seconds) is not None]
    return {
        **mean,
        "train_seconds": sum(seconds) / len(seconds) if seconds else None,
        "command": options.command,
        "config": agent.config_name,
        "checkpoint": options.checkpoint,
        "runs": [run_summary(run, {"planner": mean, **own}) for run in runs],
        "planning": agent.planning,
        "engine": agent.engine.name,
        "overrides": options.planning.given,
        "dataset": agent.info.id,
        "task_given": found.given,
        "tasks": {task.name: _task_results(task) for task in found.tasks},
        "episodes_per_task": options.episodes,
        "seed": options.seed,
        "num_envs": options.num_envs,
        "protocol": protocol(len(runs)) + TASK_PROTOCOL,
        "machine": machine(options.device, options.threads),
    }


def _task_results(task: TaskScores) -> dict[str, Any]:
    scores: Mapping[str, Score] = {"planner": task.planner, **task.others}
    return {
        "env_id": task.info.env_id,
        "env_kwargs": task.info.env_kwargs,
        "reference": task.reference and f"D4RL {task.reference}",
        "policies": {key: score.summary(task.reference) for key, score in scores.items()},
    }


def draw(folder: Path, found: TaskEvaluation) -> list[Path]:
    """Plans of each task, returns and training curves; returns what was written."""
    agent, written = found.runs[0].agent, []
    for task, traces in zip(found.tasks, found.traces, strict=True):
        name = re.sub(r"[^\w.+-]", "_", task.name)
        path = folder / f"plans-{name}.png"
        maze = maze_of(task.info.env_id, task.info.env_kwargs)
        if maze is not None:
            pictures.plans_in_maze(path, traces, agent.layout, maze)
        else:
            pictures.plans_over_time(path, traces, agent.layout, agent.stride)
        written.append(path)
    returns, training = folder / "returns.png", folder / "training.png"
    pictures.returns_picture(returns, {task.name: task.planner.returns for task in found.tasks})
    written.append(returns)
    metrics = folder.parent / "metrics.jsonl"
    if metrics.is_file() and (curves := pictures.read_metrics(metrics)):
        pictures.training_curves(training, curves)
        written.append(training)
    return written
