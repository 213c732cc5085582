"""What an environment hands over, checked and copied: a slip is named where it is made."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from diffplan.errors import DiffplanError

# Names under which environments report success in a step's info.
_SUCCESS_KEYS = ("success", "is_success")
_LONG = 500  # characters of somebody else's message
_LARGEST = float(np.finfo(np.float32).max)
_LARGEST = float(np.finfo(np.float32).max)  # planners compute in float32


class Fault(Exception):
    """What an environment did wrong, in one line."""


@dataclass(frozen=True)
class Failure:
    """An episode that came to no end. step: from 1, 0 for the reset."""

    episode: int
    seed: int
    step: int
    reason: str

    def __str__(self) -> str:
        where = f"at step {self.step}" if self.step else "at its reset"
        return f"episode {self.episode} (seed {self.seed}) failed {where}: {self.reason}"


class Step(NamedTuple):
    """One environment step. success: None where the environment reports none."""

    observation: Any
    reward: float
    terminated: bool
    over: bool
    success: bool | None


def said(error: BaseException) -> str:
    """An exception in one line."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # of whatever it was made
        lines = []
    if not lines:
        return type(error).__name__
    first = lines[0][:_LONG]
    return first if isinstance(error, DiffplanError) else f"{type(error).__name__}: {first}"


def read_reset(space: spaces.Space, returned: Any) -> Any:
    """The observation of a reset, a copy; Fault where it is none."""
    if not (isinstance(returned, tuple) and len(returned) == 2):
        raise Fault(f"reset returned {_kind(returned)}, expected (observation, info)")
    return read_observation(space, returned[0])


def read_step(space: spaces.Space, returned: Any) -> Step:
    """A step, with a copy of its observation; Fault naming the first thing that is wrong."""
    if not (isinstance(returned, tuple) and len(returned) == 5):
        raise Fault(
            f"step returned {_kind(returned)}, expected (observation, reward, terminated, "
            "truncated, info)"
        )
    observation, reward, terminated, truncated, info = returned
    value = _number(reward, "reward")
    # returns are computed with in float32
    if not abs(value) <= _LARGEST:
        raise Fault(f"reward is {value:g}, expected a finite number of float32")
    ended, cut = _flag(terminated, "terminated"), _flag(truncated, "truncated")
    if type(info) is not dict and not isinstance(info, Mapping):
        raise Fault(f"info is {_kind(info)}, expected a dict")
    reported = [_flag(info[k], k) for k in _SUCCESS_KEYS if info.get(k) is not None]
    success = any(reported) if reported else None
    return Step(read_observation(space, observation), value, ended, ended or cut, success)


def read_observation(space: spaces.Space, value: Any, name: str = "observation") -> Any:
    """The observation in the types of its space, a copy: environments write into their arrays."""
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping):
            raise Fault(f"{name} is {_kind(value)}, expected a dict with {', '.join(space.spaces)}")
        for key in space.spaces:
            if key not in value:
                raise Fault(f"{name} lacks the key {key!r}")
        return {key: read_observation(part, value[key], key) for key, part in space.spaces.items()}
    if not isinstance(space, spaces.Box):
        return copy.deepcopy(value)  # nothing that planners look at
    array = value if type(value) is np.ndarray else _array(value, name, space)
    if array.dtype.kind not in "biuf":
        raise Fault(f"{name} is {_kind(value)}, expected numbers of shape {space.shape}")
    if array.shape != space.shape:
        raise Fault(f"{name} has shape {array.shape}, its space {space.shape}")
    if array.dtype != space.dtype and not np.can_cast(array.dtype, space.dtype, "same_kind"):
        raise Fault(f"{name} holds {array.dtype}, its space {space.dtype}")
    # of NaN no comparison is true
    if array.size and not np.abs(array).max() <= _LARGEST:
        place = tuple(int(i) for i in np.argwhere(~(np.abs(array) <= _LARGEST))[0])
        raise Fault(f"{name} has {array[place]} in column {place[-1]}, expected finite float32")
    return array.astype(space.dtype)


def _array(value: Any, name: str, space: spaces.Box) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError):
        raise Fault(f"{name} is ragged, expected numbers of shape {space.shape}") from None


def _number(value: Any, name: str) -> float:
    if type(value) is float:
        return value
    if shape := getattr(value, "shape", ()):
        raise Fault(f"{name} is an array of shape {tuple(shape)}, expected a number")
    if hasattr(value, "item"):  # an array or tensor without axes
        value = value.item()
    if not isinstance(value, Real):
        raise Fault(f"{name} is {_kind(value)}, expected a number")
    return float(value)


def _flag(value: Any, name: str) -> bool:
    if type(value) is bool:
        return value
    found = _number(value, name)
    if found not in (0.0, 1.0):
        raise Fault(f"{name} is {found:g}, expected True or False")
    return bool(found)


def _kind(value: Any) -> str:
    """A value in few words, for a line."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value) if len(repr(value)) < 40 else f"a {type(value).__name__}"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}, shape {value.shape}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
