"""D4RL's reference scores: 0 is a random policy, 100 an expert."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from diffplan.data.info import DatasetInfo
from diffplan.errors import DiffplanError

Measure = Literal["return", "success", "tasks"]


@dataclass(frozen=True)
class Reference:
    """One row of the table.

    minimum, maximum: what scores 0 and 100. source: where the two numbers are from.
    measure: what of an episode is scored: its undiscounted "return"; its "success", 1 if the
    return says that the goal was reached at all; or the "tasks" completed, which is the return.
    """

    minimum: float
    maximum: float
    source: str
    measure: Measure = "return"

    def scores(self, returns: np.ndarray) -> np.ndarray:
        """100 (m - minimum) / (maximum - minimum) of the measure m of episodes with `returns`."""
        measured = np.asarray(returns, np.float64)
        if self.measure == "success":
            # D4RL's episode ends at the goal; one that goes on would count every step there.
            measured = (measured > 0.0).astype(np.float64)
        return 100.0 * (measured - self.minimum) / (self.maximum - self.minimum)


_TABLE = "d4rl/infos.py"
_POLICIES = f"{_TABLE}: random actions and a trained SAC policy"
_CONTROLLER = f"{_TABLE}: random actions and a waypoint controller that plans once"
_OPEN = f"{_TABLE}, of maze2d's first version: not comparable with the other mazes'"
_DEMONSTRATORS = f"{_TABLE}: random actions and the policies that demonstrate"
_GOALS = f"{_TABLE}: goals reached"

REFERENCE_SCORES: dict[str, Reference] = {
    "hopper": Reference(-20.272305, 3234.3, _POLICIES),
    "halfcheetah": Reference(-280.178953, 12135.0, _POLICIES),
    "walker2d": Reference(1.629008, 4592.3, _POLICIES),
    "ant": Reference(-325.6, 3879.7, _POLICIES),
    "maze2d-open": Reference(0.01, 20.66, _OPEN),
    "maze2d-umaze": Reference(23.85, 161.86, _CONTROLLER),
    "maze2d-medium": Reference(13.13, 277.39, _CONTROLLER),
    "maze2d-large": Reference(6.7, 273.99, _CONTROLLER),
    "maze2d-open-dense": Reference(11.17817, 27.166538620695782, _OPEN),
    "maze2d-umaze-dense": Reference(68.537689, 193.66285642381482, _CONTROLLER),
    "maze2d-medium-dense": Reference(44.264742, 297.4552547777125, _CONTROLLER),
    "maze2d-large-dense": Reference(30.569041, 303.4857382709002, _CONTROLLER),
    "antmaze": Reference(0.0, 1.0, _GOALS, "success"),
    "kitchen": Reference(0.0, 4.0, f"{_TABLE}: tasks completed", "tasks"),
    "pen": Reference(96.262799, 3076.8331017826877, _DEMONSTRATORS),
    "hammer": Reference(-274.856578, 12794.134825156867, _DEMONSTRATORS),
    "door": Reference(-56.512833, 2880.5693087298737, _DEMONSTRATORS),
    "relocate": Reference(-6.425911, 4233.877797728884, _DEMONSTRATORS),
}

_ENVIRONMENTS = {
    "Hopper": "hopper",
    "HalfCheetah": "halfcheetah",
    "Walker2d": "walker2d",
    "Ant": "ant",
    "AdroitHandPen": "pen",
    "AdroitHandHammer": "hammer",
    "AdroitHandDoor": "door",
    "AdroitHandRelocate": "relocate",
    "FrankaKitchen": "kitchen",
}


def reference_key(info: DatasetInfo) -> str | None:
    """The row of REFERENCE_SCORES for a dataset, None where D4RL has none.

    By the evaluation environment, or without one by the name of a D4RL file. None for PointMaze,
    whose rewards and time limits are not maze2d's, and for gymnasium-robotics' AntMaze, whose ant
    and success radius are not D4RL's; "diffplan/..." environments have D4RL's names and rows.
    """
    if info.env_id is not None:
        # all versions of an environment share a row
        name = re.sub(r"-v\d+$", "", info.env_id.rpartition(":")[2])
        if name.startswith("diffplan/"):
            return _key_of_name(name.removeprefix("diffplan/"))
        return _ENVIRONMENTS.get(name.split("/")[-1])
    if info.source != "d4rl":
        return None
    return _key_of_name(str(info.details.get("d4rl_name") or re.split(r"[/\\]", info.id)[-1]))


def normalised_score(key: str | None, returns: np.ndarray) -> np.ndarray | None:
    """Scores of episodes with `returns` of any shape; None without a reference.

    key: a key of REFERENCE_SCORES or None. Raises DiffplanError for any other key.
    """
    if key is None:
        return None
    if key not in REFERENCE_SCORES:
        raise DiffplanError(
            f"no reference score '{key}'; there are {', '.join(sorted(REFERENCE_SCORES))}"
        )
    return REFERENCE_SCORES[key].scores(returns)


def _key_of_name(name: str) -> str | None:
    """By the name of a dataset or file of D4RL, in any of its spellings."""
    name = name.lower().replace("_", "-").removeprefix("mini-").replace("ant-maze", "antmaze")
    maze = re.match(r"maze2d-(open|umaze|medium|large)(?![^-.])(.*)", name)
    if maze:
        return f"maze2d-{maze[1]}" + ("-dense" if "dense" in maze[2] else "")
    first = re.split(r"[-.]", name)[0]
    return first if first in REFERENCE_SCORES else None
