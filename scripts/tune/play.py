"""Episodes of many settings at once, in every task, as far as a file has not kept them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from diffplan.agents import PlannerAgent
from diffplan.envs.rollouts.serial import Rollout, rollout
from diffplan.envs.rollouts.workers import Workers, worker_pool
from diffplan.errors import DiffplanError
from diffplan.scripts.report.files import write_json
from diffplan.scripts.tune.halving import Trial


@dataclass(frozen=True)
class Stage:
    """Where and how episodes are played.

    envs: of each task. seed: of episode 0. by: what settings are ranked by, "auto": by success in
    several tasks that report it, else by the return.
    """

    envs: tuple[Callable[[], gym.Env], ...]
    seed: int
    num_envs: int
    step_seconds: float
    threads: int
    by: str


def episodes(stage: Stage, agents: Sequence[PlannerAgent], first: int, count: int) -> Trial:
    """Episodes first to first + count - 1 of one setting; agents: it, told of each task."""
    torch.set_num_threads(stage.threads)
    parts = []
    for make_env, agent in zip(stage.envs, agents, strict=True):
        try:
            played: Rollout | str = rollout(
                agent,
                make_env,
                episodes=count,
                num_envs=stage.num_envs,
                seed=stage.seed + first,
                progress=False,
                keep_going=True,
                step_seconds=stage.step_seconds,
            )
        except DiffplanError as error:
            # a setting that does not work is the last one, and not the end
            played = str(error)
        parts.append(played)
    return _trial(parts, count, stage.by)


def _trial(parts: Sequence[Rollout | str], count: int, by: str) -> Trial:
    told = [played for played in parts if not isinstance(played, str) and len(played.returns)]
    if by == "auto":
        reported = len(parts) > 1 and all(played.success is not None for played in told)
        by = "success" if reported else "return"
    scores = np.full((count, len(parts)), np.nan)
    returns = scores.copy()
    failures = []
    for task, played in enumerate(parts):
        if isinstance(played, str):
            failures.append(played)
            continue
        failures += map(str, played.failures)
        returns[played.episodes, task] = played.returns
        if by == "return":
            scores[played.episodes, task] = played.returns
        elif played.success is not None:
            scores[played.episodes, task] = played.success
        elif len(played.returns):
            failures.insert(0, "the environment reports no success; give --by return")

    def listed(values: np.ndarray) -> list[float | None]:
        return [None if np.isnan(value) else float(value) for value in values.reshape(-1)]

    return Trial(listed(scores), listed(returns), failures, by)


class Kept:
    """Trials in a file as they are played, so that an interrupted tuning goes on.

    key: what the tuning is of; trials of another are not taken over.
    """

    def __init__(self, file: Path, key: dict[str, Any]) -> None:
        self.file, self._key = file, json.loads(json.dumps(key))
        self._trials: dict[str, Any] = {}
        try:
            before = json.loads(file.read_text())
            if before["key"] == self._key:
                self._trials = {name: asdict(Trial(**t)) for name, t in before["trials"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # none, or of something else

    def __len__(self) -> int:
        return len(self._trials)

    def get(self, setting: int, first: int, count: int) -> Trial | None:
        """What was played before."""
        found = self._trials.get(f"{setting}:{first}+{count}")
        return None if found is None else Trial(**found)

    def put(self, setting: int, first: int, count: int, trial: Trial) -> None:
        """Write it down."""
        self._trials[f"{setting}:{first}+{count}"] = asdict(trial)
        write_json(self.file, {"key": self._key, "trials": self._trials})


@contextmanager
def players(
    stage: Stage, agents: Sequence[Sequence[PlannerAgent]], kept: Kept, workers: int
) -> Iterator[Callable[..., list[Trial]]]:
    """A function that plays so many episodes from one on with each of some settings.

    agents: of each setting, told of each task. Its `done` is called with the number of episodes
    whenever a setting has played them.
    """

    def play(
        settings: Sequence[int], first: int, count: int, done: Callable[[int], None]
    ) -> list[Trial]:
        found = {setting: kept.get(setting, first, count) for setting in settings}
        missing = [setting for setting in settings if found[setting] is None]
        for setting, played in run(missing, first, count):
            found[setting] = played
            kept.put(setting, first, count, played)
            done(len(played.scores))
        return [trial for setting in settings if (trial := found[setting]) is not None]

    def here(settings: list[int], first: int, count: int) -> Iterator[tuple[int, Trial]]:
        for setting in settings:
            yield setting, episodes(stage, agents[setting], first, count)

    def spread(
        pool: Workers, settings: list[int], first: int, count: int
    ) -> Iterator[tuple[int, Trial]]:
        jobs = (partial(episodes, stage, agents[s], first, count) for s in settings)
        for number, trial in pool.as_done(jobs):
            yield settings[number], trial

    run: Callable[[list[int], int, int], Iterator[tuple[int, Trial]]] = here
    if workers == 1:
        yield play
    else:
        with worker_pool(workers, "give fewer --workers or --num-envs") as pool:
            run = partial(spread, pool)
            yield play
