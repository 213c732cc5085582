"""Flat episode store: every episode of a dataset in a few arrays, with offsets between episodes."""

from __future__ import annotations

import json
import os
import shutil
import uuid
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffplan.data.header import read_json, typed
from diffplan.data.info import DatasetInfo, ObservationLayout
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
    "tasks": np.int64,
}
_ACTION_TOLERANCE = 5e-4  # of the width of an action's bounds
_GOAL_ROOM = 10  # times what the state spans
_GOALS_NEAR = 0.5  # share of goals within that room: a few lie there whatever the units
_REWARD_SPREAD = 2e-5  # of the largest reward: below it float32 sums tell rewards hardly apart
_HORIZON = 10_000  # steps that a return may sum up, beyond a time limit
_PIECE = 1 << 16  # rows that are checked at a time


@dataclass(frozen=True)
class Episodes:
    """All episodes of a dataset, flat.

    Episode e has T_e steps and T_e + 1 states, or T_e states where the source keeps no
    observation after the last step (D4RL files without next_observations).

    states: [M, D] float32, less `layout.offset`. goals: [M, G] float32, the desired goal in force
    at each state, less the offset of its columns; None where there is none or it is not known.
    actions: [N, A] float32 in environment units. rewards: [N] float32, reward t follows
    action t. terminations, truncations: [N] bool, kept apart. state_starts, step_starts: [E+1]
    int64 offsets into the states and into the steps. tasks: [E] int64, which of `info.tasks` each
    episode is of, None without tasks. The arrays may be memory-mapped read-only.
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
    tasks: np.ndarray | None = None

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
        empty episode, tasks that do not exist or share a name, NaN or infinity (with episode and
        step), bounds without room between them, actions out of bounds.
        """
        self._check_shapes()
        self._check_episodes()
        self._check_tasks()
        # the first place, by episode and step: nobody finds row 3,481,002
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
        self._check_goals()
        self._check_rewards()
        # a bound beyond float32 becomes infinity here, and is refused as such
        with np.errstate(over="ignore"):
            low = np.asarray(self.info.action_low, np.float32)
            high = np.asarray(self.info.action_high, np.float32)
        wrong = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high) & (low < high)))
        if len(wrong):
            raise DiffplanError(
                f"dataset {self.info.id}: the bounds of action column {wrong[0]} are "
                f"[{low[wrong[0]]:g}, {high[wrong[0]]:g}], expected finite ones, low below high"
            )
        # float32 and clipping in the environment move actions a little past their bounds
        room = _ACTION_TOLERANCE * (high.astype(np.float64) - low)
        least, most = low - room, high + room
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
            "tasks": (len(self.state_starts) - 1,),
        }
        if self.goals is not None and not self.layout.goal_dim:
            raise DiffplanError(f"dataset {name}: goals are given, but the layout has none")
        if (self.tasks is None) != (not self.info.tasks):
            raise DiffplanError(
                f"dataset {name}: {len(self.info.tasks)} tasks are described, but which episode is "
                f"of which is {'missing' if self.tasks is None else 'given'}"
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
            # no silent cast: it would copy what is memory-mapped
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
        # 1 where the state after the last step was kept
        extra = np.diff(self.state_starts) - self.lengths
        wrong = np.flatnonzero((extra != 0) & (extra != 1))
        if len(wrong):
            e = wrong[0]
            raise DiffplanError(
                f"dataset {name}: episode {e} has {self.lengths[e]} steps and "
                f"{self.lengths[e] + extra[e]} states, expected as many states or one more"
            )

    def _check_goals(self) -> None:
        """Goals in other columns, or other units, than what they are compared with."""
        columns = self.layout.goal_columns if self.goals is not None else ()
        for k, column in enumerate(columns):
            assert self.goals is not None
            low, high = float(self.states[:, column].min()), float(self.states[:, column].max())
            goals = self.goals[:, k]
            room = _GOAL_ROOM * (high - low)  # goals may lie where nobody has been
            near = (goals >= low - room) & (goals <= high + room)
            if high > low and near.mean() < _GOALS_NEAR:
                raise DiffplanError(
                    f"dataset {self.info.id}: goals reach from {goals.min():g} to {goals.max():g} "
                    f"in column {k}, but column {column} of the state, which goal_columns compares "
                    f"with it, from {low:g} to {high:g}; name the columns in the goals' order, in "
                    "the same units"
                )

    def _check_rewards(self) -> None:
        """Rewards whose sums float32 could not tell apart, or not hold."""
        low, high = float(self.rewards.min()), float(self.rewards.max())
        largest = max(abs(low), abs(high))
        if largest * max(int(self.lengths.max()), _HORIZON) > float(np.finfo(np.float32).max):
            raise DiffplanError(
                f"dataset {self.info.id}: rewards reach {largest:g}, whose sums float32 does not "
                "hold; divide all of them by the same number"
            )
        rounding = 4 * float(np.finfo(np.float32).eps) * largest
        if rounding < high - low < _REWARD_SPREAD * largest:
            raise DiffplanError(
                f"dataset {self.info.id}: rewards reach from {low:.10g} to {high:.10g}: float32 "
                f"hardly tells their sums apart; subtract {low:.10g} from all of them"
            )

    def _check_tasks(self) -> None:
        if self.tasks is None:
            return
        name, tasks = self.info.id, self.info.tasks
        names = [task.name for task in tasks]
        if twice := next((n for n in names if names.count(n) > 1), None):
            raise DiffplanError(f"dataset {name}: two tasks are called {twice!r}; rename one")
        wrong = np.flatnonzero((self.tasks < 0) | (self.tasks >= len(tasks)))
        if len(wrong):
            raise DiffplanError(
                f"dataset {name}: episode {wrong[0]} is of task {self.tasks[wrong[0]]}, expected "
                f"0 to {len(tasks) - 1}"
            )
        width = self.layout.state_dim
        for index, task in enumerate(tasks):
            if not 1 <= task.state_dim <= width:
                raise DiffplanError(
                    f"dataset {name}: task {task.name} has {task.state_dim} state columns, "
                    f"expected 1 to {width}"
                )
            # episode by episode: a mask over all states would not fit into memory
            for e in np.flatnonzero(self.tasks == index) if task.state_dim < width else ():
                own = slice(self.state_starts[e], self.state_starts[e + 1])
                if self.states[own, task.state_dim :].any():
                    raise DiffplanError(
                        f"dataset {name}: episode {e} is of task {task.name}, whose states have "
                        f"{task.state_dim} columns, but is not zero in those to their right"
                    )

    def save(self, folder: str | Path) -> None:
        """Write one .npy file per array and episodes.json.

        Atomic: written beside `folder` and renamed, so that no half-written folder is ever seen.
        An earlier store of this kind is replaced; any other non-empty folder is refused.
        """
        folder = Path(folder).absolute()
        # nobody's folder is replaced but a store of ours
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
        file = folder / _HEADER
        try:
            header = read_json(file)
        except (FileNotFoundError, NotADirectoryError):
            raise DiffplanError(f"{folder} is no episode store: it has no {_HEADER}") from None
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            found = header.get("format") if isinstance(header, dict) else None
            raise DiffplanError(
                f"{folder} has format {found}, this version reads {FORMAT}; make it again"
            )
        layout = typed(file, "layout", ObservationLayout, header.get("layout"))
        info = typed(file, "info", DatasetInfo, header.get("info"))
        try:
            # arrays that the header says are not there
            told = layout.goal_dim and (folder / "goals.npy").exists()
            absent: dict[str, Any] = {} if told else {"goals": None}
            absent |= {} if info.tasks else {"tasks": None}
            arrays: dict[str, Any] = {
                key: _read(folder / f"{key}.npy", mmap) for key in _ARRAYS if key not in absent
            }
        except Exception as error:  # NumPy raises many kinds for damaged files, tokenize's too
            raise DiffplanError(f"{folder} is no readable episode store: {error}") from None
        episodes = Episodes(**absent, **arrays, layout=layout, info=info)
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


def fingerprint(episodes: Episodes) -> str:
    """Short identity of a dataset's content, to refuse resuming on other data."""
    crc = 0
    for array in (episodes.states, episodes.actions, episodes.rewards, episodes.state_starts):
        crc = zlib.crc32(np.ascontiguousarray(array).data, crc)
    if episodes.tasks is not None:
        crc = zlib.crc32(np.ascontiguousarray(episodes.tasks).data, crc)
    return f"{episodes.num_episodes}-{episodes.num_steps}-{crc:08x}"
