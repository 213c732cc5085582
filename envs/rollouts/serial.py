"""Seeded episodes of any policy on a batch of environments, counted fairly and timed.

Every comparison of the project goes through `rollout`: planners, controllers, random actions.
A plain list of environments is stepped instead of a Gymnasium vector environment: it costs no more
per step, rows that have run their episodes are not stepped at all, and each reset takes the seed
of its episode.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from diffplan.envs.rollouts.batch import Batch, Policy
from diffplan.envs.rollouts.episode import Episode
from diffplan.envs.rollouts.reading import Failure, Fault
from diffplan.envs.rollouts.stepper import STEP_SECONDS, Stepper, Watch
from diffplan.envs.rollouts.traces import Trace
from diffplan.errors import DiffplanError

_MOST_FAULTS = 100  # of an environment while decisions are timed


@dataclass(frozen=True)
class Rollout:
    """Results of E episodes, in the order of their seeds, and the time of every predict call.

    Episodes that failed are not among them.
    """

    returns: np.ndarray
    """[E] float64, undiscounted, the last reward included."""
    lengths: np.ndarray
    """[E] int64 steps."""
    success: np.ndarray | None
    """[E] bool, success reported at any step; None if the environment reports none."""
    terminated: np.ndarray
    """[E] bool, False where the episode ran into the environment's time limit."""
    call_ms: np.ndarray
    """[C] wall milliseconds of each decision (predict, then observe), environment excluded."""
    live_rows: np.ndarray
    """[C] rows still running an episode in that call."""
    traces: tuple[Trace, ...]
    failures: tuple[Failure, ...] = ()
    """What came to no end because of its environment, in order."""

    @property
    def episodes(self) -> np.ndarray:
        """[E] number of each episode; those between are among the failures."""
        asked = np.arange(len(self.returns) + len(self.failures))
        return np.setdiff1d(asked, [failure.episode for failure in self.failures])

    @property
    def decision_ms(self) -> np.ndarray:
        """[C] milliseconds per decision when batched: call time over live rows."""
        return self.call_ms / self.live_rows


@dataclass(frozen=True)
class DecisionTimes:
    """Wall milliseconds of single decisions (batch of one)."""

    ms: np.ndarray
    """[C] each decision after the warm-up."""
    replanned: np.ndarray | None
    """[C] bool, whether the call made a new plan; None for policies that do not plan."""

    @staticmethod
    def joined(parts: "Sequence[DecisionTimes]") -> "DecisionTimes":
        """The times of several policies of one kind, one after the other."""
        replanned = [part.replanned for part in parts if part.replanned is not None]
        return DecisionTimes(
            np.concatenate([part.ms for part in parts]),
            np.concatenate(replanned) if len(replanned) == len(parts) else None,
        )


def rollout(
    policy: Policy,
    make_env: Callable[[], gym.Env],
    *,
    episodes: int,
    num_envs: int,
    seed: int,
    record: int = 0,
    progress: bool = True,
    description: str = "",
    keep_going: bool = False,
    step_seconds: float = STEP_SECONDS,
) -> Rollout:
    """Run a fixed set of seeded episodes.

    Episode e starts with `reset(seed=seed + e)` and row i of the batch runs episodes i, i + M,
    i + 2M, ...: which episodes count is settled beforehand, so short ones are not favoured, and
    the result does not depend on `num_envs` when the policy treats rows independently. Rows that
    have run theirs keep their last observation in the batch and are no longer stepped.

    An episode fails where its environment raises anything, exits, does not answer or hands over
    what its spaces do not say, and where there is no finite action for what it hands over.

    Args:
        policy: See `batch.Policy`.
        make_env: Makes one environment; called once per row, and again after a failure. Episodes
            end where it says so.
        episodes: E, how many episodes to run.
        num_envs: M, rows of the batch; no more than E are made.
        seed: Of the first episode.
        record: Keep a `Trace` of this many first episodes.
        progress: Show a progress bar on stderr.
        description: Its label.
        keep_going: Go on with the other episodes where one fails; see `Rollout.failures`.
        step_seconds: How long a step or reset may take; see `stepper.Watch`.

    Raises:
        DiffplanError: No episode or environment asked for, actions of a wrong shape, or without
            `keep_going` an episode that fails.
    """
    if episodes < 1 or num_envs < 1:
        raise DiffplanError(
            "a rollout needs at least one episode and one environment, "
            f"got {episodes} and {num_envs}"
        )
    rows = min(num_envs, episodes)
    finished: list[Episode] = []
    failures: list[Failure] = []
    call_ms: list[float] = []
    live_rows: list[int] = []
    with (
        _made(make_env, rows, step_seconds) as envs,
        _bar(envs[0].limit, episodes, description, progress) as bar,
    ):
        batch = Batch(policy, envs)
        running: dict[int, Episode] = {}
        index = np.arange(rows)
        start = np.ones(rows, dtype=bool)
        blank = np.zeros(rows, dtype=bool)

        def over(row: int) -> Episode:
            """Leave the row's episode for its next one, if there is one."""
            index[row] += rows
            start[row] = index[row] < episodes
            _shorten(bar, envs[row].limit, running[row].length)
            return running.pop(row)

        def failed(row: int, fault: Fault, step: int) -> None:
            episode = over(row)
            failures.append(Failure(episode.index, episode.seed, step, str(fault)))
            if not keep_going:
                raise DiffplanError(f"{envs[row].name}, {failures[-1]}") from fault
            envs[row].renew()
            # what the policy remembers of the row may be as bad as what it saw
            batch.observations[row], blank[row] = None, True

        # one pass is one call of the policy for all rows, and one step of those that still run
        while start.any() or running:
            begin, start = start, np.zeros(rows, dtype=bool)
            for row in np.flatnonzero(begin).tolist():
                e = int(index[row])
                running[row] = Episode(e, seed + e, keep=e < record)
            for row, fault in batch.reset(begin, blank, seed + index).items():
                failed(row, fault, 0)
            if not running:
                continue
            actions, milliseconds, faults = batch.decide(begin | blank)
            blank = np.zeros(rows, dtype=bool)
            call_ms.append(milliseconds)
            # idle rows are decided for too, but nobody waits for them
            live_rows.append(len(running))
            bar.update(len(running))
            for row, fault in faults.items():
                if row in running:
                    failed(row, fault, running[row].length + 1)
            rewards, stepped = np.zeros(rows), np.zeros(rows, dtype=bool)
            for row, episode in list(running.items()):
                episode.decided(batch.observations[row], actions[row], batch.state, row)
                try:
                    step = envs[row].step(actions[row])
                except Fault as fault:
                    failed(row, fault, episode.length + 1)
                    continue
                episode.stepped(step)
                rewards[row], stepped[row] = step.reward, True
                batch.observations[row] = step.observation
                if step.over:
                    finished.append(over(row))
            # part of the decision: it is what the next one needs
            call_ms[-1] += batch.observe(rewards, stepped)
    return _assembled(finished, failures, batch.space, np.asarray(call_ms), np.asarray(live_rows))


def time_decisions(
    policy: Policy,
    make_env: Callable[[], gym.Env],
    *,
    seed: int,
    steps: int = 300,
    warmup: int = 50,
    step_seconds: float = STEP_SECONDS,
) -> DecisionTimes:
    """Time single decisions: one environment, batch of one, `warmup` calls not counted.

    Episodes start with `reset(seed=seed)`, `seed + 1`, ...; the caller sets the thread count. One
    that fails is left for the next; DiffplanError where nearly all do.
    """
    times: list[float] = []
    replanned: list[bool] = []
    faults = 0
    with _made(make_env, 1, step_seconds) as envs:
        batch = Batch(policy, envs)
        start, seeds = np.ones(1, dtype=bool), np.full(1, seed)
        while len(times) < warmup + steps:
            failed = batch.reset(start, ~start, seeds) if start[0] else {}
            if not failed:
                actions, milliseconds, failed = batch.decide(start)
            if not failed:
                try:
                    step = envs[0].step(actions[0])
                except Fault as fault:
                    failed = {0: fault}
            if failed:
                faults += 1
                if faults > _MOST_FAULTS:
                    raise DiffplanError(
                        f"no decisions could be timed: {envs[0].name}, seed {seeds[0]}, failed: "
                        f"{failed[0]}"
                    )
                envs[0].renew()
                start, seeds = np.ones(1, dtype=bool), seeds + 1
                continue
            if getattr(batch.state, "age", None) is not None:
                replanned.append(bool(batch.state.age[0] == 0))
            batch.observations[0] = step.observation
            milliseconds += batch.observe(np.full(1, step.reward), np.ones(1, dtype=bool))
            times.append(milliseconds)
            start = np.full(1, step.over)
            seeds = seeds + start
    # the first calls compile and fill caches
    counted = np.asarray(replanned[warmup:]) if replanned else None
    return DecisionTimes(np.asarray(times[warmup:]), counted)


def _assembled(
    finished: list[Episode],
    failures: list[Failure],
    space: gym.Space,
    call_ms: np.ndarray,
    live_rows: np.ndarray,
) -> Rollout:
    finished = sorted(finished, key=lambda episode: episode.index)
    reported = any(episode.success is not None for episode in finished)
    return Rollout(
        np.asarray([episode.total for episode in finished], dtype=np.float64),
        np.asarray([episode.length for episode in finished], dtype=np.int64),
        np.asarray([bool(episode.success) for episode in finished]) if reported else None,
        np.asarray([episode.terminated for episode in finished], dtype=bool),
        call_ms,
        live_rows,
        tuple(episode.trace(space) for episode in finished if episode.keep),
        tuple(sorted(failures, key=lambda failure: failure.episode)),
    )


@contextmanager
def _made(
    make_env: Callable[[], gym.Env], count: int, step_seconds: float
) -> Iterator[list[Stepper]]:
    envs: list[Stepper] = []
    watch = Watch(step_seconds)
    with watch.on():
        try:
            envs.extend(Stepper(make_env, watch) for _ in range(count))
            yield envs
        finally:
            faults = [fault for env in envs if (fault := env.close()) is not None]
            if faults:
                line = f"{envs[0].name} could not be closed: {faults[0]}"
                tqdm.write(line, file=sys.stderr)


def _bar(limit: int | None, episodes: int, description: str, progress: bool) -> tqdm:
    """A bar over environment steps, with an end in sight where episodes have a longest length."""
    return tqdm(
        total=limit and limit * episodes,
        desc=description or None,
        unit=" steps",
        unit_scale=True,
        disable=not progress,
        leave=False,
    )


def _shorten(bar: tqdm, limit: int | None, length: int) -> None:
    """Take the steps that an episode did not need off the bar's total."""
    if limit and bar.total:
        bar.total -= limit - length
