"""Seeded episodes of any policy on a batch of environments, counted fairly and timed.

Every comparison of the project goes through `rollout`: planners, controllers, random actions.
A plain list of environments is stepped instead of a Gymnasium vector environment: it costs no more
per step, rows that have run their episodes are not stepped at all, and each reset takes the seed
of its episode.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import concatenate, create_empty_array
from tqdm import tqdm

from diffplan.envs.rollouts.traces import Trace
from diffplan.errors import DiffplanError

# Names under which environments report success in a step's info.
_SUCCESS_KEYS = ("success", "is_success")


class Policy(Protocol):
    """Stable-Baselines3's `predict`, with the state as a value that is passed back in.

    A policy may also offer `reset_rows(state, rows, seeds) -> state` with rows bool [B] and seeds
    int64 [B]: called before `predict` whenever rows start an episode (with state None at first),
    with the seed of each row's episode, so that its noise belongs to the episode and not to the
    batch. And it may offer `observe(state, rewards, rows) -> state` with rewards float64 [B] and
    rows bool [B]: called after each environment step with the rewards that the marked rows have
    just received (0 in the others), so that a planner conditioned on a return can lower its
    target. What it takes counts as time of the decision before it.
    A state with `plan` and `age` is recorded and timed as a planner's.
    """

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """Batched observation (array [B, D] or dict of [B, ...]) to actions [B, A] and state."""
        ...


@dataclass(frozen=True)
class Rollout:
    """Results of E episodes, in the order of their seeds, and the time of every predict call."""

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


@dataclass
class _Episode:
    """One running episode: what counts, and with `keep` everything for its trace."""

    index: int
    seed: int
    keep: bool
    total: float = 0.0
    length: int = 0
    terminated: bool = False
    success: bool | None = None
    success_step: int | None = None
    observations: list[Any] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    plans: dict[int, Any] = field(default_factory=dict)

    def decided(self, observation: Any, action: np.ndarray, state: Any, row: int) -> None:
        """Keep what the policy saw and did, and the plan if it has just been made."""
        if not self.keep:
            return
        self.observations.append(observation)
        self.actions.append(np.array(action))
        # age 0: the plan was made in this very call
        if getattr(state, "age", None) is not None and state.age[row] == 0:
            self.plans[self.length] = state.plan.row(row).numpy()

    def stepped(self, reward: float, terminated: bool, info: dict[str, Any]) -> None:
        """Count one environment step."""
        self.total += reward
        self.length += 1
        self.terminated = terminated
        # at any step: some environments report success once and go on
        reported = [bool(info[key]) for key in _SUCCESS_KEYS if key in info]
        if reported:
            self.success = bool(self.success) or any(reported)
            if self.success and self.success_step is None:
                self.success_step = self.length
        if self.keep:
            self.rewards.append(reward)

    def trace(self, space: gym.Space) -> Trace:
        return Trace(
            self.index,
            self.seed,
            _stack(space, self.observations),
            np.stack(self.actions),
            np.asarray(self.rewards),
            self.success_step,
            self.plans,
        )


class _Batch:
    """The environments, their current observations and the policy's state."""

    def __init__(self, policy: Policy, envs: Sequence[gym.Env]) -> None:
        self.policy = policy
        self.envs = envs
        self.space = envs[0].observation_space
        self.observations: list[Any] = [None] * len(envs)
        self.state: Any = None
        # a policy may have something to make ready for batches of this size
        if hasattr(policy, "prepare"):
            policy.prepare(len(envs))

    def reset(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        """Start episodes with `seeds` [B] in the `rows` [B] that are True."""
        for row in np.flatnonzero(rows).tolist():
            self.observations[row], _ = self.envs[row].reset(seed=int(seeds[row]))
        if rows.any() and hasattr(self.policy, "reset_rows"):
            self.state = self.policy.reset_rows(self.state, rows, seeds)

    def decide(self, episode_start: np.ndarray) -> tuple[np.ndarray, float]:
        """Actions [B, A] for the current observations, and the milliseconds they took."""
        observation = _stack(self.space, self.observations)
        begin = time.perf_counter()
        # said aloud: Stable-Baselines3's own default is to draw
        actions, self.state = self.policy.predict(observation, self.state, episode_start, True)
        milliseconds = (time.perf_counter() - begin) * 1e3
        actions = np.asarray(actions)
        # said here, or the simulator would fail in its own words
        expected = (len(self.envs), *(self.envs[0].action_space.shape or ()))
        if actions.shape != expected or not np.isfinite(actions).all():
            what = f"shape {actions.shape}" if actions.shape != expected else "NaN or infinity"
            raise DiffplanError(
                f"{type(self.policy).__name__} gave actions with {what}, "
                f"expected finite actions of shape {expected}"
            )
        return actions, milliseconds

    def observe(self, rewards: np.ndarray, rows: np.ndarray) -> float:
        """Tell the policy the `rewards` [B] of the `rows` [B] stepped; milliseconds it took."""
        if not hasattr(self.policy, "observe"):
            return 0.0
        begin = time.perf_counter()
        self.state = self.policy.observe(self.state, rewards, rows)
        return (time.perf_counter() - begin) * 1e3


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
) -> Rollout:
    """Run a fixed set of seeded episodes.

    Episode e starts with `reset(seed=seed + e)` and row i of the batch runs episodes i, i + M,
    i + 2M, ...: which episodes count is settled beforehand, so short ones are not favoured, and
    the result does not depend on `num_envs` when the policy treats rows independently. Rows that
    have run theirs keep their last observation in the batch and are no longer stepped.

    Args:
        policy: See `Policy`.
        make_env: Makes one environment; called once per row. Episodes end where it says so.
        episodes: E, how many episodes to run.
        num_envs: M, rows of the batch; no more than E are made.
        seed: Of the first episode.
        record: Keep a `Trace` of this many first episodes.
        progress: Show a progress bar on stderr.
        description: Its label.

    Raises:
        DiffplanError: No episode or environment asked for, or actions of a wrong shape or not
            finite.
    """
    if episodes < 1 or num_envs < 1:
        raise DiffplanError(
            "a rollout needs at least one episode and one environment, "
            f"got {episodes} and {num_envs}"
        )
    rows = min(num_envs, episodes)
    finished: list[_Episode] = []
    call_ms: list[float] = []
    live_rows: list[int] = []
    with _made(make_env, rows) as envs, _bar(envs[0], episodes, description, progress) as bar:
        batch = _Batch(policy, envs)
        running: dict[int, _Episode] = {}
        index = np.arange(rows)
        start = np.ones(rows, dtype=bool)
        # one pass is one call of the policy for all rows, and one step of those that still run
        while start.any() or running:
            batch.reset(start, seed + index)
            for row in np.flatnonzero(start).tolist():
                e = int(index[row])
                running[row] = _Episode(e, seed + e, keep=e < record)
            actions, milliseconds = batch.decide(start)
            call_ms.append(milliseconds)
            # idle rows are decided for too, but nobody waits for them
            live_rows.append(len(running))
            start = np.zeros(rows, dtype=bool)
            rewards, stepped = np.zeros(rows), np.zeros(rows, dtype=bool)
            bar.update(len(running))
            for row, episode in list(running.items()):
                episode.decided(batch.observations[row], actions[row], batch.state, row)
                observation, reward, terminated, truncated, info = envs[row].step(actions[row])
                episode.stepped(float(reward), bool(terminated), info)
                rewards[row], stepped[row] = reward, True
                batch.observations[row] = observation
                if terminated or truncated:
                    if episode.keep:
                        episode.observations.append(observation)
                    finished.append(running.pop(row))
                    _shorten(bar, envs[row], episode.length)
                    # the row's next episode, if there is one
                    index[row] += rows
                    start[row] = index[row] < episodes
            # part of the decision: it is what the next one needs
            call_ms[-1] += batch.observe(rewards, stepped)
    return _assembled(finished, batch.space, np.asarray(call_ms), np.asarray(live_rows))


def time_decisions(
    policy: Policy,
    make_env: Callable[[], gym.Env],
    *,
    seed: int,
    steps: int = 300,
    warmup: int = 50,
) -> DecisionTimes:
    """Time single decisions: one environment, batch of one, `warmup` calls not counted.

    Episodes start with `reset(seed=seed)`, `seed + 1`, ...; the caller sets the thread count.
    """
    times: list[float] = []
    replanned: list[bool] = []
    with _made(make_env, 1) as envs:
        batch = _Batch(policy, envs)
        start = np.ones(1, dtype=bool)
        seeds = np.full(1, seed)
        for call in range(warmup + steps):
            batch.reset(start, seeds)
            actions, milliseconds = batch.decide(start)
            if call >= warmup and getattr(batch.state, "age", None) is not None:
                replanned.append(bool(batch.state.age[0] == 0))
            observation, reward, terminated, truncated, _ = envs[0].step(actions[0])
            batch.observations[0] = observation
            milliseconds += batch.observe(np.full(1, reward, np.float64), np.ones(1, dtype=bool))
            # the first calls compile and fill caches
            if call >= warmup:
                times.append(milliseconds)
            start = np.full(1, bool(terminated or truncated))
            seeds = seeds + start
    return DecisionTimes(np.asarray(times), np.asarray(replanned) if replanned else None)


def _assembled(
    finished: list[_Episode], space: gym.Space, call_ms: np.ndarray, live_rows: np.ndarray
) -> Rollout:
    finished = sorted(finished, key=lambda episode: episode.index)
    reported = any(episode.success is not None for episode in finished)
    return Rollout(
        np.asarray([episode.total for episode in finished], dtype=np.float64),
        np.asarray([episode.length for episode in finished], dtype=np.int64),
        np.asarray([bool(episode.success) for episode in finished]) if reported else None,
        np.asarray([episode.terminated for episode in finished]),
        call_ms,
        live_rows,
        tuple(episode.trace(space) for episode in finished if episode.keep),
    )


def _stack(space: gym.Space, observations: list[Any]) -> Any:
    """Observations of single environments as one new batch: an array or a dict of arrays."""
    # a new one each time: a policy may keep what it was given
    empty: Any = create_empty_array(space, len(observations))
    return concatenate(space, observations, empty)


@contextmanager
def _made(make_env: Callable[[], gym.Env], count: int) -> Iterator[list[gym.Env]]:
    envs: list[gym.Env] = []
    try:
        envs.extend(make_env() for _ in range(count))
        yield envs
    finally:
        for env in envs:
            env.close()


def _bar(env: gym.Env, episodes: int, description: str, progress: bool) -> tqdm:
    """A bar over environment steps, with an end in sight where episodes have a longest length."""
    limit = env.spec.max_episode_steps if env.spec else None
    return tqdm(
        total=limit and limit * episodes,
        desc=description or None,
        unit=" steps",
        unit_scale=True,
        disable=not progress,
        leave=False,
    )


def _shorten(bar: tqdm, env: gym.Env, length: int) -> None:
    """Take the steps that an episode did not need off the bar's total."""
    limit = env.spec.max_episode_steps if env.spec else None
    if limit and bar.total:
        bar.total -= limit - length
