"""`diffplan train CONFIG --dataset ID`: train a planner, with any setting of the config overridden.

diffplan train trajectory-diffuser --dataset pointmaze-medium --steps 6000 --out runs/medium
diffplan train trajectory-diffuser-published --dataset hopper-medium-v2 --out runs/hopper
diffplan train multi-task --dataset pointmaze-umaze pointmaze-medium --out runs/mazes
torchrun --nproc-per-node 2 -m diffplan.scripts.cli train trajectory-diffuser --dataset ...
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from diffplan.config.config import Config, with_settings
from diffplan.config.planners import CONFIGS, get_config
from diffplan.config.presets import Preset, config_for, preset_for, presets_of, why_none
from diffplan.errors import DiffplanError
from diffplan.model.run_folder import checkpoint_updates
from diffplan.scripts.parser import read_options
from diffplan.scripts.stopping import Brake, Stopped

if TYPE_CHECKING:
    from diffplan.config.decisions import Decision
    from diffplan.data.episodes import Episodes
    from diffplan.data.info import DatasetInfo, ObservationLayout


@dataclass(frozen=True)
class Train:
    """Train a planner. CONFIG is the starting point; every setting below can be overridden.

    What is None is decided from the data and shown with the reason.
    """

    dataset: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ID [ID ...]")]
    """A NAME of `diffplan datasets list`, a Minari id, or a .hdf5 or .npz file of your own.
    Several are the tasks of one model."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder for checkpoints, metrics and TensorBoard events."""
    steps: int = 6000
    """Joint updates in total, also after a resume; every part learns in each."""
    seed: int = 0
    """Of initial weights, data order and noise."""
    resume: bool = False
    """Continue the run in DIR exactly where its last checkpoint stands (or start it)."""
    device: str = "auto"
    """auto: a GPU if there is one."""
    threads: int = 1
    """PyTorch threads on the CPU. Small networks gain little from more."""
    checkpoint_every: int = 2000
    """Updates between checkpoints; 0: only at the end."""
    env: Annotated[str | None, tyro.conf.arg(metavar="ENV_ID")] = None
    """Gymnasium id to evaluate in, if not the dataset's own; module:ID imports module first."""
    layout: Literal["episodes", "environments"] | None = None
    """Of the arrays of a .npz: [episodes, steps, ...] or [steps, environments, ...]."""
    terminations: Literal["as-recorded", "as-truncations"] | None = None
    """What ends at a time limit, though the data call it terminated, is: the end of the task, or
    a cut. Asked for where there are such ends."""
    preset: Literal["auto", "none"] = "auto"
    """Of other papers' planners: as published for this dataset (auto), or not (none)."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    given: Annotated[tuple[str, ...], tyro.conf.Fixed, tyro.conf.Suppress] = ()
    """CONFIG and the options as given, for the record and over the defaults of a preset."""

    @classmethod
    def parse(cls, args: Sequence[str]) -> Train:
        """Read `CONFIG [OPTIONS]`: the config names the defaults of everything that follows.

        The preset depends on the data, which are not loaded yet: options are refused only where
        neither the config itself nor any preset of it goes with them.
        """
        if not args:
            raise DiffplanError(
                "diffplan train needs a config and --dataset, e.g. diffplan train "
                f"{next(iter(CONFIGS))} --dataset ID --out DIR; see diffplan train --help"
            )
        if args[0].startswith("-") and args[0] not in ("-h", "--help"):
            raise DiffplanError(
                f"the first word after `diffplan train` is {args[0]!r}, expected a config: "
                f"{', '.join(CONFIGS)}"
            )
        config = get_config(_named(args))
        try:
            # with the config's own defaults first: most command lines fit them
            parsed = _parse(args, config)
        except DiffplanError:
            options = [
                other
                for preset in presets_of(_named(args))
                if (other := _try(args, config, preset))
            ]
            if not options or options[0].preset == "none":
                raise
            parsed = options[0]
        return dataclasses.replace(parsed, given=tuple(args))

    def run(self) -> Path:
        """Train; returns the last checkpoint."""
        from diffplan.training.run import RunOptions, find_previous

        self._check()
        options = RunOptions(
            self.out,
            steps=self.steps,
            seed=self.seed,
            resume=self.resume,
            device=self.device,
            checkpoint_every=self.checkpoint_every,
            threads=self.threads,
            command=shlex.join(["diffplan", "train", *self.given]) if self.given else None,
            tell=_tell,
        )
        # torchrun starts this once per process; one of them speaks
        main = int(os.environ.get("RANK", "0")) == 0
        # a run that goes on says what its data are, before they are read
        config, known = self.config, self._resumed()
        if known is not None:
            config = self._settled(*known, main)
        find_previous(config, options)  # refuses before the data are loaded

        from diffplan.data.doubts import doubts
        from diffplan.envs.datasets import load_datasets
        from diffplan.training.loop import train

        episodes = load_datasets(self.dataset, self.env, layout=self.layout, progress=main)
        self._check_environment(episodes, main)
        episodes = self.ended(episodes, None if known is None else known[0])
        if known is None:
            config = self._settled(episodes.info, episodes.layout, main)
        if main:
            print(
                f"training {config.name} on {episodes.info.id}: {episodes.num_episodes} "
                f"episodes ({_held_out(episodes)} held out), {episodes.num_steps} steps; "
                f"{self.steps} updates into {self.out}"
            )
            for text in doubts(episodes):
                print(f"note: {text}")
        with Brake() as brake:
            last = train(episodes, config, dataclasses.replace(options, stop=brake))
        if brake.signum is not None and (done := checkpoint_updates(last)) < self.steps:
            raise Stopped(brake.signum, f"after update {done} of {self.steps}: {last} is written")
        if main:
            info = episodes.info
            env = "" if info.env_id or info.tasks else " --env GYMNASIUM_ID"
            print(
                f"trained: {last}{_speed(self.out / 'metrics.jsonl')}\n"
                f"next: diffplan evaluate {self.out}{env}"
            )
        return last

    def _resumed(self) -> tuple[DatasetInfo, ObservationLayout] | None:
        """The data of the run that would be resumed, so that its preset is known at once."""
        from diffplan.model.run_folder import list_checkpoints, read_header

        found = list_checkpoints(self.out) if self.resume else []
        if not found:
            return None
        header = read_header(found[-1])
        return header.info, header.layout

    def _settled(self, info: DatasetInfo, layout: ObservationLayout, main: bool) -> Config:
        """The config with the preset of these data and, over it, the options as given."""
        # from Python the config is taken as it is
        if not self.given or self.preset == "none":
            return self.config
        name, dataset = _named(self.given), _d4rl_name(info)
        preset = preset_for(name, dataset, layout.goal_dim > 0)
        if main and preset is None and name == "trajectory-diffuser-published":
            print(f"no preset of {name} for {dataset}: {why_none(dataset)}")
        elif main and preset is not None:
            print(f"{preset} ({preset.source}); options that are given win")
        return _parse(self.given, config_for(name, dataset, layout.goal_dim > 0)).config

    def ended(self, episodes: Episodes, before: DatasetInfo | None) -> Episodes:
        """The episodes with the ends that the user means. before: of the run that goes on."""
        from diffplan.data.ends import AS_TRUNCATIONS, as_truncations, ends_at_limit
        from diffplan.envs.simulators.tasks import time_limits

        found = ends_at_limit(episodes, time_limits(episodes.info))
        if found is None:
            return episodes
        was = None if before is None else before.details.get("terminations")
        decided = self.terminations or was
        if was not in (None, decided):
            raise DiffplanError(
                f"{self.out} was started with --terminations {was}, got {decided}; resume with the "
                "same"
            )
        if decided is None:
            raise DiffplanError(
                f"{episodes.info.id}: {found.text}: nothing follows a termination, so if these "
                "are time limits the planner learns a task that ends there. Give --terminations "
                "as-truncations (they are cut, the task goes on) or as-recorded (it really ends)"
            )
        details = {**episodes.info.details, "terminations": decided}
        info = dataclasses.replace(episodes.info, details=details)
        if decided == AS_TRUNCATIONS:
            episodes = as_truncations(episodes, found.episodes)
        return dataclasses.replace(episodes, info=info)

    def _check_environment(self, episodes: Episodes, main: bool) -> None:
        """Refuse data that the evaluation environment could not be planned in with."""
        from diffplan.envs.simulators.compatibility import check_environment
        from diffplan.envs.simulators.tasks import make_task_env, task_infos

        for info in task_infos(episodes.info):
            # data without an environment can be trained on and evaluated elsewhere
            if info.env_id is None:
                continue
            try:
                env = make_task_env(info, episodes.layout)
            except DiffplanError as error:
                if self.env is not None:
                    raise
                if main:  # training needs no simulator
                    print(f"note: {error}; training goes on, evaluation will need it")
                return
            check_environment(episodes.layout, info, env)

    def _check(self) -> None:
        """Refuse at once what would fail after the data are loaded."""
        from diffplan.scripts.report.files import check_writable

        for option, value, low, high in (
            ("--steps", self.steps, 1, 2**31 - 1),
            ("--seed", self.seed, 0, 2**31 - 1),
            ("--threads", self.threads, 1, 1024),
            ("--checkpoint-every", self.checkpoint_every, 0, 2**31 - 1),
        ):
            if not low <= value <= high:
                raise DiffplanError(f"{option} is {value}, expected {low} to {high}")
        if self.out.exists() and not self.out.is_dir():
            raise DiffplanError(f"--out {self.out} is a file; give the name of a folder")
        check_writable(self.out / "metrics.jsonl" if self.out.is_dir() else self.out, "--out")


def _tell(decisions: Sequence[Decision]) -> None:
    if decisions:
        print("decided from the data, as nothing was given:")
    for each in decisions:
        print(f"  {each}")


def _held_out(episodes: Episodes) -> int:
    """How many episodes measure the proposals' error and are not learned from."""
    from diffplan.data.drawing import DRAWING, held_out_of

    tasks = [0] * episodes.num_episodes if episodes.tasks is None else episodes.tasks.tolist()
    counts = Counter(tasks).values()
    return sum(held_out_of(count, DRAWING.held_out) for count in counts)


def _named(args: Sequence[str]) -> str:
    """The config that is asked for; help without one shows the first."""
    return next(iter(CONFIGS)) if args[0] in ("-h", "--help") else args[0]


def _parse(args: Sequence[str], config: Config) -> Train:
    """Read `CONFIG [OPTIONS]` with the settings of `config` as defaults."""
    name = _named(args)
    asked = args[0] == name
    listing = "\n".join(f"  {key:30} {line}" for key, (line, _) in CONFIGS.items())
    known = presets_of(name)
    published = name == "trajectory-diffuser-published"
    listed = "".join(f"The {preset}. " for preset in known)
    presets = "It has a preset for most D4RL datasets. " if published else listed
    parsed: Train = read_options(
        Train,
        args[1:] if asked else ["--help"],
        f"diffplan train {name if asked else 'CONFIG'}",
        description="Train a planner. CONFIG is the starting point; every setting below can be "
        f"overridden.\n\nCONFIG is one of\n{listing}\n\nThe defaults shown are those of {name}. "
        "None: decided from the data, and said why; what is given wins.\n\n"
        f"{presets}See docs/method.md.",
        # what has no default is asked for, the settings come from the config
        default=Train(tyro.MISSING, tyro.MISSING, config=config),
    )
    return parsed


def _try(args: Sequence[str], config: Config, preset: Preset) -> Train | None:
    """What `_parse` reads with a preset; None where the options do not go with it."""
    try:
        return _parse(args, with_settings(config, preset.settings))
    except DiffplanError:
        return None


def _d4rl_name(info: DatasetInfo) -> str:
    """The name that presets go by: D4RL's, in whatever way a file of one's own spells it."""
    from diffplan.envs.formats.d4rl_catalogue import canonical_name, plain_stem

    known = info.details.get("d4rl_name")
    if known is not None:
        return str(known)
    if info.source == "minari":
        return info.id
    stem = re.sub(r"\.(hdf5|h5|npz)$", "", Path(info.id).name)
    return canonical_name(stem) or plain_stem(stem)


def _speed(metrics: Path) -> str:
    """Training windows a second over the whole run, as ", 4,000 windows/s"; "" if not known."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    # stretches between lines differ in length: weigh their rates by it
    updates = [b["step"] - a for a, b in zip([0, *(r["step"] for r in rows)], rows, strict=False)]
    rates = [row.get("samples_per_second", 0) for row in rows]
    if not rates or min(rates) <= 0:
        return ""
    return f", {statistics.harmonic_mean(rates, updates):,.0f} windows/s"
