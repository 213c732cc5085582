"""A policy and the environments it decides for, in one batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from diffplan.envs.rollouts.episode import stack
from diffplan.envs.rollouts.reading import Fault
from diffplan.envs.rollouts.stepper import Stepper
from diffplan.errors import DiffplanError, RowsError


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


class Batch:
    """The environments, their current observations and the policy's state."""

    def __init__(self, policy: Policy, envs: Sequence[Stepper]) -> None:
        self.policy = policy
        self.envs = envs
        self.space = envs[0].space
        # None where there is none that the policy should see
        self.observations: list[Any] = [None] * len(envs)
        self.state: Any = None
        # a policy may have something to make ready for batches of this size
        if hasattr(policy, "prepare"):
            policy.prepare(len(envs))

    def reset(self, rows: np.ndarray, blank: np.ndarray, seeds: np.ndarray) -> dict[int, Fault]:
        """Start episodes with `seeds` [B] in the `rows` [B] that are True; those that fail.

        blank: [B] rows that the policy is to forget, too.
        """
        faults = {}
        for row in np.flatnonzero(rows).tolist():
            try:
                self.observations[row] = self.envs[row].reset(int(seeds[row]))
            except Fault as fault:
                faults[row] = fault
                self.observations[row] = None
        fresh = rows | blank
        if fresh.any() and hasattr(self.policy, "reset_rows"):
            self.state = self.policy.reset_rows(self.state, fresh, seeds)
        return faults

    def decide(self, episode_start: np.ndarray) -> tuple[np.ndarray, float, dict[int, Fault]]:
        """Actions [B, A] for the current observations, the milliseconds they took, and the rows
        that there is no finite action for.
        """
        faults: dict[int, Fault] = {}
        begin = time.perf_counter()
        try:
            actions = self._predict(episode_start)
        except RowsError as error:
            # the others are decided for without them
            episode_start = episode_start.copy()
            for row in error.rows:
                faults[row] = Fault(str(error))
                self.observations[row], episode_start[row] = None, True
            if all(observation is None for observation in self.observations):
                milliseconds = (time.perf_counter() - begin) * 1e3
                return np.zeros(self._shape), milliseconds, faults
            actions = self._predict(episode_start)
        milliseconds = (time.perf_counter() - begin) * 1e3
        # said here, or the simulator would fail in its own words
        name = type(self.policy).__name__
        if actions.shape != self._shape:
            raise DiffplanError(
                f"{name} gave actions with shape {actions.shape}, expected finite actions of shape "
                f"{self._shape}"
            )
        finite = np.isfinite(actions.reshape(len(actions), -1)).all(1)
        for row in np.flatnonzero(~finite).tolist():
            faults[row] = Fault(f"{name} gave actions with NaN or infinity, expected finite ones")
            self.observations[row] = None
        return actions, milliseconds, faults

    @property
    def _shape(self) -> tuple[int, ...]:
        return len(self.envs), *(self.envs[0].action_space.shape or ())

    def _predict(self, episode_start: np.ndarray) -> np.ndarray:
        # rows without an observation are idle, what stands there does not matter
        filler = next(each for each in self.observations if each is not None)
        shown = [filler if each is None else each for each in self.observations]
        # said aloud: Stable-Baselines3's own default is to draw
        observation = stack(self.space, shown)
        actions, self.state = self.policy.predict(observation, self.state, episode_start, True)
        return np.asarray(actions)

    def observe(self, rewards: np.ndarray, rows: np.ndarray) -> float:
        """Tell the policy the `rewards` [B] of the `rows` [B] stepped; milliseconds it took."""
        if not hasattr(self.policy, "observe"):
            return 0.0
        begin = time.perf_counter()
        self.state = self.policy.observe(self.state, rewards, rows)
        return (time.perf_counter() - begin) * 1e3
