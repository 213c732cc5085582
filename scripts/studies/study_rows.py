"""What `diffplan study` sets beside each other, and on which data unless told otherwise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffplan.scripts.yardsticks.settings import Settings

MAIN = (
    *("hopper-medium", "hopper-medium-replay", "hopper-medium-expert"),
    *("walker2d-medium", "walker2d-medium-expert"),
    *("halfcheetah-medium-replay", "halfcheetah-medium-expert"),
    *("pointmaze-medium", "pointmaze-large"),
)
"""Data of the main table; `diffplan datasets make` makes each."""


@dataclass(frozen=True)
class StudyRow:
    """One learner.

    method: a model-free one; None: the configuration `config` by its defaults, planned with by
    its defaults. seeds: most training seeds. goals: whether it is for data with goals, too.
    updates: share of the model-free updates.
    """

    method: Settings | None
    config: str = "trajectory-diffuser"
    seeds: int | None = None
    goals: bool = True
    updates: float = 1.0

    def on(self, name: str) -> StudyRow:
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


def _far(settings: Settings) -> StudyRow:
    """At the discount that ours has for data without a goal."""
    return StudyRow(replace(settings, discount=0.999), seeds=3, goals=False)


ROWS: dict[str, StudyRow] = {
    "ours": StudyRow(None),
    "cloning": StudyRow(Settings("cloning"), updates=_CLONING),
    # every episode of goal data ends at its goal: returns tell none from another
    "10 % cloning": StudyRow(Settings("cloning", best=0.1), goals=False, updates=_CLONING),
    "TD3+BC": StudyRow(_TD3BC, seeds=3),
    "IQL": StudyRow(_IQL, seeds=3),
    # batches of 256 at 3e-4, as its authors have in mazes: a core cannot afford their 1024 at 1e-3
    "ReBRAC": StudyRow(Settings("rebrac", normalise=False), seeds=3),
    "TD3+BC, 0.999": _far(_TD3BC),
    "IQL, 0.999": _far(_IQL),
}


def data_name(data: str) -> str:
    """Of a dataset's folder in a study or survey."""
    path = Path(data)
    return path.stem if path.exists() else data.replace("/", "-")
