"""Successive halving within a number of episodes, and a final against the default.

Sequential halving (Karnin et al. 2013; Jamieson & Talwalkar 2016, arXiv 1502.07943, algorithm 1):
every round spends as much, on half as many settings as the one before. Here all settings play the
same episodes, and what they have played goes on counting. The default is never dropped. Whether the
best of the others takes its place is decided by episodes that chose neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from diffplan.errors import DiffplanError
from diffplan.scripts.report.intervals import Estimate, stratified_mean

_FINAL = 1 / 3  # of the episodes, for the final
_SIZES, _FIRST = (64, 32, 16, 8, 4), 4
_LEAST_FINAL = 4
LEVEL = 0.8
"""Of the interval that must lie above 0: an equal setting is adopted in a tenth of the cases."""


@dataclass(frozen=True)
class Schedule:
    """rounds: settings that play, and new episodes of each. final: new episodes of both finalists.

    tasks: an episode of each counts as one here.
    """

    rounds: tuple[tuple[int, int], ...]
    final: int
    tasks: int = 1

    @property
    def episodes(self) -> int:
        """Of all settings and tasks together."""
        return self.tasks * (sum(many * each for many, each in self.rounds) + 2 * self.final)

    @property
    def length(self) -> int:
        """Episodes of a finalist in each task."""
        return sum(each for _, each in self.rounds) + self.final


def schedule(budget: int, settings: int | None = None, tasks: int = 1) -> Schedule:
    """How to spend at most `budget` episodes on so many settings, the default among them.

    settings: None: as many as get 4 episodes each in the first round, 4 to 64.
    Raises DiffplanError where the episodes are too few.
    """
    if settings is None:
        enough = (n for n in _SIZES if _split(budget, n, tasks).rounds[0][1] >= _FIRST)
        settings = next(enough, _SIZES[-1])
    found = _split(budget, settings, tasks)
    if found.rounds[0][1] < 1 or found.final < _LEAST_FINAL:
        least = next(
            each
            for each in range(budget, 100 * (budget + tasks * settings))
            if (more := _split(each, settings, tasks)).final >= _LEAST_FINAL and more.rounds[0][1]
        )
        raise DiffplanError(
            f"--budget {budget} is too little for {settings} settings"
            + (f" in {tasks} tasks" if tasks > 1 else "")
            + f"; give at least {least}"
        )
    return found


def _split(budget: int, settings: int, tasks: int) -> Schedule:
    units = budget // tasks
    sizes = [settings]
    while sizes[-1] > 2:
        sizes.append(-(-sizes[-1] // 2))
    sizes = sizes[:-1] or sizes
    search = units - 2 * int(_FINAL * units / 2)
    rounds = tuple((many, search // len(sizes) // many) for many in sizes)
    # what does not divide goes into the final
    return Schedule(rounds, (units - sum(many * each for many, each in rounds)) // 2, tasks)


@dataclass
class Trial:
    """Episodes of one setting: entry e * tasks + t is episode e of task t, None where it failed.

    scores: what settings are ranked by, "return" or "success". failures: why, a line each.
    """

    scores: list[float | None] = field(default_factory=list)
    returns: list[float | None] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    by: str = "return"

    def add(self, other: Trial) -> None:
        """The episodes that follow."""
        self.scores += other.scores
        self.returns += other.returns
        self.failures += other.failures
        self.by = other.by

    @property
    def rank(self) -> tuple[float, float, float]:
        """The higher the better: few failures, score, return."""
        played = [score for score in self.scores if score is not None]
        returns = [value for value in self.returns if value is not None]
        if not played:
            return -float(len(self.scores)), -np.inf, -np.inf
        failed = len(self.scores) - len(played)
        return -float(failed), float(np.mean(played)), float(np.mean(returns))


@dataclass(frozen=True)
class Outcome:
    """What tuning found.

    trials: of each setting, the default first. reached: the last round that each played in, the
    final counts as one more. challenger: the best of the others. difference: its score less the
    default's on the episodes of the final, and the interval of `LEVEL`; None where there are no
    common ones. adopted: whether it takes the default's place.
    """

    trials: tuple[Trial, ...]
    reached: tuple[int, ...]
    challenger: int
    difference: Estimate | None
    adopted: bool

    @property
    def by(self) -> str:
        """What settings were ranked by."""
        return self.trials[0].by


Play = Callable[[int, Sequence[int], int, int], Sequence[Trial]]
"""(round, settings, number of the first episode, episodes): each setting's new episodes."""


def halve(plan: Schedule, play: Play) -> Outcome:
    """Find a challenger of setting 0, the default, and judge it.

    It is adopted if the paired difference to the default, over the episodes of the final alone, has
    an interval above 0. These have chosen neither of them, so that the best of many is not taken
    for better than it is.
    """
    count = plan.rounds[0][0]
    trials, reached = [Trial() for _ in range(count)], [0] * count
    alive, done = list(range(count)), 0

    def go_on(number: int, episodes: int) -> None:
        for index, played in zip(alive, play(number, alive, done, episodes), strict=True):
            trials[index].add(played)
            reached[index] = number

    for number, (_, episodes) in enumerate(plan.rounds):
        go_on(number, episodes)
        done += episodes
        others = sorted(alive[1:], key=lambda index: trials[index].rank, reverse=True)
        last = number + 1 == len(plan.rounds)
        keep = 2 if last else plan.rounds[number + 1][0]
        alive = [0, *others[: keep - 1]]
    go_on(len(plan.rounds), plan.final)
    challenger = alive[1]
    new, own = (trials[index].scores[done * plan.tasks :] for index in (challenger, 0))
    difference = paired(new, own, plan.tasks)
    lost = [sum(score is None for score in scores) for scores in (new, own)]
    # NaN, of a single pair, is above nothing
    # of a tie rounding may make a gain
    least = 1e-6 * max((abs(score) for score in own if score is not None), default=0.0)
    better = difference is not None and difference.low > least
    adopted = lost[0] <= lost[1] and better
    return Outcome(tuple(trials), tuple(reached), challenger, difference, adopted)


def paired(
    first: Sequence[float | None], second: Sequence[float | None], tasks: int = 1
) -> Estimate | None:
    """Mean difference over the episodes that both have finished, with its interval.

    Over episodes within tasks: how these differ is no chance.
    """
    differences = [
        np.array([a - b for a, b in pairs if a is not None and b is not None])
        for pairs in (
            list(zip(first[task::tasks], second[task::tasks], strict=True)) for task in range(tasks)
        )
    ]
    if not all(len(each) for each in differences):
        return None
    return stratified_mean(differences, level=LEVEL)
