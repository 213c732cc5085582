"""Resets and steps of one environment, which may raise, exit, hang or hand over anything."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from diffplan.envs.rollouts.reading import Fault, Step, read_reset, read_step, said

STEP_SECONDS = 300.0
"""How long one step or reset may take: simulators compile in their first, and then hang."""


class _Overdue(BaseException):
    """Raised into an environment that does not answer; not caught by what catches Exception."""


class Watch:
    """Calls environments, whatever they raise, and ends calls that take too long.

    In the main thread only, and not inside compiled code that does not return to Python.
    """

    def __init__(self, seconds: float = STEP_SECONDS) -> None:
        self.seconds = seconds
        self._began: float | None = None

    def __call__(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """What the function returns; Fault for whatever it raises, an exit included."""
        self._began = time.monotonic()
        try:
            return function(*args, **options)
        except Fault:
            raise
        except KeyboardInterrupt as error:
            # where Ctrl-C is handled otherwise, a bare one is the environment's own
            default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
            if type(error) is not KeyboardInterrupt or default:
                raise
            raise Fault(said(error)) from error
        except _Overdue:
            raise Fault(f"no answer within {self.seconds:g} s") from None
        except BaseException as error:  # SystemExit and those of other languages too
            raise Fault(said(error)) from error
        finally:
            self._began = None

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Look at the time now and then; come back to the folder that an environment leaves."""
        folder = Path.cwd()
        try:
            with self._alarm():
                yield
        finally:
            os.chdir(folder)

    @contextlib.contextmanager
    def _alarm(self) -> Iterator[None]:
        here = threading.current_thread() is threading.main_thread()
        # an environment, or whoever runs this, may have a use of its own for the alarm
        if not (
            here
            and hasattr(signal, "SIGALRM")
            and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
        ):
            yield
            return
        # not so often that nothing else is done
        tick = min(max(self.seconds / 4, 0.05), 10.0)
        signal.signal(signal.SIGALRM, self._look)
        signal.setitimer(signal.ITIMER_REAL, tick, tick)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def _look(self, *_: object) -> None:
        if self._began is not None and time.monotonic() - self._began > self.seconds:
            raise _Overdue


class Stepper:
    """One environment; the first thing that it does wrong is a Fault."""

    def __init__(self, make_env: Callable[[], gym.Env], watch: Watch) -> None:
        self._make, self._watch = make_env, watch
        self._env: gym.Env | None = make_env()
        self.space, self.action_space = self._env.observation_space, self._env.action_space
        spec = self._env.spec
        self.limit = None if spec is None else spec.max_episode_steps
        self.name = f"environment {spec.id}" if spec else type(self._env.unwrapped).__name__

    def reset(self, seed: int) -> Any:
        """The first observation of the episode of a seed."""
        if self._env is None:
            try:
                self._env = self._watch(self._make)
            except Fault as fault:
                raise Fault(f"it could not be made again: {fault}") from None
        return read_reset(self.space, self._watch(self._env.reset, seed=seed))

    def step(self, action: np.ndarray) -> Step:
        """One step."""
        assert self._env is not None
        return read_step(self.space, self._watch(self._env.step, action))

    def renew(self) -> None:
        """Have another one made for the next episode: after a fault nothing is sure."""
        self.close()
        self._env = None

    def close(self) -> Fault | None:
        """Close it; what it raises is returned, as nothing depends on it."""
        if self._env is None:
            return None
        try:
            self._watch(self._env.close)
        except Fault as fault:
            return fault
        return None
