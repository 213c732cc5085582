"""What `diffplan datasets show` says of a dataset: lines, columns and a picture."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
from matplotlib.figure import Figure

from diffplan.data.doubts import doubts
from diffplan.data.ends import ends_at_limit
from diffplan.data.episodes import Episodes
from diffplan.data.precision import offset_line
from diffplan.envs.formats.data_returns import comparable_returns
from diffplan.envs.rollouts.references import normalised_score, reference_key
from diffplan.envs.simulators.mazes import maze_of
from diffplan.envs.simulators.tasks import time_limits
from diffplan.envs.simulators.wrappers import WRAPPERS, wrappers_line
from diffplan.errors import DiffplanError
from diffplan.scripts.report.pictures import EXECUTED, draw_maze, positions, save, style

_DECILES_FROM = 10  # episodes
# What the loaders note about a dataset, and what it is called in the summary.
_DETAILS = {
    "rewards_are": "rewards are",
    "left_out": "not used",
    "resting": "taken for resting",
    "environment_differences": "differs from D4RL",
    "rewards_for": "rewards are for",
    "cut_at_time_limit": "cut at (steps)",
    "data_source": "origin",
    "algorithm_name": "algorithm",
    "seed": "seed",
    "path_rule": "path rule",
    "policy": "policy",
}


def summary(episodes: Episodes) -> list[tuple[str, str]]:
    """What a person wants to know before training, as lines of (key, text)."""
    info, layout, lengths, returns = (
        episodes.info,
        episodes.layout,
        episodes.lengths,
        episodes.returns,
    )
    # an episode with its final observation has a state more than steps
    after_last = np.diff(episodes.state_starts) - lengths
    comparable = comparable_returns(episodes)
    lines = [
        ("dataset", f"{info.id} ({info.source})"),
        ("episodes", f"{episodes.num_episodes:,}"),
        ("steps", f"{episodes.num_steps:,}"),
        (
            "length",
            f"min {lengths.min()}, median {np.median(lengths):g}, mean {lengths.mean():.1f}, "
            f"max {lengths.max()}",
        ),
        ("return", _spread(returns)),
        *_modes(episodes),
    ]
    # rewards of another form than the scores': both are shown
    if "rewards_are" in info.details:
        lines.append(("as scored", _spread(comparable)))
    key = reference_key(info)
    scores = normalised_score(key, comparable)
    if "rewards_for" in info.details:
        lines.append(("normalised score", "none: these episodes go to other goals than D4RL's"))
    elif scores is None:
        lines.append(("normalised score", "none: D4RL has no reference for this task"))
    else:
        lines.append(("normalised score", f"mean {scores.mean():.1f} (reference {key})"))
    # bootstrapping at a time limit needs the observation after the last step
    kept = "kept" if after_last.all() else "missing" if not after_last.any() else "kept for some"
    lines += [
        (
            "ends",
            f"{int(episodes.terminations.sum()):,} terminated, "
            f"{int(episodes.truncations.sum()):,} truncated; final observation {kept}"
            f"{_inside(episodes)}",
        ),
        *_tasks(episodes),
        ("state", f"{layout.state_dim} columns"),
        ("goal", _goal_line(episodes)),
        ("action", f"{len(info.action_low)} columns, {_bounds_line(episodes)}"),
        ("NaN or infinite", _not_finite(episodes)),
        ("constant columns", _constant(episodes)),
        ("evaluation", _evaluation(episodes)),
    ]
    for detail, label in _DETAILS.items():
        if detail in info.details:
            lines.append((label, f"{info.details[detail]}"))
    if layout.offset:
        lost = "float32 would round the movement away"
        lines.append(("precision", f"{offset_line(layout.offset)}: {lost}"))
    if found := ends_at_limit(episodes, time_limits(info)):
        lines.append(
            ("PROBLEM", f"{found.text}: are they truncations instead? train asks (--terminations)")
        )
    lines += [("doubt", text) for text in doubts(episodes)]
    # what training would refuse is a line here: one wants to see the rest, too
    try:
        episodes.validate()
    except DiffplanError as error:
        lines.append(("PROBLEM", str(error)))
    return lines


def _inside(episodes: Episodes) -> str:
    """Of flags before the end of an episode, which end nothing."""
    either = episodes.terminations | episodes.truncations
    count = int(either.sum() - either[episodes.step_starts[1:] - 1].sum())
    return f"; {count:,} flags inside episodes end nothing" if count else ""


def _tasks(episodes: Episodes) -> list[tuple[str, str]]:
    """A line per task: episodes, returns, its own columns where there are others, environment."""
    if episodes.tasks is None:
        return []
    lines = []
    for index, task in enumerate(episodes.info.tasks):
        own = episodes.tasks == index
        parts = [f"{own.sum():,} episodes"]
        if own.any():
            parts.append(f"return {_spread(episodes.returns[own])}")
        if task.state_dim < episodes.layout.state_dim:
            parts.append(f"{task.state_dim} state columns")
        lines.append((f"task {index}", f"{task.name}: {', '.join(parts)}"))
    return lines


def _modes(episodes: Episodes) -> list[tuple[str, str]]:
    """How the returns of data with rewards spread, and what cloning the best episodes would see."""
    returns = np.sort(episodes.returns[np.isfinite(episodes.returns)])[::-1]
    if episodes.layout.goal_dim or len(returns) < _DECILES_FROM or returns[0] == returns[-1]:
        return []
    deciles = ", ".join(f"{value:.4g}" for value in np.percentile(returns, range(10, 100, 10)))
    best = returns[: -(-len(returns) // 10)]
    return [("return deciles", deciles), ("best tenth", f"mean return {best.mean():.4g}")]


def _spread(values: np.ndarray) -> str:
    return f"min {values.min():.4g}, mean {values.mean():.4g}, max {values.max():.4g}"


def column_table(episodes: Episodes) -> str:
    """Minimum, mean, standard deviation and maximum of every column, as text."""
    lines = [f"{'column':<12}{'min':>12}{'mean':>12}{'std':>12}{'max':>12}"]
    for name, array in _arrays(episodes):
        flat = array.reshape(len(array), -1)
        for column in range(flat.shape[1]):
            values = flat[:, column].astype(np.float64)
            # NaN is counted in a line of its own
            values = values[np.isfinite(values)]
            label = f"{name} {column}" if array.ndim > 1 else name
            if len(values):
                numbers = (values.min(), values.mean(), values.std(), values.max())
                lines.append(f"{label:<12}" + "".join(f"{number:>12.4g}" for number in numbers))
    return "\n".join(lines)


def draw(episodes: Episodes, path: Path) -> None:
    """Draw histograms of lengths and returns and, in a maze, where the data have been."""
    maze = maze_of(episodes.info.env_id, episodes.info.env_kwargs)
    panels = 2 if maze is None else 3
    with style():
        figure = Figure(figsize=(4.2 * panels, 3.4), layout="constrained")
        axes = figure.subplots(1, panels)
        for panel, values, label in (
            (axes[0], episodes.lengths, "episode length (steps)"),
            (axes[1], episodes.returns, "episode return"),
        ):
            panel.hist(values[np.isfinite(values)], bins=40, color=EXECUTED)
            panel.set(xlabel=label, ylabel="episodes")
        if maze is not None:
            # more points than this only darken the picture
            chosen = np.linspace(0, len(episodes.states) - 1, min(50_000, len(episodes.states)))
            visited = positions(episodes.states[chosen.astype(int)], episodes.layout)
            draw_maze(axes[2], maze)
            axes[2].plot(*visited.T, ",", color=EXECUTED, alpha=0.3, rasterized=True)
            axes[2].set_title("positions visited")
        save(figure, path)


def _arrays(episodes: Episodes) -> list[tuple[str, np.ndarray]]:
    named = [
        ("state", episodes.states),
        ("goal", episodes.goals),
        ("action", episodes.actions),
        ("reward", episodes.rewards),
    ]
    return [(name, array) for name, array in named if array is not None]


def _goal_line(episodes: Episodes) -> str:
    layout = episodes.layout
    if not layout.goal_dim:
        return "none"
    where = ", ".join(map(str, layout.goal_columns)) or "unknown"
    return f"{layout.goal_dim} columns, reached in state columns {where}"


def _bounds_line(episodes: Episodes) -> str:
    low, high = np.array(episodes.info.action_low), np.array(episodes.info.action_high)
    share = ((episodes.actions <= low) | (episodes.actions >= high)).mean()
    if (low == low[0]).all() and (high == high[0]).all():
        return f"bounds [{low[0]:g}, {high[0]:g}], {share:.1%} of the entries at a bound"
    return f"bounds {low.tolist()} to {high.tolist()}, {share:.1%} of the entries at a bound"


def _not_finite(episodes: Episodes) -> str:
    counts = [(name, int((~np.isfinite(array)).sum())) for name, array in _arrays(episodes)]
    return ", ".join(f"{count} in {name}s" for name, count in counts if count) or "none"


def _constant(episodes: Episodes) -> str:
    found = []
    for name, array in _arrays(episodes):
        flat = array.reshape(len(array), -1)
        for column in np.flatnonzero((flat == flat[:1]).all(axis=0)):
            found.append(f"{name} {column}" if array.ndim > 1 else f"{name} (all {flat[0, 0]:g})")
    return ", ".join(found) or "none"


def _evaluation(episodes: Episodes) -> str:
    info = episodes.info
    if info.env_id is None and info.tasks:
        named = sorted({str(task.env_id or "unknown") for task in info.tasks})
        return f"each task in its own: {', '.join(named)}"
    if info.env_id is None:
        if refused := info.details.get("environment_refused"):
            return str(refused)
        return "unknown: name the environment with --env"
    # a maze map is many lines, and the id names it
    kwargs = {key: value for key, value in info.env_kwargs.items() if key != "maze_map"}
    registered = gym.registry.get(info.env_id)
    steps = kwargs.pop("max_episode_steps", registered and registered.max_episode_steps)
    parts = [info.env_id]
    if steps is not None:
        parts.append(f"at most {steps} steps")
    if wrappers := kwargs.pop(WRAPPERS, None):
        parts.append(f"in the wrappers {wrappers_line(wrappers)}")
    parts += [f"{key}={value}" for key, value in sorted(kwargs.items())]
    if info.evaluation_tasks:
        parts.append(f"its {len(info.evaluation_tasks)} tasks")
    return ", ".join(parts)
