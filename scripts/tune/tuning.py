"""The work behind `diffplan tune`: which settings play which episodes, and what is kept of it."""

from __future__ import annotations

import shlex
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from diffplan.agents import PlannerAgent, load_agent
from diffplan.data.info import without_folders
from diffplan.envs.datasets import training_data
from diffplan.envs.simulators.tasks import task_env_factory
from diffplan.errors import DiffplanError
from diffplan.model.run_folder import find_checkpoint, read_header
from diffplan.model.tuned import TUNING, Tuning, read_tuning, tuned_before
from diffplan.scripts.evaluate.measure import places
from diffplan.scripts.evaluate.scores import Place
from diffplan.scripts.evaluate.task_given import teller, what_is_given
from diffplan.scripts.report.files import check_writable, write_json
from diffplan.scripts.report.markdown import duration
from diffplan.scripts.report.results import machine
from diffplan.scripts.tune.design import Settings, design
from diffplan.scripts.tune.halving import Outcome, Schedule, Trial, halve, schedule
from diffplan.scripts.tune.options import TuneOptions
from diffplan.scripts.tune.play import Kept, Stage, players
from diffplan.scripts.tune.report import draw, summary, table

SEED = 200_000
"""Of the first episode; `evaluate` begins at 1000, and chooses checkpoints from 100000 on."""
_UNFINISHED = "tuning-unfinished.json"


def tune(options: TuneOptions) -> dict[str, Any]:
    """Do what `Tune.run` says."""
    torch.set_num_threads(options.threads)
    path = find_checkpoint(options.folder, options.checkpoint)
    before, older = read_tuning(path), tuned_before(path)
    inherited = None if older is None else read_tuning(older)
    agent = load_agent(
        path, device=options.device, engine="eager", tuned=False, **agent_settings(before)
    )
    where = places(agent, options.env, options.time_limit)
    plan = schedule(options.budget, options.settings, len(where))
    seed = _first_seed(options, before or inherited, plan)
    file, picture = path / TUNING, path / "tuning.png"
    check_writable(file, "tuning")

    def make(settings: Settings) -> PlannerAgent:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of candidates that are copies: `design` knows
            return PlannerAgent(
                agent.model,
                agent.layout,
                agent.info,
                config_name=agent.config_name,
                engine="eager",
                **agent_settings(before) | settings,
            )

    # what suited earlier weights is a way to begin with
    tried = design(agent, plan.rounds[0][0], seed, make, [agent_settings(inherited)])
    if len(tried) < 2:
        raise DiffplanError(f"{path} can plan in no other way: there is nothing to choose")
    if len(tried) < plan.rounds[0][0]:
        plan = schedule(options.budget, len(tried), len(where))
    print(_beforehand(options, agent, where, plan, seed))
    stage = Stage(
        tuple(task_env_factory(place.used, agent.layout) for place in where),
        seed,
        options.num_envs,
        options.step_timeout,
        options.threads,
        options.by,
    )
    about = {
        "command": _command(options, seed),
        "seed": seed,
        "budget": options.budget,
        "rounds": [list(each) for each in plan.rounds],
        "final": plan.final,
        "updates": agent.updates,
        "train_seconds": agent.train_seconds,
        "tasks": [place.task for place in where],
        "environments": [[place.used.env_id, place.used.public.env_kwargs] for place in where],
        "default": agent.planning,
        "machine": machine(options.device, options.threads),
    }
    kept = Kept(path / _UNFINISHED, {**about, "tried": tried, "by": options.by})
    began = time.perf_counter()
    tell = _teller(agent, path, seed)
    agents = [[tell(make(settings), task) for task in range(len(where))] for settings in tried]
    outcome = _played(stage, agents, kept, options.workers, plan)
    record = {
        **_in_force(outcome, tried, before, seed, plan),
        **about,
        "by": outcome.by,
        "adopted": outcome.adopted,
        **summary(outcome, tried, plan),
        "seconds": time.perf_counter() - began,
        "earlier": None if before is None else _without_trials(before.record),
    }
    write_json(file, record)
    kept.file.unlink(missing_ok=True)
    draw(picture, outcome, tried, plan)
    print(table(outcome, tried, plan))
    print(f"wrote {file}\nwrote {picture}\nnext: diffplan evaluate {options.folder}")
    return record


def agent_settings(before: Tuning | None) -> Settings:
    """In place of the trained ones, what the checkpoint plans with already."""
    return {} if before is None else before.planning


def _first_seed(options: TuneOptions, before: Tuning | None, plan: Schedule) -> int:
    """DiffplanError where the seeds have chosen what they would judge."""
    if options.seed is None:
        return SEED if before is None else max(SEED, *(last + 1 for _, last in before.seeds))
    if before is not None and (used := before.overlap(options.seed, plan.length)):
        raise DiffplanError(
            f"seeds {used[0]} to {used[1]} chose settings that this tuning begins with; leave "
            f"--seed out, or give one from {used[1] + 1} on"
        )
    return options.seed


def _teller(agent: PlannerAgent, path: Path, seed: int) -> Callable[[Any, int], Any]:
    if len(agent.info.tasks) <= 1:
        return lambda told, _: told
    header = read_header(path)
    data = partial(training_data, agent.info, header.fingerprint)
    return teller(what_is_given(None, header.config), agent.info, data, seed)


def _command(options: TuneOptions, seed: int) -> str:
    words = ["diffplan", "tune", str(options.folder), "--budget", str(options.budget)]
    words += ["--seed", str(seed)]
    for name in ("settings", "env", "time_limit"):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    if options.by != "auto":
        words += ["--by", options.by]
    if options.checkpoint != "last":
        words += ["--checkpoint", options.checkpoint]
    return shlex.join(map(without_folders, words))


def _beforehand(
    options: TuneOptions, agent: PlannerAgent, where: Sequence[Place], plan: Schedule, seed: int
) -> str:
    tasks = f" in each of {len(where)} tasks" if len(where) > 1 else ""
    rounds = [
        f"round {number}: {many} settings x {each} episodes{tasks}"
        for number, (many, each) in enumerate(plan.rounds, 1)
    ]
    return (
        f"tuning {agent.config_name}, {options.folder} at {agent.updates} updates, in "
        f"{where[0].used.env_id}: {plan.rounds[0][0]} settings, {plan.episodes} episodes "
        f"of a budget of {options.budget}, seeds {seed} to {seed + plan.length - 1}\n"
        + "; ".join([*rounds, f"final: 2 x {plan.final}{tasks}"])
    )


def _played(
    stage: Stage,
    agents: Sequence[Sequence[PlannerAgent]],
    kept: Kept,
    workers: int,
    plan: Schedule,
) -> Outcome:
    if len(kept):
        print(f"going on from {kept.file}")
    began, fresh = time.perf_counter(), 0
    bar = tqdm(total=plan.episodes, desc="tuning", unit=" episodes", leave=False)
    with bar, players(stage, agents, kept, min(workers, len(agents))) as play:

        def done(episodes: int) -> None:
            nonlocal fresh
            fresh += episodes
            bar.update(episodes)

        def play_round(
            number: int, settings: Sequence[int], first: int, count: int
        ) -> Sequence[Trial]:
            total = len(settings) * count * plan.tasks
            so_far = bar.n
            trials = play(settings, first, count, done)
            bar.update(so_far + total - bar.n)  # what was played before
            if all(score is None for trial in trials for score in trial.scores):
                lost = next(failure for trial in trials for failure in trial.failures)
                raise DiffplanError(f"no episode of any setting finished; the first: {lost}")
            if number == 0 and fresh:
                seconds = time.perf_counter() - began
                left = seconds / fresh * (plan.episodes - total)
                tqdm.write(
                    f"round 1: {fresh} episodes in {seconds:.0f} s; the other "
                    f"{plan.episodes - total} take about {duration(left)}"
                )
            return trials

        return halve(plan, play_round)


def _in_force(
    outcome: Outcome, tried: Sequence[Settings], before: Tuning | None, seed: int, plan: Schedule
) -> dict[str, Any]:
    """What the checkpoint plans with from here on, and what all of its tuning has used."""
    gain: Sequence[float | None] = (None, None, None)
    if outcome.difference is not None:
        found = outcome.difference
        gain = (found.mean, found.low, found.high)
    planning = agent_settings(before)
    if outcome.adopted:
        planning = planning | tried[outcome.challenger]
    elif before is not None:
        gain = before.gain
    earlier = () if before is None else before.seeds
    return {
        "planning": planning,
        "gain": gain,
        "seeds": [*earlier, (seed, seed + plan.length - 1)],
        "episodes": plan.episodes + (0 if before is None else before.episodes),
    }


def _without_trials(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "trials"}
