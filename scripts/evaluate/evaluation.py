"""The work behind `diffplan evaluate`: rollouts on common seeds, results, pictures, a video."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from diffplan.agents import PlannerAgent
from diffplan.data.info import DatasetInfo
from diffplan.envs.rollouts.parallel import rollout_in_processes
from diffplan.envs.rollouts.rollout import Policy, time_decisions
from diffplan.envs.rollouts.traces import Trace
from diffplan.envs.simulators.compatibility import check_environment
from diffplan.envs.simulators.environments import evaluation_env_factory
from diffplan.envs.simulators.mazes import maze_of
from diffplan.errors import DiffplanError
from diffplan.scripts.evaluate import task_evaluation
from diffplan.scripts.evaluate.baselines import baselines, data_score
from diffplan.scripts.evaluate.labels import Labels
from diffplan.scripts.evaluate.options import EvaluateOptions
from diffplan.scripts.evaluate.runs import Run, load_runs, run_summary, with_best_checkpoint
from diffplan.scripts.evaluate.video import check_rendering, maze_video, rendered_video
from diffplan.scripts.report import pictures
from diffplan.scripts.report.results import (
    Score,
    check_writable,
    machine,
    protocol,
    speed_line,
    table,
    write_json,
)

_PANELS = 4
_GO_ON_AT_GOAL = ("PointMaze_", "diffplan/maze2d-")
_VIDEO_EPISODES = 3


def evaluate(options: EvaluateOptions) -> dict[str, Any]:
    """Do what `Evaluate.run` says."""
    target, folder = _places(options)
    with _torch_threads(options.threads):
        runs = load_runs(options)
        check_writable(target, "results file")
        if options.pictures or options.video:
            check_writable(folder / "plans.png", "picture")
        agent = runs[0].agent
        if len(agent.info.tasks) > 1:
            return _evaluate_tasks(options, runs, target, folder)
        if options.task_given is not None:
            raise DiffplanError(
                f"--task-given {options.task_given} goes with a model of several tasks, and "
                f"{options.runs[0]} has one; leave it out"
            )
        info = _used(agent.info, options)
        limit = check_environment(agent.layout, info)
        if limit is None:
            tqdm.write(
                f"{info.env_id} has no time limit; if its episodes do not end, give --time-limit",
                file=sys.stderr,
            )
        maze = maze_of(info.env_id, info.env_kwargs)
        drawn = evaluation_env_factory(info, render_mode="rgb_array")
        if options.video and maze is None:
            check_rendering(drawn)
        if options.checkpoint == "best":
            runs = [with_best_checkpoint(run, options, info) for run in runs]
            agent = runs[0].agent
        scores, traces = _planners(options, runs, info)
        if options.baselines:
            scores |= _others(options, runs[0], info)
        labels = Labels.of(agent.info, info, agent.layout.state_dim, limit)
        notes = _notes(runs, info, labels, scores, limit)
        results = _results(options, runs, info, labels, scores) | {"notes": notes}
        _print(options, agent, info, labels, scores, notes)
        write_json(target, results)
        written = [target]
        if options.pictures:
            written += _draw(folder, agent, info, traces, scores)
        if options.video and maze is not None:
            episodes = traces[:_VIDEO_EPISODES]
            written.append(maze_video(folder / "video", episodes, agent.layout, maze))
        elif options.video:
            written += rendered_video(
                folder, agent, drawn, episodes=_VIDEO_EPISODES, seed=options.seed
            )
    print("\n".join(f"wrote {path}" for path in written))
    return results


def _evaluate_tasks(
    options: EvaluateOptions, runs: Sequence[Run], target: Path, folder: Path
) -> dict[str, Any]:
    task_evaluation.check(options)
    found = task_evaluation.measure(options, runs, runs[0].agent.info)
    results = task_evaluation.results(options, found)
    print(task_evaluation.report(options, found))
    write_json(target, results)
    written = [target]
    if options.pictures:
        written += task_evaluation.draw(folder, found)
    print("\n".join(f"wrote {path}" for path in written))
    return results


def _places(options: EvaluateOptions) -> tuple[Path, Path]:
    """The results file and the folder of pictures; other ways do not overwrite the run's own."""
    ways = "".join(f"-{key}-{value}" for key, value in options.unusual.items())
    parent = options.runs[0]
    if len(options.runs) > 1:
        ways = "".join(f"-{run.name}" for run in options.runs) + ways
        parent = parent.parent
    ways = re.sub(r"[^\w.+-]", "_", ways)
    return options.json or parent / f"results{ways}.json", parent / f"pictures{ways}"


def _used(own: DatasetInfo, options: EvaluateOptions) -> DatasetInfo:
    """What the dataset says about itself, with the environment that was asked for."""
    info = own
    if options.env is not None and options.env != own.env_id:
        info = dataclasses.replace(own, env_id=options.env, env_kwargs={})
    if options.time_limit is not None:
        limit = {"max_episode_steps": options.time_limit}
        info = dataclasses.replace(info, env_kwargs={**info.env_kwargs, **limit})
    return info


def _planners(
    options: EvaluateOptions, runs: Sequence[Run], info: DatasetInfo
) -> tuple[dict[str, Score], tuple[Trace, ...]]:
    """Scores of every run, "planner" alone or over all; and the first run's first episodes."""
    found, traces = [], []
    for run in runs:
        name = "planner"
        if len(runs) > 1:
            name += f", training seed {run.seed}"
        if run.selection is not None:
            name += f" (best of {len(run.selection.scores)} checkpoints)"
        score, recorded = _score(
            options, name, run.agent, info, record=_PANELS, workers=options.workers
        )
        found.append(score)
        traces.append(recorded)
    if len(runs) == 1:
        return {"planner": found[0]}, traces[0]
    scores = {f"planner_seed_{run.seed}": score for run, score in zip(runs, found, strict=True)}
    best = " (best checkpoints)" if options.checkpoint == "best" else ""
    pooled = Score.pooled(f"planner, over {len(runs)} training seeds{best}", found)
    return {**scores, "planner": pooled}, traces[0]


def _score(
    options: EvaluateOptions,
    name: str,
    policy: Policy,
    info: DatasetInfo,
    record: int = 0,
    rows: int | None = None,
    workers: int = 1,
) -> tuple[Score, tuple[Trace, ...]]:
    factory = evaluation_env_factory(info)
    result = rollout_in_processes(
        policy,
        factory,
        episodes=options.episodes,
        num_envs=min(options.num_envs, rows or options.num_envs),
        seed=options.seed,
        workers=workers,
        record=record,
        description=name,
    )
    times = time_decisions(policy, factory, seed=options.seed)
    return Score.of(name, result, times), result.traces


def _others(options: EvaluateOptions, run: Run, info: DatasetInfo) -> dict[str, Score]:
    """Scores of the controllers (mazes) or of the data's own episodes, and of chance."""
    scores = {}
    policies = baselines(info, options.seed)
    if len(policies) == 1 and (data := data_score(run.agent.info, run.header.fingerprint)):
        scores["data"] = data
    for found in policies:
        scores[found.key], _ = _score(options, found.name, found.policy, info, rows=found.rows)
    return scores


def _notes(
    runs: Sequence[Run],
    info: DatasetInfo,
    labels: Labels,
    scores: Mapping[str, Score],
    limit: int | None,
) -> list[str]:
    """What a reader of the table must know, a line each."""
    notes = []
    if len(runs) > 1:
        notes.append(
            f"over training seeds: the mean of {len(runs)} runs with a t interval over their "
            "means (rates: or Wilson over all episodes, where that is wider)"
        )
    for run in runs:
        if run.selection is not None:
            notes.append(f"{run.folder}: {run.selection.line}")
    notes += labels.lines
    data = scores.get("data")
    if data is not None and limit is not None and (longest := int(data.lengths.max())) > limit:
        notes.append(f"time limit: {limit} steps, but the data have episodes of up to {longest}")
    if str(info.env_id).startswith(_GO_ON_AT_GOAL) and info.env_kwargs.get("continuing_task", True):
        notes.append(
            "returns count every step at the goal up to the time limit; episodes of the data end "
            "at their goals, so compare none with what `diffplan datasets show` prints"
        )
    return notes


def _results(
    options: EvaluateOptions,
    runs: Sequence[Run],
    info: DatasetInfo,
    labels: Labels,
    scores: Mapping[str, Score],
) -> dict[str, Any]:
    policies = {key: score.summary(labels.reference) for key, score in scores.items()}
    planner, agent = policies["planner"], runs[0].agent
    none: dict[str, Any] = {}
    controller = policies.get("controller", none)
    # Data made on shortest paths: their controller is both.
    shortest = policies.get("shortest_path", controller)
    seconds = [s for run in runs if (s := run.agent.train_seconds) is not None]
    return {
        **{key: planner[key] for key in planner if key not in ("returns", "lengths", "success")},
        "train_seconds": sum(seconds) / len(seconds) if seconds else None,
        "controller_return_mean": controller.get("return_mean"),
        "controller_success_rate": controller.get("success_rate"),
        "shortest_path_return_mean": shortest.get("return_mean"),
        "data_return_mean": policies.get("data", none).get("return_mean"),
        "random_return_mean": policies.get("random", none).get("return_mean"),
        "command": options.command,
        "config": agent.config_name,
        "checkpoint": options.checkpoint,
        "runs": [run_summary(run, policies) for run in runs],
        "planning": agent.planning,
        "engine": agent.engine.name,
        "overrides": options.planning.given,
        "dataset": info.id,
        "env_id": info.env_id,
        "env_kwargs": info.env_kwargs,
        **labels.fields,
        "seed": options.seed,
        "num_envs": options.num_envs,
        "protocol": protocol(len(runs)),
        "machine": machine(options.device, options.threads),
        "policies": policies,
    }


def _print(
    options: EvaluateOptions,
    agent: PlannerAgent,
    info: DatasetInfo,
    labels: Labels,
    scores: Mapping[str, Score],
    notes: Sequence[str],
) -> None:
    last = options.seed + options.episodes - 1
    settings = (
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in agent.planning.items()
        if value is not None and (agent.uses_returns or not key.startswith("target"))
    )
    print(
        f"{agent.config_name} trained on {info.id}, evaluated in {info.env_id}: "
        f"{options.episodes} episodes each, seeds {options.seed} to {last}\n"
        f"planning: {', '.join(settings)}\n"
    )
    print(table(list(scores.values()), labels.reference, labels.score), end="\n\n")
    for note in notes:
        print(note)
    print(speed_line(scores["planner"], min(options.num_envs, options.episodes)))


def _draw(
    folder: Path,
    agent: PlannerAgent,
    info: DatasetInfo,
    traces: tuple[Trace, ...],
    scores: Mapping[str, Score],
) -> list[Path]:
    """Plans, returns and training curves as PNG files; returns what was written."""
    plans, returns, training = (folder / f"{name}.png" for name in ("plans", "returns", "training"))
    written = [plans, returns]
    maze = maze_of(info.env_id, info.env_kwargs)
    if maze is not None:
        pictures.plans_in_maze(plans, traces, agent.layout, maze)
    else:
        pictures.plans_over_time(plans, traces, agent.layout, agent.stride)
    pictures.returns_picture(returns, {score.name: score.returns for score in scores.values()})
    metrics = folder.parent / "metrics.jsonl"
    if metrics.is_file() and (curves := pictures.read_metrics(metrics)):
        pictures.training_curves(training, curves)
        written.append(training)
    return written


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
