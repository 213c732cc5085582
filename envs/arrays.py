"""Plain NumPy archives into the flat episode store."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from diffplan.data.episodes import DatasetInfo, Episodes, ObservationLayout
from diffplan.envs.environments import make_env
from diffplan.envs.flat import action_bounds, episodes_from_flags
from diffplan.errors import DiffplanError

_REQUIRED = ("observations", "actions", "rewards", "terminations", "truncations")
_OPTIONAL = ("next_observations", "goals", "goal_columns", "rest_columns")


def load_arrays(path: str | Path, env: str | None = None) -> Episodes:
    """Load a .npz archive of flat arrays over N steps.

    observations [N, D], actions [N, A], rewards [N], terminations [N] and truncations [N] (true
    at the last step of an episode); optional next_observations [N, D] and goals [N, G] (the
    desired goal at each step), with goals also goal_columns [G] and rest_columns [R], the columns
    of the observation that hold the achieved goal (required) and those that are zero when resting
    there (none by default).
    Steps after the last flag are an unfinished episode and count as truncated.

    env: Gymnasium id of the evaluation environment. Without it the action bounds are -1 and 1, or
    the extremes of the data where these lie outside.
    Raises DiffplanError for a file of another kind, missing keys, and shapes that do not fit.
    """
    path = Path(path)
    arrays = _read(path)
    steps = len(arrays["actions"])
    for key, array in arrays.items():
        vector = key in ("observations", "next_observations", "actions", "goals")
        if key.endswith("_columns"):
            continue
        if not vector and array.shape == (steps, 1):
            arrays[key] = array = array[:, 0]
        if array.ndim != (2 if vector else 1) or len(array) != steps:
            expected = f"({steps}, *)" if vector else f"({steps},)"
            raise DiffplanError(f"{path}: {key} has shape {array.shape}, expected {expected}")
    width = arrays["observations"].shape[1]
    goals = arrays.get("goals")
    layout = ObservationLayout(width)
    if (goals is None) != ("goal_columns" not in arrays):
        given, lacking = (
            ("goals", "goal_columns") if goals is not None else ("goal_columns", "goals")
        )
        raise DiffplanError(
            f"{path}: {given} are given but not {lacking}: a goal needs both, goals [N, G] and the "
            f"G columns of the observation that hold the achieved goal"
        )
    if goals is not None:
        columns = {
            key: tuple(int(c) for c in arrays.get(key, np.zeros(0)).reshape(-1))
            for key in ("goal_columns", "rest_columns")
        }
        layout = ObservationLayout(width, goals.shape[1], **columns, dict_keys=("observation",))
    info = DatasetInfo(str(path), "arrays", env, {}, (), (), {})
    space = None
    if env is not None:
        simulation = make_env(info)
        space = simulation.action_space
        simulation.close()
    low, high = action_bounds(space, arrays["actions"])
    return episodes_from_flags(
        observations=arrays["observations"],
        actions=arrays["actions"],
        rewards=arrays["rewards"],
        terminations=arrays["terminations"],
        truncations=arrays["truncations"],
        next_observations=arrays.get("next_observations"),
        goals=goals,
        layout=layout,
        info=DatasetInfo(str(path), "arrays", env, {}, low, high, {}),
    )


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DiffplanError(f"no file {path}")
    if not zipfile.is_zipfile(path):
        raise DiffplanError(f"{path} is not a .npz archive (or cut short); write it by numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in _REQUIRED if key not in archive]
            if missing:
                there = ", ".join(archive) or "nothing"
                raise DiffplanError(
                    f"{path}: {', '.join(missing)} missing; it holds {there[:200]}, "
                    f"expected {', '.join(_REQUIRED)}"
                )
            keys = [*_REQUIRED, *(key for key in _OPTIONAL if key in archive)]
            arrays = {key: archive[key] for key in keys}
    except DiffplanError:
        raise
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, AttributeError, TypeError) as error:
        # NumPy would advise unpickling
        reason = "it holds Python objects" if "allow_pickle" in str(error) else error
        raise DiffplanError(f"{path} is no readable .npz archive of numbers: {reason}") from None
    converted = {}
    for key, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise DiffplanError(f"{path}: {key} holds {array.dtype}, expected numbers")
        if array.ndim == 0:
            raise DiffplanError(f"{path}: {key} is a single number, expected an array over steps")
        if 0 in array.shape[1:]:
            raise DiffplanError(f"{path}: {key} has shape {array.shape}, expected some columns")
        kind = np.bool_ if key in ("terminations", "truncations") else np.float32
        converted[key] = array.astype(kind)
    if not len(converted["actions"]):
        raise DiffplanError(f"{path} holds no steps")
    return converted
