"""OGBench's files, official or remade here, into the flat episode store."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from diffplan.data.episodes import Episodes
from diffplan.data.info import DatasetInfo, ObservationLayout
from diffplan.envs.formats.cache import cached
from diffplan.envs.formats.npz_archive import check_archive
from diffplan.envs.simulators.installed import require_simulator
from diffplan.envs.simulators.ogbench import (
    ENV_ID,
    environment_of,
    evaluation_tasks,
    goal_columns,
    is_known,
    rest_columns,
    time_limit,
)
from diffplan.errors import DiffplanError

OFFICIAL = "official OGBench file"
_KINDS = ("navigate", "stitch", "explore", "play")
_KEYS = ("observations", "actions", "terminals")


def official_file(name: str) -> Path:
    """The official training file: in `OGBENCH_DATASET_DIR`, by default OGBench's own folder."""
    folder = os.environ.get("OGBENCH_DATASET_DIR") or Path.home() / ".ogbench" / "data"
    return Path(folder) / f"{name}.npz"


def remade_file(name: str) -> Path:
    """Where `diffplan datasets make` puts the data of that name: neither passes for the other."""
    return official_file(name).parent / "made" / f"{name}.npz"


def ogbench_file(name: str) -> Path | None:
    """The file of a dataset that is on this machine, the official one first; None without one."""
    return next((path for path in (official_file(name), remade_file(name)) if path.is_file()), None)


def is_ogbench_name(name: str) -> bool:
    """Whether OGBench calls data so, of an environment whose goals are known."""
    words = name.split("-")
    return len(words) > 3 and words[-2] in _KINDS and is_known(environment_of(name))


def fetch_ogbench(name: str) -> Path:
    """Download the official files by OGBench's own function; what is there is kept.

    Raises DiffplanError where OGBench is not installed, and where the download fails.
    """
    path = official_file(name)
    if path.is_file():
        return path
    require_simulator("ogbench", f"downloading {name}")
    import ogbench

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            ogbench.download_datasets([name], str(path.parent))
    except OSError as error:
        raise DiffplanError(
            f"{name} cannot be downloaded: {error}; make it here instead: diffplan datasets make "
            f"{name}"
        ) from None
    return path


def load_ogbench(name: str, path: Path) -> Episodes:
    """Load an OGBench training file: states, goals where they are reached, no rewards.

    name: OGBench's, "antmaze-medium-stitch-v0". Rows that mark the end of a trajectory hold its
    last observation; they are truncations, as nothing ends there. Evaluated in the environment's
    five tasks. Raises DiffplanError for a damaged file.
    """
    episodes = cached(path.stem, [path], "ogbench", lambda folder: _convert(name, path, folder))
    return dataclasses.replace(episodes, info=dataclasses.replace(episodes.info, id=name))


def _convert(name: str, path: Path, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        check_archive(path, folder.parent)
        with np.load(path, allow_pickle=False) as file:
            observations, actions, ends = (file[key] for key in _KEYS)
            recipe = json.loads(str(file["recipe"])) if "recipe" in file else None
    except DiffplanError:
        raise
    except Exception as error:  # zipfile and NumPy raise many kinds for what is damaged
        raise DiffplanError(f"{path} is no readable file of OGBench: {error}") from None
    last = np.flatnonzero(ends)
    if observations.ndim != 2 or len(ends) != len(observations) or not len(last):
        raise DiffplanError(
            f"{path}: observations {observations.shape} with {len(ends)} terminals, {len(last)} of "
            "them true; expected rows of a trajectory, the last of each marked"
        )
    # what follows the last end is unfinished
    rows = last[-1] + 1
    state_starts = np.concatenate([[0], last + 1])
    # the action of a marked row leads to no state
    acted = np.ones(rows, np.bool_)
    acted[last] = False
    step_starts = state_starts - np.arange(len(state_starts))
    states = observations[:rows].astype(np.float32, copy=False)
    steps = int(acted.sum())
    truncations = np.zeros(steps, np.bool_)
    truncations[step_starts[1:] - 1] = True
    env_name = environment_of(name)
    columns = list(goal_columns(env_name))
    width = actions.shape[1]
    Episodes(
        states=states,
        goals=states[:, columns],
        actions=actions[:rows][acted].astype(np.float32, copy=False),
        rewards=np.zeros(steps, np.float32),
        terminations=np.zeros(steps, np.bool_),
        truncations=truncations,
        state_starts=state_starts,
        step_starts=step_starts,
        layout=ObservationLayout(
            states.shape[1], len(columns), tuple(columns), rest_columns(env_name), ("observation",)
        ),
        info=named_info(name, states.shape[1], width, recipe),
    ).save(folder)


def named_info(
    name: str, state_dim: int, width: int, recipe: dict[str, Any] | None = None
) -> DatasetInfo:
    """What OGBench's name says of data: environment, tasks, action bounds.

    state_dim, width: columns of states and actions. recipe: of data remade here, None: official.
    """
    env_name = environment_of(name)
    details: dict[str, Any] = {"data_source": OFFICIAL, "goals": "where the state itself is"}
    if recipe is not None:
        details["data_source"] = (
            f"remade by OGBench's public procedure ({recipe['episodes']} episodes, seed "
            f"{recipe['seed']}), not the official file"
        )
    return DatasetInfo(
        id=name,
        source="ogbench",
        env_id=ENV_ID,
        env_kwargs={"env_name": env_name, "max_episode_steps": time_limit(env_name)},
        action_low=(-1.0,) * width,
        action_high=(1.0,) * width,
        details=details,
        evaluation_tasks=evaluation_tasks(env_name, state_dim),
    )
