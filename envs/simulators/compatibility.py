"""Do a dataset and an environment fit together? Asked before training and before evaluation."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from diffplan.data.info import DatasetInfo, ObservationLayout
from diffplan.envs.rollouts.reading import Failure, Fault
from diffplan.envs.rollouts.stepper import Stepper, Watch
from diffplan.envs.simulators.bounds import is_bound
from diffplan.envs.simulators.tasks import make_task_env
from diffplan.errors import DiffplanError

_TRIED_SEED, _TRIED_STEPS = 0, 3
_FLATTEN = "gymnasium.wrappers.FlattenObservation"


def check_environment(
    layout: ObservationLayout, info: DatasetInfo, env: gym.Env | None = None
) -> int | None:
    """Make the environment of `info` once, compare its spaces with the data and step it a little.

    layout: how the data's observations become states and goals. info: names the environment and
    the bounds of the data's actions, of several tasks one alone (`task_infos`). env: it, where
    it is made already; it is closed.
    Returns the environment's time limit in steps, None if Gymnasium knows of none.
    Raises DiffplanError naming the first thing that does not fit: kind and shape of the
    observations, a missing key, kind, shape and bounds of the actions, and what the environment
    hands over beside what its spaces say.
    """
    watch = Watch()
    with watch.on():
        tried = Stepper(lambda: env or make_task_env(info, layout), watch)
        try:
            check_spaces(layout, info, tried.space, tried.action_space)
            _check_achieved(layout, _try(tried, info), f"environment {info.env_id}")
            return tried.limit
        finally:
            tried.close()


def _try(env: Stepper, info: DatasetInfo) -> Any:
    """One reset and a few steps; DiffplanError for what an evaluation would stumble over.

    Returns the first observation.
    """
    low, high = np.array(info.action_low), np.array(info.action_high)
    # between the data's bounds: no simulator is driven beyond what it knows
    middle = ((low + high) / 2).astype(env.action_space.dtype)
    step, over = 0, False
    try:
        first = env.reset(_TRIED_SEED)
        while not over and step < _TRIED_STEPS:
            step += 1
            over = env.step(middle).over
    except Fault as fault:
        failure = Failure(0, _TRIED_SEED, step, str(fault))
        raise DiffplanError(
            f"{env.name} was tried, and {failure}; mend it, or wrap it under an id of its own"
        ) from None
    return first


def _check_achieved(layout: ObservationLayout, observation: Any, place: str) -> None:
    """What the environment says is achieved must stand in the columns that the goal is held to."""
    if not layout.goal_columns or "achieved_goal" not in observation:
        return
    # before offsets are subtracted: as the environment gives them
    parts = [np.atleast_1d(observation[key]) for key in layout.dict_keys]
    state = np.concatenate(parts).astype(np.float64)[list(layout.goal_columns)]
    achieved = np.atleast_1d(observation["achieved_goal"]).astype(np.float64)
    if not np.allclose(achieved, state, rtol=1e-3, atol=1e-6):
        raise DiffplanError(
            f"{place} has achieved_goal {achieved.tolist()}, but columns "
            f"{list(layout.goal_columns)} of its observation, the data's goal_columns, are "
            f"{state.tolist()}; name the columns that hold the achieved goal"
        )


def check_spaces(
    layout: ObservationLayout,
    info: DatasetInfo,
    observation_space: spaces.Space,
    action_space: spaces.Space,
) -> None:
    """Compare an environment's spaces with the data; see `check_environment`."""
    place = f"environment {info.env_id}"
    if isinstance(observation_space, spaces.Dict):
        _check_dict(layout, info, observation_space, place)
    else:
        if layout.dict_keys:
            keys = [*layout.dict_keys, *(["desired_goal"] if layout.goal_dim else [])]
            raise DiffplanError(
                f"{place} gives {_kind(observation_space)} observations, dataset {info.id} needs "
                f"a dict with {', '.join(keys)}; evaluate in the environment it was made in (--env)"
            )
        _check_vector(observation_space, layout.state_dim, "observations", place, info.id)
    if not isinstance(action_space, spaces.Box):
        raise DiffplanError(
            f"{place} takes {_kind(action_space)} actions, expected a Box of shape "
            f"({len(info.action_low)},): the planner acts in continuous spaces only"
        )
    # clipping and casting would hide it until nothing works
    if np.dtype(action_space.dtype).kind != "f":
        raise DiffplanError(
            f"{place} takes actions of type {action_space.dtype}, expected floats: the planner's "
            "are no whole numbers; round them in a wrapper under an id of its own"
        )
    _check_vector(action_space, len(info.action_low), "actions", place, info.id)
    _check_bounds(info, action_space, place)


def _check_dict(
    layout: ObservationLayout, info: DatasetInfo, space: spaces.Dict, place: str
) -> None:
    there = ", ".join(space.spaces)
    if not layout.dict_keys:
        raise DiffplanError(
            f"{place} gives dict observations with {there}, dataset {info.id} holds arrays of "
            f"{layout.state_dim} columns; wrap it in {_FLATTEN} under an id of its own, or store "
            "the goal apart, as goals and goal_columns"
        )
    width = 0
    for key in (*layout.dict_keys, *(("desired_goal",) if layout.goal_dim else ())):
        if key not in space.spaces:
            raise DiffplanError(
                f"{place} gives dict observations with {there}, dataset {info.id} needs {key!r} "
                "among them; evaluate in the environment it was made in (--env)"
            )
        part = space[key]
        if not isinstance(part, spaces.Box) or len(part.shape) != 1:
            raise DiffplanError(
                f"{place} gives {_kind(part)} under {key!r}, expected a Box of one axis; "
                "flatten it in a wrapper under an id of its own"
            )
        # the goal is no part of the state
        width += part.shape[0] if key in layout.dict_keys else 0
    if width != layout.state_dim:
        raise DiffplanError(
            f"{place} gives observations of {width} numbers under "
            f"{' and '.join(layout.dict_keys)}, dataset {info.id} has {layout.state_dim} columns; "
            "evaluate in the environment it was made in (--env)"
        )
    if layout.goal_dim and space["desired_goal"].shape != (layout.goal_dim,):
        raise DiffplanError(
            f"{place} has goals of shape {space['desired_goal'].shape}, dataset {info.id} of "
            f"({layout.goal_dim},); evaluate in the environment it was made in (--env)"
        )


def _check_vector(space: spaces.Space, width: int, what: str, place: str, dataset: str) -> None:
    if isinstance(space, spaces.Box) and space.shape == (width,):
        return
    if isinstance(space, spaces.Box) and len(space.shape) != 1:
        flat = math.prod(space.shape)
        wrapper = f" in {_FLATTEN}" if what == "observations" else ""
        fix = f"flatten them to ({flat},): wrap it{wrapper} under an id of its own"
    elif isinstance(space, spaces.Box):
        fix = "evaluate in the environment the data were made in (--env)"
    else:
        fix = f"the planner needs vectors; encode them in a wrapper such as {_FLATTEN}"
    verb = "gives" if what == "observations" else "takes"
    raise DiffplanError(
        f"{place} {verb} {_kind(space)} {what}, dataset {dataset} has ({width},); {fix}"
    )


def _check_bounds(info: DatasetInfo, space: spaces.Box, place: str) -> None:
    """The planner keeps to the data's bounds, so these must lie within the environment's."""
    for column, (low, high, own_low, own_high) in enumerate(
        zip(info.action_low, info.action_high, space.low, space.high, strict=True)
    ):
        # room for what float32 rounds away
        room = 5e-4 * abs(high - low)
        # a huge bound means that there is none
        largest = np.array(max(abs(low), abs(high)))
        below = is_bound(own_low, largest) and low < own_low - room
        above = is_bound(own_high, largest) and high > own_high + room
        if below or above:
            raise DiffplanError(
                f"{place} takes actions of [{own_low:g}, {own_high:g}] in column {column}, "
                f"dataset {info.id} has [{low:g}, {high:g}]; store the actions as the environment "
                "takes them, or wrap it in gymnasium.wrappers.RescaleAction under an id of its own"
            )


def _kind(space: gym.Space) -> str:
    """A space in few words: Box(3,), Discrete(4), a dict with its keys."""
    if isinstance(space, spaces.Box):
        return f"Box{tuple(int(n) for n in np.shape(space.low))}"
    if isinstance(space, spaces.Dict):
        return f"Dict({', '.join(space.spaces)})"
    return str(space) if len(str(space)) < 60 else type(space).__name__
