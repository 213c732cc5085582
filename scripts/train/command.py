"""`diffplan train CONFIG --dataset ID`: train a planner, with any setting of the config overridden.

diffplan train trajectory-diffuser --dataset pointmaze-medium --steps 6000 --out runs/medium
diffplan train trajectory-diffuser-published --dataset hopper-medium-v2 --out runs/hopper
diffplan train multi-task --dataset pointmaze-umaze pointmaze-medium --out runs/mazes
diffplan train --config runs/medium/run.yaml --seed 1 --out runs/medium-1
torchrun --nproc-per-node 2 -m diffplan.scripts.cli train trajectory-diffuser --dataset ...
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import tyro

from diffplan.config.planners import CONFIGS, get_config
from diffplan.config.presets import presets_of
from diffplan.config.sections import Sections
from diffplan.envs.makers.catalogue import MAKEABLE
from diffplan.errors import DiffplanError
from diffplan.model.run_folder import checkpoint_updates, read_header
from diffplan.scripts.parser import read_options
from diffplan.scripts.planning_options import TURNED_SETTINGS
from diffplan.scripts.stopping import Brake, Stopped
from diffplan.scripts.train.options import TrainOptions
from diffplan.scripts.train.settings import SECTIONS, read_file, read_values

# what people turn; --help-all has the rest
_TURNED = {
    *("dataset", "out", "steps", "seed", "resume", "env", "terminations", "config_file"),
    *("evaluate_every", "track", "device"),
    *TURNED_SETTINGS,
}


@dataclass(frozen=True)
class Train(TrainOptions):
    """Train a planner. CONFIG is the starting point; every setting below can be overridden.

    What is None is decided from the data and shown with the reason.
    """

    config_file: Annotated[Path | None, tyro.conf.arg(name="config", metavar="FILE")] = None
    """Options and settings in YAML, such as the run.yaml of a run; options given here win."""
    settings: Annotated[Sections, tyro.conf.arg(name="")] = field(default_factory=Sections)

    @classmethod
    def parse(cls, args: Sequence[str]) -> Train:
        """Read `[CONFIG] [OPTIONS]`: the config names the defaults of everything that follows."""
        if not args:
            raise DiffplanError(
                "diffplan train needs a config and --dataset, e.g. diffplan train "
                f"{next(iter(CONFIGS))} --dataset ID --out DIR; see diffplan train --help"
            )
        rest, file = _without_file(args)
        name, options, settings = next(iter(CONFIGS)), dict[str, Any](), dict[str, Any]()
        if file is not None:
            name, options, settings = read_values(read_file(file), str(file))
        if rest and not rest[0].startswith("-"):
            name, rest = rest[0], rest[1:]
        elif file is None and not _asks_for_help(args[:1]):
            raise DiffplanError(
                f"the first word after `diffplan train` is {args[0]!r}, expected a config: "
                f"{', '.join(CONFIGS)}"
            )
        if name not in CONFIGS and _is_data(name):
            raise DiffplanError(
                f"{name} is a dataset, expected a config first: diffplan train "
                f"{next(iter(CONFIGS))} --dataset {shlex.quote(name)} --out "
                f"{shlex.quote(f'runs/{Path(name).stem}')}"
            )
        parsed = _parse(rest, name, options, settings, asked=not _asks_for_help(args[:1]))
        given = settings | _given(rest, parsed.settings)
        command = shlex.join(["diffplan", "train", *args])
        found = dataclasses.replace(parsed, name=name, given=given, command=command)
        found.check_settings()
        return found

    def run(self) -> Path:
        """Train; returns the last checkpoint."""
        self.check()
        from diffplan.scripts.train.work import carry_out, speed

        with Brake() as brake:
            last = carry_out(self, say=lambda line: print(line, flush=True), stop=brake)
        if last == self.out:  # of torchrun's processes one has the checkpoints, and speaks
            return last
        if brake.signum is not None and (done := checkpoint_updates(last)) < self.steps:
            raise Stopped(brake.signum, f"after update {done} of {self.steps}: {last} is written")
        info = read_header(last).info
        env = "" if info.env_id or info.tasks else " --env GYMNASIUM_ID"
        print(
            f"trained: {last}{speed(self.out / 'metrics.jsonl')}\n"
            f"next: diffplan evaluate {self.out}{env}"
        )
        return last


def _without_file(args: Sequence[str]) -> tuple[list[str], Path | None]:
    """The arguments without `--config FILE`, and that file."""
    rest, file = list(args), None
    for place, word in enumerate(args):
        if word == "--config":
            if place + 1 == len(args):
                raise DiffplanError("--config needs a FILE, such as the run.yaml of a run")
            file, rest = args[place + 1], [*args[:place], *args[place + 2 :]]
        elif word.startswith("--config="):
            file, rest = word.partition("=")[2], [*args[:place], *args[place + 1 :]]
    return rest, None if file is None else Path(file)


def _asks_for_help(args: Sequence[str]) -> bool:
    return bool({"-h", "--help", "--help-all"} & set(args))


def _is_data(name: str) -> bool:
    """Whether a word that is no config names data, as far as it shows without a network."""
    from diffplan.envs.formats.d4rl_catalogue import CATALOGUE

    return name in CATALOGUE or name in MAKEABLE or "/" in name or Path(name).suffix != ""


def _parse(
    args: Sequence[str], name: str, options: dict[str, Any], settings: dict[str, Any], asked: bool
) -> Train:
    """Read `OPTIONS` with the config `name`, and what a file said, as defaults.

    asked: whether the config was named; help without one shows the first.
    """
    base = get_config(name)
    listing = "\n".join(f"  {key:30} {line}" for key, (line, _) in CONFIGS.items())
    published = name == "trajectory-diffuser-published"
    listed = "".join(f"The {preset}. " for preset in presets_of(name))
    presets = "It has a preset for most D4RL datasets. " if published else listed
    parsed: Train = read_options(
        Train,
        args,
        f"diffplan train {name if asked else 'CONFIG'}",
        turned=_TURNED,
        description="Train a planner. CONFIG is the starting point; every setting below can be "
        f"overridden.\n\nCONFIG is one of\n{listing}\n\nThe defaults shown are those of {name}. "
        "None: decided from the data, and said why; what is given wins.\n\n"
        f"{presets}See docs/method.md.",
        # what has no default is asked for, the settings come from the config and the file
        default=Train(
            **{"dataset": tyro.MISSING, "out": tyro.MISSING, **options},
            settings=_sections(base, settings),
        ),
    )
    return parsed


def _sections(base: Sections, settings: dict[str, Any]) -> Sections:
    """The settings unchecked: which preset goes with them is not known yet."""
    sections = {name: getattr(base, name) for name in SECTIONS}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        if name:
            sections[section] = dataclasses.replace(sections[section], **{name: value})
    return Sections(name=settings.get("name", base.name), **sections)


def _given(args: Sequence[str], parsed: Sections) -> dict[str, Any]:
    """The settings among the options of a command line, "section.key" -> value."""
    found = {}
    for word in args:
        if not word.startswith("--"):
            continue
        section, _, key = word[2:].partition("=")[0].replace("-", "_").partition(".")
        if section == "name" and not key:
            found["name"] = parsed.name
        elif section in SECTIONS:
            known = {each.name for each in dataclasses.fields(SECTIONS[section])}
            key = key if key in known else key.removeprefix("no_")
            found[f"{section}.{key}"] = attrgetter(f"{section}.{key}")(parsed)
    return found
