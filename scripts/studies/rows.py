"""What `diffplan study` sets beside each other: groups of rows, and the data of the main table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from diffplan.config.planners import get_config
from diffplan.scripts.yardsticks.settings import Settings

OURS = "trajectory-diffuser"

MAIN = (
    *("hopper-medium", "hopper-medium-replay", "hopper-medium-expert"),
    *("walker2d-medium", "walker2d-medium-expert"),
    *("halfcheetah-medium-replay", "halfcheetah-medium-expert"),
    *("pointmaze-medium", "pointmaze-large"),
)
"""Data of the main table; `diffplan datasets make` makes each."""


@dataclass(frozen=True)
class Row:
    """One learner, or one way of planning.

    method: a model-free one; None: the configuration `config`. seeds: most training seeds. goals:
    whether it is for data with goals, too. updates: share of the model-free updates.
    training: "section.key" -> value that differs from the configuration and its preset. planning:
    settings of `PlanningConfig` that differ; reward_planning: for data without a goal as well.
    goal_strides, reward_strides: replanning intervals that are tried, in steps of the plan; none:
    the configuration's own, and nothing is chosen. tuned: episodes in which `diffplan tune`
    chooses how the run plans, before it is scored; 0: it plans as trained.
    """

    method: Settings | None = None
    config: str = OURS
    seeds: int | None = None
    goals: bool = True
    updates: float = 1.0
    training: dict[str, Any] = field(default_factory=dict)
    planning: dict[str, Any] = field(default_factory=dict)
    reward_planning: dict[str, Any] = field(default_factory=dict)
    goal_strides: tuple[int, ...] = ()
    reward_strides: tuple[int, ...] = ()
    tuned: int = 0

    @property
    def identity(self) -> dict[str, Any]:
        """What tells the row from another: what stands as it is by default says nothing."""
        usual = asdict(Row())
        always = ("method", "config", "seeds", "goals", "updates")
        return {k: v for k, v in asdict(self).items() if k in always or v != usual[k]}

    @property
    def trained(self) -> str:
        """Folder of its runs: rows that plan differently with one network share them."""
        if not self.training:
            return "ours" if self.config == OURS else self.config
        return ",".join([self.config, *(f"{key}={value}" for key, value in self.training.items())])

    def strides(self, goal: bool) -> tuple[int, ...]:
        """The intervals that are tried on data with or without a goal."""
        return self.goal_strides if goal else self.reward_strides

    def planned(self, goal: bool) -> dict[str, Any]:
        """Planning settings in place of the configuration's."""
        return self.planning if goal else self.planning | self.reward_planning

    def on(self, name: str) -> Row:
        """The row for data of this name, with what the method's paper has for such data."""
        published = {} if self.method is None else _PUBLISHED.get(self.method.method, {})
        found = [key for key in published if name.startswith(key)]
        if self.method is None or not found:
            return self
        return replace(self, method=replace(self.method, **published[max(found, key=len)]))


# method -> how names of data begin -> settings; mazes have those of AntMaze and of maze2d
_PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "rebrac": {
        "hopper-medium": {"penalties": (0.01, 0.01)},
        "hopper-medium-replay": {"penalties": (0.05, 0.5)},
        "hopper-medium-expert": {"penalties": (0.1, 0.01)},
        "walker2d-medium": {"penalties": (0.05, 0.1)},
        "walker2d-medium-replay": {"penalties": (0.05, 0.01)},
        "walker2d-medium-expert": {"penalties": (0.01, 0.01)},
        "halfcheetah-medium": {"penalties": (0.001, 0.01)},
        "halfcheetah-medium-replay": {"penalties": (0.01, 0.001)},
        "halfcheetah-medium-expert": {"penalties": (0.01, 0.1)},
        "pointmaze": {"penalties": (0.003, 0.001)},
    },
    "iql": {"pointmaze": {"expectile": 0.9, "temperature": 10.0}},
}

_TD3BC = Settings("td3bc")
_IQL = Settings("iql", normalise=False, spread=1000.0)
# cloning is done long before values are
_CLONING = 0.5


def _far(settings: Settings) -> Row:
    """At the discount that ours has for data without a goal."""
    return Row(replace(settings, discount=0.999), seeds=3, goals=False)


LEARNERS: dict[str, Row] = {
    "ours": Row(),
    "cloning": Row(Settings("cloning"), updates=_CLONING),
    # every episode of goal data ends at its goal: returns tell none from another
    "10 % cloning": Row(Settings("cloning", best=0.1), goals=False, updates=_CLONING),
    "TD3+BC": Row(_TD3BC, seeds=3),
    "IQL": Row(_IQL, seeds=3),
    # batches of 256 at 3e-4, as its authors have in mazes: of 1024 at 1e-3 a core needs an hour
    "ReBRAC": Row(Settings("rebrac", normalise=False), seeds=3),
    "TD3+BC, 0.999": _far(_TD3BC),
    "IQL, 0.999": _far(_IQL),
}

_VALUED = {"heads.value": "returns"}


def _planner(config: str = OURS, training: dict[str, Any] | None = None, **changes: Any) -> Row:
    """A row that chooses its interval, and has a value: rows of one run differ in candidates."""
    valued = {} if get_config(config).tells_returns else _VALUED
    strides = {"goal_strides": (2, 4, 8, 16), "reward_strides": (1, 2, 4, 8)}
    return Row(config=config, training=valued | (training or {}), **strides | changes)


_ALONE = {"start": "none", "denoising_steps": 0}

# planners as their papers have them, with the intervals that they tried
PLANNERS: dict[str, Row] = {
    "ours": _planner(OURS),
    "ours, proposal alone": _planner(OURS, planning=_ALONE),
    "ours, from noise": _planner("from-noise"),
    "transformer proposer": _planner(
        "transformer-proposer", goal_strides=(1, 2, 4, 8), reward_strides=(1, 2, 4)
    ),
    # 31 states in place of 99: better with this network (hopper-medium, one run: 1190 against 950)
    "Decision Diffuser": _planner(
        "decision-diffuser",
        {"plan.horizon": 31},
        goal_strides=(4, 8, 16, 31),
        reward_strides=(1, 4, 16),
    ),
    # a quarter of the published candidates: 64 take half an hour to score at every step
    "Diffuser": _planner(
        "diffuser",
        goal_strides=(1, 4, 16, 32),
        reward_strides=(1, 4, 8),
        reward_planning={"candidates": 16},
    ),
    "Diffusion Veteran": _planner(
        "diffusion-veteran", goal_strides=(1, 2, 4, 8), reward_strides=(1, 2, 4)
    ),
}

_WINDOWS = {"data.best_of_windows": 16}

# theirs with windows drawn as ours are: what that alone brings them
WINDOWS: dict[str, Row] = {
    f"{name}, our windows": replace(row, goals=False, training=row.training | _WINDOWS)
    for name, row in PLANNERS.items()
    if row.config not in (OURS, "from-noise")
}

# one candidate and five denoising steps throughout, so that nothing but the process differs
_ONE = {"candidates": 1, "denoising_steps": 5}
_OWN = {"start": "process", "start_level": None, **_ONE}

PROCESSES: dict[str, Row] = {
    "proposal alone": _planner(OURS, planning={**_ALONE, "candidates": 1}),
    "RDDM": _planner(OURS, planning=_OWN),
    "Resfusion": _planner("resfusion", planning=_OWN),
    "interpolant, ODE": _planner("interpolant", planning=_OWN),
    "interpolant, SDE": _planner("interpolant", planning={**_OWN, "eta": 1.0}),
    "rectified flow": _planner("rectified-flow", planning=_OWN),
    "DiffuseVAE": _planner("diffuse-vae", planning=_OWN),
    "proposal as a condition": _planner("conditioned", planning=_OWN),
    "SDEdit, level by residual": _planner(
        OURS, planning={**_ONE, "start": "sdedit", "start_level": None}
    ),
    "raw proposal at level 5": _planner(OURS, planning={**_ONE, "start": "raw", "start_level": 5}),
    "noise, 5 steps": _planner(OURS, planning={**_ONE, "start": "noise", "start_level": None}),
}

_RDDM = {"start": "process", "start_level": None}
# without a goal the value has something to choose only among noised proposals
_CHOOSING = {"start": "sdedit", "start_level": 6, "candidates": 4}


def _without(training: dict[str, Any] | None = None, planning: dict[str, Any] | None = None) -> Row:
    """Ours with something changed in training or planning."""
    planning = planning or {}
    return _planner(training=training, planning=planning, reward_planning=_CHOOSING | planning)


ABLATIONS: dict[str, Row] = {
    "base": _without(),
    "teacher-forced proposals": _without({"proposer.training": "teacher-forced"}),
    "K = 1": _without(planning={"candidates": 1}),
    "K = 4": _without(planning={"candidates": 4}),
    "K = 16": _without(planning={"candidates": 16}),
    "K = 16, softmax over values": _without(planning={"candidates": 16, "select": "softmax"}),
    "value by expectile 0.5, the mean": _without({"heads.expectile": 0.5}),
    "value by expectile 0.9": _without({"heads.expectile": 0.9}),
    "value bootstrapped, expectile 0.7": _without(
        {"heads.value": "bootstrapped", "heads.expectile": 0.7}
    ),
    "value bootstrapped, expectile 0.9": _without(
        {"heads.value": "bootstrapped", "heads.expectile": 0.9}
    ),
    "RDDM": _without(planning={**_RDDM, **_ONE}),
    "RDDM, v instead of x0": _without({"denoiser.prediction": "v"}, {**_RDDM, **_ONE}),
    "RDDM, proposal not an input": _without(
        {
            "denoiser.condition_on_proposal": False,
            "planning.start": "process",
            "planning.start_level": None,
        },
        {**_RDDM, **_ONE},
    ),
    "noise, x0": _planner("from-noise"),
    "noise, eps instead of x0": _planner("from-noise", {"denoiser.prediction": "eps"}),
}

# who tells actions and values: networks of their own, heads, streams; by their defaults
HEADS: dict[str, Row] = {
    "separate networks": Row(),
    "heads": Row(config="multi-task"),
    "heads, aggregation 0.5": Row(config="multi-task", training={"heads.aggregation": 0.5}),
    "streams": Row(config="streams"),
}

# as the data decide it, and as episodes choose it
TUNED: dict[str, Row] = {"ours": Row(), "ours, tuned": Row(tuned=400)}

_EVERY = (1, 2, 4, 8, 16)


def _way(start: str, steps: int, **changes: Any) -> Row:
    """One candidate unless said."""
    planning = {"candidates": 1, "start": start, "denoising_steps": steps, **changes}
    return _planner(planning=planning, goal_strides=_EVERY, reward_strides=_EVERY)


# one network, planned with in every way; "goes on" refines three steps at first and then proposes
# only what is missing of the plan before, refined one step
WAYS: dict[str, Row] = {
    "proposer only": _way("none", 0),
    "refined, 1 step": _way("process", 1),
    "refined, 3 steps": _way("process", 3),
    "refined, 5 steps": _way("process", 5),
    "refined, 3 steps, K = 16": _way("process", 3, candidates=16),
    "proposer only, K = 16": _way("none", 0, candidates=16),
    "from noise, 10 steps": _way("noise", 10),
    "from noise, 20 steps": _way("noise", 20),
    "from noise, 10 steps, K = 16": _way("noise", 10, candidates=16),
    "SDEdit start, 3 steps": _way("sdedit", 3),
    "raw start, 5 steps": _way("raw", 5),
    "goes on, 1 step": _way("process", 3, reuse=True),
}

GROUPS: dict[str, dict[str, Row]] = {
    "main": LEARNERS,
    "ours": {"ours": Row()},
    "tuned": TUNED,
    "planners": PLANNERS,
    "windows": WINDOWS,
    "processes": PROCESSES,
    "ablations": ABLATIONS,
    "heads": HEADS,
    "ways": WAYS,
}


def data_name(data: str) -> str:
    """Of a dataset's folder in a study."""
    path = Path(data)
    return path.stem if path.exists() else data.replace("/", "-")
