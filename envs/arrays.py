"""Plain NumPy archives into the flat episode store, with the first wrong thing named."""

from __future__ import annotations

import difflib
import zipfile
from pathlib import Path

import numpy as np

from diffplan.data.episodes import DatasetInfo, Episodes, ObservationLayout
from diffplan.envs.environments import make_env
from diffplan.envs.flat import action_bounds, episodes_from_flags
from diffplan.errors import DiffplanError

_REQUIRED = ("observations", "actions", "rewards", "terminations", "truncations")
_OPTIONAL = ("next_observations", "goals", "goal_columns", "rest_columns")
_VECTORS = ("observations", "actions", "next_observations", "goals")
_FLAGS = ("terminations", "truncations")
_COLUMNS = ("goal_columns", "rest_columns")
# What the keys are called elsewhere: in D4RL, in older Gym, in replay buffers.
_OTHER_NAMES = {
    "terminals": "terminations",
    "terminated": "terminations",
    "dones": "terminations",
    "timeouts": "truncations",
    "truncated": "truncations",
    "next_obs": "next_observations",
    "obs": "observations",
}
# next_observations of a step and observations of the next one may differ by rounding.
_ROUNDING = 1e-3


def load_arrays(path: str | Path, env: str | None = None) -> Episodes:
    """Load a .npz archive of flat arrays over N steps, in order of time.

    observations [N, D], actions [N, A], rewards [N], terminations [N] and truncations [N] (true
    at the last step of an episode); optional next_observations [N, D] and goals [N, G] (the
    desired goal at each step), with goals also goal_columns [G] and rest_columns [R], the columns
    of the observation that hold the achieved goal (required) and those that are zero when resting
    there (none by default). Any numbers; rewards and flags may also be [N, 1].
    Steps after the last flag are an unfinished episode and count as truncated.

    env: Gymnasium id of the evaluation environment. Without it the action bounds are -1 and 1, or
    the extremes of the data where these lie outside.
    Raises DiffplanError naming the first thing that is wrong: a file of another kind, keys that
    are missing or misspelt, types and shapes, flags other than 0 and 1 or never true, steps that
    are not in order of time, goal columns outside the observation.
    """
    path = Path(path)
    arrays = _converted(path, _read(path))
    _check_order(path, arrays)
    goals = arrays.get("goals")
    layout = _layout(path, arrays)
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
    """The arrays with known names, as they are in the file."""
    if not path.is_file():
        raise DiffplanError(f"no file {path}")
    if not zipfile.is_zipfile(path):
        raise DiffplanError(f"{path} is not a .npz archive (or cut short); write it by numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as archive:
            _check_names(path, list(archive))
            return {key: archive[key] for key in (*_REQUIRED, *_OPTIONAL) if key in archive}
    except DiffplanError:
        raise
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, AttributeError, TypeError) as error:
        # NumPy would advise unpickling
        reason = "it holds Python objects" if "allow_pickle" in str(error) else error
        raise DiffplanError(f"{path} is no readable .npz archive of numbers: {reason}") from None


def _check_names(path: Path, there: list[str]) -> None:
    for key in _REQUIRED:
        if key in there:
            continue
        other = [name for name in there if _OTHER_NAMES.get(name) == key]
        hint = f"rename {other[0]}" if other else f"expected {', '.join(_REQUIRED)}"
        raise DiffplanError(
            f"{path}: {key} missing; it holds {', '.join(there)[:200] or 'nothing'}; {hint}"
        )
    for name in there:
        if name in (*_REQUIRED, *_OPTIONAL):
            continue
        meant = _OTHER_NAMES.get(name) or next(
            iter(difflib.get_close_matches(name, _OPTIONAL, n=1, cutoff=0.8)), None
        )
        if meant in _OPTIONAL and meant not in there:
            raise DiffplanError(f"{path}: {name} is not read; rename it to {meant} or leave it out")


def _converted(path: Path, raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Float32, bool and int64 arrays of the right shapes."""
    steps = len(raw["actions"]) if raw["actions"].ndim else 0
    if not steps:
        raise DiffplanError(
            f"{path} holds no steps: actions has shape {raw['actions'].shape}, expected (N, A)"
        )
    arrays = {}
    for key, array in raw.items():
        if array.dtype.kind not in "fiub":
            raise DiffplanError(f"{path}: {key} holds {array.dtype}, expected numbers")
        if key in _COLUMNS:
            columns = np.atleast_1d(array)
            if columns.ndim != 1 or (columns != columns.astype(np.int64)).any():
                raise DiffplanError(f"{path}: {key} is {array.tolist()}, expected whole numbers")
            arrays[key] = columns.astype(np.int64)
            continue
        if key not in _VECTORS and array.shape == (steps, 1):
            array = array[:, 0]
        _check_shape(path, key, array.shape, steps)
        if key in _FLAGS:
            wrong = np.flatnonzero((array != 0) & (array != 1))
            if len(wrong):
                raise DiffplanError(
                    f"{path}: {key} holds {array[wrong[0]]} at step {wrong[0]}, expected 0 or 1"
                )
            arrays[key] = array.astype(np.bool_)
        else:
            with np.errstate(over="ignore"):  # infinity is refused with its place later
                arrays[key] = array.astype(np.float32)
    if (after := arrays.get("next_observations")) is not None:
        width = arrays["observations"].shape[1]
        if after.shape[1] != width:
            raise DiffplanError(
                f"{path}: next_observations have {after.shape[1]} columns, observations {width}"
            )
    return arrays


def _check_shape(path: Path, key: str, shape: tuple[int, ...], steps: int) -> None:
    vector = key in _VECTORS
    fits = len(shape) == (2 if vector else 1) and shape[0] == steps
    if fits and 0 not in shape:
        return
    expected = f"({steps}, *)" if vector else f"({steps},)"
    fix = ""
    if fits:
        fix = "; at least one column"
    elif not shape or shape[0] != steps:
        fix = f"; actions has {steps} steps, and every array one row a step"
    elif vector and len(shape) == 1:
        fix = f"; for a single column write {key}[:, None]"
    elif vector:
        fix = f"; flatten them to ({steps}, {int(np.prod(shape[1:]))}), also in the environment"
    raise DiffplanError(f"{path}: {key} has shape {shape}, expected {expected}{fix}")


def _check_order(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Within an episode the next observation of a step is the observation of the next step.

    Where it is not, the rows are shuffled, as in a sampled replay buffer, or an end is not marked.
    """
    after, observations = arrays.get("next_observations"), arrays["observations"]
    if after is None or len(observations) < 2:
        return
    inside = ~(arrays["terminations"] | arrays["truncations"])[:-1]
    tolerance = _ROUNDING * (1 + np.abs(observations[1:]))
    apart = (np.abs(after[:-1] - observations[1:]) > tolerance).any(axis=1) & inside
    if apart.any():
        step = int(np.flatnonzero(apart)[0])
        raise DiffplanError(
            f"{path}: next_observations of step {step} is not observations of step {step + 1}, "
            "though no flag ends the episode there; keep the rows in order of time and mark the "
            f"last step of every episode ({int(apart.sum())} such steps of {len(inside) + 1})"
        )


def _layout(path: Path, arrays: dict[str, np.ndarray]) -> ObservationLayout:
    goals, width = arrays.get("goals"), arrays["observations"].shape[1]
    if (goals is None) != ("goal_columns" not in arrays):
        given, lacking = (
            ("goals", "goal_columns") if goals is not None else ("goal_columns", "goals")
        )
        raise DiffplanError(
            f"{path}: {given} are given but not {lacking}: a goal needs both, goals [N, G] and the "
            f"G columns of the observation that hold the achieved goal"
        )
    if goals is None:
        return ObservationLayout(width)
    columns = {key: tuple(arrays.get(key, np.zeros(0, np.int64)).tolist()) for key in _COLUMNS}
    try:
        return ObservationLayout(width, goals.shape[1], **columns, dict_keys=("observation",))
    except DiffplanError as error:
        raise DiffplanError(f"{path}: {error}") from None
