"""The one door to data: a name, a Minari id, a file or a folder becomes Episodes."""

from __future__ import annotations

import dataclasses
import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from diffplan.data.episodes import Episodes
from diffplan.envs.arrays import load_arrays
from diffplan.envs.d4rl import D4RL_SUFFIXES, load_d4rl
from diffplan.envs.environments import check_env_id
from diffplan.envs.mazes import POINTMAZES
from diffplan.envs.minari_data import is_local, load_minari, local_datasets
from diffplan.envs.pointmaze import pointmaze_id
from diffplan.errors import DiffplanError


@dataclass(frozen=True)
class DatasetEntry:
    """One line of the list of datasets.

    name: what to give to --dataset. kind: "can be made", "minari" or "d4rl". note: size or hint.
    """

    name: str
    kind: str
    note: str


def d4rl_folder() -> Path:
    """`D4RL_DATASET_DIR`, by default ~/.d4rl/datasets."""
    return Path(os.environ.get("D4RL_DATASET_DIR") or Path.home() / ".d4rl" / "datasets")


def load_dataset(
    name_or_path: str, env: str | None = None, *, validate: bool = True, progress: bool = True
) -> Episodes:
    """Load a dataset by whatever it is called.

    name_or_path: a NAME that `diffplan datasets make` made (pointmaze-medium), a Minari id, a
        D4RL-layout .hdf5 or .h5 file, a .npz file, or a folder written by `Episodes.save`.
    env: Gymnasium id of the evaluation environment; replaces what the dataset says.
    validate: refuse data with NaN, empty episodes or actions out of bounds.
    Raises DiffplanError with the nearest known names for anything else.
    """
    if env is not None:
        check_env_id(env)
    episodes = _load(name_or_path, env, progress)
    if env is not None and episodes.info.env_id != env:
        info = dataclasses.replace(episodes.info, env_id=env, env_kwargs={})
        episodes = dataclasses.replace(episodes, info=info)
    return episodes.validate() if validate else episodes


def _load(name: str, env: str | None, progress: bool) -> Episodes:
    path = Path(name).expanduser()
    if path.suffix in D4RL_SUFFIXES or path.suffix == ".npz":
        in_d4rl_folder = d4rl_folder() / path.name
        if not path.exists() and in_d4rl_folder.exists():
            path = in_d4rl_folder
        if not path.is_file():
            raise DiffplanError(f"no file {path}; give a path from {Path.cwd()} or an absolute one")
        return load_arrays(path, env) if path.suffix == ".npz" else load_d4rl(path, env)
    if is_local(pointmaze_id(name)) and "/" not in name:
        return load_minari(pointmaze_id(name), progress)
    if is_local(name):
        return load_minari(name, progress)
    if name and path.is_dir():
        episodes = Episodes.load(path)
        info = dataclasses.replace(episodes.info, id=str(path))
        return dataclasses.replace(episodes, info=info)
    raise _unknown(name)


def _unknown(name: str) -> DiffplanError:
    if name in POINTMAZES:
        return DiffplanError(
            f"{name} is not made yet; make it with: diffplan datasets make {name} --steps 200000"
        )
    known = [entry.name for entry in list_datasets()]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    if "/" in name:
        hint += f"To download a Minari dataset: minari download {name}. "
    return DiffplanError(f"unknown dataset '{name}'. {hint}See: diffplan datasets list")


def list_datasets() -> list[DatasetEntry]:
    """Names that can be made here, local Minari datasets, files in the D4RL folder."""
    entries = []
    for name in sorted(POINTMAZES):
        made = is_local(pointmaze_id(name))
        note = f"made: {pointmaze_id(name)}" if made else f"diffplan datasets make {name}"
        entries.append(DatasetEntry(name, "can be made", note))
    for dataset_id, metadata in sorted(local_datasets().items()):
        note = f"{metadata.get('total_episodes')} episodes, {metadata.get('total_steps')} steps"
        entries.append(DatasetEntry(dataset_id, "minari", note))
    if d4rl_folder().is_dir():
        for path in sorted(d4rl_folder().iterdir()):
            if path.suffix in D4RL_SUFFIXES:
                note = f"{path.stat().st_size / 1e6:.1f} MB"
                entries.append(DatasetEntry(path.name, "d4rl", note))
    return entries
