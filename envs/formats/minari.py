"""Minari datasets into the flat episode store."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import minari
import numpy as np
from gymnasium import spaces
from minari.dataset.minari_dataset import parse_dataset_id
from minari.dataset.minari_storage import MinariStorage
from minari.storage import get_dataset_path
from tqdm import tqdm

from diffplan.data.episodes import Episodes
from diffplan.data.info import DatasetInfo, ObservationLayout, Task
from diffplan.envs.formats.cache import cached
from diffplan.envs.formats.minari_write import RECIPE
from diffplan.envs.formats.store import StoreWriter
from diffplan.envs.simulators.bounds import action_bounds, widened
from diffplan.envs.simulators.environments import env_from_spec
from diffplan.errors import DiffplanError

_GOAL_KEYS = ("observation", "achieved_goal", "desired_goal")
_KEPT_METADATA = ("algorithm_name", "author", "description", "ref_min_score", "ref_max_score")


def is_local(dataset_id: str) -> bool:
    """Whether a Minari dataset of this id is on this machine."""
    if not dataset_id or dataset_id.startswith(("/", ".", "~")):
        return False
    return (get_dataset_path(dataset_id) / "data" / "metadata.json").is_file()


def local_datasets() -> dict[str, dict[str, Any]]:
    """Metadata of the Minari datasets on this machine, by id.

    A folder that looks like a dataset and is none is left out, with a line on stderr:
    `minari.list_local_datasets` would fail for all of them.
    """
    root = Path(get_dataset_path())
    found = {}
    for folder, inner, _ in os.walk(root, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if "data" not in inner or Path(folder) == root:
            continue
        inner.clear()
        dataset_id = Path(folder).relative_to(root).as_posix()
        try:
            parse_dataset_id(dataset_id)
            metadata = MinariStorage.read_raw_metadata(Path(folder) / "data")
            if metadata["dataset_id"] != dataset_id:
                raise ValueError(f"it calls itself {metadata['dataset_id']}")
        except Exception as error:  # minari and h5py raise many kinds for damaged folders
            reason = first_line(error)
            print(f"left out, no Minari dataset: {folder} ({reason})", file=sys.stderr)
            continue
        found[dataset_id] = metadata
    return found


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def load_minari(dataset_id: str, progress: bool = True) -> Episodes:
    """Load a local Minari dataset of any origin.

    Observations may be Box vectors or goal dicts of Box vectors, actions Box vectors. For a goal
    dict the state is the "observation" when that contains the achieved goal (PointMaze), else
    "achieved_goal" and "observation" one after the other (AntMaze); goals are "desired_goal".
    Numbers become float32. The evaluation environment is the dataset's own, or else the one it
    was collected in. The first call converts the data, an episode at a time, and keeps a flat copy
    under `DIFFPLAN_CACHE`; later calls memory-map it until the dataset changes.
    Raises DiffplanError for an unknown id and for spaces that are not supported.
    """
    if not is_local(dataset_id):
        raise DiffplanError(f"Minari dataset {dataset_id} is not on this machine")
    folder = get_dataset_path(dataset_id) / "data"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return cached(
        dataset_id, files, "minari", lambda copy: _convert(dataset_id, folder, copy, progress)
    )


@dataclass(frozen=True)
class _Form:
    """How episodes of a Minari dataset become states and goals.

    width: columns of an observation. has_dict: it is a dict. goal_dim: 0 without a goal.
    goal_inside: the achieved goal is part of the observation, which is then the state.
    """

    width: int
    has_dict: bool
    goal_dim: int
    goal_inside: bool

    @staticmethod
    def of(space: spaces.Space, goal_inside: bool) -> _Form:
        """By the observation space, which `_check_spaces` has passed."""
        inner, goal_dim = space, 0
        if isinstance(space, spaces.Dict):
            inner = space["observation"]
            goal_dim = _width(space["desired_goal"]) if _is_goal_space(space) else 0
        return _Form(_width(inner), isinstance(space, spaces.Dict), goal_dim, goal_inside)

    @property
    def widths(self) -> dict[str, int]:
        """Columns of the states, and of the goals if there are some."""
        if not self.goal_dim:
            return {"states": self.width}
        outside = 0 if self.goal_inside else self.goal_dim
        return {"states": self.width + outside, "goals": self.goal_dim}

    def arrays(self, observations: Any) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """States, achieved goals and desired goals of an episode, each [T + 1, *]."""
        states = _float(observations["observation"] if self.has_dict else observations)
        if not self.goal_dim:
            return states, None, None
        achieved, desired = (_float(observations[key]) for key in _GOAL_KEYS[1:])
        if not self.goal_inside:
            states = np.concatenate([achieved, states], axis=1)
        return states, achieved, desired

    def layout(self, same: np.ndarray, env_id: str | None) -> ObservationLayout:
        """same: [G, O], which columns of the observations hold each achieved coordinate."""
        width = self.widths["states"]
        if not self.goal_dim:
            return ObservationLayout(width, dict_keys=("observation",) if self.has_dict else ())
        if not self.goal_inside:
            columns = tuple(range(self.goal_dim))
            return ObservationLayout(
                width, self.goal_dim, columns, (), ("achieved_goal", "observation")
            )
        columns = tuple(int(row.argmax()) for row in same)
        rest = (2, 3) if env_id is not None and env_id.startswith("PointMaze_") else ()
        return ObservationLayout(width, self.goal_dim, columns, rest, ("observation",))


def _convert(dataset_id: str, folder: Path, copy: Path, progress: bool) -> None:
    """Write the flat store of a dataset, whose files are in `folder`, into `copy`."""
    with _readable(dataset_id):
        dataset = minari.MinariDataset(folder)
    _check_spaces(dataset_id, dataset.observation_space, dataset.action_space)
    if not _write(dataset_id, dataset, copy, True, progress):
        _write(dataset_id, dataset, copy, False, progress)


@contextlib.contextmanager
def _readable(dataset_id: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # h5py, arrow and minari raise many kinds for damaged files
        raise DiffplanError(
            f"Minari dataset {dataset_id} cannot be read: {first_line(error)}"
        ) from error


def _episodes(
    dataset_id: str, dataset: minari.MinariDataset, progress: bool
) -> Iterator[minari.EpisodeData]:
    total = dataset.total_episodes
    if not total:
        raise DiffplanError(f"dataset {dataset_id} holds no episodes")
    with tqdm(
        total=total, desc=f"reading {dataset_id}", unit="episode", disable=not progress
    ) as bar:
        found = iter(dataset.iterate_episodes())
        for _ in range(total):
            with _readable(dataset_id):
                episode = next(found)
            yield episode
            bar.update()


def _write(
    dataset_id: str, dataset: minari.MinariDataset, copy: Path, goal_inside: bool, progress: bool
) -> bool:
    """One pass over the episodes. False if goal_inside turns out wrong, mostly at once."""
    form = _Form.of(dataset.observation_space, goal_inside)
    widths = form.widths | {"actions": _width(dataset.action_space)}
    extremes = np.zeros((2, widths["actions"]), np.float32)
    same = np.ones((form.goal_dim, form.width), np.bool_)
    whole: dict[str, list[np.ndarray]] = {"rewards": [], "terminations": [], "truncations": []}
    lengths, counts = [0], [0]
    with StoreWriter(copy, widths) as store:
        for episode in _episodes(dataset_id, dataset, progress):
            states, achieved, desired = form.arrays(episode.observations)
            if achieved is not None and desired is not None:
                if goal_inside:
                    same &= (achieved[:, :, None] == states[:, None, :]).all(axis=0)
                    if not same.any(axis=1).all():
                        return False
                store.append("goals", desired)
            actions = _float(episode.actions)
            store.append("states", states)
            store.append("actions", actions)
            extremes = widened(extremes, actions)
            for key, kept in whole.items():
                kept.append(np.asarray(getattr(episode, key)).reshape(-1))
            lengths.append(len(actions))
            counts.append(len(states))
        env_id, env_kwargs = _evaluation(dataset)
        tasks, task_of = _tasks(dataset_id, dataset)
        if env_id is None and len(tasks) == 1:
            env_id, env_kwargs = tasks[0].env_id, tasks[0].env_kwargs
        low, high = action_bounds(dataset.action_space, extremes)
        details = _details(dataset.storage.metadata)
        store.finish(
            form.layout(same, env_id),
            DatasetInfo(dataset_id, "minari", env_id, env_kwargs, low, high, details, tasks),
            {
                "rewards": _float(np.concatenate(whole["rewards"])),
                "terminations": np.concatenate(whole["terminations"]).astype(np.bool_),
                "truncations": np.concatenate(whole["truncations"]).astype(np.bool_),
                "state_starts": np.cumsum(counts, dtype=np.int64),
                "step_starts": np.cumsum(lengths, dtype=np.int64),
                **({"tasks": task_of} if tasks else {}),
            },
        )
    return True


def _tasks(dataset_id: str, dataset: minari.MinariDataset) -> tuple[tuple[Task, ...], np.ndarray]:
    """The tasks that the metadata describe under "diffplan", and that of each episode [E]."""
    # only data made here tell their tasks
    described = dataset.storage.metadata.get(RECIPE, {}).get("tasks", ())
    tasks = tuple(Task(**task) for task in described)
    if not tasks:
        return (), np.zeros(0, np.int64)
    index = {task.name: i for i, task in enumerate(tasks)}
    found = []
    for e, about in enumerate(dataset.storage.get_episode_metadata(dataset.episode_indices)):
        if about.get("task") not in index:
            raise DiffplanError(
                f"dataset {dataset_id}: episode {e} is of task {about.get('task')!r}, expected one "
                f"of {', '.join(index)} in its metadata"
            )
        found.append(index[about["task"]])
    return tasks, np.array(found, np.int64)


def _details(metadata: dict[str, Any]) -> dict[str, Any]:
    """What to keep of a dataset's metadata."""
    details = {key: metadata[key] for key in _KEPT_METADATA if metadata.get(key) is not None}
    if "author" in details:
        details["author"] = ", ".join(sorted(details["author"]))
    details.update(metadata.get(RECIPE, {}))
    details.pop("tasks", None)  # which are described apart
    # Minari's versions of D4RL's names are other data
    details.setdefault("data_source", "a Minari dataset, not D4RL's file")
    return details


def _evaluation(dataset: minari.MinariDataset) -> tuple[str | None, dict[str, Any]]:
    # the one for evaluation where the data name it; it often differs in its goals
    spec = dataset._eval_env_spec or dataset.env_spec
    return (None, {}) if spec is None else env_from_spec(spec)


def _is_goal_space(space: spaces.Dict) -> bool:
    if not all(key in space.spaces and _is_vector(space[key]) for key in _GOAL_KEYS):
        return False
    return space["achieved_goal"].shape == space["desired_goal"].shape


def _is_vector(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 1


def _width(space: spaces.Space) -> int:
    """Columns of a Box vector."""
    assert space.shape is not None
    return int(space.shape[0])


def _check_spaces(dataset_id: str, observation: spaces.Space, action: spaces.Space) -> None:
    inner = observation
    if isinstance(observation, spaces.Dict):
        if "observation" not in observation.spaces:
            raise DiffplanError(
                f"dataset {dataset_id} has dict observations with keys "
                f"{sorted(observation.spaces)}; expected 'observation' among them"
            )
        inner = observation["observation"]
    for name, space in (("observations", inner), ("actions", action)):
        if not _is_vector(space):
            raise DiffplanError(
                f"dataset {dataset_id} has {name} of type {space}; expected a Box vector"
            )


def _float(array: Any) -> np.ndarray:
    return np.asarray(array, np.float32)
