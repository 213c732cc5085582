"""Seeded episodes of every run in every task, beside what made the data and chance."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import gymnasium as gym
from tqdm import tqdm

from diffplan.agents import PlannerAgent
from diffplan.data.info import DatasetInfo, ObservationLayout
from diffplan.envs.datasets import training_data
from diffplan.envs.rollouts.batch import Policy
from diffplan.envs.rollouts.parallel import rollout_in_processes
from diffplan.envs.rollouts.serial import DecisionTimes, time_decisions
from diffplan.envs.rollouts.traces import Trace
from diffplan.envs.simulators.compatibility import check_environment
from diffplan.envs.simulators.environments import check_env_id
from diffplan.envs.simulators.tasks import task_env_factory, task_infos
from diffplan.errors import DiffplanError
from diffplan.scripts.evaluate.baselines import baselines, data_score
from diffplan.scripts.evaluate.labels import Labels
from diffplan.scripts.evaluate.options import EvaluateOptions
from diffplan.scripts.evaluate.runs import Run, with_best_checkpoint
from diffplan.scripts.evaluate.scores import Evaluation, Place, TaskScores, over_runs
from diffplan.scripts.evaluate.task_given import teller, what_is_given
from diffplan.scripts.report.results import Score

_PANELS = 4  # recorded episodes of every task


def places(agent: PlannerAgent, env: str | None, time_limit: int | None) -> list[Place]:
    """Where every task is evaluated; DiffplanError for an environment that does not fit or end.

    env, time_limit: asked for in place of the data's own.
    """
    found = []
    if env is not None:
        check_env_id(env, named=True)
        if len(agent.info.tasks) > 1:
            raise DiffplanError(
                f"--env {env} goes with a model of one task; each of several is evaluated in its "
                "own environment"
            )
    for own in task_infos(agent.info):
        used = _used(own, env, time_limit)
        limit = check_environment(agent.layout, used)
        if limit is None:
            raise DiffplanError(
                f"{used.env_id} has no time limit, and an episode may never end; give --time-limit "
                "STEPS"
            )
        labels = Labels.of(own, used, agent.layout.state_dim, limit)
        found.append(Place(own, used, limit, labels))
    return found


def _used(own: DatasetInfo, env: str | None, time_limit: int | None) -> DatasetInfo:
    """What the dataset says about itself, with the environment that was asked for."""
    info = own
    if env is not None and env != own.env_id:
        info = replace(own, env_id=env, env_kwargs={})
    if time_limit is not None:
        limit = {"max_episode_steps": time_limit}
        info = replace(info, env_kwargs={**info.env_kwargs, **limit})
    return info


def measure(
    options: EvaluateOptions, runs: Sequence[Run], where: Sequence[Place], quiet: bool = False
) -> Evaluation:
    """Play every task with every run, and with what each is compared with.

    quiet: without bars, and without timing single decisions.
    Raises DiffplanError where a demonstration is asked for and the data are not at hand.
    """
    info, header = runs[0].agent.info, runs[0].header
    given = what_is_given(options.task_given, header.config) if len(info.tasks) > 1 else None
    # asked for the data only where a demonstration is shown
    tell = teller(given, info, partial(training_data, info, header.fingerprint), options.first)
    if options.checkpoint == "best":
        used = [place.used for place in where]
        runs = [with_best_checkpoint(run, options, used, tell) for run in runs]
    tasks = []
    for index, place in enumerate(where):
        play = _player(options, place, runs[0].agent.layout, len(where) == 1, not quiet)
        played = [
            play(
                _name(run, len(runs)),
                tell(run.agent, index),
                workers=options.workers,
                timed=index == 0 and not quiet,  # planning takes as long in every task
                # pictures show one model
                record=run is runs[0],
            )
            for run in runs
        ]
        others = {}
        if options.baselines:
            others = _others(options, runs[0], place, play, alone=len(where) == 1)
        by_run = tuple(score for score, _ in played)
        best = " (best checkpoints)" if options.checkpoint == "best" else ""
        planner = over_runs(f"planner, over {len(runs)} training seeds{best}", by_run)
        tasks.append(TaskScores(place, by_run, planner, others, played[0][1]))
    return Evaluation(tuple(runs), given, tuple(tasks))


def _name(run: Run, runs: int) -> str:
    name = "planner"
    if runs > 1:
        name += f", training seed {run.seed}"
    if run.selection is not None:
        name += f" (best of {len(run.selection.scores)} checkpoints)"
    return name


_Play = Callable[..., tuple[Score, tuple[Trace, ...]]]


def _player(
    options: EvaluateOptions, place: Place, layout: ObservationLayout, alone: bool, progress: bool
) -> _Play:
    """A function that plays the evaluation's episodes in one place."""
    factory = task_env_factory(place.used, layout)
    drawn = options.pictures or options.video

    def play(
        name: str,
        policy: Policy,
        *,
        workers: int = 1,
        timed: bool = False,
        record: bool = False,
        rows: int | None = None,
    ) -> tuple[Score, tuple[Trace, ...]]:
        result = rollout_in_processes(
            policy,
            factory,
            episodes=options.episodes,
            # some controllers keep a route for one environment alone
            num_envs=min(options.num_envs, rows or options.num_envs),
            seed=options.first,
            workers=workers,
            record=_PANELS if record and drawn else 0,
            progress=progress,
            description=name if alone else f"{place.task}, {name}",
            keep_going=True,
            step_seconds=options.step_timeout,
        )
        if not len(result.returns):
            raise DiffplanError(
                f"no episode of {place.used.env_id} finished; {name}: {result.failures[0]}"
            )
        times = _times(options, policy, factory) if timed else None
        return Score.of(name, result, times), result.traces

    return play


def _times(
    options: EvaluateOptions, policy: Policy, factory: Callable[[], gym.Env]
) -> DecisionTimes | None:
    """Times of single decisions; None, and a line, where the environment gives no chance."""
    try:
        return time_decisions(
            policy, factory, seed=options.first, step_seconds=options.step_timeout
        )
    except DiffplanError as error:
        tqdm.write(str(error), file=sys.stderr)
        return None


def _others(
    options: EvaluateOptions, run: Run, place: Place, play: _Play, alone: bool
) -> dict[str, Score]:
    """Scores of the controllers (mazes) or of the data's own episodes, and of chance."""
    scores = {}
    policies = baselines(place.used, options.first)
    # one file holds the episodes of all tasks: their returns together say nothing
    if alone and len(policies) == 1:
        data = data_score(run.agent.info, run.header.fingerprint)
        if data is not None:
            scores["data"] = data
    for found in policies:
        try:
            scores[found.key], _ = play(found.name, found.policy, timed=alone, rows=found.rows)
        except DiffplanError as error:
            # what the planner did is not lost for it
            tqdm.write(f"{found.name} left out: {error}", file=sys.stderr)
    return scores
