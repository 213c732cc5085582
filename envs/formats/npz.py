"""Plain NumPy archives into the flat episode store, with the first wrong thing named."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from gymnasium import spaces

from diffplan.data.episodes import Episodes
from diffplan.data.info import DatasetInfo, ObservationLayout
from diffplan.data.precision import Extent
from diffplan.envs.formats.cache import cached
from diffplan.envs.formats.npz_archive import COLUMNS, LAYOUTS, bar, checked, flags, unpacked
from diffplan.envs.formats.rows import Jumps, interleave, offsets
from diffplan.envs.formats.store import StoreWriter, less
from diffplan.envs.simulators.bounds import action_bounds, widened
from diffplan.envs.simulators.environments import make_env
from diffplan.errors import DiffplanError

SUFFIXES = (".npz",)
_PIECE_BYTES = 1 << 22


def load_npz(
    path: str | Path,
    env: str | None = None,
    *,
    layout: str | None = None,
    progress: bool = True,
) -> Episodes:
    """Load a .npz archive of flat arrays over N steps, in order of time.

    observations [N, D], actions [N, A], rewards [N], terminations [N] and truncations [N] (true
    at the last step of an episode); optional next_observations [N, D] and, for a goal dict,
    goal_columns [G] and rest_columns [R], the columns of the observation that hold the achieved
    goal and those that are zero when resting there (none by default), and goals [N, G], the
    desired goal at each step. Any numbers; rewards and flags may also be [N, 1].
    Steps after the last flag are an unfinished episode and count as truncated.
    The first call converts the file in pieces of some MiB and keeps a flat copy under
    `DIFFPLAN_CACHE`; later calls memory-map it until the file changes. Columns whose movement
    float32 would round away become differences to a number, see `ObservationLayout.offset`.

    env: Gymnasium id of the evaluation environment. Without it the action bounds are -1 and 1, or
    the extremes of the data where these lie outside or within a tenth.
    layout: "episodes" for arrays of [E, T, ...], in which a row is one episode and what follows
    its end is left out, "environments" for [T, B, ...] of B environments side by side.
    Raises DiffplanError naming the first thing that is wrong: a file of another kind, keys that
    are missing or misspelt, types and shapes, flags other than 0 and 1 or never true, steps that
    are not in order of time, goal columns outside the observation, numbers that float32 cannot
    tell apart.
    """
    path = Path(path)
    if not path.is_file():
        raise DiffplanError(f"no file {path}")
    if layout is not None and layout not in LAYOUTS:
        raise DiffplanError(f"layout is {layout!r}, expected one of {', '.join(LAYOUTS)}")
    episodes = cached(
        path.stem,
        [path],
        f"arrays {env} {layout}",
        lambda folder: _convert(path, env, layout, folder, progress),
    )
    return dataclasses.replace(episodes, info=dataclasses.replace(episodes.info, id=str(path)))


def _convert(path: Path, env: str | None, layout: str | None, folder: Path, progress: bool) -> None:
    """Write the flat store of an archive into `folder`."""
    # a compressed archive cannot be memory-mapped: its arrays are, once unpacked
    room = folder / "unpacked"
    room.mkdir(parents=True)
    try:
        write_arrays(path, unpacked(path, room, progress), env, layout, folder, room, progress)
    finally:
        shutil.rmtree(room, ignore_errors=True)


def write_arrays(
    path: Path,
    raw: Mapping[str, np.ndarray],
    env: str | None,
    layout: str | None,
    folder: Path,
    room: Path,
    progress: bool = False,
) -> None:
    """Write the flat store of arrays by the keys of an archive into `folder`.

    path: what to call them. room: a folder for copies. See `load_npz`.
    """
    arrays = checked(path, raw, layout, room)
    lead = raw["actions"].shape[:2]
    details = {} if layout is None else {"layout": layout}
    info = DatasetInfo(str(path), "arrays", env, {}, (), (), details)
    series = None
    if layout is not None:
        series = lead[0] if layout == "episodes" else lead[1]
    steps = _steps(path, arrays, series, one_each=layout == "episodes")
    _write(path, arrays, info, steps, folder, progress)


@dataclasses.dataclass(frozen=True)
class _Steps:
    """Which rows are steps and where episodes end, each [N] bool; ends are steps."""

    kept: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray

    @property
    def ends(self) -> np.ndarray:
        return self.terminations | self.truncations


def _steps(path: Path, arrays: dict[str, np.ndarray], series: int | None, one_each: bool) -> _Steps:
    """By the flags. series: how many equally long ones the rows are of, None: not said.

    one_each: a series is one episode.
    """
    terminations = flags(path, "terminations", arrays["terminations"])
    truncations = flags(path, "truncations", arrays["truncations"])
    rows = len(terminations)
    if series is None and not (terminations.any() or truncations.any()):
        raise DiffplanError(
            f"{path}: no step of {rows} ends an episode, neither terminated nor truncated; mark "
            "the last step of each episode (if it really is a single one, too)"
        )
    length = rows // (series or 1)
    # what follows the last flag of a series is an unfinished episode
    truncations[length - 1 :: length] |= ~terminations[length - 1 :: length]
    kept = np.ones(rows, np.bool_)
    if one_each:
        first = (terminations | truncations).reshape(-1, length).argmax(axis=1)
        kept = (np.arange(length) <= first[:, None]).reshape(-1)
    return _Steps(kept, terminations & kept, truncations & kept)


def _write(
    path: Path,
    arrays: dict[str, np.ndarray],
    info: DatasetInfo,
    steps: _Steps,
    folder: Path,
    progress: bool,
) -> None:
    seen = _extents(path, arrays, steps)
    layout = _layout(path, arrays, seen)
    if seen.resting and arrays["observations"].dtype != np.float32:
        info = dataclasses.replace(info, details={**info.details, "resting": seen.resting})
    ends = steps.ends
    after = ends & ("next_observations" in arrays)
    widths = {"states": layout.state_dim, "actions": arrays["actions"].shape[1]}
    if "goals" in arrays:
        widths["goals"] = layout.goal_dim
    with StoreWriter(folder, widths) as store:
        jumps = Jumps(path, seen) if "next_observations" in arrays else None
        extremes = _stream(path, arrays, steps, layout, jumps, store, progress)
        low, high = action_bounds(_action_space(info), extremes)
        step_starts, state_starts = offsets(ends[steps.kept], after[ends])
        store.finish(
            layout,
            dataclasses.replace(info, action_low=low, action_high=high),
            {
                "rewards": less(arrays["rewards"][steps.kept], None),
                "terminations": steps.terminations[steps.kept],
                "truncations": steps.truncations[steps.kept],
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


def _extents(path: Path, arrays: dict[str, np.ndarray], steps: _Steps) -> Extent:
    """What the observations span; refuses actions and rewards that float32 cannot tell apart."""
    found = {key: Extent(arrays[key][:1].size) for key in ("observations", "actions", "rewards")}
    inside = ~steps.ends & steps.kept
    for start, stop in _pieces(arrays["observations"]):
        for key, extent in found.items():
            kept = steps.kept[start : stop + 1]
            rows = arrays[key][start : stop + 1].reshape(len(kept), -1)
            # what is left out may hold anything
            extent.add(rows[kept], inside[start : stop + 1][kept][:-1])
    for key, extent in found.items():
        extent.check_size(str(path), key)
        if key != "observations" and arrays[key].dtype != np.float32:
            extent.check(str(path), key)
    return found["observations"]


def _stream(
    path: Path,
    arrays: dict[str, np.ndarray],
    steps: _Steps,
    layout: ObservationLayout,
    jumps: Jumps | None,
    store: StoreWriter,
    progress: bool,
) -> np.ndarray:
    """Copy states, goals and actions; returns the extremes of the actions, [2, A]."""
    extremes = np.zeros((2, arrays["actions"].shape[1]), np.float32)
    ends, shift = steps.ends, layout.offset_of(slice(None))
    after = ends & (jumps is not None)
    with bar(f"reading {path.name}", len(ends), "step", progress) as shown:
        for start, stop in _pieces(arrays["observations"]):
            rows = arrays["observations"][start : stop + 1]
            here = later = less(rows[: stop - start], shift)
            if jumps is not None:
                found = arrays["next_observations"][start:stop]
                inside = ~ends[start:stop] & steps.kept[start:stop]
                jumps.look(start, rows, found, inside)
                later = less(found, shift)
            kept, last = steps.kept[start:stop], after[start:stop]
            store.append("states", interleave(here, later, kept, last))
            if store.has("goals"):  # the state after the last step is under the goal of that step
                goals = less(arrays["goals"][start:stop], layout.goal_offset)
                store.append("goals", interleave(goals, goals, kept, last))
            actions = less(arrays["actions"][start:stop][kept], None)
            store.append("actions", actions)
            extremes = widened(extremes, actions)
            shown.update(stop - start)
    if jumps is not None:
        jumps.refuse(len(ends))
    return extremes


def _pieces(observations: np.ndarray) -> Iterator[tuple[int, int]]:
    """Bounds (start, stop) of pieces of about 4 MiB, in order."""
    size = max(_PIECE_BYTES * len(observations) // max(observations.nbytes, 1), 1)
    for start in range(0, len(observations), size):
        yield start, min(start + size, len(observations))


def _layout(path: Path, arrays: dict[str, np.ndarray], seen: Extent) -> ObservationLayout:
    goals, width = arrays.get("goals"), arrays["observations"].shape[1]
    offset: tuple[float, ...] = ()
    if arrays["observations"].dtype != np.float32:
        offset = seen.offsets()
    columns = {key: tuple(arrays.get(key, np.zeros(0, np.int64)).tolist()) for key in COLUMNS}
    if goals is not None and not columns["goal_columns"]:
        raise DiffplanError(
            f"{path}: goals are given but not goal_columns, the {goals.shape[1]} columns of the "
            "observation that hold what the goal is compared with"
        )
    named = [*columns["goal_columns"], *columns["rest_columns"]]
    if len(set(named)) < len(named):
        raise DiffplanError(
            f"{path}: goal_columns and rest_columns are {named}, expected each column once"
        )
    if not columns["goal_columns"]:
        return ObservationLayout(width, offset=offset)
    dim = len(columns["goal_columns"]) if goals is None else goals.shape[1]
    try:
        return ObservationLayout(width, dim, **columns, dict_keys=("observation",), offset=offset)
    except DiffplanError as error:
        raise DiffplanError(f"{path}: {error}") from None
