"""What is decided from the data in place of a setting that nobody gave: one default for all tasks.

A rule looks at the data and returns decisions, each with its reason in figures. What is given by
hand always wins; a decision is saved with the run and never taken anew when it is resumed. What no
rule decides follows from whether there is a goal (`diffplan.config.config.settled`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from diffplan.config.config import Config, settled
from diffplan.config.decisions import Decision, with_decisions
from diffplan.data.episodes import Episodes
from diffplan.training.evidence import (
    columns_rule,
    goal_rule,
    length_rule,
    returns_rule,
    time_scale_rule,
)

DataRule = Callable[[Config, Episodes], Iterable[Decision]]
"""Looks at the data alone. Later rules see what earlier ones decided."""
DATA_RULES: tuple[DataRule, ...] = (
    length_rule,
    goal_rule,
    columns_rule,
    time_scale_rule,
    returns_rule,
)


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
