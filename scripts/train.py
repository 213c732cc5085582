"""`diffplan train CONFIG --dataset ID`: train a planner, with any setting of the config overridden.

diffplan train trajectory-diffuser --dataset pointmaze-medium --steps 6000 --out runs/medium
torchrun --nproc-per-node 2 -m diffplan.scripts.cli train trajectory-diffuser --dataset ...
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from diffplan.config import CONFIGS, Config, get_config
from diffplan.errors import DiffplanError

if TYPE_CHECKING:
    from diffplan.data.episodes import Episodes


@dataclass(frozen=True)
class Train:
    """Train a planner. CONFIG is the starting point; every setting below can be overridden."""

    dataset: Annotated[str, tyro.conf.arg(metavar="ID")]
    """A NAME of `diffplan datasets list`, a Minari id, or a .hdf5 or .npz file of your own."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder for checkpoints, metrics and TensorBoard events."""
    steps: int = 6000
    """Joint updates in total, also after a resume; every part learns in each."""
    seed: int = 0
    """Of initial weights, data order and noise."""
    resume: bool = False
    """Continue the run in DIR exactly where its last checkpoint stands (or start it)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if there is one."""
    threads: int = 1
    """PyTorch threads on the CPU. Small networks gain little from more."""
    checkpoint_every: int = 2000
    """Updates between checkpoints; 0: only at the end."""
    env: Annotated[str | None, tyro.conf.arg(metavar="ENV_ID")] = None
    """Gymnasium id to evaluate in, if not the dataset's own; module:ID imports module first."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)

    @classmethod
    def parse(cls, args: Sequence[str]) -> Train:
        """Read `CONFIG [OPTIONS]`: the config names the defaults of everything that follows."""
        listing = "\n".join(f"  {name:30} {line}" for name, (line, _) in CONFIGS.items())
        if not args:
            raise DiffplanError(
                "diffplan train needs a config and --dataset, e.g. diffplan train "
                f"{next(iter(CONFIGS))} --dataset ID --out DIR; see diffplan train --help"
            )
        if args[0] in ("-h", "--help"):
            name, rest = "trajectory-diffuser", ["--help"]
        else:
            name, rest = args[0], list(args[1:])
        if name.startswith("-"):
            raise DiffplanError(
                f"the first word after `diffplan train` is {name!r}, expected a config: "
                f"{', '.join(CONFIGS)}"
            )
        config = get_config(name)
        shown = name if args[0] == name else "CONFIG"
        parsed: Train = tyro.cli(
            cls,
            args=rest,
            prog=f"diffplan train {shown}",
            description=f"{cls.__doc__}\n\nCONFIG is one of\n{listing}\n\n"
            f"The defaults shown are those of {name}.",
            default=cls(tyro.MISSING, tyro.MISSING, config=config),
        )
        return parsed

    def run(self) -> Path:
        """Train; returns the last checkpoint."""
        import torch

        from diffplan.envs.datasets import load_dataset
        from diffplan.training import RunOptions, find_previous, train

        self._check()
        options = RunOptions(
            self.out,
            steps=self.steps,
            seed=self.seed,
            resume=self.resume,
            device=self.device,
            checkpoint_every=self.checkpoint_every,
        )
        find_previous(self.config, options)  # refuses before the data are loaded
        torch.set_num_threads(self.threads)
        main = int(os.environ.get("RANK", "0")) == 0
        episodes = load_dataset(self.dataset, self.env, progress=main)
        self._check_environment(episodes, main)
        if main:
            print(
                f"training {self.config.name} on {episodes.info.id}: {episodes.num_episodes} "
                f"episodes, {episodes.num_steps} steps; {self.steps} updates into {self.out}"
            )
        last = train(episodes, self.config, options)
        if main:
            env = "" if episodes.info.env_id else " --env GYMNASIUM_ID"
            print(f"trained: {last}\nnext: diffplan evaluate {self.out}{env}")
        return last

    def _check_environment(self, episodes: Episodes, main: bool) -> None:
        """Refuse data that the evaluation environment could not be planned in with."""
        from diffplan.envs.compatibility import check_spaces
        from diffplan.envs.environments import make_env

        info = episodes.info
        if info.env_id is None:
            return
        try:
            env = make_env(info)
        except DiffplanError as error:
            if self.env is not None:
                raise
            if main:  # training needs no simulator
                print(f"note: {error}; training goes on, evaluation will need it")
            return
        spaces = env.observation_space, env.action_space
        env.close()
        check_spaces(episodes.layout, info, *spaces)

    def _check(self) -> None:
        """Refuse at once what would fail after the data are loaded."""
        from diffplan.scripts.results import check_writable

        for option, value, low, high in (
            ("--steps", self.steps, 1, 2**31 - 1),
            ("--seed", self.seed, 0, 2**31 - 1),
            ("--threads", self.threads, 1, 1024),
            ("--checkpoint-every", self.checkpoint_every, 0, 2**31 - 1),
        ):
            if not low <= value <= high:
                raise DiffplanError(f"{option} is {value}, expected {low} to {high}")
        if self.out.is_file():
            raise DiffplanError(f"--out {self.out} is a file; give the name of a folder")
        check_writable(self.out / "metrics.jsonl" if self.out.is_dir() else self.out, "--out")
