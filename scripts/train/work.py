"""The work behind `diffplan train` and `diffplan.train`: checked, said and trained."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diffplan.config.config import Config
from diffplan.config.decisions import Decision
from diffplan.config.presets import config_for, preset_for, why_none
from diffplan.data.doubts import doubts
from diffplan.data.drawing import DRAWING, held_out_of
from diffplan.data.ends import AS_TRUNCATIONS, as_truncations, ends_at_limit
from diffplan.data.episodes import Episodes
from diffplan.data.info import DatasetInfo, ObservationLayout
from diffplan.envs.datasets import as_episodes, load_datasets
from diffplan.envs.formats.d4rl_catalogue import canonical_name, plain_stem
from diffplan.envs.simulators.compatibility import check_environment
from diffplan.envs.simulators.tasks import make_task_env, task_infos, time_limits
from diffplan.errors import DiffplanError
from diffplan.model.run_folder import list_checkpoints, read_header
from diffplan.scripts.train.evaluation import OnTheWay
from diffplan.scripts.train.options import Say, TrainOptions, changed
from diffplan.scripts.train.settings import as_file
from diffplan.training.loop import train
from diffplan.training.run import Callback, RunOptions, find_previous


def carry_out(
    options: TrainOptions,
    data: Any = None,
    *,
    say: Say,
    callback: Callback | None = None,
    progress: bool = True,
    stop: Callable[[], bool] = bool,
) -> Path:
    """Train; returns the last checkpoint. `options.check()` comes first.

    data: in memory, in place of `options.dataset`. say: takes the lines for people, of one process.
    Raises DiffplanError for data that do not fit, before anything is written.
    """
    # torchrun starts this once per process; one of them speaks
    main = int(os.environ.get("RANK", "0")) == 0
    say = say if main else lambda line: None
    how = RunOptions(
        options.out,
        steps=options.steps,
        seed=options.seed,
        resume=options.resume,
        device=options.device,
        checkpoint_every=options.checkpoint_every,
        progress=progress,
        threads=options.threads,
        command=options.command,
        stop=stop,
        tell=lambda decisions: _tell(decisions, say),
        track=options.track,
        callback=callback,
        evaluate_every=options.evaluate_every,
    )
    # a run that goes on says what its data are, before they are read
    config, known = None, _resumed(options)
    if known is not None:
        config = settled(options, *known, say)
        find_previous(config, how)  # refuses before the data are loaded
    if data is not None:
        episodes = as_episodes(data, options.env, progress=progress and main)
    else:
        episodes = load_datasets(
            options.dataset, options.env, layout=options.layout, progress=progress and main
        )
    _check_environment(episodes, options, say)
    episodes = ended(
        episodes, options.terminations, None if known is None else known[0], options.out
    )
    if config is None:
        config = settled(options, episodes.info, episodes.layout, say)
    if options.evaluate_every:
        evaluate = OnTheWay(options.out, options.evaluate_episodes, options.device, say)
        evaluate.check(episodes)
        how = dataclasses.replace(how, evaluate=evaluate)
    say(
        f"training {config.name} on {episodes.info.id}: {episodes.num_episodes} "
        f"episodes ({_held_out(episodes)} held out), {episodes.num_steps} steps; "
        f"{options.steps} updates into {options.out}"
    )
    for text in doubts(episodes):
        say(f"note: {text}")
    decided = episodes.info.details.get("terminations")
    record = as_file(dataclasses.replace(options, terminations=decided or options.terminations))
    return train(episodes, config, dataclasses.replace(how, record=record))


def _resumed(options: TrainOptions) -> tuple[DatasetInfo, ObservationLayout] | None:
    """The data of the run that would be resumed, so that its preset is known at once."""
    found = list_checkpoints(options.out) if options.resume else []
    if not found:
        return None
    header = read_header(found[-1])
    return header.info, header.layout


def settled(
    options: TrainOptions, info: DatasetInfo, layout: ObservationLayout, say: Say
) -> Config:
    """The configuration with the preset of these data and, over it, the settings as given."""
    if options.preset == "none":
        return options.config
    name, dataset, goal = options.name, d4rl_name(info), layout.goal_dim > 0
    preset = preset_for(name, dataset, goal)
    if preset is None and name == "trajectory-diffuser-published":
        say(f"settings as {name} has them: {why_none(dataset)}")
    elif preset is not None:
        say(f"{preset} ({preset.source}); options that are given win")
    return changed(config_for(name, dataset, goal), options.given)


def ended(
    episodes: Episodes, terminations: str | None, before: DatasetInfo | None, out: Path
) -> Episodes:
    """The episodes with the ends that the user means.

    terminations: "as-recorded", "as-truncations" or None for nothing said. before: the data of the
    run that goes on. out: its folder, for messages. Raises DiffplanError where ends look like a
    time limit's and nothing was said.
    """
    found = ends_at_limit(episodes, time_limits(episodes.info))
    if found is None:
        return episodes
    was = None if before is None else before.details.get("terminations")
    decided = terminations or was
    if was not in (None, decided):
        raise DiffplanError(
            f"{out} was started with --terminations {was}, got {decided}; resume with the same"
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


def _check_environment(episodes: Episodes, options: TrainOptions, say: Say) -> None:
    """Refuse data that the evaluation environment could not be planned in with."""
    for info in task_infos(episodes.info):
        # data without an environment can be trained on and evaluated elsewhere
        if info.env_id is None:
            continue
        try:
            env = make_task_env(info, episodes.layout)
        except DiffplanError as error:
            if options.env is not None or options.evaluate_every:
                raise
            # training needs no simulator
            say(f"note: {error}; training goes on, evaluation will need it")
            return
        check_environment(episodes.layout, info, env)


def _tell(decisions: Sequence[Decision], say: Say) -> None:
    if decisions:
        say("decided from the data, as nothing was given:")
    for each in decisions:
        say(f"  {each}")


def _held_out(episodes: Episodes) -> int:
    """How many episodes measure the proposals' error and are not learned from."""
    tasks = [0] * episodes.num_episodes if episodes.tasks is None else episodes.tasks.tolist()
    counts = Counter(tasks).values()
    return sum(held_out_of(count, DRAWING.held_out) for count in counts)


def d4rl_name(info: DatasetInfo) -> str:
    """The name that presets go by: D4RL's, in whatever way a file of one's own spells it."""
    known = info.details.get("d4rl_name")
    if known is not None:
        return str(known)
    if info.source == "minari":
        return info.id
    stem = re.sub(r"\.(hdf5|h5|npz)$", "", Path(info.id).name)
    return canonical_name(stem) or plain_stem(stem)


def speed(metrics: Path) -> str:
    """Training windows a second over the whole run, as ", 4,000 windows/s"; "" if not known."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    rows = [row for row in lines if "samples_per_second" in row]
    # stretches between lines differ in length: weigh their rates by it
    updates = [b["step"] - a for a, b in zip([0, *(r["step"] for r in rows)], rows, strict=False)]
    rates = [row["samples_per_second"] for row in rows]
    if not rates or min(rates) <= 0:
        return ""
    return f", {statistics.harmonic_mean(rates, updates):,.0f} windows/s"
