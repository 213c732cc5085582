"""HDF5 files in the D4RL layout into the flat episode store."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np

from diffplan.data.episodes import DatasetInfo, Episodes, ObservationLayout
from diffplan.envs.cache import cached
from diffplan.envs.environments import check_env_id, make_env
from diffplan.envs.flat import action_bounds, episodes_from_flags, flags_with_time_limit
from diffplan.errors import DiffplanError

D4RL_SUFFIXES = (".hdf5", ".h5")
_REQUIRED = ("observations", "actions", "rewards", "terminals")
_OPTIONAL = ("timeouts", "next_observations", "infos/goal")

# (beginning of the file's name, columns of its observations) -> evaluation environment.
# Where D4RL's observations or coordinates differ from today's environment (kitchen, antmaze,
# maze2d, Ant with contact forces) there is no entry, and the environment is left to the user.
_ENVIRONMENTS: dict[tuple[str, int], tuple[str, dict[str, Any]]] = {
    ("hopper", 11): ("Hopper-v5", {}),
    ("halfcheetah", 17): ("HalfCheetah-v5", {}),
    ("walker2d", 17): ("Walker2d-v5", {}),
    ("ant", 27): ("Ant-v4", {}),
    ("ant", 105): ("Ant-v5", {}),
    ("pen", 45): ("AdroitHandPen-v1", {"max_episode_steps": 100}),
    ("door", 39): ("AdroitHandDoor-v1", {}),
    ("hammer", 46): ("AdroitHandHammer-v1", {}),
    ("relocate", 39): ("AdroitHandRelocate-v1", {}),
}
# Tasks without timeouts in their files, with D4RL's time limit.
_TIME_LIMITS = {"kitchen": 280, "mini_kitchen": 280, "antmaze": 700, "ant_maze": 700}


def load_d4rl(path: str | Path, env: str | None = None) -> Episodes:
    """Load an HDF5 file in the D4RL layout.

    Flat arrays over time: observations [N, D], actions [N, A], rewards [N] or [N, 1],
    terminals [N] (the task ended), optional timeouts [N] (the episode was cut), optional
    next_observations [N, D]. Numbers become float32.

    Episodes end at terminals and timeouts. A file without timeouts is also cut at the time limit
    of its environment. With next_observations an episode of T steps has T + 1 states, without
    them T, because nothing was recorded after the last step. An unfinished last episode counts
    as truncated. maze2d and antmaze files (infos/goal) get the changing goal as their goal;
    their rewards are kept as stored, for one fixed goal and, in maze2d, one step late.

    env: evaluation environment; without it the attribute env_id of the file, or else its name
    decides (hopper, halfcheetah, walker2d, ant, pen, door, hammer, relocate).
    Raises DiffplanError for a file of another kind or layout.
    """
    path = Path(path)
    if not path.is_file():
        raise DiffplanError(f"no file {path}")
    episodes = cached(path.stem, [path], f"d4rl {env}", lambda: _convert(path, env))
    return dataclasses.replace(episodes, info=dataclasses.replace(episodes.info, id=str(path)))


def _convert(path: Path, env: str | None) -> Episodes:
    arrays, attributes = _read(path)
    steps, width = arrays["actions"].shape[0], arrays["observations"].shape[1]
    env_id, env_kwargs = _environment(path, attributes, width, env)
    info = DatasetInfo(str(path), "d4rl", env_id, env_kwargs, (), (), {})
    space = None
    limit = _TIME_LIMITS.get(_task(path, attributes))
    if env_id is not None:
        simulation = make_env(info)
        space = simulation.action_space
        if simulation.spec is not None and simulation.spec.max_episode_steps is not None:
            limit = simulation.spec.max_episode_steps
        simulation.close()
    details: dict[str, Any] = dict(attributes)
    terminals = arrays["terminals"]
    if "timeouts" in arrays:
        timeouts = arrays["timeouts"] & ~terminals
    else:
        if limit is None and not terminals.any():
            raise DiffplanError(
                f"{path} has neither timeouts nor true terminals, so its episodes cannot be told "
                f"apart; name the environment whose time limit applies with --env"
            )
        timeouts = flags_with_time_limit(terminals, limit)
        details["cut_at_time_limit"] = limit
    if not (terminals[-1] or timeouts[-1]):
        details["unfinished_last_episode"] = True
    low, high = action_bounds(space, arrays["actions"])
    goals = arrays.get("infos/goal")
    layout = ObservationLayout(width)
    if goals is not None and goals.shape == (steps, 2) and width >= 4:
        # Both kinds keep x and y in the first two columns; maze2d's other two are velocities.
        rest = (2, 3) if width == 4 else ()
        layout = ObservationLayout(width, 2, (0, 1), rest, ("observation",))
    else:
        goals = None
    return episodes_from_flags(
        observations=arrays["observations"],
        actions=arrays["actions"],
        rewards=arrays["rewards"],
        terminations=terminals,
        truncations=timeouts,
        next_observations=arrays.get("next_observations"),
        goals=goals,
        layout=layout,
        info=DatasetInfo(str(path), "d4rl", env_id, env_kwargs, low, high, details),
    )


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays of the file, float32 and bool, with checked shapes, and its plain attributes."""
    try:
        with h5py.File(path, "r") as file:
            missing = [key for key in _REQUIRED if not isinstance(file.get(key), h5py.Dataset)]
            if missing:
                there = ", ".join(sorted(file)) or "nothing"
                raise DiffplanError(
                    f"{path} is not in the D4RL layout: {', '.join(missing)} missing; it holds "
                    f"{there[:200]}"
                )
            keys = [*_REQUIRED, *(key for key in _OPTIONAL if key in file)]
            raw = {key: np.asarray(file[key][()]) for key in keys}
            attributes = {
                key: value.item() if isinstance(value, np.generic) else value
                for key, value in file.attrs.items()
                if isinstance(value, (str, int, float, np.number, np.bool_))
            }
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise DiffplanError(f"{path} is no readable HDF5 file: {reason}") from None
    steps = len(raw["rewards"]) if raw["rewards"].ndim else 0
    if not steps:
        raise DiffplanError(f"{path} holds no steps")
    arrays = {}
    for key, array in raw.items():
        vector = key in ("observations", "next_observations", "actions", "infos/goal")
        if not vector and array.shape == (steps, 1):
            array = array[:, 0]
        if array.ndim != (2 if vector else 1) or len(array) != steps:
            expected = f"({steps}, *)" if vector else f"({steps},)"
            raise DiffplanError(f"{path}: {key} has shape {array.shape}, expected {expected}")
        if array.dtype.kind not in "fiub":
            raise DiffplanError(f"{path}: {key} holds {array.dtype}, expected numbers")
        flag = key in ("terminals", "timeouts")
        arrays[key] = array.astype(np.bool_ if flag else np.float32)
    return arrays, attributes


def _task(path: Path, attributes: dict[str, Any]) -> str:
    """First word of the dataset's name, by which D4RL names its tasks."""
    name = str(attributes.get("name") or path.stem).lower().replace("-", "_")
    for task in ("mini_kitchen", "kitchen", "ant_maze", "antmaze"):
        if name.startswith(task):
            return task
    return name.split("_")[0]


def _environment(
    path: Path, attributes: dict[str, Any], width: int, env: str | None
) -> tuple[str | None, dict[str, Any]]:
    task = _task(path, attributes)
    guess, kwargs = _ENVIRONMENTS.get((task, width), (None, {}))
    named = env or attributes.get("env_id")
    if not named:
        return guess, dict(kwargs)
    if env is None and str(named) not in gym.registry:
        return guess, dict(kwargs)  # an id of other software, such as D4RL's own
    check_env_id(str(named))
    return str(named), dict(kwargs) if named == guess else {}
