"""Training from Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffplan.config.config import Config
from diffplan.errors import DiffplanError
from diffplan.scripts.train.run import Run
from diffplan.scripts.train.settings import read_options, settings_of

if TYPE_CHECKING:
    from diffplan.data.episodes import Episodes
    from diffplan.training.run import Callback


def train(
    config: str | Config,
    *,
    dataset: str | Path | list[str] | Episodes | Mapping[str, Any] | Any,
    out: str | Path,
    callback: Callback | None = None,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Train a planner as `diffplan train` does, with the same checks, presets and decisions.

    config: a name of `diffplan.CONFIGS`, or a configuration, which is taken as it is, without a
    preset. dataset: what `--dataset` takes (a name, a Minari id, a file, several of them), or data
    in memory: `Episodes`, a Minari dataset object, or a dict of arrays (`diffplan.load_arrays`).
    out: folder of the run. callback: called with a `diffplan.training.Progress` every 50 updates
    and after every evaluation on the way; where it returns True the run saves a checkpoint and
    ends. progress: lines on stdout and bars on stderr. settings: the options of `diffplan train`
    by their names (steps=6000, env="Hopper-v5", evaluate_every=1000; `track` also takes
    accelerate's tracker objects), and sections of the configuration as dicts:
    planning={"candidates": 4}.

    Raises DiffplanError for what `diffplan train` refuses, before anything is written.
    """
    from diffplan.scripts.train.work import carry_out

    label = "diffplan.train"
    if not str(out):  # as a path it would be the folder that this runs in
        raise DiffplanError("out is '', expected the name of a folder for the run")
    data: Any = None
    if isinstance(dataset, str | Path) or _names(dataset):
        settings["dataset"] = dataset
    else:
        data = dataset
    if isinstance(config, Config):
        name, given = settings_of(config)
        if "preset" in settings:
            raise DiffplanError("a preset goes with a configuration's name, not with its settings")
        options = read_options({"config": name, "out": out, "preset": "none", **settings}, label)
        options = dataclasses.replace(options, given={**given, **options.given})
    else:
        options = read_options({"config": config, "out": out, **settings}, label)
    options.check()
    say = print if progress else lambda line: None
    carry_out(options, data, say=say, callback=callback, progress=progress)
    return Run(options.out)


def _names(dataset: Any) -> bool:
    listed = isinstance(dataset, list | tuple)
    return listed and all(isinstance(each, str | Path) for each in dataset)
