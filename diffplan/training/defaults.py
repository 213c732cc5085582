"""What is decided from the data in place of a setting that nobody gave: one default for all tasks.

A rule looks at the data, or later at the trained networks, and returns decisions, each with its
reason in figures. What is given by hand always wins; a decision is saved with the run and never
taken anew when it is resumed. What no rule decides follows from whether there is a goal
(`diffplan.config.config.settled`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from diffplan.config.config import Config, settled
from diffplan.config.decisions import Decision, with_decisions
from diffplan.data.episodes import Episodes
from diffplan.data.windows import WindowSampler
from diffplan.model.planner_model import PlannerModel
from diffplan.training.evidence import goal_rule, returns_rule, time_scale_rule

DataRule = Callable[[Config, Episodes], Iterable[Decision]]
"""Looks at the data alone. Later rules see what earlier ones decided."""
TrainedRule = Callable[[Config, PlannerModel, WindowSampler], Iterable[Decision]]
"""Looks at held-out windows with the trained networks, and decides on `planning` alone."""

DATA_RULES: tuple[DataRule, ...] = (goal_rule, time_scale_rule, returns_rule)
TRAINED_RULES: tuple[TrainedRule, ...] = ()


def decide(config: Config, episodes: Episodes) -> tuple[Config, tuple[Decision, ...]]:
    """A copy of the configuration with a value everywhere, and what of it the data decided.

    Draws no random number of the training: the same data give the same decisions.
    """
    taken: list[Decision] = []
    for rule in DATA_RULES:
        found = [each for each in rule(config, episodes) if config.is_open(each.setting)]
        config = with_decisions(config, found)
        taken += found
    return settled(config, bool(episodes.layout.goal_dim), len(episodes.info.tasks)), tuple(taken)


def decide_trained(
    asked: Config, config: Config, model: PlannerModel, sampler: WindowSampler
) -> tuple[Config, tuple[Decision, ...]]:
    """A copy of a run's configuration for its trained networks, and what they decided.

    asked: the configuration that was given, whose open settings may be decided. Called at every
    checkpoint; rules that draw do so by generators of their own.
    """
    taken: list[Decision] = []
    for rule in TRAINED_RULES:
        found = [each for each in rule(config, model, sampler) if asked.is_open(each.setting)]
        config = with_decisions(config, found)
        taken += found
    return config, tuple(taken)
