"""One cell of a study: train a row on data with one seed, choose its interval, score it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffplan.errors import DiffplanError
from diffplan.scripts.studies.rows import Row
from diffplan.scripts.studies.sources import Source

if TYPE_CHECKING:
    from diffplan.agents import PlannerAgent
    from diffplan.data.info import DatasetInfo
    from diffplan.envs.rollouts.serial import Rollout
    from diffplan.model.tuned import Tuning
    from diffplan.scripts.evaluate.tasks import Tasks
    from diffplan.scripts.yardsticks.policy import ActorPolicy

_MARKS = (0.25, 0.5, 1.0)  # of the updates: when a model-free policy is scored


@dataclass(frozen=True)
class Budget:
    """How long cells train, and which episodes they play.

    steps: updates of a planner. updates: of a model-free method. (episodes, seed) score,
    (tune_episodes, tune_seed) choose intervals.
    """

    steps: int
    updates: int
    episodes: int
    seed: int
    tune_episodes: int
    tune_seed: int

    def length(self, row: Row) -> int:
        """Updates of a row."""
        return self.steps if row.method is None else round(self.updates * row.updates)

    def marks(self, row: Row) -> list[int]:
        """Updates after which a model-free policy is scored."""
        return [round(mark * self.length(row)) for mark in _MARKS]


def do(source: Source, row: Row, run: Path, seed: int, budget: Budget) -> dict[str, Any]:
    """Train and score; run: the folder of a planner's network. Seeds alone decide what comes out.

    Raises DiffplanError where the run's folder holds another network.
    """
    row = row.on(source.name)
    if row.method is not None:
        return _policy(source, row, seed, budget)
    seconds = None
    if source.header is None:
        seconds = _trained(source, row, run, seed, budget)
    return {"train_cpu_seconds": seconds, **_planned(source, row, run, budget)}


def _trained(source: Source, row: Row, run: Path, seed: int, budget: Budget) -> float | None:
    """Train a network, or go on with it; CPU seconds, None where it was there."""
    from diffplan.config.config import config_to_dict
    from diffplan.model.run_folder import checkpoint_updates, list_checkpoints, read_header

    there = list_checkpoints(run)
    before = checkpoint_updates(there[-1]) if there else 0
    if there and config_to_dict(read_header(there[-1]).config) != source.settings(row):
        raise DiffplanError(
            f"{run} was trained with other settings than {row.config} has on {source.word}; "
            "remove it, or give another --out"
        )
    if before > budget.steps:
        raise DiffplanError(
            f"{run} holds {before} updates, and --steps is {budget.steps}; give the same, or "
            "another --out"
        )
    begin = time.process_time()
    source.command(row, run, seed, budget.steps).run()
    # of a run that went on, this part stands for the others
    share = (budget.steps - before) / budget.steps
    return (time.process_time() - begin) / share if share else None


def _policy(source: Source, row: Row, seed: int, budget: Budget) -> dict[str, Any]:
    """Train a model-free method, and score it on the way."""
    import torch

    from diffplan.scripts.yardsticks.policy import Learner, Training, train

    assert row.method is not None
    torch.set_num_threads(1)
    curve: dict[str, Any] = {}
    begin, scoring = time.process_time(), 0.0
    training = Training(row.method, source.episodes(), seed)
    learner = Learner([training], budget.length(row))
    for _, updates, (policy,) in train([learner], [budget.marks(row)], source.name):
        name = f"{source.name}, {updates} updates"
        curve[str(updates)] = score(policy, source.about.info, budget, name)
        scoring += curve[str(updates)]["evaluation_cpu_seconds"]
    seconds = time.process_time() - begin - scoring
    return {"train_cpu_seconds": seconds, **over_updates(curve)}


def score(
    policy: ActorPolicy, info: DatasetInfo, budget: Budget, name: str | None = None
) -> dict[str, Any]:
    """The episodes of the budget. name: of a progress bar; None: without one."""
    from diffplan.envs.rollouts.serial import rollout
    from diffplan.envs.simulators.environments import evaluation_env_factory

    began = time.process_time()
    played = rollout(
        policy,
        evaluation_env_factory(info),
        episodes=budget.episodes,
        num_envs=budget.episodes,
        seed=budget.seed,
        progress=name is not None,
        description=name or "",
    )
    return _scored(played, began)


def over_updates(scored: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What a cell holds of a policy that was scored after some updates: the last, and a curve."""
    last = max(scored, key=int)
    return {"curve": {key: scored[key]["returns"] for key in scored}, **scored[last]}


def _scored(played: Rollout, began: float) -> dict[str, Any]:
    return {
        "evaluation_cpu_seconds": time.process_time() - began,
        "returns": played.returns.tolist(),
        "success": None if played.success is None else played.success.tolist(),
    }


def _planned(source: Source, row: Row, run: Path, budget: Budget) -> dict[str, Any]:
    """Choose the interval, where the row tries some, and score the network."""
    from diffplan.agents import load_agent
    from diffplan.planning.chains import network_calls
    from diffplan.scripts.evaluate.tasks import Tasks

    planning = row.planned(source.has_goal)
    choice: dict[str, Any] = {}
    began = time.process_time()
    tuning = _tuned(run, row.tuned, budget) if row.tuned else None
    # as trained: what was tuned is one way of planning more
    agent = load_agent(run, tuned=tuning is not None, **planning)
    tasks = Tasks.of(agent, run, budget.seed)
    if tuning is not None:
        choice = {"tuned": tuning.planning, "tuned_on": tuning.seeds}
    elif strides := row.strides(source.has_goal):
        tried = _intervals(run, planning, strides, agent, tasks, budget)
        every = int(max(tried, key=lambda each: tried[each][0]))
        agent = load_agent(run, tuned=False, **planning, replan_every=every)
        choice = {"replan_every": every, "tuning": tried}
    # what was chosen was so on seeds of its own: these have decided nothing yet
    played = tasks.play(
        tasks.told(agent),
        episodes=budget.episodes,
        num_envs=budget.episodes,
        seed=budget.seed,
        description=str(run),
    )
    return {
        "planning": agent.planning,
        **_scored(played, began),
        **choice,
        "network_calls": network_calls(agent.model, agent.settings),
        "parameters": sum(p.numel() for p in agent.model.parameters()),
        "updates": agent.updates,
    }


def _tuned(run: Path, episodes: int, budget: Budget) -> Tuning:
    """What `diffplan tune` finds for the run; what it found before is kept.

    Raises DiffplanError for another tuning than this, or one by episodes that score.
    """
    from diffplan.model.run_folder import find_checkpoint
    from diffplan.model.tuned import read_tuning
    from diffplan.scripts.tune import Tune

    path = find_checkpoint(run, "last")
    if read_tuning(path) is None:
        Tune(run, budget=episodes).run()
    found = read_tuning(path)
    assert found is not None
    other = found.record.get("budget") != episodes or found.by_hand or found.record.get("earlier")
    if other or found.overlap(budget.seed, budget.episodes):
        raise DiffplanError(
            f"{path} plans by another tuning than --budget {episodes} on seeds of its own; remove "
            "its tuning.json"
        )
    return found


def _intervals(
    run: Path,
    planning: dict[str, Any],
    strides: tuple[int, ...],
    agent: PlannerAgent,
    tasks: Tasks,
    budget: Budget,
) -> dict[str, list[float]]:
    """Interval -> mean return, and its 95 % interval where there are enough episodes for one."""
    from diffplan.agents import load_agent
    from diffplan.scripts.report.intervals import bounds, stratified_mean

    found: dict[str, list[float]] = {}
    # going on from a plan needs at least one state of it that is left
    longest = agent.horizon - 1 if planning.get("reuse") else agent.horizon
    for every in sorted({agent.stride * min(count, longest) for count in strides}):
        tried = load_agent(run, tuned=False, **planning, replan_every=every)
        played = tasks.play(
            tasks.told(tried),
            episodes=budget.tune_episodes,
            num_envs=budget.tune_episodes,
            seed=budget.tune_seed,
            description=f"{run}, replan every {every}",
        )
        returns = played.returns.reshape(len(tasks.infos), -1)
        estimate = stratified_mean(list(returns))
        found[str(every)] = [estimate.mean, *(bounds(estimate) or ())]
    return found
