"""A whole configuration: what a planner is, as data.

A configuration is saved as JSON beside the weights and read back strictly: an unknown key is an
error. The named ones are in `diffplan.config.planners`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from diffplan.config.checks import check
from diffplan.config.sections import PlanningConfig, Sections
from diffplan.errors import DiffplanError

_T = TypeVar("_T")
_CANDIDATES = 16  # plans per decision where there is a goal
_REACH = 1.0  # spans of a plan, which ends about where it aims


@dataclass(frozen=True)
class Config(Sections):
    """A planner: data, networks, training and planning."""

    def __post_init__(self) -> None:
        check(self)


_ADAPTER = TypeAdapter(Config)
_PLANNING = TypeAdapter(PlanningConfig)


def config_to_dict(config: Config) -> dict[str, Any]:
    """The configuration as JSON-able nested dictionaries."""
    result: dict[str, Any] = _ADAPTER.dump_python(config, mode="json")
    return result


def config_from_dict(data: Mapping[str, Any], where: str = "config") -> Config:
    """Read a configuration strictly. DiffplanError names the first unknown key or wrong value."""
    return _read(_ADAPTER, data, where)


def _read(adapter: TypeAdapter[_T], data: Mapping[str, Any], where: str) -> _T:
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        # one clear line: who mends this one hears of the next
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(top level)"
        # pydantic's own words for these do not say what to do
        if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            raise DiffplanError(
                f"{where} has the unknown key {key!r}; remove it or check its spelling"
            ) from None
        raise DiffplanError(
            f"{where}: {key} is {first['input']!r}, expected: {first['msg']}"
        ) from None


def settled(config: Config, has_goal: bool, tasks: int = 0) -> Config:
    """A copy with what None stands for in `planning`, where there is a goal or none.

    That is the number of candidates, and how far ahead plans aim. tasks: how many the data have, 0
    where it is not said.
    """
    changes, planning = dict[str, Any](), config.planning
    if planning.candidates is None:
        ranks = has_goal and not config.tells_returns
        changes["candidates"] = _CANDIDATES if ranks else 1
    if planning.subgoal_steps is None:
        # of several tasks each has a graph of its own, and which to take is not known
        stitched = has_goal and tasks <= 1 and config.data.relabel == "stitched"
        span = config.plan.horizon * config.plan.stride
        changes["subgoal_steps"] = round(_REACH * span) if stitched else 0
    return replace_planning(config, **changes) if changes else config


def replace_planning(config: Config, **changes: Any) -> Config:
    """A copy with other planning settings.

    A quantile or a target by step is asked for in place of the configuration's target_return.
    """
    known = {f.name for f in dataclasses.fields(PlanningConfig)}
    if unknown := sorted(set(changes) - known):
        raise DiffplanError(f"unknown planning setting {unknown[0]!r}; known: {sorted(known)}")
    # asking for a quantile of the data means not asking for the number set in training
    if "target_quantile" in changes or changes.get("target") == "by-step":
        changes = {"target_return": None} | changes
    # read as a file is: dataclasses alone would take a word for a number
    planning = _read(_PLANNING, dataclasses.asdict(config.planning) | changes, "planning settings")
    return dataclasses.replace(config, planning=planning)
