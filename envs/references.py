"""D4RL's reference scores: 0 is a random policy, 100 an expert."""

from __future__ import annotations

import re

import numpy as np

from diffplan.data.episodes import DatasetInfo
from diffplan.errors import DiffplanError

# Undiscounted returns (minimum, maximum) from d4rl/infos.py. The maxima of maze2d come from a
# controller that never replans, so scores above 100 are normal there.
REFERENCE_SCORES: dict[str, tuple[float, float]] = {
    "hopper": (-20.272305, 3234.3),
    "halfcheetah": (-280.178953, 12135.0),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
    "maze2d-open": (0.01, 20.66),
    "maze2d-umaze": (23.85, 161.86),
    "maze2d-medium": (13.13, 277.39),
    "maze2d-large": (6.7, 273.99),
    "maze2d-open-dense": (11.17817, 27.166538620695782),
    "maze2d-umaze-dense": (68.537689, 193.66285642381482),
    "maze2d-medium-dense": (44.264742, 297.4552547777125),
    "maze2d-large-dense": (30.569041, 303.4857382709002),
    "antmaze": (0.0, 1.0),
    "kitchen": (0.0, 4.0),
    "pen": (96.262799, 3076.8331017826877),
    "hammer": (-274.856578, 12794.134825156867),
    "door": (-56.512833, 2880.5693087298737),
    "relocate": (-6.425911, 4233.877797728884),
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
    whose rewards and time limits are not maze2d's, and for today's AntMaze, whose return counts
    every step at the goal where D4RL counts reaching it.
    """
    if info.env_id is not None:
        return _ENVIRONMENTS.get(re.sub(r"-v\d+$", "", info.env_id.split("/")[-1]))
    if info.source != "d4rl":
        return None
    name = re.split(r"[/\\]", info.id)[-1].lower().replace("_", "-").removeprefix("mini-")
    maze = re.match(r"maze2d-(open|umaze|medium|large)(?=[-.])(.*)", name)
    if maze:
        return f"maze2d-{maze[1]}" + ("-dense" if "dense" in maze[2] else "")
    name = name.replace("ant-maze", "antmaze")
    first = re.split(r"[-.]", name)[0]
    return first if first in REFERENCE_SCORES else None


def normalised_score(key: str | None, returns: np.ndarray) -> np.ndarray | None:
    """100 (R - min) / (max - min) for returns R of any shape; None without a reference.

    key: a key of REFERENCE_SCORES or None. Raises DiffplanError for any other key.
    """
    if key is None:
        return None
    if key not in REFERENCE_SCORES:
        raise DiffplanError(
            f"no reference score '{key}'; there are {', '.join(sorted(REFERENCE_SCORES))}"
        )
    low, high = REFERENCE_SCORES[key]
    return 100.0 * (np.asarray(returns, np.float64) - low) / (high - low)
