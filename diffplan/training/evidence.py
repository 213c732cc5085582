"""Measures of the data behind decisions: how fast states change, what ends episodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from diffplan.config.config import Config, by_kind
from diffplan.config.decisions import Decision
from diffplan.data.arrivals import AFTER, BRISK, STILL, in_deviations
from diffplan.data.episodes import Episodes
from diffplan.data.landmarks import brisk_speed
from diffplan.data.leaps import cut_at_leaps
from diffplan.data.things import members, things

_PAIRS = 20_000  # pairs of states behind a correlation: its error is below .01
_LONGEST_LAG = 1024
_FAST = 4  # steps of a half-life; with fewer, states two steps apart tell little of each other
_SWINGS = 32  # steps of a gait at most
_AWAY, _BACK = 0.1, 0.2  # correlation within a period, at most, and a period later, at least
_MOVING = 0.3  # share of brisk motion
_TURNING = 0.5  # of its speed is kept over a plan: data turn before that
_GAIN = 3.0  # at most: five was worse
_FEW = 3  # reverse steps from the far end of the process
_FETCHED = 0.15  # share of the time: at most .05 in mazes and reaches, .25 to .5 in pushes
_LAST = 10  # steps at an episode's end
_HIGH = 0.75  # quantile of an episode's own rewards


def half_life(episodes: Episodes) -> int:
    """Environment steps in which states lose half of their correlation, at least 1.

    That is the least lag at which the correlation of a column, averaged over the columns that
    move, is below one half: 1 - |s_{t+lag} - s_t|^2 / (2 var). It knows no units. Capped at 1024
    and at what the longest episode shows.
    """
    correlation = _Correlation(episodes)
    longest = min(_LONGEST_LAG, correlation.longest)
    if not correlation.moving.any() or longest < 1:
        return 1
    low, high = 0, 1  # correlation(low) >= 1/2 > correlation(high)
    while correlation(high) >= 0.5:
        if high >= longest:
            return longest
        low, high = high, min(2 * high, longest)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if correlation(middle) >= 0.5 else (low, middle)
    return high


def gait(episodes: Episodes, columns: np.ndarray) -> int:
    """Environment steps of a period of columns, bool [D], that swing; 0 where they do not.

    Their correlation falls below .1 and has a peak above .2 again within 32 steps: the period.
    """
    correlation = _Correlation(episodes, columns)
    if not correlation.moving.any():
        return 0
    after = np.array([correlation(lag) for lag in range(1, min(_SWINGS, correlation.longest) + 1)])
    if not (after < _AWAY).any():
        return 0
    falls = np.append(after[1:] < after[:-1], False)
    peaks = np.flatnonzero(
        falls & (after > _BACK) & (np.arange(len(after)) > np.argmax(after < _AWAY))
    )
    return int(peaks[0]) + 1 if len(peaks) else 0


def speed_kept(episodes: Episodes, columns: Sequence[int], steps: int) -> float:
    """Share of its speed over two steps that brisk motion of columns keeps over so many steps.

    1 where nothing moves.
    """
    points = torch.from_numpy(episodes.states[:, list(columns)])
    starts = torch.from_numpy(np.asarray(episodes.state_starts))
    first = brisk_speed(points, starts, 2)
    return brisk_speed(points, starts, steps) / first if first > 0 else 1.0


class _Correlation:
    """Of states with those some steps on, averaged over the columns that move."""

    def __init__(self, episodes: Episodes, columns: np.ndarray | None = None) -> None:
        self._episodes, self._rng = episodes, np.random.default_rng(0)
        states = episodes.states
        sample = states[np.sort(self._rng.integers(0, len(states), min(len(states), _PAIRS)))]
        variance = sample.var(0, dtype=np.float64)
        self.moving = variance > 1e-12 * np.square(np.abs(sample).max(0)).clip(min=1e-12)
        if columns is not None:
            self.moving &= columns
        self._variance = variance[self.moving]
        self.longest = int(np.diff(np.asarray(episodes.state_starts)).max()) - 1

    def __call__(self, lag: int) -> float:
        """A lag of at most `longest` steps."""
        change = _changes(self._episodes, lag, self._rng)[:, self.moving]
        return float((1 - np.square(change).mean(0) / (2 * self._variance)).mean())


def _changes(episodes: Episodes, lag: int, rng: np.random.Generator) -> np.ndarray:
    """States `lag` steps apart, one less the other: [20,000, D] float64."""
    starts = np.asarray(episodes.state_starts)
    room = np.maximum(np.diff(starts) - lag, 0)
    ends = np.cumsum(room)
    drawn = np.sort(rng.integers(0, ends[-1], _PAIRS))
    episode = np.searchsorted(ends, drawn, side="right")
    first = starts[episode] + drawn - (ends[episode] - room[episode])
    return np.asarray(episodes.states[first + lag], np.float64) - episodes.states[first]


def left_alone(episodes: Episodes) -> float:
    """Share of the time in which the goal's columns stand still though the others move.

    Of the time in which anything moves: data may rest at their goals. Over 4 steps; still and
    moving is less than 5 % and more than 30 % of what the data do at most (their 90 % quantile).
    High where the agent has to fetch what the goal is about.
    """
    columns = np.isin(np.arange(episodes.layout.state_dim), episodes.layout.goal_columns)
    lag = min(AFTER, int(np.diff(np.asarray(episodes.state_starts)).max()) - 1)
    if columns.all() or not columns.any() or lag < 1:
        return 0.0
    change = _changes(episodes, lag, np.random.default_rng(0))
    spread = change.std(0)
    change = change[:, spread > 0] / spread[spread > 0]
    size = [np.linalg.norm(change[:, part[spread > 0]], axis=1) for part in (columns, ~columns)]
    goal, rest = (each / max(float(np.quantile(each, BRISK)), 1e-12) for each in size)
    alone = (goal < STILL) & (rest > _MOVING)
    return float(alone.sum() / max((alone | (goal >= STILL)).sum(), 1))


def _goal_moves(episodes: Episodes) -> bool:
    """Whether an episode changes the goal's columns, and not rounding alone."""
    inside = np.ones(len(episodes.states), bool)
    inside[np.asarray(episodes.state_starts)[:-1]] = False
    goal = torch.from_numpy(episodes.states[:, list(episodes.layout.goal_columns)])
    return bool((in_deviations(goal).diff(dim=0).numpy() != 0)[inside[1:]].any())


def _things(episodes: Episodes) -> str:
    """What things the goal's columns are of, in words, see `things`."""
    starts = torch.from_numpy(np.asarray(episodes.state_starts))
    found = things(torch.from_numpy(episodes.states), episodes.layout.goal_columns, starts)
    parts = [" ".join(map(str, places)) for places in members(found.of)]
    if not parts:
        return "no thing that moves long enough to be told"
    named = ", ".join(parts)
    words = f"one thing (goal {named})"
    if len(parts) > 1:
        words = f"{len(parts)} things (goal {named}), brought to their goals one by one"
    columns = sorted({column for _, column in found.holds})
    if not columns:
        return f"{words}, and no columns of the state were found that move them"
    return f"{words}, moved by columns {', '.join(map(str, columns))} of the state"


def _leaps(episodes: Episodes) -> int:
    """Steps that leap by chance, see `leaps`."""
    points = torch.from_numpy(episodes.states[:, list(episodes.layout.goal_columns)])
    starts = torch.from_numpy(np.asarray(episodes.state_starts))
    tasks = None if episodes.tasks is None else torch.from_numpy(episodes.tasks)
    return int(cut_at_leaps(points, starts, tasks)[2].sum())


def length_rule(config: Config, episodes: Episodes) -> Iterator[Decision]:
    """Plans no longer than the longest episode."""
    plan = by_kind(config, bool(episodes.layout.goal_dim)).plan
    longest = int(np.diff(np.asarray(episodes.state_starts)).max()) - 1
    if config.is_open("plan.horizon") and plan.stride <= longest < plan.horizon * plan.stride:
        reason = f"the longest episode has {longest} steps"
        yield Decision("plan.horizon", longest // plan.stride, reason)


def goal_rule(config: Config, episodes: Episodes) -> Iterator[Decision]:
    """Whose goals; where something has to be fetched first, also shorter plans."""
    known = bool(episodes.layout.goal_columns) and config.is_open("data.relabel")
    usual = by_kind(config, has_goal=True).data.relabel
    # hindsight where the discount or a pinned goal ask for it
    if not known or usual != "stitched":
        return
    share = left_alone(episodes)
    measured = f"in {share:.0%} of the time the goal's columns stand still though others move"
    if share <= _FETCHED:
        reason = f"{measured}: goals of other episodes teach, too, by how far off they are"
        if count := _leaps(episodes):
            reason += f"; episodes end where they leap by chance, in {count:,} steps"
        yield Decision("data.relabel", usual, reason)
    elif not _goal_moves(episodes):
        yield Decision("data.relabel", "hindsight", "the goal's columns stand still in all data")
    else:
        reason = f"{measured}: how far a goal is cannot be told from these columns alone"
        reason += f"; they are of {_things(episodes)}"
        yield Decision("data.relabel", "arrivals", reason)
        short = "goals are the episode's own, and what has to be fetched first is planned too"
        yield Decision("plan.stride", 1, short)
        yield Decision("plan.horizon", 8, short)


def columns_rule(config: Config, episodes: Episodes) -> Iterator[Decision]:
    """Plans of the goal's columns alone, where the rest of the state is a gait.

    Where legs are at a plan's states says little of the way, and cannot be foreseen; the inverse
    dynamics, which sees them, leads further ahead than a step of theirs.
    """
    goal = np.isin(np.arange(episodes.layout.state_dim), episodes.layout.goal_columns)
    reads = config.heads.kind == "separate" and config.heads.value != "critic"
    kind = by_kind(config, has_goal=True)
    if kind.data.relabel != "stitched" or config.planning.reuse:
        return
    if not (reads and goal.any() and config.is_open("plan.columns")):
        return
    if period := gait(episodes, ~goal):
        reason = f"what is no goal of the state swings, with a period of {period} steps: a gait"
        yield Decision("plan.columns", "goal", reason)
        ahead = min(period // kind.plan.stride + 1, kind.plan.horizon)
        yield Decision("heads.lookahead", ahead, f"{reason}; more than one is led over")
        half = max(1, min(period // (2 * kind.plan.stride), kind.plan.horizon))
        late = "a body that walks does not keep to its plan's time"
        yield Decision("planning.replan_every", half * kind.plan.stride, f"{reason}; {late}")
        near = "the way is kept to, and corners are not cut"
        reach = kind.plan.horizon * kind.plan.stride // 2
        yield Decision("planning.subgoal_steps", max(reach, 1), f"{reason}; {near}")
        span = kind.plan.horizon * kind.plan.stride
        caught = "legs that a corner has caught do not come free by walking on"
        yield Decision("planning.detour_after", 2 * span, f"{reason}; {caught}")
        longest = int(np.diff(np.asarray(episodes.state_starts)).max()) - 1
        columns = episodes.layout.goal_columns
        kept = speed_kept(episodes, columns, span) if 2 < span <= longest else 1.0
        if kept < _TURNING:
            turns = f"over {span} steps brisk motion keeps {kept:.0%} of its speed: it turns"
            # what was given must fit
            followed = -(-(config.planning.replan_every or 0) // kind.plan.stride)
            rows = max(config.heads.lookahead or ahead, followed)
            shorter = f"{turns}; no more is planned than is led to, or followed"
            yield Decision("plan.horizon", min(rows, kind.plan.horizon), shorter)
            gain = min(_GAIN, round(1 / max(kept, 1 / _GAIN), 1))
            yield Decision("heads.gain", gain, f"{turns}; asked is its first speed")


def time_scale_rule(config: Config, episodes: Episodes) -> Iterator[Decision]:
    """Plan states that still tell of each other, plans made anew before they are out of date.

    Where there is a goal `goal_rule` decides: of the state not all is worth knowing.
    """
    decided = ("plan.stride", "planning.replan_every", "planning.start")
    if episodes.layout.goal_dim or not config.is_open(*decided):
        return
    steps = half_life(episodes)
    measured = f"states lose half of their correlation in {steps} step{'s' * (steps > 1)}"
    fast = steps < _FAST
    stride = 1 if fast else 2  # coarser plans did worse wherever they were tried
    kind = f"fewer than {_FAST}: every" if fast else f"{_FAST} or more: every second"
    yield Decision("plan.stride", stride, f"{measured}, {kind} step is planned")
    if fast and config.is_open("planning.start"):
        reason = f"{measured}: neighbours tell too little of each other to refine a raw proposal"
        yield Decision("planning.start", "process", reason)
        yield Decision("planning.denoising_steps", _FEW, reason)
    if not config.is_open("plan.stride"):
        stride = config.plan.stride
    half_plan = stride * max(1, by_kind(config, has_goal=False).plan.horizon // 2)
    if steps < half_plan:
        yield Decision(
            "planning.replan_every",
            stride * max(1, steps // stride),
            f"{measured}; a plan is followed no longer, where half of it would take {half_plan}",
        )


def ended_by_success(episodes: Episodes) -> float:
    """Share of episodes that were cut before the time limit, where their reward was highest.

    A cut is a truncation without termination; the time limit is the longest episode. The reward
    of the last 10 steps must be above the 75 % quantile of the episode's own.
    """
    starts = np.asarray(episodes.step_starts)
    steps, last = np.diff(starts), starts[1:] - 1
    cut = np.asarray(episodes.truncations)[last] & ~np.asarray(episodes.terminations)[last]
    early = np.flatnonzero(cut & (steps < steps.max()))
    found = 0
    for i in early:
        own = np.asarray(episodes.rewards[starts[i] : starts[i + 1]])
        high = np.quantile(own, _HIGH)
        found += bool(own[-_LAST:].mean() >= high > own.min())
    return found / len(steps)


def returns_rule(config: Config, episodes: Episodes) -> Iterator[Decision]:
    """Whether a high return is anything to ask for."""
    if episodes.layout.goal_dim:
        return
    if not config.is_open("data.condition_on_returns", "data.best_of_windows"):
        return
    share = ended_by_success(episodes)
    if share > 0.5:
        reason = (
            f"{share:.0%} of the episodes are cut before the time limit, where their reward is "
            "highest: they end by success, and a higher return means having lingered"
        )
        yield Decision("data.condition_on_returns", False, reason)
        yield Decision("data.best_of_windows", 1, reason)
