"""How observations of a Minari dataset become states and goals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from diffplan.data.info import ObservationLayout
from diffplan.errors import DiffplanError

_GOAL_KEYS = ("observation", "achieved_goal", "desired_goal")


@dataclass(frozen=True)
class Form:
    """How episodes of a Minari dataset become states and goals.

    width: columns of what `keys` hold. keys: of a dict whose arrays, one after the other, are the
    state, () without a dict. goal_dim: 0 without a goal. goal_inside: the achieved goal is part of
    these arrays; else it comes first.
    """

    width: int
    keys: tuple[str, ...]
    goal_dim: int
    goal_inside: bool

    @staticmethod
    def of(space: spaces.Space, goal_inside: bool) -> Form:
        """By the observation space, which `check_spaces` has passed."""
        if not isinstance(space, spaces.Dict):
            return Form(_width(space), (), 0, goal_inside)
        is_goal = _is_goal_space(space)
        used = _GOAL_KEYS if is_goal else ("observation",)
        # what else the policy saw is part of the state
        more = [key for key in space.spaces if key not in used and _is_vector(space[key])]
        keys = ("observation", *more)
        dim = _width(space["desired_goal"]) if is_goal else 0
        return Form(sum(_width(space[key]) for key in keys), keys, dim, goal_inside)

    @property
    def widths(self) -> dict[str, int]:
        """Columns of the states, and of the goals if there are some."""
        if not self.goal_dim:
            return {"states": self.width}
        outside = 0 if self.goal_inside else self.goal_dim
        return {"states": self.width + outside, "goals": self.goal_dim}

    def arrays(self, observations: Any) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """States, achieved goals and desired goals of an episode, each [T + 1, *], as recorded."""
        if not self.keys:
            return np.asarray(observations), None, None
        parts = [np.asarray(observations[key]) for key in self.keys]
        if not self.goal_dim:
            return np.concatenate(parts, axis=1), None, None
        achieved, desired = (np.asarray(observations[key]) for key in _GOAL_KEYS[1:])
        if not self.goal_inside:
            parts = [achieved, *parts]
        return np.concatenate(parts, axis=1), achieved, desired

    def layout(
        self, same: np.ndarray, env_id: str | None, offset: tuple[float, ...]
    ) -> ObservationLayout:
        """same: [G, O], which columns of the observations hold each achieved coordinate."""
        width = self.widths["states"]
        if not self.goal_dim:
            return ObservationLayout(width, dict_keys=self.keys, offset=offset)
        if not self.goal_inside:
            columns, keys = tuple(range(self.goal_dim)), ("achieved_goal", *self.keys)
            return ObservationLayout(width, self.goal_dim, columns, (), keys, offset)
        columns = tuple(int(row.argmax()) for row in same)
        rest = (2, 3) if env_id is not None and env_id.startswith("PointMaze_") else ()
        return ObservationLayout(width, self.goal_dim, columns, rest, self.keys, offset)


def left_out(space: spaces.Space) -> str:
    """The keys of a dict observation that are no part of state or goal, with their kinds."""
    if not isinstance(space, spaces.Dict):
        return ""
    return ", ".join(
        f"{key} ({type(inner).__name__}{'' if inner.shape is None else inner.shape})"
        for key, inner in space.spaces.items()
        if not _is_vector(inner)
    )


def _is_goal_space(space: spaces.Dict) -> bool:
    if not all(key in space.spaces and _is_vector(space[key]) for key in _GOAL_KEYS):
        return False
    return space["achieved_goal"].shape == space["desired_goal"].shape


def _is_vector(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 1


def _width(space: spaces.Space) -> int:
    """Columns of a Box vector."""
    assert space.shape is not None
    return int(space.shape[0])


def check_spaces(dataset_id: str, observation: spaces.Space, action: spaces.Space) -> None:
    """Raise DiffplanError unless observations and actions are vectors, or dicts of them."""
    inner = observation
    if isinstance(observation, spaces.Dict):
        if "observation" not in observation.spaces:
            raise DiffplanError(
                f"dataset {dataset_id} has dict observations with keys "
                f"{sorted(observation.spaces)}; expected 'observation' among them"
            )
        inner = observation["observation"]
    for name, space in (("observations", inner), ("actions", action)):
        if not _is_vector(space):
            raise DiffplanError(
                f"dataset {dataset_id} has {name} of type {space}; expected a Box vector"
            )
