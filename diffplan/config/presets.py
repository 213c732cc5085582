"""Settings by dataset of other papers' planners, as published.

A preset changes the defaults of a named configuration; whatever is set by hand wins over it. Ours
have none: what differs between tasks is measured on the data, see `diffplan.training.defaults`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from diffplan.config.config import Config, with_settings
from diffplan.config.planners import get_config

SOURCE = "RenMing-Huang/TrajectoryDiffuser main.py @6bd98fa"

# --- Other papers' planners --------------------------------------------------------------------

_MAZE_DIFFUSER: dict[str, Any] = {
    "plan.horizon": 32,
    "plan.stride": 8,
    "plan.pin_goal": True,
    "planning.value_guidance": 0.0,  # what is held at both ends needs no reward to climb
    "planning.candidates": 1,
    "planning.replan_every": 256,  # one plan
    "heads.kind": "separate",  # waypoints are followed, by inverse dynamics
}
_MAZE_VETERAN: dict[str, Any] = {"plan.horizon": 31, "plan.stride": 15}
_MAZE_TRANSFORMER: dict[str, Any] = {"data.discount": 0.99, "planning.target": "fixed"}

BASELINES: dict[tuple[str, str], tuple[dict[str, Any], str]] = {
    ("diffuser", "goal"): (
        _MAZE_DIFFUSER,
        "Janner et al. 2022, arXiv 2205.09991: inpainting between start and goal over 256 steps, "
        "here in jumps of 8; planned once, waypoints followed (scripts/plan_maze2d.py)",
    ),
    ("diffuser", "hopper-medium-expert*"): (
        {"planning.value_guidance": 2e-4, "planning.value_guidance_until": 5},
        "jannerm/diffuser config/locomotion.py @7ea4228",
    ),
    ("diffuser", "*halfcheetah*"): (
        {
            "plan.horizon": 3,
            "planning.value_guidance": 2e-3,
            "planning.value_guidance_until": 5,
        },
        "jannerm/diffuser config/locomotion.py @7ea4228",
    ),
    ("diffusion-veteran", "goal"): (
        _MAZE_VETERAN,
        "Lu et al. 2025, arXiv 2503.00535: 32 states in jumps of 15",
    ),
    ("transformer-proposer", "goal"): (
        _MAZE_TRANSFORMER,
        "returns-to-go of a goal that is kept do not run out",
    ),
}
"""(configuration, "goal" or a pattern of a dataset without a goal) -> settings, their source."""

# --- As published --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Released:
    """A row of the released code for the datasets that match one of `datasets` (glob patterns).

    horizon: states of a plan with the current one, as published; `plan.horizon` is one less.
    steps: reverse steps of planning. target_return: undiscounted, in the rewards of the data; None
    where the code has the task, but not this dataset, so that the target is read off the data.
    note: where the released files disagree.
    """

    datasets: tuple[str, ...]
    horizon: int
    guidance_weight: float
    target_return: float | None
    learning_rate: float
    steps: int = 5
    note: str = ""

    @property
    def label(self) -> str:
        """The datasets in one line, without versions."""
        return ", ".join(pattern.removesuffix("-v*") for pattern in self.datasets)

    def settings(self, has_goal: bool) -> dict[str, Any]:
        """Overrides of trajectory-diffuser-published.

        With a goal the return-to-go counts steps to it, so that no published target applies.
        """
        found: dict[str, Any] = {
            "plan.horizon": self.horizon - 1,
            "planning.denoising_steps": self.steps,
            "planning.guidance_weight": self.guidance_weight,
            "training.learning_rate": self.learning_rate,
        }
        if not has_goal:
            found["planning.target"] = "decremented"
            found["planning.target_return"] = self.target_return
        return found


def _names(task: str, *kinds: str) -> tuple[str, ...]:
    return tuple(f"{task}-{kind}-v*" for kind in kinds)


_GYM = ("medium", "medium-replay")
_HAND = ("human", "cloned", "expert")
_OTHER = ("random", "expert", "full-replay")
# where the released table has the task, but not these data of it
_NO_ROW = "no row of its own; the rest as in the rows of this task"

RELEASED: tuple[Released, ...] = (
    Released(_names("halfcheetah", *_GYM), 8, 1.1, 5300.0, 2e-4),
    Released(_names("halfcheetah", "medium-expert"), 8, 1.1, 12000.0, 2e-4),
    Released(_names("halfcheetah", *_OTHER), 8, 1.1, None, 2e-4, note=_NO_ROW),
    Released(_names("hopper", *_GYM), 16, 1.2, 3100.0, 2e-4),
    Released(_names("hopper", "medium-expert"), 16, 1.2, 3600.0, 2e-4, note="target 3700 @ff317ad"),
    Released(_names("hopper", *_OTHER), 16, 1.2, None, 2e-4, note=_NO_ROW),
    Released(
        _names("walker2d", *_GYM),
        *(32, 1.1, 4200.0, 2e-4),
        note="target 5100 for medium-replay in test.py",
    ),
    Released(
        _names("walker2d", "medium-expert"), 32, 1.1, 5100.0, 2e-4, note="target 4900 in test.py"
    ),
    Released(_names("walker2d", *_OTHER), 32, 1.1, None, 2e-4, note=_NO_ROW),
    Released(
        _names("pen", *_HAND),
        *(16, 1.3, 6000.0, 1e-4),
        note="2 steps in main.py, which trains; 5 in test.py",
    ),
    Released(_names("door", *_HAND), 32, 1.2, 1500.0, 1e-4),
    Released(_names("hammer", *_HAND), 32, 1.2, 17000.0, 1e-4),
    Released(_names("relocate", *_HAND), 32, 1.2, 4000.0, 1e-4),
    Released(_names("kitchen", "partial"), 32, 1.2, 500.0, 1e-4),
    Released(_names("kitchen", "mixed"), 32, 1.2, 400.0, 1e-4),
    Released(_names("kitchen", "complete"), 32, 1.2, None, 1e-4, note=_NO_ROW),
    Released(_names("maze2d", "umaze"), 32, 1.1, 200.0, 1e-4, note="target 300 in test.py"),
    Released(_names("maze2d", "medium"), 64, 1.1, 300.0, 1e-4, note="target 400 in test.py"),
    Released(_names("maze2d", "large"), 128, 1.1, 400.0, 1e-4),
    Released(_names("maze2d", "umaze-dense"), 32, 1.1, None, 1e-4, note=_NO_ROW),
    Released(_names("maze2d", "medium-dense"), 64, 1.1, None, 1e-4, note=_NO_ROW),
    Released(_names("maze2d", "large-dense"), 128, 1.1, None, 1e-4, note=_NO_ROW),
    Released(_names("antmaze", "umaze"), 16, 1.1, 1.0, 1e-4),
    Released(_names("antmaze", "umaze-diverse"), 16, 1.1, None, 1e-4, note=_NO_ROW),
    Released(_names("antmaze", "large-play", "large-diverse"), 32, 1.1, 1.0, 1e-4),
)

NOT_RELEASED: dict[str, str] = {
    "ant-*": "the released code has no ant",
    "maze2d-open*": "the released code has no open maze, and its horizon goes by the maze",
    "antmaze-medium-*": "the released code has no medium antmaze, and its horizon goes by the maze",
}
"""Pattern -> why trajectory-diffuser-published has no preset for these D4RL datasets."""

# --- Finding and applying ------------------------------------------------------------------------


@dataclass(frozen=True)
class Preset:
    """Other defaults for some data.

    data: which. settings: "section.key" -> value. source: where the values come from.
    """

    data: str
    settings: Mapping[str, Any]
    source: str

    def __str__(self) -> str:
        listed = ", ".join(f"{key}={_short(value)}" for key, value in self.settings.items())
        return f"preset for {self.data}: {listed}"


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _published(row: Released, has_goal: bool) -> Preset:
    note = f"; {row.note}" if row.note else ""
    return Preset(row.label, row.settings(has_goal), f"{SOURCE}{note}")


def preset_for(config_name: str, dataset: str, has_goal: bool) -> Preset | None:
    """The preset of a named configuration for a dataset; None: its own settings are meant.

    dataset: a D4RL name, "hopper-medium-v2"; any other name is one that nothing is published for.
    has_goal: whether the data hold goals (`layout.goal_dim > 0`).
    """
    for (name, data), (settings, source) in BASELINES.items():
        fits = has_goal if data == "goal" else not has_goal and _matches(dataset.lower(), (data,))
        if name == config_name and fits:
            return Preset("data with a goal" if data == "goal" else data, settings, source)
    if config_name != "trajectory-diffuser-published":
        return None
    # case counts here: these are the names of D4RL
    for row in RELEASED:
        if _matches(dataset, row.datasets):
            return _published(row, has_goal)
    return None


def presets_of(config_name: str) -> list[Preset]:
    """Every preset that a named configuration can get, one for each kind of data."""
    if config_name != "trajectory-diffuser-published":
        return [
            Preset(data, settings, source)
            for (name, data), (settings, source) in BASELINES.items()
            if name == config_name
        ]
    return [_published(row, has_goal) for row in RELEASED for has_goal in (False, True)]


def why_none(dataset: str) -> str:
    """Why `preset_for` found nothing published for a dataset, in a line."""
    for pattern, reason in NOT_RELEASED.items():
        if _matches(dataset, (pattern,)):
            return reason
    return "nothing is published for these data"


def config_for(config_name: str, dataset: str, has_goal: bool) -> Config:
    """The named configuration with the preset of a dataset; see `preset_for`."""
    preset = preset_for(config_name, dataset, has_goal)
    return with_settings(get_config(config_name), preset.settings if preset else {})


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
