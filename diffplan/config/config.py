"""A whole configuration: what a planner is, as data.

A configuration is saved as JSON beside the weights and read back strictly: an unknown key is an
error. The named ones are in `diffplan.config.planners`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from diffplan.config.checks import check
from diffplan.config.sections import PlanningConfig, Sections
from diffplan.errors import DiffplanError, nearest

_T = TypeVar("_T")
_REACH = 1.0  # spans of a plan, which ends about where it aims


@dataclass(frozen=True)
class Config(Sections):
    """A planner: data, networks, training and planning."""

    def __post_init__(self) -> None:
        check(self)  # what is None is checked when it is decided


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


# what None stands for where the data decide nothing else: with a goal, without one
BY_KIND: dict[str, tuple[Any, Any]] = {
    "plan.horizon": (16, 8),
    "plan.stride": (2, 2),
    "plan.columns": ("all", "all"),
    "heads.lookahead": (1, 1),
    "heads.gain": (1.0, 1.0),
    "data.discount": (0.99, 0.999),  # without a goal: a fast gait may fall only in 200 steps
    "data.relabel": ("stitched", "stitched"),
    "data.best_of_windows": (1, 16),
    "data.condition_on_returns": (False, True),
    "heads.train_on_proposals": (False, True),
    "heads.value_ensemble": (1, 4),
    "planning.start": ("process", "raw"),
    "planning.denoising_steps": (3, 5),
    "planning.temperature": (0.5, 0.0),
    "planning.target": ("fixed", "by-step"),
    "planning.detour_after": (0, 0),
}

OPEN = (*BY_KIND, "planning.replan_every", "planning.subgoal_steps")
"""Settings whose None waits for a value; of the others it is one."""


def by_kind(config: Config, has_goal: bool) -> Config:
    """A copy with what None stands for by the kind of the data alone: with a goal, or without."""
    kind = 0 if has_goal else 1
    chosen = {key: values[kind] for key, values in BY_KIND.items() if config.is_open(key)}
    if "planning.start" in chosen and not config.denoiser.learns_from_noise:
        chosen["planning.start"] = "process"  # the others lie on the way of plain DDPM
    if "planning.target" in chosen and config.planning.target_return is not None:
        chosen["planning.target"] = "fixed"
    if "data.relabel" in chosen and (config.data.discount == 1 or config.plan.pin_goal):
        chosen["data.relabel"] = "hindsight"  # the other goes with neither
    return with_settings(config, chosen)


def settled(config: Config, has_goal: bool, tasks: int = 0) -> Config:
    """A copy in which no None waits for a value: by whether there is a goal, without the data.

    What is to be decided from data is decided before, see `diffplan.training.defaults`. tasks: how
    many the data have, 0 where it is not said.
    """
    config = by_kind(config, has_goal)
    span = config.plan.horizon * config.plan.stride
    derived = dict[str, Any]()
    if config.is_open("planning.subgoal_steps"):
        # of several tasks each has a graph of its own, and which to take is not known
        stitched = has_goal and tasks <= 1 and config.data.relabel == "stitched"
        derived["planning.subgoal_steps"] = round(_REACH * span) if stitched else 0
    if config.is_open("planning.replan_every"):
        derived["planning.replan_every"] = config.plan.stride * max(1, config.plan.horizon // 2)
    config = with_settings(config, derived)
    if config.heads.value != "auto":
        return config
    reads = config.planning.chooses and not config.tells_returns
    return with_settings(config, {"heads.value": "returns" if reads else "none"})


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """A copy with other settings, "section.key" -> value. DiffplanError if they do not fit."""
    if not settings:
        return config
    sections: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        section, _, option = key.partition(".")
        sections.setdefault(section, {})[option] = value
    # all at once: a configuration is checked when it is made
    parts = {
        section: dataclasses.replace(getattr(config, section), **options)
        for section, options in sections.items()
    }
    return dataclasses.replace(config, **parts)


def adopted(config: Config, run: Config) -> Config:
    """A copy with a run's settings in place of what is open: a run goes on as it was begun."""
    taken = {name: attrgetter(name)(run) for name in OPEN if config.is_open(name)}
    if config.heads.value == "auto" and config.planning.candidates == 1:
        taken["heads.value"] = run.heads.value
    return with_settings(config, taken)


def replace_planning(config: Config, **changes: Any) -> Config:
    """A copy with other planning settings.

    A quantile or a target by step is asked for in place of the configuration's target_return.
    """
    known = {f.name for f in dataclasses.fields(PlanningConfig)}
    if unknown := sorted(set(changes) - known):
        raise DiffplanError(
            f"unknown planning setting {unknown[0]!r}; {nearest(unknown[0], known)}known: "
            f"{sorted(known)}"
        )
    for name, value in changes.items():
        own = getattr(config.planning, name)
        if value is None and own is not None and f"planning.{name}" in OPEN:
            raise DiffplanError(
                f"planning.{name} is None, expected a value: it is decided in training; leave it "
                f"out for this run's own, {own}"
            )
    # asking for a quantile of the data means not asking for the number set in training
    if "target_quantile" in changes or changes.get("target") == "by-step":
        changes = {"target_return": None} | changes
    elif changes.get("target_return") is not None and config.planning.target == "by-step":
        changes = {"target": "fixed"} | changes
    # read as a file is: dataclasses alone would take a word for a number
    planning = _read(_PLANNING, dataclasses.asdict(config.planning) | changes, "planning settings")
    return dataclasses.replace(config, planning=planning)
