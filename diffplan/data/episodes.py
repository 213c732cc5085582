"""Flat episode store: every episode of a dataset in a few arrays, with offsets between episodes."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffplan.errors import DiffplanError

FORMAT = 1
_HEADER = "episodes.json"
_ARRAYS = {
    "states": np.float32,
    "goals": np.float32,
    "actions": np.float32,
    "rewards": np.float32,
    "terminations": np.bool_,
    "truncations": np.bool_,
    "state_starts": np.int64,
    "step_starts": np.int64,
}
_ACTION_TOLERANCE = 1e-3
_PIECE = 1 << 16  # rows that are checked at a time


@dataclass(frozen=True)
class ObservationLayout:
    """How an environment's observation becomes state [D] and goal [G].

    state_dim: D.
    goal_dim: G, 0 without a goal.
    goal_columns: columns of the state that hold the achieved goal, G of them, or () if unknown.
    rest_columns: columns of the state that are zero when resting at the goal (velocities).
    dict_keys: () for a Box observation; for goal dicts the keys whose arrays, concatenated in
        this order, are the state. The goal is then the array under "desired_goal".
    """

    state_dim: int
    goal_dim: int = 0
    goal_columns: tuple[int, ...] = ()
    rest_columns: tuple[int, ...] = ()
    dict_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.goal_dim and not self.dict_keys:
            raise DiffplanError("a layout with a goal needs dict_keys, e.g. ('observation',)")
        if self.goal_columns and len(self.goal_columns) != self.goal_dim:
            raise DiffplanError(
                f"goal_columns {self.goal_columns} do not match a goal of {self.goal_dim} numbers"
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
            return _checked(observation, self.state_dim, "observation"), None
        if not isinstance(observation, Mapping):
            keys = self.dict_keys + (("desired_goal",) if self.goal_dim else ())
            raise DiffplanError(
                f"the observation is a {type(observation).__name__}, expected a dict with {keys}"
            )
        parts = [np.asarray(_entry(observation, key), np.float32) for key in self.dict_keys]
        try:
            state = np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
        except ValueError:
            shapes = ", ".join(f"{k} {p.shape}" for k, p in zip(self.dict_keys, parts, strict=True))
            raise DiffplanError(f"these parts of the observation do not fit: {shapes}") from None
        state = _checked(state, self.state_dim, "observation")
        if not self.goal_dim:
            return state, None
        goal = _checked(_entry(observation, "desired_goal"), self.goal_dim, "desired_goal")
        if goal.shape[:-1] != state.shape[:-1]:
            raise DiffplanError(
                f"observation {state.shape} and desired_goal {goal.shape} differ in batch shape"
            )
        return state, goal


def _entry(observation: Mapping[str, Any], key: str) -> Any:
    if key not in observation:
        raise DiffplanError(f"the observation has keys {sorted(observation)}, '{key}' is missing")
    return observation[key]


def _checked(array: Any, width: int, name: str) -> np.ndarray:
    array = np.asarray(array, np.float32)
    if array.ndim == 0 or array.shape[-1] != width:
        raise DiffplanError(f"{name} has shape {array.shape}, expected [..., {width}]")
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise DiffplanError(
            f"{name} holds {array[where]} at index {where}, expected finite numbers"
        )
    return array


@dataclass(frozen=True)
class DatasetInfo:
    """What a dataset is and where its policies are evaluated; everything fits into JSON.

    id: the name under which it was asked for (a Minari id, a file, a folder).
    source: "minari", "d4rl" or "arrays".
    env_id: Gymnasium id of the evaluation environment, None if unknown.
    env_kwargs: keyword arguments of `gymnasium.make` at evaluation.
    action_low, action_high: bounds of the action space, one number per dimension.
    details: free text and numbers: steps, seed, path rule, author.
    """

    id: str
    source: str
    env_id: str | None
    env_kwargs: dict[str, Any]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    details: dict[str, Any]


@dataclass(frozen=True)
class Episodes:
    """All episodes of a dataset, flat.

    Episode e has T_e steps and T_e + 1 states, or T_e states where the source keeps no
    observation after the last step (D4RL files without next_observations).

    states: [M, D] float32. goals: [M, G] float32, the desired goal in force at each state, or
    None. actions: [N, A] float32 in environment units. rewards: [N] float32, reward t follows
    action t. terminations, truncations: [N] bool, kept apart. state_starts, step_starts: [E+1]
    int64 offsets into the states and into the steps. The arrays may be memory-mapped read-only.
    """

    states: np.ndarray
    goals: np.ndarray | None
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    state_starts: np.ndarray
    step_starts: np.ndarray
    layout: ObservationLayout
    info: DatasetInfo

    @property
    def num_episodes(self) -> int:
        return len(self.step_starts) - 1

    @property
    def num_steps(self) -> int:
        return len(self.actions)

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each episode, [E] int64."""
        return np.diff(self.step_starts)

    @property
    def returns(self) -> np.ndarray:
        """Undiscounted sum of rewards of each episode, [E] float64."""
        returns, filled = np.zeros(self.num_episodes), self.lengths > 0
        starts = self.step_starts[:-1][filled]
        if len(starts):
            returns[filled] = np.add.reduceat(self.rewards.astype(np.float64), starts)
        return returns

    def validate(self) -> Episodes:
        """Check everything that training relies on and return self.

        Raises DiffplanError naming the first thing that is wrong: types and shapes, offsets, an
        empty episode, NaN or infinity (with episode and step), bounds without room between them,
        actions out of bounds.
        """
        self._check_shapes()
        self._check_episodes()
        for name in ("states", "goals", "actions", "rewards"):
            array = getattr(self, name)
            bad = None if array is None else _first(array, lambda part: ~np.isfinite(part))
            if bad is None:
                continue
            column = f", column {bad[1]}" if array.ndim > 1 else ""
            offsets = self.state_starts if name in ("states", "goals") else self.step_starts
            raise DiffplanError(
                f"dataset {self.info.id}: {name} hold {array[bad]} in "
                f"{_place(offsets, bad[0])}{column}; repair the data or leave that episode out"
            )
        with np.errstate(over="ignore"):
            low = np.asarray(self.info.action_low, np.float32)
            high = np.asarray(self.info.action_high, np.float32)
        wrong = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high) & (low < high)))
        if len(wrong):
            raise DiffplanError(
                f"dataset {self.info.id}: the bounds of action column {wrong[0]} are "
                f"[{low[wrong[0]]:g}, {high[wrong[0]]:g}], expected finite ones, low below high"
            )
        least, most = low - _ACTION_TOLERANCE, high + _ACTION_TOLERANCE
        outside = _first(self.actions, lambda part: (part < least) | (part > most))
        if outside is not None:
            row, at = outside
            raise DiffplanError(
                f"dataset {self.info.id}: action {self.actions[row, at]:g} in "
                f"{_place(self.step_starts, row)}, column {at}, is outside "
                f"[{self.info.action_low[at]:g}, {self.info.action_high[at]:g}]; store the "
                "actions that were executed, as the environment takes them"
            )
        return self

    def _check_shapes(self) -> None:
        steps, name = len(self.actions), self.info.id
        width = len(self.info.action_low)
        if not self.layout.state_dim or not width:
            raise DiffplanError(
                f"dataset {name}: states have {self.layout.state_dim} columns and actions {width}, "
                f"expected at least one of each"
            )
        expected: dict[str, tuple[int, ...]] = {
            "states": (len(self.states), self.layout.state_dim),
            "goals": (len(self.states), self.layout.goal_dim),
            "actions": (steps, width),
            "rewards": (steps,),
            "terminations": (steps,),
            "truncations": (steps,),
            "state_starts": (len(self.state_starts),),
            "step_starts": (len(self.state_starts),),
        }
        if (self.goals is None) != (self.layout.goal_dim == 0):
            raise DiffplanError(
                f"dataset {name}: the layout has {self.layout.goal_dim} goal dimensions, "
                f"but goals are {'missing' if self.goals is None else 'given'}"
            )
        if len(self.info.action_high) != width:
            raise DiffplanError(f"dataset {name}: action_low and action_high differ in length")
        for key, shape in expected.items():
            array = getattr(self, key)
            if array is None:
                continue
            if array.shape != shape:
                raise DiffplanError(
                    f"dataset {name}: {key} have shape {array.shape}, expected {shape}"
                )
            if array.dtype != _ARRAYS[key]:
                raise DiffplanError(
                    f"dataset {name}: {key} are {array.dtype}, expected {np.dtype(_ARRAYS[key])}"
                )

        for key, total in (("state_starts", len(self.states)), ("step_starts", self.num_steps)):
            offsets = getattr(self, key)
            if len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != total:
                raise DiffplanError(
                    f"dataset {name}: {key} are {offsets[:1]} to {offsets[-1:]}, "
                    f"expected 0 to {total}"
                )
            if (np.diff(offsets) < 0).any():
                raise DiffplanError(f"dataset {name}: {key} decrease")

    def _check_episodes(self) -> None:
        name = self.info.id
        if not self.num_steps:
            raise DiffplanError(f"dataset {name} holds no steps")
        empty = np.flatnonzero(self.lengths < 1)
        if len(empty):
            raise DiffplanError(
                f"dataset {name}: episode {empty[0]} has {self.lengths[empty[0]]} steps, "
                f"expected at least one; leave it out"
            )
        extra = np.diff(self.state_starts) - self.lengths
        wrong = np.flatnonzero((extra != 0) & (extra != 1))
        if len(wrong):
            e = wrong[0]
            raise DiffplanError(
                f"dataset {name}: episode {e} has {self.lengths[e]} steps and "
                f"{self.lengths[e] + extra[e]} states, expected as many states or one more"
            )

    def save(self, folder: str | Path) -> None:
        """Write one .npy file per array and episodes.json.

        Atomic: written beside `folder` and renamed, so that no half-written folder is ever seen.
        An earlier store of this kind is replaced; any other non-empty folder is refused.
        """
        folder = Path(folder).absolute()
        occupied = folder.exists() and not (folder / _HEADER).exists()
        if occupied and (not folder.is_dir() or any(folder.iterdir())):
            raise DiffplanError(f"{folder} exists and is no episode store; choose another folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}"
        building.mkdir()
        try:
            for key in _ARRAYS:
                array = getattr(self, key)
                if array is not None:
                    np.save(building / f"{key}.npy", array)
            header = {"format": FORMAT, "layout": asdict(self.layout), "info": asdict(self.info)}
            (building / _HEADER).write_text(json.dumps(header, indent=1))
            replace_folder(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)

    @staticmethod
    def load(folder: str | Path, mmap: bool = True) -> Episodes:
        """Read a folder written by `save`; with `mmap` the arrays stay on disk until touched."""
        folder = Path(folder)
        if not (folder / _HEADER).is_file():
            raise DiffplanError(f"{folder} is no episode store: it has no {_HEADER}")
        try:
            header = json.loads((folder / _HEADER).read_text())
            if header["format"] != FORMAT:
                raise DiffplanError(
                    f"{folder} has format {header['format']}, this version reads {FORMAT}; "
                    f"make it again"
                )
            layout = ObservationLayout(**_with_tuples(header["layout"]))
            info = DatasetInfo(**_with_tuples(header["info"]))
            arrays: dict[str, Any] = {
                key: _read(folder / f"{key}.npy", mmap)
                for key in _ARRAYS
                if key != "goals" or layout.goal_dim
            }
        except DiffplanError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DiffplanError(f"{folder} is no readable episode store: {error}") from None
        episodes = Episodes(**{"goals": None, **arrays}, layout=layout, info=info)
        episodes._check_shapes()
        return episodes


def _first(array: np.ndarray, bad: Callable[[np.ndarray], np.ndarray]) -> tuple[int, ...] | None:
    """Index of the first entry that is `bad`; in pieces, as the array may be larger than memory."""
    for start in range(0, len(array), _PIECE):
        marks = bad(array[start : start + _PIECE])
        if marks.any():
            row, *column = (int(index) for index in np.argwhere(marks)[0])
            return (start + row, *column)
    return None


def _place(offsets: np.ndarray, row: int) -> str:
    episode = int(np.searchsorted(offsets, row, side="right")) - 1
    return f"episode {episode}, step {int(row - offsets[episode])}"


def _with_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
    }


def _read(path: Path, mmap: bool) -> np.ndarray:
    array = np.load(path, mmap_mode="c" if mmap else None, allow_pickle=False)
    # A plain view: indexing np.memmap itself is several times slower.
    return np.asarray(array)


def replace_folder(building: Path, folder: Path) -> None:
    """Rename the finished folder `building` to `folder`, replacing what is there.

    Both must be on one file system. An old folder is moved aside first, because a rename cannot
    replace a folder that is not empty; if the second rename fails, the old folder comes back.
    """
    if not folder.exists():
        os.rename(building, folder)
        return
    old = folder.parent / f".{folder.name}.old-{uuid.uuid4().hex[:8]}"
    os.rename(folder, old)
    try:
        os.rename(building, folder)
    except OSError:
        os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
