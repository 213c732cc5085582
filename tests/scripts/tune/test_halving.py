"""Successive halving on settings whose scores are known: budget, winner, and what noise does."""

from collections.abc import Sequence

import numpy as np
import pytest

from diffplan.errors import DiffplanError
from diffplan.scripts.tune.halving import Outcome, Schedule, Trial, halve, paired, schedule


class Bandits:
    """Normal scores around `means`; all settings share part of an episode's luck."""

    def __init__(self, means: Sequence[float], seed: int = 0, tasks: int = 1) -> None:
        self.means, self.tasks, self.rng = means, tasks, np.random.default_rng(seed)
        self.asked: list[tuple[int, tuple[int, ...], int, int]] = []
        self.failing: set[int] = set()

    def play(self, number: int, settings: Sequence[int], first: int, count: int) -> list[Trial]:
        self.asked.append((number, tuple(settings), first, count))
        shared = self.rng.normal(size=count * self.tasks)
        found = []
        for setting in settings:
            own = self.rng.normal(size=count * self.tasks)
            scores = [float(x) for x in self.means[setting] + shared + 0.5 * own]
            if setting in self.failing:
                scores[0] = None  # type: ignore[call-overload]
            found.append(Trial(scores, list(scores)))
        return found

    def tuned(self, budget: int) -> tuple[Outcome, Schedule]:
        plan = schedule(budget, len(self.means), self.tasks)
        return halve(plan, self.play), plan


@pytest.mark.parametrize("tasks", [1, 5])
@pytest.mark.parametrize("budget", [300, 1003])
@pytest.mark.parametrize("settings", [None, 2, 5, 13])
def test_the_budget_is_spent_and_not_exceeded(
    budget: int, settings: int | None, tasks: int
) -> None:
    plan = schedule(budget, settings, tasks)
    bandits = Bandits(np.zeros(plan.rounds[0][0]), tasks=tasks)
    halve(plan, bandits.play)
    played = sum(len(settings) * count * tasks for _, settings, _, count in bandits.asked)
    assert played == plan.episodes and budget - 2 * tasks < played <= budget
    # one round after the other, so that survivors' episodes add up
    firsts, counts = zip(*[(first, count) for *_, first, count in bandits.asked], strict=True)
    assert firsts == tuple(np.cumsum([0, *counts])[:-1])
    assert plan.length == sum(counts)


def test_the_number_of_settings_follows_from_the_budget() -> None:
    assert [schedule(b).rounds[0][0] for b in (40, 100, 400, 1000, 10**5)] == [4, 8, 16, 32, 64]
    assert schedule(400).rounds == ((16, 5), (8, 11), (4, 22))
    with pytest.raises(
        DiffplanError, match=r"--budget 15 is too little .* at least \d+$"
    ) as refused:
        schedule(15)
    schedule(int(str(refused.value).rsplit(" ", 1)[1]))


def test_the_best_takes_the_place_of_the_default() -> None:
    means = [0.0, *np.linspace(-2, -1, 6), 2.0, *np.linspace(-2, -1, 8)]
    bandits = Bandits(means)
    outcome, plan = bandits.tuned(400)
    assert outcome.adopted and outcome.challenger == 7
    assert outcome.difference is not None and abs(outcome.difference.mean - 2) < 0.3
    assert outcome.difference.n == plan.final
    assert [len(settings) for _, settings, *_ in bandits.asked] == [16, 8, 4, 2]
    assert all(0 in settings for _, settings, *_ in bandits.asked)
    assert outcome.reached[0] == outcome.reached[7] == 3


def test_a_worse_setting_is_not_adopted() -> None:
    outcome, _ = Bandits([0.0, *[-0.5] * 7]).tuned(200)
    assert not outcome.adopted and outcome.difference is not None
    assert outcome.difference.high < 0


def test_of_equal_settings_one_in_ten_is_adopted() -> None:
    # were the final to count what chose the challenger, it would be twice as many
    adopted = [Bandits(np.zeros(8), seed).tuned(100)[0].adopted for seed in range(150)]
    assert 0.03 < np.mean(adopted) < 0.18


def test_settings_whose_episodes_fail_come_last() -> None:
    bandits = Bandits([0.0, 5.0, 1.0, 0.5])
    bandits.failing = {1}
    outcome, _ = bandits.tuned(100)
    assert outcome.challenger == 2 and outcome.reached[1] == 0


def test_a_challenger_that_fails_more_often_in_the_final_is_not_adopted() -> None:
    bandits = Bandits([0.0, 5.0])
    bandits.failing = {1}
    outcome, _ = bandits.tuned(100)
    assert outcome.difference is not None and outcome.difference.low > 0
    assert not outcome.adopted


def test_differences_are_paired_and_within_tasks() -> None:
    first, second = [11.0, 103.0, 12.0, None], [10.0, 100.0, 11.0, 100.0]
    found = paired(first, second, tasks=2)
    # 1 in task one and 3 in task two, without any spread inside a task
    assert found is not None and (found.mean, found.low, found.high) == (2.0, 2.0, 2.0)
    assert paired([None, 1.0], [1.0, 1.0], tasks=2) is None
