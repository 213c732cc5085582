"""Minari datasets into the flat episode store."""

from __future__ import annotations

import contextlib
import os
import sys
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import minari
import numpy as np
from minari.dataset.minari_dataset import parse_dataset_id
from minari.dataset.minari_storage import MinariStorage
from minari.storage import get_dataset_path
from tqdm import tqdm

from diffplan.data.episodes import Episodes
from diffplan.data.info import DatasetInfo, Task
from diffplan.data.precision import Extent
from diffplan.envs.formats.cache import cached
from diffplan.envs.formats.hdf5_guard import check_minari_file
from diffplan.envs.formats.minari_form import Form, check_spaces, left_out
from diffplan.envs.formats.minari_write import RECIPE
from diffplan.envs.formats.store import StoreWriter, less
from diffplan.envs.simulators.bounds import action_bounds, widened
from diffplan.envs.simulators.environments import env_from_spec
from diffplan.errors import DiffplanError

_KEPT_METADATA = ("algorithm_name", "author", "description", "ref_min_score", "ref_max_score")


def is_local(dataset_id: str) -> bool:
    """Whether a Minari dataset of this id is on this machine."""
    if not dataset_id or dataset_id.startswith(("/", ".", "~")):
        return False
    try:
        return (get_dataset_path(dataset_id) / "data" / "metadata.json").is_file()
    except (OSError, ValueError):  # no name that a file could have
        return False


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
    Other vectors of a dict follow in the state; what is no vector is left out, which the details
    say. An episode without a flag at its end counts as truncated. Numbers become float32. The
    evaluation environment is the dataset's own, or else the one it was collected in, with its
    wrappers. The first call converts the data, an episode at a time, and keeps a flat copy under
    `DIFFPLAN_CACHE`; later calls memory-map it until the dataset changes.
    Raises DiffplanError for an unknown id and for spaces that are not supported.
    """
    if not is_local(dataset_id):
        raise DiffplanError(f"Minari dataset {dataset_id} is not on this machine")
    folder = get_dataset_path(dataset_id) / "data"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return cached(
        dataset_id, files, "minari", lambda copy: _convert(dataset_id, folder, copy, progress)
    )


def load_minari_dataset(dataset: minari.MinariDataset, progress: bool = True) -> Episodes:
    """As `load_minari`, of a dataset object: with the episodes that it was filtered to alone."""
    folder, chosen = Path(dataset.storage.data_path), np.asarray(dataset.episode_indices)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    every = int(dataset.storage.total_episodes)
    part = "" if len(chosen) == every else f" {len(chosen)} {zlib.crc32(chosen.tobytes())}"
    episodes = cached(
        dataset.id,
        files,
        f"minari{part}",
        lambda copy: _convert(dataset.id, folder, copy, progress, dataset),
    )
    if not part:
        return episodes
    details = {**episodes.info.details, "filtered": f"{len(chosen)} of {every} episodes"}
    return replace(episodes, info=replace(episodes.info, details=details))


def _convert(
    dataset_id: str,
    folder: Path,
    copy: Path,
    progress: bool,
    dataset: minari.MinariDataset | None = None,
) -> None:
    """Write the flat store of a dataset, whose files are in `folder`, into `copy`."""
    for file in folder.glob("*.hdf5"):
        check_minari_file(file)
    if dataset is None:
        with _readable(dataset_id):
            dataset = minari.MinariDataset(folder)
    check_spaces(dataset_id, dataset.observation_space, dataset.action_space)
    goal_inside, offset = True, tuple[float, ...]()
    while True:  # again where the first pass has found out something
        found = _write(dataset_id, dataset, copy, goal_inside, offset, progress)
        if found == (goal_inside, offset):
            return
        goal_inside, offset = found


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
    dataset_id: str,
    dataset: minari.MinariDataset,
    copy: Path,
    goal_inside: bool,
    offset: tuple[float, ...],
    progress: bool,
) -> tuple[bool, tuple[float, ...]]:
    """One pass over the episodes; returns what `goal_inside` and `offset` should have been."""
    form = Form.of(dataset.observation_space, goal_inside)
    widths = form.widths | {"actions": _width(dataset)}
    extremes = np.zeros((2, widths["actions"]), np.float32)
    same = np.ones((form.goal_dim, form.width), np.bool_)
    flags: dict[str, list[np.ndarray]] = {"terminations": [], "truncations": []}
    rewards, lengths, counts = [], [0], [0]
    seen = {key: Extent(widths.get(key, 1)) for key in ("states", "actions", "rewards")}
    shift = np.asarray(offset) if offset else None
    with StoreWriter(copy, widths) as store:
        for episode in _episodes(dataset_id, dataset, progress):
            states, achieved, desired = form.arrays(episode.observations)
            if achieved is not None and desired is not None:
                if goal_inside:
                    same &= (achieved[:, :, None] == states[:, None, :]).all(axis=0)
                    if not same.any(axis=1).all():
                        return False, offset
                columns = same.argmax(axis=1) if goal_inside else np.arange(form.goal_dim)
                store.append("goals", less(desired, None if shift is None else shift[columns]))
            actions, reward = np.asarray(episode.actions), np.asarray(episode.rewards).reshape(-1)
            given = {"states": states, "actions": actions, "rewards": reward[:, None]}
            for key, rows in given.items():
                seen[key].add(rows)
            store.append("states", less(states, shift))
            store.append("actions", less(actions, None))
            extremes = widened(extremes, less(actions, None))
            rewards.append(less(reward, None))
            for key, kept in flags.items():
                kept.append(_flags(dataset_id, key, getattr(episode, key), len(counts) - 1))
            _end(flags)
            lengths.append(len(actions))
            counts.append(len(states))
        _check_steps(dataset_id, dataset, lengths[1:])
        for key, extent in seen.items():
            extent.check_size(f"dataset {dataset_id}", key)
            if key != "states" and given[key].dtype != np.float32:
                extent.check(f"dataset {dataset_id}", key)
        wanted = () if states.dtype == np.float32 else seen["states"].offsets()
        if wanted != offset:
            return goal_inside, wanted
        details = _details(dataset.storage.metadata)
        if seen["states"].resting and states.dtype != np.float32:
            details["resting"] = seen["states"].resting
        if missing := left_out(dataset.observation_space):
            details["left_out"] = missing
        env_id, env_kwargs = _evaluation(dataset, details)
        tasks, task_of = _tasks(dataset_id, dataset)
        if env_id is None and len(tasks) == 1:
            env_id, env_kwargs = tasks[0].env_id, tasks[0].env_kwargs
        low, high = action_bounds(dataset.action_space, extremes)
        store.finish(
            form.layout(same, env_id, offset),
            DatasetInfo(dataset_id, "minari", env_id, env_kwargs, low, high, details, tasks),
            {
                "rewards": np.concatenate(rewards),
                **{key: np.concatenate(kept) for key, kept in flags.items()},
                "state_starts": np.cumsum(counts, dtype=np.int64),
                "step_starts": np.cumsum(lengths, dtype=np.int64),
                **({"tasks": task_of} if tasks else {}),
            },
        )
    return goal_inside, offset


def _flags(dataset_id: str, key: str, given: np.ndarray, episode: int) -> np.ndarray:
    """Flags [T] of an episode as bool."""
    found = np.asarray(given).reshape(-1)
    wrong = np.flatnonzero((found != 0) & (found != 1))
    if len(wrong):
        raise DiffplanError(
            f"dataset {dataset_id}: {key} hold {found[wrong[0]]} in episode {episode}, step "
            f"{wrong[0]}, expected 0 or 1"
        )
    return found.astype(np.bool_)


def _end(flags: dict[str, list[np.ndarray]]) -> None:
    """An episode without a flag at its end was cut there: nothing says that the task ended."""
    terminations, truncations = (flags[key][-1] for key in ("terminations", "truncations"))
    if len(truncations) and len(terminations) == len(truncations):
        truncations[-1] |= not terminations[-1]


def _check_steps(dataset_id: str, dataset: minari.MinariDataset, lengths: list[int]) -> None:
    """Compare what was read with what the dataset says of itself."""
    with _readable(dataset_id):
        told = list(dataset.storage.get_episode_metadata(dataset.episode_indices))
    for e, (about, length) in enumerate(zip(told, lengths, strict=False)):
        own = about.get("total_steps")
        if own is not None and int(own) != length:
            raise DiffplanError(
                f"dataset {dataset_id}: {length} steps of episode {e} can be read, but it has "
                f"{int(own)} by its metadata; make the dataset again"
            )
    whole = len(lengths) == dataset.storage.total_episodes
    total = dataset.storage.metadata.get("total_steps") if whole else None
    if total is not None and int(total) != sum(lengths):
        raise DiffplanError(
            f"dataset {dataset_id}: {sum(lengths):,} steps can be read, but it has {int(total):,} "
            "by its metadata; make the dataset again"
        )


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


def _evaluation(
    dataset: minari.MinariDataset, details: dict[str, Any]
) -> tuple[str | None, dict[str, Any]]:
    """Environment and its arguments; where they cannot be remade, `details` says why."""
    # the one for evaluation where the data name it; it often differs in its goals
    spec = dataset._eval_env_spec or dataset.env_spec
    if spec is None:
        return None, {}
    try:
        return env_from_spec(spec)
    except DiffplanError as error:
        details["environment_refused"] = str(error)
        return None, {}


def _width(dataset: minari.MinariDataset) -> int:
    """Columns of an action."""
    return int(dataset.action_space.shape[0])
