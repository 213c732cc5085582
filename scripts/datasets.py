"""`diffplan datasets`: make PointMaze data, list what is there, show what is inside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from diffplan.data.episodes import Episodes
from diffplan.errors import DiffplanError


@dataclass(frozen=True)
class Make:
    """Make a PointMaze dataset by the published procedure and save it as a local Minari dataset.

    The same steps and seed give the same data. `minari list local` shows it too.
    """

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """pointmaze-open, pointmaze-umaze, pointmaze-medium or pointmaze-large."""
    steps: int = 200_000
    """Environment steps; the published sets have 1,000,000."""
    seed: int = 0
    """Seed of the environment and of the controller's noise."""
    path_rule: Literal["depth-first", "shortest"] = "depth-first"
    """How the controller finds its way: with detours as in the published data, or without."""
    overwrite: bool = False
    """Replace a dataset of this name that has other steps, another seed or another rule."""

    def run(self) -> None:
        """Make the dataset and say what to do next."""
        from diffplan.envs.pointmaze import make_pointmaze

        dataset_id = make_pointmaze(
            self.name, self.steps, self.seed, path_rule=self.path_rule, overwrite=self.overwrite
        )
        print(f"{self.name} is the Minari dataset {dataset_id}")
        print(f"look at it:  diffplan datasets show {self.name}")


@dataclass(frozen=True)
class List:
    """List the datasets that can be made, and those on this machine."""

    def run(self) -> None:
        """Print one line per dataset."""
        from diffplan.envs.datasets import d4rl_folder, list_datasets

        entries = list_datasets()
        width = max(len(entry.name) for entry in entries)
        headings = {
            "can be made": "Can be made here",
            "minari": "Local Minari datasets (more: minari list remote, minari download ID)",
            "d4rl": f"D4RL files in {d4rl_folder()}",
        }
        for kind, heading in headings.items():
            chosen = [entry for entry in entries if entry.kind == kind]
            print(heading)
            for entry in chosen:
                print(f"  {entry.name:<{width}}  {entry.note}")
            if not chosen:
                print("  none")
        print("Any .hdf5 file in the D4RL layout and any .npz archive is accepted by its path.")


@dataclass(frozen=True)
class Show:
    """Show what is in a dataset: size, lengths, returns, columns, NaN, evaluation environment."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """A name from `diffplan datasets list`, a Minari id, an .hdf5 or .npz file, or a folder."""
    env: Annotated[str | None, tyro.conf.arg(metavar="ID")] = None
    """Gymnasium id of the evaluation environment, where the dataset does not say it."""
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also draw lengths, returns and, in a maze, the positions visited (.png, .pdf or .svg)."""

    def run(self) -> None:
        """Print the summary and draw the picture."""
        from diffplan.envs.datasets import load_dataset
        from diffplan.scripts.results import check_writable

        if self.plot is not None:
            check_writable(self.plot, "--plot")
        episodes = load_dataset(self.name, self.env, validate=False)
        for key, value in summary(episodes):
            print(f"{key:<18}{value}")
        print()
        print(column_table(episodes))
        if self.plot is not None:
            draw(episodes, self.plot)
            print(f"\npicture: {self.plot}")


def summary(episodes: Episodes) -> list[tuple[str, str]]:
    """What a person wants to know before training, as lines of (key, text)."""
    from diffplan.envs.references import normalised_score, reference_key

    info, layout, lengths, returns = (
        episodes.info,
        episodes.layout,
        episodes.lengths,
        episodes.returns,
    )
    after_last = np.diff(episodes.state_starts) - lengths
    lines = [
        ("dataset", f"{info.id} ({info.source})"),
        ("episodes", f"{episodes.num_episodes:,}"),
        ("steps", f"{episodes.num_steps:,}"),
        (
            "length",
            f"min {lengths.min()}, median {np.median(lengths):g}, mean {lengths.mean():.1f}, "
            f"max {lengths.max()}",
        ),
        ("return", f"min {returns.min():.4g}, mean {returns.mean():.4g}, max {returns.max():.4g}"),
    ]
    key = reference_key(info)
    scores = normalised_score(key, returns)
    if scores is None:
        lines.append(("normalised score", "none: D4RL has no reference for this task"))
    else:
        lines.append(("normalised score", f"mean {scores.mean():.1f} (reference {key})"))
    kept = "kept" if after_last.all() else "missing" if not after_last.any() else "kept for some"
    lines += [
        (
            "ends",
            f"{int(episodes.terminations.sum()):,} terminated, "
            f"{int(episodes.truncations.sum()):,} truncated; final observation {kept}",
        ),
        ("state", f"{layout.state_dim} columns"),
        ("goal", _goal_line(episodes)),
        ("action", f"{len(info.action_low)} columns, {_bounds_line(episodes)}"),
        ("NaN or infinite", _not_finite(episodes)),
        ("constant columns", _constant(episodes)),
        ("evaluation", _evaluation(episodes)),
    ]
    for detail in ("algorithm_name", "seed", "path_rule", "policy"):
        if detail in info.details:
            lines.append(
                (detail.replace("_", " ").removesuffix(" name"), f"{info.details[detail]}")
            )
    try:
        episodes.validate()
    except DiffplanError as error:
        lines.append(("PROBLEM", str(error)))
    return lines


def column_table(episodes: Episodes) -> str:
    """Minimum, mean, standard deviation and maximum of every column, as text."""
    lines = [f"{'column':<12}{'min':>10}{'mean':>10}{'std':>10}{'max':>10}"]
    for name, array in _arrays(episodes):
        flat = array.reshape(len(array), -1)
        for column in range(flat.shape[1]):
            values = flat[:, column].astype(np.float64)
            values = values[np.isfinite(values)]
            label = f"{name} {column}" if array.ndim > 1 else name
            if len(values):
                numbers = (values.min(), values.mean(), values.std(), values.max())
                lines.append(f"{label:<12}" + "".join(f"{number:>10.4g}" for number in numbers))
    return "\n".join(lines)


def draw(episodes: Episodes, path: Path) -> None:
    """Draw histograms of lengths and returns and, in a maze, where the data have been."""
    from matplotlib.figure import Figure

    from diffplan.envs.mazes import maze_of
    from diffplan.scripts.pictures import EXECUTED, draw_maze, positions, style

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
            chosen = np.linspace(0, len(episodes.states) - 1, min(50_000, len(episodes.states)))
            visited = positions(episodes.states[chosen.astype(int)], episodes.layout)
            draw_maze(axes[2], maze)
            axes[2].plot(*visited.T, ",", color=EXECUTED, alpha=0.3, rasterized=True)
            axes[2].set_title("positions visited")
        try:
            figure.savefig(path)
        except (ValueError, OSError) as error:
            raise DiffplanError(f"cannot write the picture {path}: {error}") from None


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
    import gymnasium as gym

    info = episodes.info
    if info.env_id is None:
        return "unknown: name the environment with --env"
    kwargs = {key: value for key, value in info.env_kwargs.items() if key != "maze_map"}
    registered = gym.registry.get(info.env_id)
    steps = kwargs.pop("max_episode_steps", registered and registered.max_episode_steps)
    parts = [info.env_id]
    if steps is not None:
        parts.append(f"at most {steps} steps")
    parts += [f"{key}={value}" for key, value in sorted(kwargs.items())]
    return ", ".join(parts)
