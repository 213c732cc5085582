"""The tasks of a dataset one by one, each in its own environment."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from diffplan.data.combine import task_details
from diffplan.data.info import DatasetInfo, ObservationLayout
from diffplan.envs.simulators.environments import evaluation_env_factory, make_env


def task_infos(info: DatasetInfo) -> tuple[DatasetInfo, ...]:
    """One description per task, in order, as if it were alone; `info` itself without tasks.

    Each has one task and its environment, but the bounds of the actions of all. Data without tasks
    may be evaluated in several: these, then.
    """
    tasks = info.tasks or info.evaluation_tasks
    if not tasks:
        return (info,)
    return tuple(
        replace(
            info,
            env_id=task.env_id,
            env_kwargs=dict(task.env_kwargs),
            details=task_details(info, task),
            tasks=(task,),
            evaluation_tasks=(),
        )
        for task in tasks
    )


def time_limits(info: DatasetInfo) -> list[int | None]:
    """Steps after which the environment of each task cuts an episode, None where not known."""
    limits: list[int | None] = []
    for task in task_infos(info):
        registered = gym.registry.get((task.env_id or "").rpartition(":")[2])
        limit = task.env_kwargs.get("max_episode_steps") or (
            registered and registered.max_episode_steps
        )
        limits.append(limit if isinstance(limit, int) and limit > 0 else None)
    return limits


def make_task_env(info: DatasetInfo, layout: ObservationLayout, **overrides: Any) -> gym.Env:
    """Make the evaluation environment of one task, see `task_infos` and `make_env`.

    With several tasks in the data its observations get zeros on their right, up to the width of
    all, and it takes the actions of all, clipped to its own bounds.
    """
    env = make_env(info, **overrides)
    if not info.tasks:
        return env
    # `task_infos` leaves one task in the description
    missing = layout.state_dim - info.tasks[0].state_dim
    box = env.action_space
    wide = isinstance(box, spaces.Box) and box.shape == (len(info.action_low),)
    if wide and _wider(info, box):
        env = _JoinedActions(env, info)
    return _PaddedStates(env, layout, missing) if missing else env


def task_env_factory(
    info: DatasetInfo, layout: ObservationLayout, **overrides: Any
) -> Callable[[], gym.Env]:
    """A function without arguments that makes one environment of a task, as `rollout` calls it.

    An id that Gymnasium does not know, or whose simulator is missing, is reported here already.
    """
    factory = evaluation_env_factory(info, **overrides)
    return functools.partial(make_task_env, info, layout, **overrides) if info.tasks else factory


def _wider(info: DatasetInfo, box: spaces.Space) -> bool:
    assert isinstance(box, spaces.Box)
    low, high = np.array(info.action_low), np.array(info.action_high)
    return bool((low < box.low).any() or (high > box.high).any())


class _JoinedActions(gym.ActionWrapper):
    """Takes actions within the bounds of all tasks and clips them to the environment's own."""

    def __init__(self, env: gym.Env, info: DatasetInfo) -> None:
        super().__init__(env)
        self.own = env.action_space
        assert isinstance(self.own, spaces.Box)
        # wider on both sides: the planner keeps to the bounds of all tasks
        low = np.minimum(np.array(info.action_low, self.own.dtype), self.own.low)
        high = np.maximum(np.array(info.action_high, self.own.dtype), self.own.high)
        self.action_space = spaces.Box(low, high, dtype=self.own.dtype.type)

    def action(self, action: Any) -> np.ndarray:
        assert isinstance(self.own, spaces.Box)
        clipped: np.ndarray = np.clip(action, self.own.low, self.own.high)
        return clipped


class _PaddedStates(gym.ObservationWrapper):
    """Adds zeros on the right of an observation, in a dict on the right of the last state key."""

    def __init__(self, env: gym.Env, layout: ObservationLayout, missing: int) -> None:
        super().__init__(env)
        self.key = layout.dict_keys[-1] if layout.dict_keys else None
        # on the right, so that columns of goals keep their place
        self.zeros = np.zeros(missing)
        space = env.observation_space
        if self.key is None:
            self.observation_space = self._padded_space(space)
        elif isinstance(space, spaces.Dict) and self.key in space.spaces:
            inner = {**space.spaces, self.key: self._padded_space(space[self.key])}
            self.observation_space = spaces.Dict(inner)

    def _padded_space(self, space: spaces.Space) -> spaces.Space:
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            return space  # refused by `check_spaces`
        low, high = (np.concatenate([bound, self.zeros]) for bound in (space.low, space.high))
        return spaces.Box(low.astype(space.dtype), high.astype(space.dtype), dtype=space.dtype.type)

    def observation(self, observation: Any) -> Any:
        if self.key is None:
            return self._padded(observation)
        return {**observation, self.key: self._padded(observation[self.key])}

    def _padded(self, array: np.ndarray) -> np.ndarray:
        array = np.asarray(array)
        return np.concatenate([array, self.zeros.astype(array.dtype)])
