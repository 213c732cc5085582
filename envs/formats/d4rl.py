"""HDF5 files in the D4RL layout into the flat episode store."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from tqdm import tqdm

from diffplan.data.episodes import Episodes
from diffplan.data.info import DatasetInfo, ObservationLayout
from diffplan.data.precision import Extent
from diffplan.envs.formats.cache import cached
from diffplan.envs.formats.d4rl_catalogue import CATALOGUE, canonical_name, data_source, plain_stem
from diffplan.envs.formats.d4rl_hdf5 import D4RL_SUFFIXES, D4RLFile, open_d4rl
from diffplan.envs.formats.data_returns import TASKS_SO_FAR, are_tasks_so_far
from diffplan.envs.formats.rows import Jumps, flags_with_time_limit, interleave, offsets
from diffplan.envs.formats.store import StoreWriter, less
from diffplan.envs.simulators.bounds import action_bounds, widened
from diffplan.envs.simulators.environments import check_env_id, make_env
from diffplan.envs.simulators.matches import match_environment
from diffplan.errors import DiffplanError

SUFFIXES = D4RL_SUFFIXES
_FEW = 0.01  # of the steps
# What the loader finds out; a file cannot claim it by an attribute.
_OWN_DETAILS = (
    "data_source",
    "d4rl_name",
    "environment_differences",
    "rewards_are",
    "rewards_for",
)


def load_d4rl(path: str | Path, env: str | None = None, *, progress: bool = True) -> Episodes:
    """Load an HDF5 file in the D4RL layout.

    Flat arrays over time: observations [N, D], actions [N, A], rewards [N] or [N, 1],
    terminals [N] (the task ended), optional timeouts [N] (the episode was cut), optional
    next_observations [N, D], optional infos/goal [N, 2]. Numbers become float32. Other keys
    (infos/*, metadata/*) are left alone. The file is read in pieces of some MiB, once; later
    calls memory-map the converted copy.

    Episodes end at terminals and timeouts. A file without timeouts is also cut at the time limit
    of its environment, or else of the D4RL dataset it is named after. With next_observations an
    episode of T steps has T + 1 states, without them T, because nothing was recorded after the
    last step. An unfinished last episode counts as truncated. What the domains do differently:

    - maze2d is one continuous trajectory: `timeouts` mark legs, at whose ends only the navigation
      goal changes. So the observation after a leg's last step is the first one of the next leg,
      and legs have T + 1 states; where the file repeats the last observation there instead, the
      leg has T states and the repeated row is left out. `rewards[t]` of the file belongs to
      `observations[t]`: it becomes the reward of the step before, and the file's last row is a
      state only. `terminals` count as timeouts. Goals are the navigation goals (infos/goal);
      rewards are for D4RL's one fixed evaluation goal, which `details["rewards_for"]` says.
    - antmaze goes on after `terminals` (the goal is reached) until a timeout: what follows is an
      episode of its own, but for the steps that are still at the goal, which are left out.
      The 29 columns begin with x and y, which are the achieved goal.
    - kitchen has no timeouts and 60 columns, of which the last 30 are the goal's. Its rewards are
      kept: the number of tasks completed so far, at every step. The environment pays each task
      once; `diffplan.envs.formats.data_returns` has the returns that compare.
    - Human demonstrations of the hand are longer than the time limit of the environment, and stay
      whole, because their files mark the ends.

    Goals are kept where the evaluation environment gives goal dicts, or is not known.

    env: evaluation environment; without it the attribute env_id of the file, or else its name
    decides (see `diffplan.envs.simulators.matches`). details: "d4rl_name", the dataset the file is
    named after; "data_source", whether it can be D4RL's own; "environment_differences".
    Raises DiffplanError for a file of another kind or layout, and for one in which no episode
    ever ends.
    """
    path = Path(path)
    if not path.is_file():
        raise DiffplanError(f"no file {path}")
    episodes = cached(
        path.stem, [path], f"d4rl {env}", lambda folder: convert(path, env, folder, progress)
    )
    return dataclasses.replace(episodes, info=dataclasses.replace(episodes.info, id=str(path)))


def convert(path: Path, env: str | None, folder: Path, progress: bool) -> None:
    """Write the flat store of a file into `folder`."""
    with open_d4rl(path) as file:
        source = _source(file, env)
        terminals = file.column("terminals")
        # flags and rewards are a few bytes a step and fit into memory; the wide arrays are streamed
        timeouts = _timeouts(file, terminals, source.time_limit)
        if source.name.startswith("maze2d"):  # the task never ends, whatever marks the legs
            timeouts, terminals = timeouts | terminals, np.zeros_like(terminals)
        continuous = source.name.startswith("maze2d") and "next_observations" not in file.arrays
        cuts = _cuts(file, terminals, timeouts, source.name, continuous)
        details = dict(source.info.details)
        if continuous:
            details["rewards_for"] = "the fixed evaluation goal, not the goal of each episode"
        # a reader of the summary must see that the ends are ours and not the file's
        if "timeouts" not in file.arrays:
            details["cut_at_time_limit"] = source.time_limit
        last = _last(cuts.steps)
        if not (terminals[last] or timeouts[last]):
            details["unfinished_last_episode"] = True
        seen = _extents(file, cuts)
        layout = _with_offset(source.layout(file), file, seen)
        if seen.resting and file.arrays["observations"].dtype != np.float32:
            details["resting"] = seen.resting
        widths = {"states": layout.state_dim, "actions": file.width("actions")}
        if layout.goal_dim:
            widths["goals"] = layout.goal_dim
        with StoreWriter(folder, widths) as store:
            jumps = Jumps(path, seen) if "next_observations" in file.arrays else None
            extremes = _stream(file, cuts, continuous, layout, jumps, store, progress)
            if jumps is not None:
                # a few are known of D4RL's own files; shuffled rows are nearly all
                known = source.info.details.get("d4rl_name") is not None
                jumps.refuse(file.steps, _FEW if known else 0.0)
            low, high = action_bounds(source.action_space, extremes)
            rewards = file.column("rewards")
            if continuous:
                rewards[:-1] = rewards[1:]  # the last row is no step
            ends = cuts.ends[cuts.steps]
            terminations = terminals[cuts.steps] & ends
            step_starts, state_starts = offsets(ends, cuts.after[cuts.ends])
            rewards = rewards[cuts.steps]
            # which kind of rewards a file holds shows in the rewards alone
            if source.name.startswith("kitchen") and are_tasks_so_far(rewards, step_starts):
                details["rewards_are"] = TASKS_SO_FAR
            store.finish(
                layout,
                dataclasses.replace(source.info, action_low=low, action_high=high, details=details),
                {
                    "rewards": rewards,
                    "terminations": terminations,
                    "truncations": ends & ~terminations,
                    "step_starts": step_starts,
                    "state_starts": state_starts,
                },
            )


@dataclass(frozen=True)
class _Source:
    """What is known of a file beside its arrays.

    name: the D4RL dataset it is named after, or its stem in that style. time_limit: steps, or
    None. action_space, observation_space: of the evaluation environment, None where unknown.
    """

    name: str
    info: DatasetInfo
    time_limit: int | None
    action_space: spaces.Space | None
    observation_space: spaces.Space | None

    def layout(self, file: D4RLFile) -> ObservationLayout:
        """How the environment's observations become the rows of the file."""
        width, space = file.width("observations"), self.observation_space
        # a plain environment gives no goals, so those of the file are of no use
        if space is not None and not isinstance(space, spaces.Dict):
            return ObservationLayout(width)
        keys: tuple[str, ...] = ("observation",)
        if isinstance(space, spaces.Dict) and "achieved_goal" in space.spaces:
            parts = [space[key].shape or (0,) for key in ("achieved_goal", "observation")]
            if width == parts[0][0] + parts[1][0]:  # gymnasium-robotics' AntMaze
                keys = ("achieved_goal", "observation")
        if "infos/goal" in file.arrays and file.width("infos/goal") == 2 and width >= 4:
            # Both mazes keep x and y in the first two columns; maze2d's other two are velocities.
            return ObservationLayout(width, 2, (0, 1), (2, 3) if width == 4 else (), keys)
        return ObservationLayout(width, dict_keys=() if space is None else keys)


def _source(file: D4RLFile, env: str | None) -> _Source:
    path, attributes = file.path, file.attributes
    width = file.width("observations")
    # the attribute wins: people rename files
    known = canonical_name(str(attributes.get("name") or path.stem))
    name = known or plain_stem(str(attributes.get("name") or path.stem))
    details: dict[str, Any] = {k: v for k, v in attributes.items() if k not in _OWN_DETAILS}
    details["data_source"] = _origin(file)
    if known is not None:
        details["d4rl_name"] = known
    match = match_environment(name, width)
    env_id, env_kwargs = (match.env_id, dict(match.env_kwargs)) if match else (None, {})
    named = env or attributes.get("env_id")
    # An id of other software, such as D4RL's own, says nothing here.
    if named and named != env_id and (env is not None or str(named) in gym.registry):
        check_env_id(str(named))
        env_id, env_kwargs, match = str(named), {}, None
    if match is not None and match.differences:
        details["environment_differences"] = match.differences
    info = DatasetInfo(str(path), "d4rl", env_id, env_kwargs, (), (), details)
    # the environment's limit, where there is one, replaces D4RL's below
    limit = CATALOGUE[known].time_limit if known is not None else None
    if env_id is None:
        return _Source(name, info, limit, None, None)
    # made once, for its spaces and its limit
    simulation = make_env(info)
    if simulation.spec is not None and simulation.spec.max_episode_steps is not None:
        limit = simulation.spec.max_episode_steps
    found = _Source(name, info, limit, simulation.action_space, simulation.observation_space)
    simulation.close()
    return found


def _origin(file: D4RLFile) -> str:
    """Label of the data: D4RL's own file, or not."""
    ends = file.column("terminals")
    if "timeouts" in file.arrays:
        ends |= file.column("timeouts")
    return data_source(
        file.path,
        steps=file.steps,
        episodes=int(ends.sum()) + int(not ends[-1]),
        observation_dim=file.width("observations"),
        action_dim=file.width("actions"),
        keys=file.keys,
        attributes=file.attributes,
    )


def _timeouts(file: D4RLFile, terminals: np.ndarray, limit: int | None) -> np.ndarray:
    """Where episodes were cut [N]. Raises DiffplanError where no episode ever ends."""
    if "timeouts" in file.arrays:
        timeouts = file.column("timeouts")
        if not (terminals | timeouts).any() and (limit is None or file.steps > limit):
            raise DiffplanError(
                f"{file.path}: no episode ends in {file.steps:,} steps, terminals and timeouts are "
                f"false throughout; mark the last step of each episode in timeouts, or leave "
                f"timeouts out to have it cut at the environment's time limit"
            )
        return timeouts
    if limit is None and not terminals.any():
        raise DiffplanError(
            f"{file.path} has neither timeouts nor true terminals, so its episodes cannot be told "
            f"apart; name the environment whose time limit applies with --env"
        )
    return flags_with_time_limit(terminals, limit)


@dataclass(frozen=True)
class _Cuts:
    """Which rows of the file become steps, and where episodes end; each [N] bool.

    steps: rows that are steps. ends: steps that end an episode. after: ends after which the next
    observation is known.
    """

    steps: np.ndarray
    ends: np.ndarray
    after: np.ndarray


def _cuts(
    file: D4RLFile, terminals: np.ndarray, timeouts: np.ndarray, name: str, continuous: bool
) -> _Cuts:
    ends = terminals | timeouts
    steps = np.ones(file.steps, np.bool_)
    after = np.full(file.steps, "next_observations" in file.arrays)
    if name.startswith("antmaze"):
        # consecutive terminals are one stay at the goal: its first step ends the episode
        steps[1:] = ~(terminals[1:] & terminals[:-1] & ~timeouts[:-1])
    if continuous:
        steps[-1] = False
        for start, stop in file.pieces():
            # one row more than the piece, to compare neighbours across its edge
            rows = file.piece("observations", start, min(stop + 1, file.steps))
            repeated = (rows[1:] == rows[:-1]).all(axis=1) & ends[start : start + len(rows) - 1]
            after[start : start + len(repeated)] = ~repeated
            steps[start + 1 : start + 1 + len(repeated)] &= ~repeated
    if not steps.any():
        raise DiffplanError(f"{file.path} holds no step whose next observation is known")
    # what follows the last end is an unfinished episode, and kept
    ends &= steps
    ends[_last(steps)] = True
    return _Cuts(steps, ends, after & ends)


def _last(flags: np.ndarray) -> int:
    """Index of the last true flag."""
    return len(flags) - 1 - int(flags[::-1].argmax())


def _extents(file: D4RLFile, cuts: _Cuts) -> Extent:
    """What the observations span; refuses actions and rewards that float32 cannot tell apart."""
    keys = ("observations", "actions", "rewards")
    found = {key: Extent(1 if key == "rewards" else file.width(key)) for key in keys}
    for start, stop in file.pieces():
        stop = min(stop + 1, file.steps)
        inside = (cuts.steps & ~cuts.ends)[start : stop - 1]
        for key, extent in found.items():
            extent.add(file.rows(key, start, stop).reshape(stop - start, -1), inside)
    for key, extent in found.items():
        extent.check_size(str(file.path), key)
        if key != "observations" and file.arrays[key].dtype != np.float32:
            extent.check(str(file.path), key)
    return found["observations"]


def _with_offset(layout: ObservationLayout, file: D4RLFile, seen: Extent) -> ObservationLayout:
    """The layout with what the states are less, so that float32 keeps their movement."""
    if file.arrays["observations"].dtype == np.float32:
        return layout
    return dataclasses.replace(layout, offset=seen.offsets())


def _stream(
    file: D4RLFile,
    cuts: _Cuts,
    continuous: bool,
    layout: ObservationLayout,
    jumps: Jumps | None,
    store: StoreWriter,
    progress: bool,
) -> np.ndarray:
    """Copy states, goals and actions; returns the extremes of the actions, [2, A]."""
    extremes = np.zeros((2, file.width("actions")), np.float32)
    has_goals, shift = store.has("goals"), layout.offset_of(slice(None))
    with tqdm(
        total=file.steps,
        desc=f"reading {file.path.name}",
        unit="step",
        unit_scale=True,
        delay=1.0,
        disable=not progress,
    ) as bar:
        for start, stop in file.pieces():
            steps, after = cuts.steps[start:stop], cuts.after[start:stop]
            rows = file.rows("observations", start, min(stop + 1, file.steps))
            here = later = less(rows[: stop - start], shift)
            if continuous:
                later = less(rows[1:], shift)
            elif jumps is not None:
                found = file.rows("next_observations", start, stop)
                inside = steps & ~cuts.ends[start:stop]
                jumps.look(start, rows, found, inside)
                later = less(found, shift)
            store.append("states", interleave(here, later, steps, after))
            if has_goals:  # the state after the last step is under the goal of that step
                goals = file.piece("infos/goal", start, stop, layout.goal_offset)
                store.append("goals", interleave(goals, goals, steps, after))
            actions = file.piece("actions", start, stop)[steps]
            store.append("actions", actions)
            extremes = widened(extremes, actions)
            bar.update(stop - start)
    return extremes
