"""Which planning settings are tried: the default, its neighbours, and seeded combinations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from diffplan.agents import PlannerAgent
from diffplan.config.sections import PlanningConfig
from diffplan.errors import DiffplanError

Settings = dict[str, Any]
"""Planning settings in place of the default's."""

_REFINEMENTS: tuple[Settings, ...] = (
    {"start": "none", "denoising_steps": 0},
    {"start": "process", "denoising_steps": 3},
    {"start": "sdedit", "denoising_steps": 5, "start_level": None},
    {"start": "process", "denoising_steps": 1},
    {"start": "sdedit", "denoising_steps": 3, "start_level": None},
    {"start": "raw", "denoising_steps": 5, "start_level": 5},
    {"start": "process", "denoising_steps": 5},
    {"start": "noise", "denoising_steps": 10},
)
_CANDIDATES = (1, 4, 16)
_TEMPERATURES = (0.0, 0.5, 1.0)
_QUANTILES = (0.5, 0.6, 0.75, 0.9, 0.95)
_TARGETS = ("fixed", "by-step", "decremented")
_AHEAD = (0.5, 1.0, 2.0)  # spans of a plan
_TRIES = 50  # combinations drawn for each that is wanted


def dimensions(agent: PlannerAgent) -> list[list[Settings]]:
    """What may be changed of how an agent plans, and to what; near values of a number first."""
    model, own = agent.model, agent.settings
    span = agent.stride * agent.horizon
    intervals = [agent.stride * 2**i for i in range(12) if agent.stride * 2**i <= span]
    found = [
        [{"replan_every": every} for every in _nearest(intervals, own.replan_every, np.log)],
    ]
    if agent.uses_returns:
        # a number that is asked for is no quantile: the middle of these comes first
        asked = 0.75 if own.target_quantile is None else own.target_quantile
        found.append([{"target_quantile": q} for q in _nearest(_QUANTILES, asked)])
    found.append(list(_REFINEMENTS))
    found.append([{"candidates": k} for k in _nearest(_CANDIDATES, own.candidates, np.log)])
    if agent.uses_returns:
        found.append([{"target": target} for target in _TARGETS])
    if model.subgoals is not None:
        ahead = [{"subgoal_steps": round(share * span)} for share in _AHEAD]
        found.append([*ahead, {"subgoal_steps": 0}])
    found.append([{"temperature": each} for each in _nearest(_TEMPERATURES, own.temperature)])
    # what is so already is no change
    return [[each for each in values if not _holds(own, each)] for values in found]


def _holds(own: PlanningConfig, settings: Settings) -> bool:
    if "target_quantile" in settings and own.target_return is not None:
        return False  # a number is asked for
    return all(getattr(own, name) == value for name, value in settings.items())


def _nearest(
    values: Sequence[Any], own: float, scale: Callable[[Any], Any] = np.asarray
) -> list[Any]:
    return sorted(values, key=lambda value: abs(float(scale(value)) - float(scale(own))))


def design(
    agent: PlannerAgent,
    count: int,
    seed: int,
    make: Callable[[Settings], PlannerAgent],
    known: Sequence[Settings] = (),
) -> list[Settings]:
    """At most `count` ways of planning, no two alike; the first, {}, is the agent's own.

    Half of the others change one thing, each thing in turn; half are combinations, in which every
    value of a setting occurs as often as its others and the default in half of them. make: the
    agent that plans so; ways that it cannot plan in, DiffplanError, are left out. known: tried in
    any case.
    """
    tried = dimensions(agent)
    seen = [_effective(agent)]
    chosen: list[Settings] = [{}]

    def effect(settings: Settings) -> Settings | None:
        try:
            return _effective(make(settings))
        except DiffplanError:
            return None

    def take(settings: Settings) -> bool:
        facts = effect(settings)
        if facts is None or facts in seen:
            return False
        # without what makes no difference beside the rest
        for name in list(settings):
            less = {key: value for key, value in settings.items() if key != name}
            if effect(less) == facts:
                settings = less
        seen.append(facts)
        chosen.append(settings)
        return True

    for settings in (*known, *_in_turn(tried)):
        if len(chosen) > count // 2:
            break
        take(settings)
    rng = np.random.default_rng(seed)
    columns = [_column(values, rng) for values in tried]
    for _ in range(_TRIES * count):
        if len(chosen) == count:
            break
        settings = {}
        for column in columns:
            settings |= next(column, {})
        take(settings)
    return chosen


def _in_turn(values: Sequence[Sequence[Settings]]) -> Iterator[Settings]:
    """The first of each, then the second of each, and so on."""
    for place in range(max(map(len, values))):
        yield from (each[place] for each in values if place < len(each))


def _column(values: Sequence[Settings], rng: np.random.Generator) -> Iterator[Settings]:
    """Each value once in a while, and as often none, in a random order."""
    deck = [*values, *([{}] * len(values))]
    while deck:
        yield from (deck[place] for place in rng.permutation(len(deck)))


def _effective(agent: PlannerAgent) -> Settings:
    """The settings that make a difference to its plans."""
    facts = agent.planning
    if not agent.settings.chooses:
        # the first candidate is the mean, whatever the others are
        facts |= {"temperature": None, "select": None}
    if facts["start"] == "none" or facts["denoising_steps"] == 0:
        facts |= dict.fromkeys(("start", "denoising_steps", "start_level", "sampler", "eta"))
    elif facts["start"] not in ("sdedit", "raw"):
        facts["start_level"] = None
    return facts
