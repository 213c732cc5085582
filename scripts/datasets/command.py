"""`diffplan datasets`: make maze data, list what is there, show what is inside."""

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
    """Make PointMaze or maze2d data by the published procedures, or Meta-World's by its policies.

    pointmaze-* and metaworld-* become local Minari datasets (`minari list local` shows them too),
    maze2d-* files in D4RL's layout and frame. The same settings and seed give the same data.
    """

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """pointmaze-{open,umaze,medium,large}, maze2d-{open,umaze,medium,large}[-dense],
    metaworld-mt10 or one of its tasks (metaworld-reach)."""
    steps: Annotated[
        int | None,
        tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 200,000; metaworld: 150)"),
    ] = None
    """Mazes: environment steps in all; the published sets have 1,000,000 (maze2d: 1 to 4
    millions). Meta-World: steps of the longest episode."""
    seed: int = 0
    """Seed of the environment and of the controller's noise."""
    episodes_per_task: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 50)")
    ] = None
    """Meta-World: episodes of each task."""
    action_noise: Annotated[
        float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(default: 0)")
    ] = None
    """Meta-World: standard deviation of the noise on the scripted policies' actions."""
    workers: Annotated[
        int | None,
        tyro.conf.arg(metavar="INT", help_behavior_hint="(default: one per core, at most 8)"),
    ] = None
    """Meta-World: processes."""
    path_rule: Literal["depth-first", "shortest"] | None = None
    """PointMaze: how the controller finds its way, with detours as in the published data (by
    default) or without. maze2d's takes shortest paths."""
    overwrite: bool = False
    """Replace a dataset of this name that has other steps, another seed or another rule."""

    def run(self) -> None:
        """Make the dataset and say what to do next."""
        from diffplan.envs.makers.catalogue import MAKEABLE, METAWORLD

        if self.name not in MAKEABLE:
            raise DiffplanError(
                f"diffplan cannot make '{self.name}'; it makes {', '.join(MAKEABLE)}"
            )
        self._check(of_metaworld=self.name in METAWORLD)

        from diffplan.envs.datasets import made_maze2d
        from diffplan.envs.makers.maze2d_data import make_maze2d
        from diffplan.envs.makers.pointmaze import make_pointmaze

        file = made_maze2d(self.name)
        steps = 200_000 if self.steps is None else self.steps
        if self.name in METAWORLD:
            self._make_metaworld()
        elif file is not None:
            if self.path_rule == "depth-first":
                raise DiffplanError(
                    "--path-rule depth-first is PointMaze's; maze2d's controller takes shortest "
                    "paths: leave the option out"
                )
            make_maze2d(self.name, steps, self.seed, file, overwrite=self.overwrite)
            print(f"{self.name} is the file {file}")
        else:
            dataset_id = make_pointmaze(
                self.name,
                steps,
                self.seed,
                path_rule=self.path_rule or "depth-first",
                overwrite=self.overwrite,
            )
            print(f"{self.name} is the Minari dataset {dataset_id}")
        print(f"look at it:  diffplan datasets show {self.name}")

    def _check(self, of_metaworld: bool) -> None:
        """Refuse the options that mean nothing to these data, and no workers."""
        if of_metaworld:
            wrong = ["--path-rule"] if self.path_rule is not None else []
        else:
            given = (self.episodes_per_task, self.action_noise, self.workers)
            names = ("--episodes-per-task", "--action-noise", "--workers")
            wrong = [n for n, value in zip(names, given, strict=True) if value is not None]
        if wrong:
            kind = "the mazes'" if of_metaworld else "Meta-World's"
            raise DiffplanError(f"{wrong[0]} is {kind}, not of {self.name}: leave the option out")

    def _make_metaworld(self) -> None:
        from diffplan.envs.datasets import load_dataset
        from diffplan.envs.makers.metaworld_data import make_metaworld

        given = {
            "episodes_per_task": self.episodes_per_task,
            "steps": self.steps,
            "action_noise": self.action_noise,
        }
        dataset_id = make_metaworld(
            self.name,
            seed=self.seed,
            workers=self.workers,
            overwrite=self.overwrite,
            **{key: value for key, value in given.items() if value is not None},  # type: ignore[arg-type]
        )
        for name, share in load_dataset(self.name).info.details["success_rate"].items():
            print(f"  {name:<22} success {share:.0%}")
        print(f"{self.name} is the Minari dataset {dataset_id}")


@dataclass(frozen=True)
class Download:
    """Download datasets of D4RL or Minari by name; what is there already is kept.

    An interrupted download is continued. D4RL's files go to the folder D4RL_DATASET_DIR, by
    default ~/.d4rl/datasets; DIFFPLAN_D4RL_URL names a mirror of their server.
    """

    names: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAME...")]
    """D4RL names (hopper-medium-v2) or Minari ids (D4RL/door/human-v2)."""

    def run(self) -> None:
        """Download one after the other and say where each is."""
        from diffplan.envs.datasets import fetch_dataset

        if not self.names:
            raise DiffplanError("no dataset named; see: diffplan datasets list")
        for name in self.names:
            print(f"{name}: {fetch_dataset(name)}")


@dataclass(frozen=True)
class List:
    """List every dataset that has a name: on this machine, to download, or to make here."""

    pattern: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TEXT")] = ""
    """Only those with this text in their name or domain: maze2d, expert, minari."""

    def run(self) -> None:
        """Print one line per dataset, grouped by domain."""
        from diffplan.envs.datasets import list_datasets
        from diffplan.envs.formats.d4rl_catalogue import d4rl_folder
        from diffplan.envs.formats.minari_remote import remote_datasets

        remote, reason = remote_datasets()
        left_out = f"Minari's remote datasets are left out: {reason}" if reason else ""
        entries = list_datasets(self.pattern, remote)
        if not entries:
            raise DiffplanError(
                f"no dataset with {self.pattern!r} in its name or domain"
                f"{left_out and f' ({left_out})'}; all: diffplan datasets list"
            )
        width = max(len(entry.name) for entry in entries)
        for domain in dict.fromkeys(entry.domain for entry in entries):
            print(domain)
            for entry in entries:
                if entry.domain == domain:
                    print(f"  {entry.name:<{width}}  {entry.where:<11}  {entry.note}")
        print("\nTo get a remote one: diffplan datasets download NAME (train does it by itself).")
        if left_out:
            print(f"{left_out}.")
        print(
            f"D4RL files are in {d4rl_folder()}. Own files (.hdf5, .npz) are given by their path."
        )


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
        from diffplan.scripts.report.files import check_writable

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


# What the loaders note about a dataset, and what it is called in the summary.
_DETAILS = {
    "rewards_are": "rewards are",
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
    from diffplan.envs.formats.data_returns import comparable_returns
    from diffplan.envs.rollouts.references import normalised_score, reference_key

    info, layout, lengths, returns = (
        episodes.info,
        episodes.layout,
        episodes.lengths,
        episodes.returns,
    )
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
    ]
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
    kept = "kept" if after_last.all() else "missing" if not after_last.any() else "kept for some"
    lines += [
        (
            "ends",
            f"{int(episodes.terminations.sum()):,} terminated, "
            f"{int(episodes.truncations.sum()):,} truncated; final observation {kept}",
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
    try:
        episodes.validate()
    except DiffplanError as error:
        lines.append(("PROBLEM", str(error)))
    return lines


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


def _spread(values: np.ndarray) -> str:
    return f"min {values.min():.4g}, mean {values.mean():.4g}, max {values.max():.4g}"


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

    from diffplan.envs.simulators.mazes import maze_of
    from diffplan.scripts.report.pictures import EXECUTED, draw_maze, positions, style

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
    if info.env_id is None and info.tasks:
        named = sorted({str(task.env_id or "unknown") for task in info.tasks})
        return f"each task in its own: {', '.join(named)}"
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
