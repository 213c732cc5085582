"""What a dataset is: the layout of its observations, where it is evaluated, which tasks it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffplan.data.numbers import as_numbers
from diffplan.errors import DiffplanError


@dataclass(frozen=True)
class ObservationLayout:
    """How an environment's observation becomes state [D] and goal [G].

    state_dim: D.
    goal_dim: G, 0 without a goal.
    goal_columns: columns of the state that hold the achieved goal, G of them, or () if unknown.
    rest_columns: columns of the state that are zero when resting at the goal (velocities).
    dict_keys: () for a Box observation; for goal dicts the keys whose arrays, concatenated in
        this order, are the state. The goal is then the array under "desired_goal".
    offset: what is subtracted from each column of an observation, in float64, before it becomes a
        float32 state; () for nothing. So map coordinates and clocks keep their movement. Goals are
        less the offset of their columns, and so are the states of plans.
    """

    state_dim: int
    goal_dim: int = 0
    goal_columns: tuple[int, ...] = ()
    rest_columns: tuple[int, ...] = ()
    dict_keys: tuple[str, ...] = ()
    offset: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.goal_dim and not self.dict_keys:
            raise DiffplanError("a layout with a goal needs dict_keys, e.g. ('observation',)")
        if self.goal_columns and len(self.goal_columns) != self.goal_dim:
            raise DiffplanError(
                f"goal_columns {self.goal_columns} do not match a goal of {self.goal_dim} numbers"
            )
        if self.offset and len(self.offset) != self.state_dim:
            raise DiffplanError(
                f"an offset of {len(self.offset)} numbers for a state of {self.state_dim}"
            )
        for column in self.goal_columns + self.rest_columns:
            if not 0 <= column < self.state_dim:
                raise DiffplanError(f"column {column} is outside a state of {self.state_dim}")

    def split(self, observation: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Split an observation into state and goal.

        observation: array [..., D], or for goal dicts a mapping of arrays [..., *].
        Returns the state [..., D] and the goal [..., G] (None without one), both float32.
        Raises DiffplanError for a wrong shape, a missing key, NaN or infinity.
        """
        if not self.dict_keys:
            if isinstance(observation, Mapping):
                raise DiffplanError(
                    f"the observation is a dict with keys {sorted(observation)}, "
                    f"expected an array with {self.state_dim} columns"
                )
            offset = self.offset_of(slice(None))
            return as_numbers(observation, self.state_dim, "observation", offset=offset), None
        if not isinstance(observation, Mapping):
            keys = self.dict_keys + (("desired_goal",) if self.goal_dim else ())
            raise DiffplanError(
                f"the observation is a {type(observation).__name__}, expected a dict with {keys}"
            )
        # the order of dict_keys, not of the dict: it decides the columns
        dtype = np.float64 if self.offset else np.float32
        parts = [as_numbers(_entry(observation, k), None, k, dtype=dtype) for k in self.dict_keys]
        try:
            state = np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
        except ValueError:
            shapes = ", ".join(f"{k} {p.shape}" for k, p in zip(self.dict_keys, parts, strict=True))
            raise DiffplanError(f"these parts of the observation do not fit: {shapes}") from None
        offset = self.offset_of(slice(None))
        state = as_numbers(state, self.state_dim, "observation", offset=offset)
        if not self.goal_dim:
            return state, None
        entry, offset = _entry(observation, "desired_goal"), self.goal_offset
        goal = as_numbers(entry, self.goal_dim, "desired_goal", offset=offset)
        if goal.shape[:-1] != state.shape[:-1]:
            raise DiffplanError(
                f"observation {state.shape} and desired_goal {goal.shape} differ in batch shape"
            )
        return state, goal

    def joined(self, states: np.ndarray, goals: np.ndarray | None = None) -> Any:
        """An observation that `split` takes apart into states [..., D] and goals [..., G]."""
        if self.offset:
            states = states + np.asarray(self.offset)
            if goals is not None and self.goal_offset is not None:
                goals = goals + self.goal_offset
        if not self.dict_keys:
            return states
        # the first key gets all columns, the others none
        first = self.dict_keys[0]
        parts = {key: states if key == first else states[..., :0] for key in self.dict_keys}
        return parts if goals is None else parts | {"desired_goal": goals}

    @property
    def goal_offset(self) -> np.ndarray | None:
        """What is subtracted from goals [G]; None for nothing."""
        return self.offset_of(list(self.goal_columns)) if self.goal_columns else None

    def offset_of(self, columns: slice | list[int]) -> np.ndarray | None:
        """What is subtracted from these columns of observations; None for nothing."""
        return np.asarray(self.offset)[columns] if self.offset else None


def _entry(observation: Mapping[str, Any], key: str) -> Any:
    if key not in observation:
        raise DiffplanError(f"the observation has keys {sorted(observation)}, '{key}' is missing")
    return observation[key]


@dataclass(frozen=True)
class Task:
    """One of the tasks of a dataset; everything fits into JSON.

    name: what people call it; no two tasks of a dataset share it. env_id, env_kwargs: its own
    evaluation environment, see `DatasetInfo`. state_dim: how many columns of the states are its
    own; those to their right are zero.
    """

    name: str
    env_id: str | None
    env_kwargs: dict[str, Any]
    state_dim: int


@dataclass(frozen=True)
class DatasetInfo:
    """What a dataset is and where its policies are evaluated; everything fits into JSON.

    id: the name under which it was asked for (a Minari id, a file, a folder).
    source: "minari", "d4rl", "ogbench", "arrays", or "combined" out of several.
    env_id: Gymnasium id of the evaluation environment, None if unknown or if each task has its own.
    env_kwargs: keyword arguments of `gymnasium.make` at evaluation.
    action_low, action_high: bounds of the action space, one number per dimension.
    details: free text and numbers: steps, seed, path rule, author.
    tasks: which there are, () where it is not said; `Episodes.tasks` points into them.
    evaluation_tasks: starts and goals of a benchmark that data without `tasks` are scored on, ()
        where `env_id` is all.
    """

    id: str
    source: str
    env_id: str | None
    env_kwargs: dict[str, Any]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    details: dict[str, Any]
    tasks: tuple[Task, ...] = ()
    evaluation_tasks: tuple[Task, ...] = ()

    @property
    def public(self) -> DatasetInfo:
        """The same without the names of folders on this machine."""
        plain = _each_text(asdict(self))
        tasks, others = (
            tuple(Task(**task) for task in plain[name]) for name in ("tasks", "evaluation_tasks")
        )
        return replace(
            self, id=plain["id"], details=plain["details"], tasks=tasks, evaluation_tasks=others
        )


_DATA_FILES = (".hdf5", ".h5", ".npz")


def without_folders(text: str) -> str:
    """The last part of what names a file or folder of this machine, anything else as it is."""
    named = text.startswith(("/", "~")) or text.endswith(_DATA_FILES)
    return Path(text).name if named else text


def _each_text(value: Any) -> Any:
    if isinstance(value, str):
        return without_folders(value)
    if isinstance(value, Mapping):
        return {_each_text(key): _each_text(entry) for key, entry in value.items()}
    return [_each_text(entry) for entry in value] if isinstance(value, list | tuple) else value
