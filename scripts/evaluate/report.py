"""What an evaluation says: its printed page and results.json, of one task and of several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from diffplan.agents import PlannerAgent
from diffplan.config.sections import PlanningConfig
from diffplan.scripts.evaluate.options import EvaluateOptions, TaskGiven
from diffplan.scripts.evaluate.runs import run_summary
from diffplan.scripts.evaluate.scores import Evaluation, Place, TaskScores
from diffplan.scripts.report.intervals import bounds
from diffplan.scripts.report.results import (
    TASK_PROTOCOL,
    Score,
    aligned,
    interval,
    machine,
    protocol,
    speed_line,
    table,
)
from diffplan.scripts.report.seeds import chosen, scored, seeds_line

# environments whose episodes do not end where the goal is reached
_GO_ON_AT_GOAL = ("PointMaze_", "diffplan/maze2d-")
_SHOWN_ALWAYS = ("start", "denoising_steps", "sampler", "replan_every")
_SHOWN = 10  # failed episodes in print
_GIVEN: dict[TaskGiven | None, str] = {
    "id": "its number",
    "demonstration": "one episode of the data",
    "history": "nothing, it infers it from what it has seen",
    "unknown": "nothing",
    None: "nothing, as in training",
}


# --- The printed page ----------------------------------------------------------------------------


def page(options: EvaluateOptions, found: Evaluation) -> str:
    """The table under what was evaluated and how, then notes and what a plan costs."""
    head = _one_task_head if len(found.tasks) == 1 else _several_tasks_head
    shown = _policies_table if len(found.tasks) == 1 else tasks_table
    seeds = seeds_line(**_provenance(options, found))
    speed = speed_line(found.mean, min(options.num_envs, options.episodes))
    return "\n".join([*head(options, found), "", shown(found), "", *notes(found), seeds, speed])


def _one_task_head(options: EvaluateOptions, found: Evaluation) -> list[str]:
    agent, place = found.agent, found.tasks[0].place
    return [
        f"{agent.config_name} trained on {agent.info.id}, evaluated in {place.used.env_id}: "
        f"{options.episodes} episodes each, {_seeds(options)}",
        _planning(agent),
    ]


def _several_tasks_head(options: EvaluateOptions, found: Evaluation) -> list[str]:
    agent, runs = found.agent, len(found.runs)
    times = f" x {runs} training seeds" if runs > 1 else ""
    of_data = bool(agent.info.tasks)
    where = "tasks, each evaluated in its own environment" if of_data else "evaluation tasks"
    head = [
        f"{agent.config_name} trained on {agent.info.id}, {len(found.tasks)} {where}: "
        f"{options.episodes} episodes{times}, {_seeds(options)}",
        _planning(agent),
    ]
    # a task of the evaluation alone is its start and goal: there is nothing more to tell
    return [*head, f"told of its task: {_GIVEN[found.given]}"] if of_data else head


def _seeds(options: EvaluateOptions) -> str:
    return f"seeds {options.first} to {options.first + options.episodes - 1}"


def _provenance(options: EvaluateOptions, found: Evaluation) -> dict[str, Any]:
    """Which seeds chose and which scored, for results.json."""
    runs, hand = found.runs, options.by_hand
    choices = [
        chosen(f"checkpoint of {run.folder.name}", [run.selection.seeds])
        for run in runs
        if run.selection is not None
    ]
    choices += [
        chosen(f"planning of {run.folder.name}", run.tuning.seeds)
        for run in runs
        if run.tuning is not None
    ]
    if hand:
        choices.append(chosen(", ".join(f"{key} {value}" for key, value in hand.items()), None))
    training = [run.seed for run in runs]
    return {
        "scored_on": scored(options.first, options.episodes, training),
        "chosen_on": choices,
    }


def _planning(agent: PlannerAgent) -> str:
    """How plans are made: what is always worth knowing, and what is not as usual."""
    usual = PlanningConfig()
    shown = [
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in agent.planning.items()
        if key in _SHOWN_ALWAYS or _counts(agent, key, value, getattr(usual, key, None))
    ]
    return f"planning: {', '.join(shown)}; engine {agent.engine.name}"


def _counts(agent: PlannerAgent, key: str, value: Any, usual: Any) -> bool:
    if value is None or value == usual:
        return False
    # a model that plans for goals asks for no return, whatever stands in its settings
    if key.startswith("target"):
        return agent.uses_returns
    # of candidates that there are none of, and of goals where there are none
    chosen = agent.planning.get("candidates", 1) > 1
    return {"temperature": chosen, "subgoal_steps": bool(value)}.get(key, True)


def _policies(task: TaskScores, found: Evaluation) -> dict[str, Score]:
    """The policies of a task by key: every run's planner, that over them, and the others."""
    each = {}
    if len(found.runs) > 1:
        each = {
            f"planner_seed_{run.seed}": score
            for run, score in zip(found.runs, task.by_run, strict=True)
        }
    return {**each, "planner": task.planner, **task.others}


def _policies_table(found: Evaluation) -> str:
    (task,) = found.tasks
    labels = task.place.labels
    return table(list(_policies(task, found).values()), labels.reference, labels.score)


def tasks_table(found: Evaluation) -> str:
    """A line per task and one of the mean, with what each is compared with in a few figures."""
    keys = list(dict.fromkeys(key for task in found.tasks for key in task.others))
    rows: list[tuple[str, Score, tuple[str | None, ...], dict[str, Score]]] = [
        (str(task.place.task), task.planner, (reference,), task.others)
        for task, reference in zip(found.tasks, found.references, strict=True)
    ]
    # what the planner is set beside has no mean: tasks may lack it
    rows.append(("mean over tasks", found.mean, found.references, {}))
    scored = any(found.references)
    success = any(score.success is not None for _, score, _, _ in rows)
    # where an episode returns 1 for success and nothing else, success says it
    returns = not all(
        score.success is not None and np.array_equal(score.returns, score.success)
        for _, score, _, _ in rows
    )
    header = ["task"]
    header += ["return [95 % CI]"] if returns else []
    header += ["success [95 % CI]"] if success else []
    header += ["D4RL scale [95 % CI]"] if scored else []
    lines = [[*header, "n", *(key.replace("_", " ") for key in keys)]]
    for name, score, references, others in rows:
        line = [name]
        if returns:
            line.append(interval(score.return_estimate))
        if success:
            rate = score.success_estimate
            line.append(interval(rate, 100, " %") if rate else "-")
        if scored:
            scaled = score.normalised_estimate(*references)
            line.append(interval(scaled) if scaled else "-")
        lines.append([*line, score.counted, *(_briefly(others.get(key)) for key in keys)])
    return aligned(lines)


def _briefly(score: Score | None) -> str:
    if score is None:
        return ""
    success = "" if score.success is None else f", {100 * score.success.mean():.0f} %"
    return f"{score.returns.mean():.1f}{success}"


def notes(found: Evaluation) -> list[str]:
    """What a reader of the table must know, a line each."""
    lines = []
    if len(found.runs) > 1:
        lines.append(
            f"over training seeds: the mean of {len(found.runs)} runs with a t interval over their "
            "means (rates: or Wilson over all episodes, where that is wider)"
        )
    if len(found.tasks) > 1 and len(found.tasks[0].by_run[0].returns) == 1:
        lines.append(
            "one episode of each task: how episodes of a task differ is not known"
            + ("" if len(found.runs) > 1 else ", and the interval of the mean is over the tasks")
        )
    lost = list(failures(found))
    lines += [f"not counted: {line}" for line in lost[:_SHOWN]]
    if len(lost) > _SHOWN:
        lines.append(f"not counted: {len(lost) - _SHOWN} more, see results.json")
    # a checkpoint that was chosen must not pass for the last one
    lines += [f"{run.folder}: {run.selection.line}" for run in found.runs if run.selection]
    # nor settings that were chosen for those of the training, which may differ by run
    lines += [f"{run.folder}: planning {run.tuned}" for run in found.runs if run.tuned]
    lines += _no_better_than_chance(found)
    if len(found.tasks) == 1:
        lines += _place_notes(found.tasks[0].place, found.tasks[0].others.get("data"))
    return lines


def _no_better_than_chance(found: Evaluation) -> Iterator[str]:
    """Tasks in which the planner may as well act at random: returns whose intervals meet."""
    for task in found.tasks:
        if (chance := task.others.get("random")) is None:
            continue
        high, low = bounds(chance.return_estimate), bounds(task.planner.return_estimate)
        if high is not None and low is not None and low[0] <= high[1]:
            where = f"{task.place.task}: " if len(found.tasks) > 1 else ""
            yield (
                f"{where}the planner cannot be told from random actions by these episodes: more "
                "updates, other data, or more episodes may show a difference"
            )


def failures(found: Evaluation) -> Iterator[str]:
    """Every episode that failed, a line each."""
    for task in found.tasks:
        where = f"{task.place.task}, " if len(found.tasks) > 1 else ""
        for score in (*task.by_run, *task.others.values()):
            for failure in score.failures:
                yield f"{where}{score.name}: {failure}"


def _place_notes(place: Place, data: Score | None) -> list[str]:
    lines, limit, used = place.labels.lines, place.limit, place.used
    if data is not None and limit is not None and (longest := int(data.lengths.max())) > limit:
        lines.append(f"time limit: {limit} steps, but the data have episodes of up to {longest}")
    if str(used.env_id).startswith(_GO_ON_AT_GOAL) and used.env_kwargs.get("continuing_task", True):
        lines.append(
            "returns count every step at the goal up to the time limit; episodes of the data end "
            "at their goals, so compare none with what `diffplan datasets show` prints"
        )
    return lines


# --- results.json --------------------------------------------------------------------------------


def results(options: EvaluateOptions, found: Evaluation) -> dict[str, Any]:
    """What results.json holds: on top the planner's row, of several tasks that of their mean."""
    runs, agent = found.runs, found.agent
    mean = _without_episodes(found.mean.summary(*found.references))
    by_run = [_without_episodes(score.summary(*found.references)) for score in found.by_run]
    seconds = [s for run in runs if (s := run.agent.train_seconds) is not None]
    # what is said of one task is said of the policies in it, of several task by task
    several = len(found.tasks) > 1
    return {
        **mean,
        "train_seconds": sum(seconds) / len(seconds) if seconds else None,
        "command": options.command,
        "config": agent.config_name,
        "checkpoint": options.checkpoint,
        "runs": [run_summary(run, own) for run, own in zip(runs, by_run, strict=True)],
        "planning": agent.planning,
        "engine": agent.engine.name,
        "overrides": options.planning.given,
        "dataset": agent.info.id,
        "seed": options.first,
        **_provenance(options, found),
        "num_envs": options.num_envs,
        "protocol": protocol(len(runs)) + (TASK_PROTOCOL if several else ""),
        "machine": machine(options.device, options.threads),
        **(_several_tasks(options, found) if several else _one_task(found)),
        "notes": notes(found),
    }


def _without_episodes(summary: dict[str, Any]) -> dict[str, Any]:
    # they are in the file already, under each policy
    episodes = ("returns", "lengths", "success")
    return {key: value for key, value in summary.items() if key not in episodes}


def _one_task(found: Evaluation) -> dict[str, Any]:
    (task,) = found.tasks
    place = task.place
    scores = _policies(task, found)
    policies = {key: score.summary(place.labels.reference) for key, score in scores.items()}
    none: Mapping[str, Any] = {}
    controller = policies.get("controller", none)
    # data made on shortest paths: their controller is both
    shortest = policies.get("shortest_path", controller)
    return {
        "controller_return_mean": controller.get("return_mean"),
        "controller_success_rate": controller.get("success_rate"),
        "shortest_path_return_mean": shortest.get("return_mean"),
        "data_return_mean": policies.get("data", none).get("return_mean"),
        "random_return_mean": policies.get("random", none).get("return_mean"),
        "env_id": place.used.env_id,
        "env_kwargs": place.used.env_kwargs,
        **place.labels.fields,
        "policies": policies,
    }


def _several_tasks(options: EvaluateOptions, found: Evaluation) -> dict[str, Any]:
    return {
        "task_given": found.given,
        "episodes_per_task": options.episodes,
        "tasks": {str(task.place.task): _task_summary(task) for task in found.tasks},
    }


def _task_summary(task: TaskScores) -> dict[str, Any]:
    reference = task.place.labels.reference
    scores: Mapping[str, Score] = {"planner": task.planner, **task.others}
    return {
        "env_id": task.place.used.env_id,
        "env_kwargs": task.place.used.env_kwargs,
        "reference": reference and f"D4RL {reference}",
        "policies": {key: score.summary(reference) for key, score in scores.items()},
    }
