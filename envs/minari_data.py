"""Minari datasets into the flat episode store."""

from __future__ import annotations

import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import minari
import numpy as np
from gymnasium import spaces
from minari.dataset.minari_dataset import parse_dataset_id
from minari.dataset.minari_storage import MinariStorage
from minari.storage import get_dataset_path
from tqdm import tqdm

from diffplan.data.episodes import DatasetInfo, Episodes, ObservationLayout
from diffplan.envs.cache import cached
from diffplan.envs.environments import env_from_spec
from diffplan.envs.flat import action_bounds
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
            reason = _first_line(error)
            print(f"left out, no Minari dataset: {folder} ({reason})", file=sys.stderr)
            continue
        found[dataset_id] = metadata
    return found


def is_minari_id(name: str) -> bool:
    """Whether a name has the form of a Minari id in a namespace, such as D4RL/door/human-v2."""
    return re.fullmatch(r"(?:[A-Za-z0-9_-]+/)+[A-Za-z0-9_-]+-v\d+", name) is not None


def fetch_minari(dataset_id: str) -> None:
    """Download a Minari dataset from its remote (`MINARI_REMOTE`) unless it is on this machine.

    Raises DiffplanError, in one line, for an id that the remote does not have, without a network,
    and without the package that talks to the remote.
    """
    if is_local(dataset_id):
        return
    metadata = get_dataset_path(dataset_id) / "data" / "metadata.json"
    by_hand = f"minari download {dataset_id}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on versions; what matters is raised
            # Forced, because a download that was interrupted leaves a folder behind.
            minari.download_dataset(dataset_id, force_download=True)
        if not metadata.is_file():
            raise ValueError("the remote sent no metadata.json")
    except BaseException as error:
        metadata.unlink(missing_ok=True)  # what is incomplete must not pass for a dataset
        if isinstance(error, ImportError):
            raise DiffplanError(
                f"to download {dataset_id}, install what Minari needs for it: "
                f"pip install 'minari[hf]'"
            ) from None
        if isinstance(error, ValueError | KeyError):
            raise DiffplanError(
                f"Minari dataset {dataset_id} cannot be downloaded: {_first_line(error)}; "
                f"see: minari list remote"
            ) from None
        if isinstance(error, Exception):  # each remote and HTTP library raises its own
            raise DiffplanError(
                f"cannot download Minari dataset {dataset_id}: {_first_line(error)}; with a "
                f"network: {by_hand}, or put its folder at {metadata.parent.parent}"
            ) from None
        raise


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def load_minari(dataset_id: str, progress: bool = True) -> Episodes:
    """Load a local Minari dataset of any origin.

    Observations may be Box vectors or goal dicts of Box vectors, actions Box vectors. For a goal
    dict the state is the "observation" when that contains the achieved goal (PointMaze), else
    "achieved_goal" and "observation" one after the other (AntMaze); goals are "desired_goal".
    Numbers become float32. The evaluation environment is the dataset's own, or else the one it
    was collected in. The first call converts the data and keeps a flat copy under
    `DIFFPLAN_CACHE`; later calls memory-map it until the dataset changes.
    Raises DiffplanError for an unknown id and for spaces that are not supported.
    """
    if not is_local(dataset_id):
        raise DiffplanError(f"Minari dataset {dataset_id} is not on this machine")
    folder = get_dataset_path(dataset_id) / "data"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return cached(
        dataset_id,
        files,
        "minari",
        lambda copy: _convert(dataset_id, folder, progress=progress).save(copy),
    )


def _convert(dataset_id: str, folder: Path, progress: bool) -> Episodes:
    try:
        return _read(dataset_id, minari.MinariDataset(folder), progress)
    except DiffplanError:
        raise
    except Exception as error:  # h5py, arrow and minari raise many kinds for damaged files
        raise DiffplanError(
            f"Minari dataset {dataset_id} cannot be read: {_first_line(error)}"
        ) from error


def _read(dataset_id: str, dataset: minari.MinariDataset, progress: bool) -> Episodes:
    _check_spaces(dataset_id, dataset.observation_space, dataset.action_space)
    has_dict = isinstance(dataset.observation_space, spaces.Dict)
    observations: list[np.ndarray] = []
    achieved: list[np.ndarray] = []
    goals: list[np.ndarray] = []
    steps: dict[str, list[np.ndarray]] = {
        "actions": [],
        "rewards": [],
        "terminations": [],
        "truncations": [],
    }
    has_goal = has_dict and _is_goal_space(dataset.observation_space)
    total = dataset.total_episodes
    bar = tqdm(total=total, desc=f"reading {dataset_id}", unit="episode", disable=not progress)
    with bar:
        for episode in dataset.iterate_episodes():
            parts: Any = episode.observations
            observations.append(_float(parts["observation"] if has_dict else parts))
            if has_goal:
                achieved.append(_float(parts["achieved_goal"]))
                goals.append(_float(parts["desired_goal"]))
            for key, kept in steps.items():
                kept.append(np.asarray(getattr(episode, key)))
            bar.update()
    if not observations:
        raise DiffplanError(f"dataset {dataset_id} holds no episodes")

    env_id, env_kwargs = _evaluation(dataset)
    states = np.concatenate(observations)
    rest = (2, 3) if env_id is not None and env_id.startswith("PointMaze_") else ()
    if has_goal:
        states, layout = goal_layout(states, np.concatenate(achieved), rest)
    else:
        keys = ("observation",) if has_dict else ()
        layout = ObservationLayout(states.shape[1], dict_keys=keys)
    actions = _float(np.concatenate(steps["actions"]))
    low, high = action_bounds(dataset.action_space, actions)
    metadata = dataset.storage.metadata
    details = {key: metadata[key] for key in _KEPT_METADATA if metadata.get(key) is not None}
    if "author" in details:
        details["author"] = ", ".join(sorted(details["author"]))
    details.update(metadata.get("diffplan", {}))
    details.setdefault("data_source", "a Minari dataset, not D4RL's file")
    return Episodes(
        states=states,
        goals=np.concatenate(goals) if has_goal else None,
        actions=actions,
        rewards=_float(np.concatenate(steps["rewards"])).reshape(-1),
        terminations=np.concatenate(steps["terminations"]).astype(np.bool_),
        truncations=np.concatenate(steps["truncations"]).astype(np.bool_),
        state_starts=np.cumsum([0, *map(len, observations)], dtype=np.int64),
        step_starts=np.cumsum([0, *map(len, steps["actions"])], dtype=np.int64),
        layout=layout,
        info=DatasetInfo(dataset_id, "minari", env_id, env_kwargs, low, high, details),
    )


def goal_layout(
    observations: np.ndarray, achieved: np.ndarray, rest_columns: tuple[int, ...] = ()
) -> tuple[np.ndarray, ObservationLayout]:
    """States [M, D] and their layout for a goal environment.

    observations: [M, O]. achieved: [M, G], the achieved goal. Where every achieved coordinate is
    also a column of the observation, the state is the observation; else D = G + O.
    """
    columns = []
    for goal in achieved.T:
        same = np.flatnonzero((observations == goal[:, None]).all(axis=0))
        if len(same):
            columns.append(int(same[0]))
    goal_dim = achieved.shape[1]
    if len(columns) == goal_dim:
        width, keys = observations.shape[1], ("observation",)
        return observations, ObservationLayout(width, goal_dim, tuple(columns), rest_columns, keys)
    states = np.concatenate([achieved, observations], axis=1)
    keys_both = ("achieved_goal", "observation")
    return states, ObservationLayout(
        states.shape[1], goal_dim, tuple(range(goal_dim)), (), keys_both
    )


def _evaluation(dataset: minari.MinariDataset) -> tuple[str | None, dict[str, Any]]:
    spec = dataset._eval_env_spec or dataset.env_spec
    return (None, {}) if spec is None else env_from_spec(spec)


def _is_goal_space(space: spaces.Dict) -> bool:
    return all(key in space.spaces and _is_vector(space[key]) for key in _GOAL_KEYS)


def _is_vector(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 1


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
