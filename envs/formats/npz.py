"""Plain NumPy archives into the flat episode store, with the first wrong thing named."""

from __future__ import annotations

import dataclasses
import difflib
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from gymnasium import spaces
from tqdm import tqdm

from diffplan.data.episodes import Episodes
from diffplan.data.info import DatasetInfo, ObservationLayout
from diffplan.envs.formats.cache import cached
from diffplan.envs.formats.rows import interleave, offsets
from diffplan.envs.formats.store import StoreWriter
from diffplan.envs.simulators.bounds import action_bounds, widened
from diffplan.envs.simulators.environments import make_env
from diffplan.errors import DiffplanError

SUFFIXES = (".npz",)
_REQUIRED = ("observations", "actions", "rewards", "terminations", "truncations")
_OPTIONAL = ("next_observations", "goals", "goal_columns", "rest_columns")
_VECTORS = ("observations", "actions", "next_observations", "goals")
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
_PIECE_BYTES = 1 << 22
# what zipfile and NumPy raise for damaged archives and for what is no array
_DAMAGE = (ValueError, RuntimeError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def load_npz(path: str | Path, env: str | None = None, *, progress: bool = True) -> Episodes:
    """Load a .npz archive of flat arrays over N steps, in order of time.

    observations [N, D], actions [N, A], rewards [N], terminations [N] and truncations [N] (true
    at the last step of an episode); optional next_observations [N, D] and goals [N, G] (the
    desired goal at each step), with goals also goal_columns [G] and rest_columns [R], the columns
    of the observation that hold the achieved goal (required) and those that are zero when resting
    there (none by default). Any numbers; rewards and flags may also be [N, 1].
    Steps after the last flag are an unfinished episode and count as truncated.
    The first call converts the file in pieces of some MiB and keeps a flat copy under
    `DIFFPLAN_CACHE`; later calls memory-map it until the file changes.

    env: Gymnasium id of the evaluation environment. Without it the action bounds are -1 and 1, or
    the extremes of the data where these lie outside.
    Raises DiffplanError naming the first thing that is wrong: a file of another kind, keys that
    are missing or misspelt, types and shapes, flags other than 0 and 1 or never true, steps that
    are not in order of time, goal columns outside the observation.
    """
    path = Path(path)
    if not path.is_file():
        raise DiffplanError(f"no file {path}")
    episodes = cached(
        path.stem, [path], f"arrays {env}", lambda folder: _convert(path, env, folder, progress)
    )
    return dataclasses.replace(episodes, info=dataclasses.replace(episodes.info, id=str(path)))


def _convert(path: Path, env: str | None, folder: Path, progress: bool) -> None:
    """Write the flat store of an archive into `folder`."""
    # a compressed archive cannot be memory-mapped: its arrays are, once unpacked
    unpacked = folder / "unpacked"
    unpacked.mkdir(parents=True)
    try:
        _write(path, _checked(path, _unpack(path, unpacked, progress)), env, folder, progress)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _write(
    path: Path, arrays: dict[str, np.ndarray], env: str | None, folder: Path, progress: bool
) -> None:
    layout = _layout(path, arrays)
    terminations = _flags(path, "terminations", arrays["terminations"])
    truncations = _flags(path, "truncations", arrays["truncations"])
    steps = len(terminations)
    if not (terminations.any() or truncations.any()):
        raise DiffplanError(
            f"{path}: no step of {steps} ends an episode, neither terminated nor truncated; mark "
            "the last step of each episode (if it really is a single one, too)"
        )
    # what follows the last flag is an unfinished episode
    truncations[-1] |= not terminations[-1]
    ends = terminations | truncations
    after = ends & ("next_observations" in arrays)
    info = DatasetInfo(str(path), "arrays", env, {}, (), (), {})
    widths = {"states": layout.state_dim, "actions": arrays["actions"].shape[1]}
    if layout.goal_dim:
        widths["goals"] = layout.goal_dim
    with StoreWriter(folder, widths) as store:
        extremes = _stream(path, arrays, ends, after, store, progress)
        low, high = action_bounds(_action_space(info), extremes)
        step_starts, state_starts = offsets(ends, after[ends])
        store.finish(
            layout,
            dataclasses.replace(info, action_low=low, action_high=high),
            {
                "rewards": _float(arrays["rewards"]),
                "terminations": terminations,
                "truncations": truncations,
                "step_starts": step_starts,
                "state_starts": state_starts,
            },
        )


def _action_space(info: DatasetInfo) -> spaces.Space | None:
    if info.env_id is None:
        return None
    simulation = make_env(info)
    simulation.close()
    return simulation.action_space


def _stream(
    path: Path,
    arrays: dict[str, np.ndarray],
    ends: np.ndarray,
    after: np.ndarray,
    store: StoreWriter,
    progress: bool,
) -> np.ndarray:
    """Copy states, goals and actions; returns the extremes of the actions, [2, A].

    Within an episode the next observation of a step is the observation of the next step. Where it
    is not, the rows are shuffled, as in a sampled replay buffer, or an end is not marked.
    """
    extremes = np.zeros((2, arrays["actions"].shape[1]), np.float32)
    every = np.ones(len(ends), np.bool_)
    apart, first = 0, 0
    with _bar(f"reading {path.name}", len(ends), "step", progress) as bar:
        for start, stop in _pieces(arrays["observations"]):
            rows = _float(arrays["observations"][start : stop + 1])
            here = later = rows[: stop - start]
            if "next_observations" in arrays:
                later = _float(arrays["next_observations"][start:stop])
                # counted to the end, so that the message tells a slip from shuffled rows
                found = _jumps(rows, later, ends[start:stop])
                first = first if apart or not len(found) else start + int(found[0])
                apart += len(found)
            kept, last = every[start:stop], after[start:stop]
            store.append("states", interleave(here, later, kept, last))
            if store.has("goals"):  # the state after the last step is under the goal of that step
                goals = _float(arrays["goals"][start:stop])
                store.append("goals", interleave(goals, goals, kept, last))
            actions = _float(arrays["actions"][start:stop])
            store.append("actions", actions)
            extremes = widened(extremes, actions)
            bar.update(stop - start)
    if apart:
        raise DiffplanError(
            f"{path}: next_observations of step {first} is not observations of step {first + 1}, "
            "though no flag ends the episode there; keep the rows in order of time and mark the "
            f"last step of every episode ({apart} such steps of {len(ends)})"
        )
    return extremes


def _jumps(rows: np.ndarray, later: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Steps inside an episode whose next observation, in `later`, is not the following row."""
    following = rows[1:]
    inside = ~ends[: len(following)]
    tolerance = _ROUNDING * (1 + np.abs(following))
    with np.errstate(invalid="ignore"):  # infinity is refused with its place later
        far = np.abs(later[: len(following)] - following) > tolerance
    return np.flatnonzero(far.any(axis=1) & inside)


def _pieces(observations: np.ndarray) -> Iterator[tuple[int, int]]:
    """Bounds (start, stop) of pieces of about 4 MiB, in order."""
    size = max(_PIECE_BYTES * len(observations) // max(observations.nbytes, 1), 1)
    for start in range(0, len(observations), size):
        yield start, min(start + size, len(observations))


def _float(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # infinity is refused with its place later
        return np.asarray(array).astype(np.float32)


def _bar(description: str, total: int, unit: str, progress: bool) -> tqdm:
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        unit_scale=True,
        delay=1.0,
        disable=not progress,
    )


def _unpack(path: Path, folder: Path, progress: bool) -> dict[str, np.ndarray]:
    """The arrays with known names, as they are in the file, memory-mapped from `folder`."""
    if not zipfile.is_zipfile(path):
        raise DiffplanError(f"{path} is not a .npz archive (or cut short); write it by numpy.savez")
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {
                member.filename.removesuffix(".npy"): member.file_size
                for member in archive.infolist()
            }
            _check_names(path, list(sizes))
            keys = [key for key in (*_REQUIRED, *_OPTIONAL) if key in sizes]
            total = sum(sizes[key] for key in keys)
            with _bar(f"unpacking {path.name}", total, "B", progress) as bar:
                for key in keys:
                    _extract(archive, key, folder / f"{key}.npy", bar)
                    arrays[key] = np.lib.format.open_memmap(folder / f"{key}.npy", mode="r")
    except _DAMAGE as error:
        reason = "it holds Python objects" if "Python objects" in str(error) else error
        raise DiffplanError(f"{path} is no readable .npz archive of numbers: {reason}") from None
    return arrays


def _extract(archive: zipfile.ZipFile, key: str, target: Path, bar: tqdm) -> None:
    with archive.open(f"{key}.npy") as member, open(target, "wb") as file:
        while piece := member.read(_PIECE_BYTES):
            file.write(piece)
            bar.update(len(piece))


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
        # an unknown key is no mistake by itself, a misspelt optional one would be lost in silence
        if meant in _OPTIONAL and meant not in there:
            raise DiffplanError(f"{path}: {name} is not read; rename it to {meant} or leave it out")


def _checked(path: Path, raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays with the right shapes and kinds of numbers; columns as int64."""
    steps = len(raw["actions"]) if raw["actions"].ndim else 0
    if not steps:
        raise DiffplanError(
            f"{path} holds no steps: actions has shape {raw['actions'].shape}, expected (N, A)"
        )
    arrays = {}
    for key, array in raw.items():
        # floats, integers and flags; no complex numbers, text or objects
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
        arrays[key] = array
    if (after := arrays.get("next_observations")) is not None:
        width = arrays["observations"].shape[1]
        if after.shape[1] != width:
            raise DiffplanError(
                f"{path}: next_observations have {after.shape[1]} columns, observations {width}"
            )
    return arrays


def _flags(path: Path, key: str, array: np.ndarray) -> np.ndarray:
    """Flags [N] as bool."""
    wrong = np.flatnonzero((array != 0) & (array != 1))
    if len(wrong):
        raise DiffplanError(
            f"{path}: {key} holds {array[wrong[0]]} at step {wrong[0]}, expected 0 or 1"
        )
    return np.asarray(array).astype(np.bool_)


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
