"""Several datasets as one, whose tasks they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from diffplan.data.episodes import Episodes
from diffplan.data.info import DatasetInfo, ObservationLayout, Task
from diffplan.errors import DiffplanError


def combine(parts: Sequence[Episodes], name: str) -> Episodes:
    """One dataset out of several, in memory: a task for each, or their own tasks one after another.

    States with fewer columns than the widest get zeros on their right; `Task.state_dim` says how
    many are their own. The bounds of the actions are the widest of all. name: its `info.id`.

    Raises DiffplanError where the parts are no tasks of one kind: actions of another width, goals
    in some only or in other columns, other observation dicts; and for what `Episodes.validate`
    refuses.
    """
    if not parts:
        raise DiffplanError("nothing to combine; give at least one dataset")
    first = parts[0]
    for part in parts[1:]:
        _check_alike(first, part)
    parts = _of_one_offset(parts)
    # zeros on the right: a network sees at once which columns are not of this task
    width = max(part.layout.state_dim for part in parts)
    tasks = [task for part in parts for task in _tasks_of(part)]
    goals = [part.goals for part in parts if part.goals is not None]
    # the widest of all: each environment clips to its own (`envs.simulators.tasks`)
    low, high = (
        np.array([getattr(part.info, key) for part in parts])
        for key in ("action_low", "action_high")
    )
    info = DatasetInfo(
        name,
        "combined",
        *_common_environment(tasks),
        tuple(low.min(axis=0).tolist()),
        tuple(high.max(axis=0).tolist()),
        {
            "parts": [part.info.id for part in parts],
            "tasks": {
                task.name: task_details(part.info, task)
                for part in parts
                for task in _tasks_of(part)
            },
        },
        tuple(tasks),
    )
    combined = Episodes(
        states=np.concatenate([_padded(part.states, width) for part in parts]),
        goals=np.concatenate(goals) if len(goals) == len(parts) else None,
        actions=np.concatenate([part.actions for part in parts]),
        rewards=np.concatenate([part.rewards for part in parts]),
        terminations=np.concatenate([part.terminations for part in parts]),
        truncations=np.concatenate([part.truncations for part in parts]),
        state_starts=_offsets([part.state_starts for part in parts]),
        step_starts=_offsets([part.step_starts for part in parts]),
        layout=_widened(parts[0].layout, width),
        info=info,
        tasks=_task_of_episodes(parts),
    )
    return combined.validate()


def task_details(info: DatasetInfo, task: Task) -> dict[str, Any]:
    """What a dataset says of one of its tasks: the `details` of the data that were combined."""
    details: dict[str, Any] = info.details.get("tasks", {}).get(task.name, info.details)
    return details


def _check_alike(first: Episodes, part: Episodes) -> None:
    one, other = first.info.id, part.info.id
    width, own = len(first.info.action_low), len(part.info.action_low)
    if width != own:
        raise DiffplanError(
            f"{one} has actions of {width} columns and {other} of {own}: one model acts in both "
            "only if they are as many; train on each alone"
        )
    # one network reads these columns by their place
    for what, mine, others in (
        ("goals in state columns", _goals(first.layout), _goals(part.layout)),
        ("resting columns", first.layout.rest_columns, part.layout.rest_columns),
        ("observations from", first.layout.dict_keys, part.layout.dict_keys),
    ):
        if mine != others:
            raise DiffplanError(
                f"{one} has {what} {mine or 'none'} and {other} {others or 'none'}: tasks of one "
                "model need the same; train on each alone"
            )


def _goals(layout: ObservationLayout) -> tuple[int, ...] | str:
    return layout.goal_columns or (f"unknown ({layout.goal_dim})" if layout.goal_dim else ())


def _tasks_of(part: Episodes) -> tuple[Task, ...]:
    info = part.info
    return info.tasks or (Task(info.id, info.env_id, info.env_kwargs, part.layout.state_dim),)


def _task_of_episodes(parts: Sequence[Episodes]) -> np.ndarray:
    # the tasks of a part that has several keep their order
    found, first = [], 0
    for part in parts:
        own = np.zeros(part.num_episodes, np.int64) if part.tasks is None else part.tasks
        found.append(own + first)
        first += len(_tasks_of(part))
    return np.concatenate(found)


def _common_environment(tasks: Sequence[Task]) -> tuple[str | None, dict[str, Any]]:
    """That of the tasks if they all share it."""
    env_id, env_kwargs = tasks[0].env_id, tasks[0].env_kwargs
    if all((task.env_id, task.env_kwargs) == (env_id, env_kwargs) for task in tasks):
        return env_id, dict(env_kwargs)
    return None, {}


def _padded(states: np.ndarray, width: int) -> np.ndarray:
    return np.pad(states, ((0, 0), (0, width - states.shape[1])))


def _of_one_offset(parts: Sequence[Episodes]) -> list[Episodes]:
    """The parts with states less the same: in each column the first offset that one has."""
    if not any(part.layout.offset for part in parts):
        return list(parts)
    width = max(part.layout.state_dim for part in parts)
    every = np.zeros((len(parts), width))
    for row, part in zip(every, parts, strict=True):
        row[: len(part.layout.offset)] = part.layout.offset
    common = every[(every != 0).argmax(axis=0), np.arange(width)]
    found = []
    for row, part in zip(every, parts, strict=True):
        own = part.layout.state_dim
        if common[own:].any():
            raise DiffplanError(
                f"{part.info.id} lacks column {own + int(common[own:].argmax())}, which others "
                "have less an offset: train on each alone"
            )
        columns = list(part.layout.goal_columns)
        states = (part.states + (row - common)[:own]).astype(np.float32)
        goals = part.goals
        if goals is not None and columns:
            goals = (goals + (row - common)[columns]).astype(np.float32)
        layout = replace(part.layout, offset=tuple(common[:own].tolist()))
        found.append(replace(part, states=states, goals=goals, layout=layout))
    return found


def _widened(layout: ObservationLayout, width: int) -> ObservationLayout:
    """The layout with columns of zeros on the right."""
    more = (0.0,) * (width - layout.state_dim) if layout.offset else ()
    return replace(layout, state_dim=width, offset=layout.offset + more)


def _offsets(starts: Sequence[np.ndarray]) -> np.ndarray:
    lengths = [np.diff(part) for part in starts]
    return np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
