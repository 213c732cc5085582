"""Datasets made here, saved through Minari whole or not at all, with how they were made."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from minari import create_dataset_from_buffers
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_dataset import parse_dataset_id
from minari.namespace import create_namespace, list_local_namespaces
from minari.storage import get_dataset_path
from tqdm import tqdm

from diffplan.data.episodes import replace_folder
from diffplan.data.folders import building_folder
from diffplan.envs.simulators.installed import require_simulator
from diffplan.errors import DiffplanError

RECIPE = "diffplan"  # the metadata key under which a dataset remembers how it was made


def software_versions() -> dict[str, str]:
    """Versions of what decides the data: MuJoCo above all (other versions, other bits).

    Without gymnasium-robotics where it is not installed: maze2d needs none of it. Raises
    DiffplanError where MuJoCo is not installed.
    """
    require_simulator("mujoco", "making data")
    packages = ["mujoco", "gymnasium", "numpy", "minari"]
    if importlib.util.find_spec("gymnasium_robotics") is not None:
        packages.append("gymnasium-robotics")
    return {package: importlib.metadata.version(package) for package in packages}


def already_made(
    dataset_id: str,
    recipe: dict[str, Any],
    keys: Sequence[str],
    describe: Callable[[dict[str, Any]], str],
    overwrite: bool,
) -> bool:
    """Whether the very dataset is there already; DiffplanError if another one is.

    recipe: how it would be made. keys: those of it that decide the data, beside MuJoCo's version.
    describe: a recipe in words. overwrite: another one does not matter.
    """
    folder = get_dataset_path(dataset_id)
    if not folder.exists():
        return False
    try:
        there = json.loads((folder / "data" / "metadata.json").read_text()).get(RECIPE)
    except (OSError, ValueError):
        there = None
    # the same recipe gives the same data, so there is nothing to make
    if there is not None and _same(there, recipe, keys):
        tqdm.write(f"{dataset_id} is already there with the same settings; kept", file=sys.stderr)
        return True
    if overwrite:
        return False
    was = "was not made by diffplan" if there is None else f"has {describe(there)}"
    raise DiffplanError(
        f"{dataset_id} exists and {was}; asked for {describe(recipe)}: "
        f"give --overwrite to replace it, from Python overwrite=True"
    )


def _same(there: dict[str, Any], recipe: dict[str, Any], keys: Sequence[str]) -> bool:
    if there.get("versions", {}).get("mujoco") != recipe["versions"]["mujoco"]:
        return False
    return all(there.get(key) == recipe[key] for key in keys)


def write_minari(
    dataset_id: str,
    buffers: Iterable[EpisodeBuffer],
    count: int,
    recipe: dict[str, Any],
    *,
    episode_metadata: Sequence[dict[str, Any]] = (),
    progress: bool,
    **about: Any,
) -> None:
    """Save through Minari, under a hidden folder that is renamed when complete.

    buffers: `count` episodes; an iterable will do, so that no second copy is held in memory.
    recipe: how they were made. episode_metadata: kept with each of them. about: further arguments
    of `minari.create_dataset_from_buffers`, the environment or the spaces among them.
    """
    final = get_dataset_path(dataset_id)
    shown = tqdm(buffers, total=count, desc="saving", unit="episode", disable=not progress)
    # hidden, so that Minari's own list does not show half a dataset
    with building_folder(get_dataset_path(), "diffplan") as building:
        with _minari_root(building), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no author's address is given
            dataset = create_dataset_from_buffers(
                dataset_id,
                shown,
                author="diffplan",
                requirements=[f"{key}=={value}" for key, value in recipe["versions"].items()],
                **about,
            )
            dataset.storage.update_metadata({RECIPE: recipe})
            if episode_metadata:
                dataset.storage.update_episode_metadata(episode_metadata)
        # made by `create_dataset_from_buffers` below the building folder only
        namespace = parse_dataset_id(dataset_id)[0]
        if namespace is not None and namespace not in list_local_namespaces():
            create_namespace(namespace)
        final.parent.mkdir(parents=True, exist_ok=True)
        replace_folder(building / dataset_id, final)


@contextlib.contextmanager
def _minari_root(folder: Path) -> Iterator[None]:
    """Let Minari write below `folder`: it reads its root from the process environment only."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before
