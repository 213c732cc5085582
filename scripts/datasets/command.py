"""`diffplan datasets`: make maze data, list what is there, show what is inside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from diffplan.errors import DiffplanError, nearest

# Which options say something about the data of each family.
_OF: dict[str, tuple[str, ...]] = {
    "pointmaze": ("env_steps", "path_rule"),
    "maze2d": ("env_steps", "path_rule"),
    "locomotion": ("env_steps", "workers"),
    "metaworld": ("env_steps", "episodes", "action_noise", "workers"),
    "fetch": ("episodes", "action_noise", "workers"),
    "OGBench": ("episodes", "workers"),
}


@dataclass(frozen=True)
class Make:
    """Make data: PointMaze, maze2d, Meta-World and OGBench by their published procedures,
    locomotion with actors that come with the package, the Fetch arm by scripted controllers.

    pointmaze-*, metaworld-* and fetch-* become local Minari datasets (`minari list local` shows
    them too), maze2d-* and locomotion files in D4RL's layout, OGBench's names files with OGBench's
    keys. The same settings and seed give the same data.
    """

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """pointmaze-{open,umaze,medium,large}, maze2d-{open,umaze,medium,large}[-dense],
    {hopper,walker2d,halfcheetah}-{medium,expert,medium-replay,medium-expert},
    metaworld-mt10 or one of its tasks (metaworld-reach), fetch-{reach,push,pick-and-place},
    {pointmaze,antmaze}-{medium,large,giant,teleport}-{navigate,stitch}-v0,
    antmaze-{medium,large,teleport}-explore-v0 and {cube-single,cube-double,scene,
    puzzle-3x3}-play-v0 of OGBench."""
    env_steps: Annotated[
        int | None,
        tyro.conf.arg(
            metavar="INT",
            help_behavior_hint="(default: 200,000; *-medium-expert: 400,000; metaworld: 150)",
        ),
    ] = None
    """pointmaze, maze2d, locomotion: environment steps in all; the published sets have 1,000,000
    (medium-expert 2, maze2d 1 to 4 millions). Meta-World: steps of the longest episode."""
    seed: int = 0
    """Seed of the environment and of the controller's noise."""
    episodes: Annotated[
        int | None,
        tyro.conf.arg(
            metavar="INT", help_behavior_hint="(default: 50; fetch: 1,500; OGBench: as in its file)"
        ),
    ] = None
    """Meta-World: episodes of each task. Fetch, OGBench: in all."""
    action_noise: Annotated[
        float | None,
        tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(default: 0; fetch: .15 to .3)"),
    ] = None
    """Meta-World, Fetch: standard deviation of the noise on the scripted policies' actions."""
    workers: Annotated[
        int | None,
        tyro.conf.arg(metavar="INT", help_behavior_hint="(default: one per core, at most 8)"),
    ] = None
    """Meta-World, Fetch, OGBench, locomotion: processes."""
    path_rule: Literal["depth-first", "shortest"] | None = None
    """pointmaze: how the controller finds its way, with detours as in the published data (by
    default) or without. maze2d's takes shortest paths."""
    overwrite: bool = False
    """Replace a dataset of this name that has other steps, another seed or another rule."""

    def run(self) -> None:
        """Make the dataset and say what to do next."""
        from diffplan.envs.makers.catalogue import MAKEABLE

        if self.name not in MAKEABLE:
            raise DiffplanError(
                f"diffplan cannot make '{self.name}'; {nearest(self.name, MAKEABLE)}it makes "
                f"{', '.join(MAKEABLE)}"
            )
        family = self._family()
        self._check(family)
        # after the checks: refusals load no simulator
        make = {
            "pointmaze": self._pointmaze,
            "maze2d": self._maze2d,
            "locomotion": self._locomotion,
            "metaworld": self._metaworld,
            "fetch": self._fetch,
            "OGBench": self._ogbench,
        }[family]
        print(f"{self.name} is {make()}")
        print(f"look at it:  diffplan datasets show {self.name}")

    def _family(self) -> str:
        from diffplan.envs.makers.catalogue import LOCOMOTION, OGBENCH

        if self.name in LOCOMOTION:
            return "locomotion"
        return "OGBench" if self.name in OGBENCH else self.name.partition("-")[0]

    def _check(self, family: str) -> None:
        """Refuse the options that mean nothing to these data, and numbers out of range."""
        for option in dict.fromkeys(name for names in _OF.values() for name in names):
            if getattr(self, option) is not None and option not in _OF[family]:
                others = " and ".join(name for name, own in _OF.items() if option in own)
                raise DiffplanError(
                    f"--{option.replace('_', '-')} goes with data of {others}, not with "
                    f"{self.name}: leave the option out"
                )
        # a row of a maze2d file is an observation: one alone shows no step
        steps = 2 if family == "maze2d" else 1
        leasts = {"env_steps": steps, "seed": 0, "episodes": 1, "workers": 1}
        for name, least in leasts.items():
            value = getattr(self, name)
            if value is not None and value < least:
                option = f"--{name.replace('_', '-')}"
                raise DiffplanError(f"{option} is {value}, expected at least {least}")
        if family == "maze2d" and self.path_rule == "depth-first":
            raise DiffplanError(
                "--path-rule depth-first is PointMaze's; maze2d's controller takes shortest "
                "paths: leave the option out"
            )

    @property
    def _steps(self) -> int:
        # as D4RL's: as many of each half as the sets of one have
        usual = 400_000 if self.name.endswith("-medium-expert") else 200_000
        return usual if self.env_steps is None else self.env_steps

    def _maze2d(self) -> str:
        from diffplan.envs.datasets import made_d4rl
        from diffplan.envs.makers.maze2d_data import make_maze2d

        file = made_d4rl(self.name)
        assert file is not None
        make_maze2d(self.name, self._steps, self.seed, file, overwrite=self.overwrite)
        return f"the file {file}"

    def _locomotion(self) -> str:
        from diffplan.envs.datasets import made_d4rl
        from diffplan.envs.makers.locomotion_data import make_locomotion

        file = made_d4rl(self.name)
        assert file is not None
        make_locomotion(
            self.name,
            self._steps,
            self.seed,
            file,
            workers=self.workers,
            overwrite=self.overwrite,
        )
        return f"the file {file}, made by diffplan's own actors, not D4RL's"

    def _pointmaze(self) -> str:
        from diffplan.envs.makers.pointmaze_data import make_pointmaze

        dataset_id = make_pointmaze(
            self.name,
            self._steps,
            self.seed,
            path_rule=self.path_rule or "depth-first",
            overwrite=self.overwrite,
        )
        return f"the Minari dataset {dataset_id}"

    def _ogbench(self) -> str:
        from diffplan.envs.formats.ogbench import official_file, remade_file
        from diffplan.envs.makers.ogbench_data import make_ogbench

        file = remade_file(self.name)
        make_ogbench(
            self.name,
            file,
            episodes=self.episodes,
            seed=self.seed,
            workers=self.workers,
            overwrite=self.overwrite,
        )
        if official_file(self.name).is_file():
            return f"{official_file(self.name)}, OGBench's own; remade beside it: {file}"
        return f"the file {file}, remade by OGBench's public procedure"

    def _fetch(self) -> str:
        from diffplan.envs.makers.fetch_data import make_fetch

        given = {"episodes": self.episodes, "action_noise": self.action_noise}
        dataset_id = make_fetch(
            self.name,
            seed=self.seed,
            workers=self.workers,
            overwrite=self.overwrite,
            **{key: value for key, value in given.items() if value is not None},  # type: ignore[arg-type]
        )
        return f"the Minari dataset {dataset_id}"

    def _metaworld(self) -> str:
        from diffplan.envs.datasets import load_dataset
        from diffplan.envs.makers.metaworld_data import make_metaworld

        given = {
            "episodes_per_task": self.episodes,
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
        return f"the Minari dataset {dataset_id}"


@dataclass(frozen=True)
class Download:
    """Download datasets of D4RL, OGBench or Minari by name; what is there already is kept.

    An interrupted download is continued. D4RL's files go to the folder D4RL_DATASET_DIR, by
    default ~/.d4rl/datasets; DIFFPLAN_D4RL_URL names a mirror of their server. OGBench's files go
    to OGBENCH_DATASET_DIR, by default ~/.ogbench/data, by its own function.
    """

    names: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAME...")]
    """D4RL names (hopper-medium-v2), OGBench's (pointmaze-giant-stitch-v0) or Minari ids
    (D4RL/door/human-v2)."""

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
    layout: Literal["episodes", "environments"] | None = None
    """Of the arrays of a .npz: [episodes, steps, ...] or [steps, environments, ...]."""
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
        episodes = load_dataset(self.name, self.env, layout=self.layout, validate=False)
        for key, value in summary(episodes):
            print(f"{key:<18}{value}")
        print()
        print(column_table(episodes))
        if self.plot is not None:
            draw(episodes, self.plot)
            print(f"\npicture: {self.plot}")
