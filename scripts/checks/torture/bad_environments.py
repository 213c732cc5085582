"""Environments of which one episode, that of the seed 1003, goes wrong at its third step."""

from __future__ import annotations

import os
import time
from typing import Any

import gymnasium as gym
import numpy as np

_SEED, _STEP = 1003, 3


class Cart(gym.Env):
    """Healthy: pushed along a line, and rewarded for staying near 1."""

    observation_space: gym.Space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space: gym.Space = gym.spaces.Box(-2.0, 2.0, (1,), np.float32)

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        if fault == "init":
            raise RuntimeError("no licence")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Start anywhere near 0."""
        super().reset(seed=seed)
        self.place, self.speed = self.np_random.normal(size=2)
        self.time, self.wrong = 0, seed == _SEED
        if self.wrong and self.fault == "reset":
            raise RuntimeError("lost the robot")
        if self.wrong and self.fault == "reset returns an array":
            return self.seen()
        return self.seen(), {}

    def seen(self) -> np.ndarray:
        """Place and speed."""
        return np.array([self.place, self.speed], np.float32)

    def step(self, action: np.ndarray) -> Any:
        """Push; at the third step of the one episode with the fault."""
        self.time += 1
        self.speed = 0.8 * self.speed + 0.2 * float(action[0])
        self.place += 0.1 * self.speed
        step: tuple[Any, ...] = (self.seen(), -abs(self.place - 1), False, False, {})
        if self.wrong and self.time == _STEP and self.fault in FAULTS:
            return FAULTS[self.fault](*step)
        return step

    def close(self) -> None:
        """Let go."""
        if self.fault == "close":
            raise RuntimeError("stuck")


def _raise(error: BaseException) -> Any:
    raise error


FAULTS: dict[str, Any] = {
    "raises": lambda *_: _raise(RuntimeError("contact solver failed\nsecond line")),
    "asserts": lambda *_: _raise(AssertionError()),
    "exits": lambda *_: _raise(SystemExit(5)),
    "stops iteration": lambda *_: _raise(StopIteration()),
    "wants memory": lambda *_: _raise(MemoryError()),
    "hangs": lambda *_: time.sleep(3600),
    "dies": lambda *_: os._exit(9),
    "returns None": lambda *_: None,
    "returns four": lambda o, r, t, u, i: (o, r, t, i),
    "NaN observation": lambda o, *rest: (o * np.nan, *rest),
    "infinite observation": lambda o, *rest: (o / 0.0, *rest),
    "observation beyond float32": lambda o, *rest: (np.array([1e300, 0.0]), *rest),
    "observation too long": lambda o, *rest: (np.zeros(3, np.float32), *rest),
    "column observation": lambda o, *rest: (o[:, None], *rest),
    "text observation": lambda o, *rest: ("here", *rest),
    "dict observation": lambda o, *rest: ({"observation": o}, *rest),
    "ragged observation": lambda o, *rest: ([[1.0], [1.0, 2.0]], *rest),
    "no observation": lambda o, *rest: (None, *rest),
    "complex observation": lambda o, *rest: (o + 1j, *rest),
    "NaN reward": lambda o, r, *rest: (o, float("nan"), *rest),
    "infinite reward": lambda o, r, *rest: (o, np.float32("-inf"), *rest),
    "text reward": lambda o, r, *rest: (o, "good", *rest),
    "no reward": lambda o, r, *rest: (o, None, *rest),
    "reward array": lambda o, r, *rest: (o, np.ones(1), *rest),
    "terminated array": lambda o, r, t, u, i: (o, r, np.array([True, False]), u, i),
    "terminated text": lambda o, r, t, u, i: (o, r, "no", u, i),
    "no info": lambda o, r, t, u, i: (o, r, t, u, None),
    "success text": lambda o, r, t, u, i: (o, r, t, u, {"success": "no"}),
    "success array": lambda o, r, t, u, i: (o, r, t, u, {"is_success": np.ones(2, bool)}),
}
OTHERS = ("init", "reset", "reset returns an array", "close")


class Discrete(Cart):
    """Takes one of three actions."""

    action_space = gym.spaces.Discrete(3)


class Wide(Cart):
    """Says that it observes five numbers."""

    observation_space = gym.spaces.Box(-1, 1, (5,), np.float32)


class Integer(Cart):
    """Says that it observes whole numbers."""

    observation_space = gym.spaces.Box(-100, 100, (2,), np.int64)


def env_id(fault: str) -> str:
    """The id under which Gymnasium knows the cart with a fault."""
    return f"Cart-{fault.replace(' ', '-')}-v0" if fault else "Cart-v0"


for _fault in ("", *FAULTS, *OTHERS):
    gym.register(env_id(_fault), f"{__name__}:Cart", max_episode_steps=8, kwargs={"fault": _fault})
gym.register("Cart-endless-v0", f"{__name__}:Cart")
for _kind in ("Discrete", "Wide", "Integer"):
    gym.register(f"Cart-{_kind}-v0", f"{__name__}:{_kind}", max_episode_steps=8)
