"""`diffplan datasets`: make maze data, list what is there, show what is inside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

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
    env_steps: Annotated[
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

        # after the checks: refusals load no simulator
        from diffplan.envs.datasets import made_maze2d
        from diffplan.envs.makers.maze2d_data import make_maze2d
        from diffplan.envs.makers.pointmaze_data import make_pointmaze

        file = made_maze2d(self.name)
        steps = 200_000 if self.env_steps is None else self.env_steps
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
        """Refuse the options that mean nothing to these data, and numbers out of range."""
        # a row of a maze2d file is an observation: one alone shows no step
        steps = 2 if self.name.startswith("maze2d") else 1
        leasts = {"env_steps": steps, "seed": 0, "episodes_per_task": 1, "workers": 1}
        for name, least in leasts.items():
            value = getattr(self, name)
            if value is not None and value < least:
                option = f"--{name.replace('_', '-')}"
                raise DiffplanError(f"{option} is {value}, expected at least {least}")
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
            "steps": self.env_steps,
            "action_noise": self.action_noise,
        }
        dataset_id = make_metaworld(
            self.name,
            seed=self.seed,
            workers=self.workers,
            overwrite=self.overwrite,
            **{key: value for key, value in given.items() if value is not None},  # type: ignore[arg-type]
        )
        # scripted policies fail where noise is large: said at once, not after a training
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

        # without a network the list is what is here, and says so
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
        from diffplan.scripts.datasets.summary import column_table, draw, summary
        from diffplan.scripts.report.files import check_writable

        if self.plot is not None:
            check_writable(self.plot, "--plot")
        # data with NaN are refused in training; here they are what one wants to see
        episodes = load_dataset(self.name, self.env, validate=False)
        for key, value in summary(episodes):
            print(f"{key:<18}{value}")
        print()
        print(column_table(episodes))
        if self.plot is not None:
            draw(episodes, self.plot)
            print(f"\npicture: {self.plot}")
