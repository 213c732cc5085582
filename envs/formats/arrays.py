"""Arrays in memory into the flat episode store: as d4rl and OGBench hand them over, or one's own.

Which of the three it is shows in the keys:

- `terminations`, `truncations`: one's own, as in a .npz file (`load_npz`).
- `terminals` and `rewards`: D4RL's, `env.get_dataset()` or `d4rl.qlearning_dataset(env)`.
- `terminals` without `rewards`, or with `valids` or `masks`: OGBench's, regular or compact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diffplan.data.episodes import Episodes
from diffplan.data.folders import building_folder, cache_root
from diffplan.envs.formats import d4rl, npz
from diffplan.envs.formats.npz_archive import COLUMNS, check_names, flags
from diffplan.envs.formats.ogbench import is_ogbench_name, named_info
from diffplan.envs.formats.rows import leaps
from diffplan.envs.simulators.ogbench import environment_of, goal_columns, rest_columns
from diffplan.errors import DiffplanError

IN_MEMORY = "arrays given from Python"
"""The `data_source` of such data, which no name brings back."""
_KEPT = ("observations", "actions", *COLUMNS, "goals")


def load_arrays(
    arrays: Mapping[str, Any], name: str | None = None, env: str | None = None
) -> Episodes:
    """Episodes out of a dict of arrays over time, by its keys.

    One's own: the keys of a .npz file, see `diffplan.envs.formats.npz.load_npz`.

    D4RL's: `terminals` are terminations, `timeouts` truncations, and the domains differ as for
    its files (`load_d4rl`), which `name` decides: "antmaze-umaze-v2". Without `timeouts`, as
    `qlearning_dataset` has it, an episode is cut where the next observation is not the following
    row; where that row is in the place of what follows a terminal too, the state after the last
    step of episodes is not known.

    OGBench's: nothing terminates. Regular data (with `next_observations`) are cut at `terminals`;
    in compact data the rows that are not `valids` hold the last observation of a trajectory, in
    the arrays of a file those at `terminals`. `masks` are not read. `name` says where goals are:
    "antmaze-medium-stitch-v0", and brings OGBench's evaluation tasks; else add `goal_columns`.

    name: of the data, for presets and messages. env: Gymnasium id of the evaluation environment.
    Raises DiffplanError for keys and shapes that fit none of these, and as the loaders do.
    """
    label = name or "arrays"
    given = {str(key): np.asarray(value) for key, value in arrays.items()}
    with building_folder(cache_root(), "arrays") as folder:
        if "terminals" not in given:
            _own(label, given, env, folder)
        elif "rewards" in given and not {"valids", "masks"} & set(given):
            _d4rl(label, given, env, folder)
        else:
            _ogbench(label, given, env, folder)
        episodes = Episodes.load(folder / "copy", mmap=False)
    info = dataclasses.replace(episodes.info, id=label)
    if "d4rl_name" not in info.details:
        info = dataclasses.replace(info, details={**info.details, "data_source": IN_MEMORY})
    if info.source == "arrays" and is_ogbench_name(label) and env is None:
        known = named_info(label, episodes.layout.state_dim, len(info.action_low))
        info = dataclasses.replace(known, details={**known.details, "data_source": IN_MEMORY})
        # reached where the state itself is, also after the last step
        goals = episodes.states[:, list(goal_columns(environment_of(label)))]
        episodes = dataclasses.replace(episodes, goals=goals)
    return dataclasses.replace(episodes, info=info)


def _own(label: str, given: dict[str, np.ndarray], env: str | None, folder: Path) -> None:
    check_names(Path(label), list(given))
    npz.write_arrays(Path(label), given, env, None, folder / "copy", folder)


def _d4rl(label: str, given: dict[str, np.ndarray], env: str | None, folder: Path) -> None:
    given = dict(given)
    after = given.get("next_observations")
    if "timeouts" not in given and after is not None:
        ends = flags(Path(label), "terminals", given["terminals"].reshape(-1))
        rows = np.asarray(given["observations"])
        if rows.shape != after.shape or rows.ndim != 2 or len(rows) != len(ends):
            raise DiffplanError(
                f"{label}: observations {rows.shape}, next_observations {after.shape} and "
                f"terminals {ends.shape} differ, expected a row each for every step"
            )
        leapt = leaps(rows, after)
        if leapt[:-1].mean() > 0.5:
            raise DiffplanError(
                f"{label}: {int(leapt.sum()):,} of {len(rows):,} next_observations are not the "
                "following row, so the steps are not in order of time; give them in their order"
            )
        given["timeouts"] = leapt & ~ends
        if ends[:-1].any() and not leapt[:-1][ends[:-1]].any():
            # the row of the next episode stands there
            del given["next_observations"]
    path = folder / f"{Path(label).name}.hdf5"
    with h5py.File(path, "w") as file:
        for key, array in given.items():
            if array.dtype.kind in "fiub":
                file[key] = array
    try:
        d4rl.convert(path, env, folder / "copy", progress=False)
    except DiffplanError as error:
        raise DiffplanError(str(error).replace(str(path), label)) from None


def _ogbench(label: str, given: dict[str, np.ndarray], env: str | None, folder: Path) -> None:
    place = Path(label)
    ends = flags(place, "terminals", given["terminals"].reshape(-1))
    lacking = [key for key in ("observations", "actions") if key not in given]
    if lacking or any(len(given[key]) != len(ends) for key in ("observations", "actions")):
        shapes = ", ".join(f"{key} {array.shape}" for key, array in given.items())
        raise DiffplanError(
            f"{label}: expected observations, actions and terminals of as many rows, got {shapes}"
        )
    kept = {key: given[key] for key in _KEPT if key in given}
    rewards = given.get("rewards", np.zeros(len(ends), np.float32)).reshape(-1)
    if "next_observations" in given:
        kept["next_observations"] = given["next_observations"]
    else:
        if "valids" in given:
            ends = ~flags(place, "valids", given["valids"].reshape(-1))
        if not ends.any():
            raise DiffplanError(f"{label}: no row ends a trajectory; mark the last of each")
        # what follows the last end is unfinished; a row that ends holds an observation alone
        steps = np.flatnonzero(~ends[: np.flatnonzero(ends)[-1]])
        rows = kept["observations"]
        moved = {key: array[steps] for key, array in kept.items() if key not in COLUMNS}
        kept |= moved | {"next_observations": rows[steps + 1]}
        rewards, ends = rewards[steps], ends[steps + 1]
    if is_ogbench_name(label):
        place_of = environment_of(label)
        columns = list(goal_columns(place_of))
        rest = np.array(rest_columns(place_of), np.int64)
        kept |= {"goal_columns": np.array(columns), "rest_columns": rest}
        kept["goals"] = kept["observations"][:, columns]
    whole = {**kept, "rewards": rewards, "terminations": ends & False, "truncations": ends}
    npz.write_arrays(place, whole, env, None, folder / "copy", folder)
