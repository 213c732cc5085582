"""What an agent is told of the task that it is evaluated on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from diffplan.config.config import Config
from diffplan.data.episodes import Episodes
from diffplan.data.info import DatasetInfo
from diffplan.errors import DiffplanError
from diffplan.scripts.evaluate.options import TaskGiven

_USUAL: dict[str, TaskGiven | None] = {"id": "id", "prompt": "demonstration", "none": None}


def what_is_given(asked: TaskGiven | None, config: Config) -> TaskGiven | None:
    """What agents are told: as `asked`, or else as they were trained. None: nothing, ever."""
    return asked or _USUAL[config.data.tasks]


def teller(
    given: TaskGiven | None, info: DatasetInfo, data: Callable[[], Episodes | str], seed: int
) -> Callable[[Any, int], Any]:
    """A function of an agent and the number of a task that returns the agent, told of it.

    info: of all tasks. data: the episodes that the agents were trained on, or why they are not at
    hand; asked for a "demonstration" only, which is one episode of the task, drawn by `seed`.
    Raises DiffplanError where there is none to show.
    """
    if given is None:
        return lambda agent, _: agent
    if given == "history":
        return lambda agent, _: agent.from_history()
    if given == "unknown":
        return lambda agent, _: agent.for_task(None)
    if given == "id":
        return lambda agent, task: agent.for_task(task)
    episodes = data()
    if isinstance(episodes, str):
        raise DiffplanError(
            f"a demonstration is an episode of the data, and these are not at hand: {episodes}; "
            "give --task-given unknown or history"
        )
    # one for each task, the same in all episodes and runs
    shown = [demonstration(episodes, task, seed) for task in range(len(info.tasks))]
    return lambda agent, task: agent.for_demonstration(shown[task])


def demonstration(episodes: Episodes, task: int, seed: int) -> np.ndarray:
    """States [n, D] of one episode of a task, each as likely; DiffplanError if it has none."""
    assert episodes.tasks is not None
    own = np.flatnonzero(episodes.tasks == task)
    if not len(own):
        name = episodes.info.tasks[task].name
        raise DiffplanError(
            f"{episodes.info.id} holds no episode of {name} to show; give --task-given unknown"
        )
    # by seed and task alone, so that every run is shown the same
    episode = np.random.default_rng([seed, task]).choice(own)
    first, last = episodes.state_starts[episode : episode + 2]
    return np.asarray(episodes.states[first:last])
