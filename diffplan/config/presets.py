"""Settings by dataset: the published ones per D4RL dataset, and ours per kind of data.

A preset changes the defaults of a named configuration; whatever is set by hand wins over it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from diffplan.config.config import Config
from diffplan.config.planners import get_config

SOURCE = "RenMing-Huang/TrajectoryDiffuser main.py @6bd98fa"

# --- Ours, for data without a goal: this block is all there is to edit ---------------------------

REWARD_SETTINGS: dict[str, Any] = {
    "plan.horizon": 8,
    "plan.stride": 2,
    "data.discount": 0.999,
    "data.best_of_windows": 16,
    "heads.train_on_proposals": True,
    "heads.expectile": 0.7,
    "heads.value_ensemble": 4,
    "planning.replan_every": 8,
}
"""For every configuration of ours. "section.key" -> value."""

REWARD_REFINING: dict[str, Any] = {
    "planning.start": "sdedit",
    "planning.denoising_steps": 5,
    "planning.start_level": 6,
    "planning.temperature": 0.0,
    "planning.candidates": 4,
}
"""Beside them for trajectory-diffuser, which refines proposals."""

REWARD_PROCESSES: dict[str, Any] = {
    "planning.denoising_steps": 5,
    "planning.temperature": 0.0,
    "planning.candidates": 4,
}
"""Beside REWARD_SETTINGS for ours with other forward processes, from their own starts."""

# which of `CONFIGS` are ours, by what they need beside REWARD_SETTINGS
_PROCESSES = ("resfusion", "interpolant", "rectified-flow", "diffuse-vae", "conditioned")
_MULTI_TASK = ("multi-task", "streams")
_OURS = ("trajectory-diffuser", "proposer-only", "from-noise", *_PROCESSES, *_MULTI_TASK)

REWARD_BY_TASK: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "*hopper*": (
        {},
        {
            "planning.start": "raw",
            "planning.denoising_steps": 5,
            "planning.start_level": 5,
            "planning.candidates": 1,
        },
    ),
    "*halfcheetah*": (
        {"plan.stride": 1, "planning.replan_every": 1, "planning.target_quantile": 0.6},
        {
            "planning.start": "process",
            "planning.denoising_steps": 3,
            "planning.start_level": None,
            "planning.candidates": 1,
        },
    ),
    "*metaworld*": (
        {"data.condition_on_returns": False, "data.best_of_windows": 1},
        {
            "planning.start": "process",
            "planning.denoising_steps": 3,
            "planning.start_level": None,
            "planning.candidates": 1,
        },
    ),
}
"""Pattern of a dataset's name -> what differs there, in both of the above."""

REWARD_SOURCE = 'ours; reasons in docs/method.md, "Settings per dataset"'
REWARD_REASON = (
    'Why, measured (docs/archive.md, "What was tried on the way"). Hopper: short plans that are '
    "soon made anew beat longer and coarser ones (horizon 16: 2181, stride 4: 1218, others about "
    "2700). A discount of 0.99 does not see the fall that a fast gait ends in (1850; with 0.999 "
    "and the value's choice 2700). Noise at a middle level makes distinct, plausible candidates "
    "out of one mean proposal, and the value chooses among them; four networks averaged over a "
    "plan's states rank better than one on its last state (2650 to 2960). Drawing windows and "
    "actions of good returns gave the largest step (2415 and 2757 to 2977 and 3349, by training "
    "seed). With inverse dynamics that have seen proposals a few candidates near the proposal do "
    "as well as many far from it (3034 and 3375 against 2640 and 3318). Hopper itself starts "
    'from one raw proposal, as published but at more noise ("Forward processes"; by training '
    "seed 3495 and 3524 against 3336 and 3408 for four noised ones, on the mixture 3598 and 3600 "
    "against 3311 and 3506): its name in the data's decides. HalfCheetah: its gait "
    "changes at every step, so a stride of two is too coarse, a plan that is kept goes out of "
    "step (kept one, two, four steps: 10431, 4207, 1444), and the value's choice hurts. On the "
    "mixture a high target asks for what few episodes show: with quantiles 0.9, 0.75 and 0.6 the "
    "proposal alone returns 10555, 10435, 11454, and refined from its own residual noise 11543. "
    "Meta-World: its episodes end soon after success, so that the highest returns are those of "
    "whoever stands close by and does not succeed: asked for them MT10 succeeds in 20 % of its "
    "episodes after 5000 updates (10 x 4), imitated without returns in 88 %."
)

# --- Other papers' planners --------------------------------------------------------------------

_MAZE_DIFFUSER: dict[str, Any] = {
    "plan.horizon": 32,
    "plan.stride": 8,
    "plan.pin_goal": True,
    "planning.value_guidance": 0.0,  # what is held at both ends needs no reward to climb
    "planning.candidates": 1,
    "planning.replan_every": 64,
}
_MAZE_VETERAN: dict[str, Any] = {"plan.horizon": 31, "plan.stride": 15}
_MAZE_TRANSFORMER: dict[str, Any] = {"data.discount": 0.99, "planning.target": "fixed"}

BASELINES: dict[tuple[str, str], tuple[dict[str, Any], str]] = {
    ("diffuser", "goal"): (
        _MAZE_DIFFUSER,
        "Janner et al. 2022, arXiv 2205.09991: inpainting between start and goal over 256 steps, "
        "here in jumps of 8",
    ),
    ("diffuser", "hopper-medium-expert*"): (
        {"planning.value_guidance": 2e-4, "planning.value_guidance_until": 5},
        "jannerm/diffuser config/locomotion.py @1d6414a",
    ),
    ("diffuser", "*halfcheetah*"): (
        {
            "plan.horizon": 3,
            "planning.value_guidance": 2e-3,
            "planning.value_guidance_until": 5,
        },
        "jannerm/diffuser config/locomotion.py @1d6414a",
    ),
    ("diffusion-veteran", "goal"): (
        _MAZE_VETERAN,
        "Lu et al. 2025, arXiv 2503.00535: 32 states in jumps of 15",
    ),
    ("decision-transformer", "goal"): (
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


def _rewards(config_name: str, task: str | None = None) -> Preset:
    """Ours; task: a pattern of REWARD_BY_TASK."""
    refines = config_name in ("trajectory-diffuser", "multi-task")
    settings = REWARD_SETTINGS | (REWARD_REFINING if refines else {})
    if config_name == "streams":  # proposals hold no actions
        settings = settings | {"heads.train_on_proposals": False}
    if config_name in _PROCESSES:
        settings = settings | REWARD_PROCESSES
    if task is None:
        return Preset("data without a goal", settings, REWARD_SOURCE)
    shared, refining = REWARD_BY_TASK[task]
    settings = settings | shared | (refining if refines else {})
    return Preset(task.strip("*"), settings, REWARD_SOURCE)


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
        if has_goal or config_name not in _OURS:
            return None
        tasks = (task for task in REWARD_BY_TASK if _matches(dataset.lower(), (task,)))
        return _rewards(config_name, next(tasks, None))
    # case counts here: these are the names of D4RL
    for row in RELEASED:
        if _matches(dataset, row.datasets):
            return _published(row, has_goal)
    return None


def presets_of(config_name: str) -> list[Preset]:
    """Every preset that a named configuration can get, one for each kind of data."""
    if config_name in _OURS:
        return [_rewards(config_name, task) for task in (None, *REWARD_BY_TASK)]
    if config_name != "trajectory-diffuser-published":
        return [
            Preset(data, settings, source)
            for (name, data), (settings, source) in BASELINES.items()
            if name == config_name
        ]
    return [_published(row, has_goal) for row in RELEASED for has_goal in (False, True)]


def why_none(config_name: str, dataset: str) -> str:
    """Why `preset_for` found none, in a line."""
    if config_name in _OURS:
        return "the defaults are made for goal-reaching data"
    if config_name != "trajectory-diffuser-published":
        return "its defaults are those of its paper"
    for pattern, reason in NOT_RELEASED.items():
        if _matches(dataset, (pattern,)):
            return reason
    return "nothing is published for these data"


def apply(config: Config, preset: Preset | None) -> Config:
    """A copy with the preset's settings. DiffplanError if they do not fit the rest of `config`."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in (preset.settings if preset else {}).items():
        section, _, option = key.partition(".")
        sections.setdefault(section, {})[option] = value
    # all at once: a configuration is checked when it is made
    parts = {
        section: dataclasses.replace(getattr(config, section), **options)
        for section, options in sections.items()
    }
    return dataclasses.replace(config, **parts)


def config_for(config_name: str, dataset: str, has_goal: bool) -> Config:
    """The named configuration with the preset of a dataset; see `preset_for`."""
    return apply(get_config(config_name), preset_for(config_name, dataset, has_goal))


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
