"""How often `diffplan tune` adopts noise, and what it gains: its halving on made-up settings.

    python -m diffplan.scripts.checks.tuning_noise

Returns of an episode are normal with spread 1, of which `SHARED` of the variance is the seed's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffplan.scripts.report.results import aligned
from diffplan.scripts.tune.halving import Trial, halve, schedule

BUDGETS = (100, 200, 400, 1000)
SHARED = 0.3
REPEATS = 300
_WORSE, _SPREAD = -0.3, 0.4  # of the other settings' means; the default's is 0


def tuned(means: np.ndarray, budget: int, rng: np.random.Generator) -> int | None:
    """The setting that takes the default's place, None where it keeps it."""

    def play(_: int, settings: Sequence[int], first: int, count: int) -> list[Trial]:
        seeds = np.sqrt(SHARED) * rng.normal(size=count)
        own = np.sqrt(1 - SHARED) * rng.normal(size=(len(settings), count))
        scores = (means[list(settings), None] + seeds + own).tolist()
        return [Trial(row, list(row)) for row in scores]

    outcome = halve(schedule(budget), play)
    return outcome.challenger if outcome.adopted else None


def main() -> None:
    """Print a line for every budget."""
    lines = [["budget", "settings", "final", "equal: adopted", "unequal: adopted", "worse", "gain"]]
    for budget in BUDGETS:
        rng, plan = np.random.default_rng(budget), schedule(budget)
        count = plan.rounds[0][0]
        equal = [tuned(np.zeros(count), budget, rng) is not None for _ in range(REPEATS)]
        gains, best = [], []
        for _ in range(REPEATS):
            means = np.array([0.0, *rng.normal(_WORSE, _SPREAD, count - 1)])
            chosen = tuned(means, budget, rng)
            gains.append(0.0 if chosen is None else float(means[chosen]))
            best.append(float(means.max()))
        gained = np.array(gains)
        lines.append(
            [
                *(str(budget), str(count), f"2 x {plan.final}", f"{np.mean(equal):.0%}"),
                *(f"{np.mean(gained != 0):.0%}", f"{np.mean(gained < 0):.1%}"),
                f"{gained.mean():.2f} of {np.mean(best):.2f}",
            ]
        )
    print(aligned(lines))


if __name__ == "__main__":
    main()
