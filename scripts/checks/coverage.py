"""How often the 95 % intervals of the reports hold the truth, by how many values they rest on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from diffplan.errors import DiffplanError
from diffplan.scripts.checks import main
from diffplan.scripts.report.intervals import (
    Estimate,
    estimate_mean,
    interquartile_mean,
    stratified_interquartile,
    stratified_mean,
)
from diffplan.scripts.report.markdown import markdown

_TASKS = np.linspace(0.0, 60.0, 9)  # means of tasks, whose runs spread by _SPREAD
_SPREAD = 5.0
_Draw = Callable[[np.random.Generator, int], np.ndarray]
# values and their mean: even, skewed, and episodes of which a fifth fails
VALUES: dict[str, tuple[_Draw, float]] = {
    "normal": (lambda rng, n: rng.normal(size=n), 0.0),
    "exponential": (lambda rng, n: rng.exponential(size=n), 1.0),
    "a fifth at 0.2, else near 1": (
        lambda rng, n: np.where(rng.random(n) < 0.8, rng.normal(1, 0.05, n), 0.2),
        0.84,
    ),
}


@dataclass(frozen=True)
class Coverage:
    """Draw values whose truth is known, and count the intervals that hold it."""

    counts: tuple[int, ...] = (2, 3, 5, 10, 30)
    """Values of a mean; runs of each of nine tasks."""
    repeats: int = 2000
    """Draws of each."""
    seed: int = 0
    """Of the draws."""

    def run(self) -> dict[str, list[float]]:
        """Count and print; returns the shares by row, one for each count."""
        if self.repeats < 1 or min(self.counts, default=0) < 2:
            raise DiffplanError(
                f"--repeats is {self.repeats} and --counts {self.counts}, expected 1 and 2 at least"
            )
        rng = np.random.default_rng(self.seed)

        def shares(estimate: Callable[[int, int], Estimate], truth: float) -> list[float]:
            found = []
            for n in self.counts:
                each = [estimate(n, repeat) for repeat in range(self.repeats)]
                found.append(float(np.mean([e.low <= truth <= e.high for e in each])))
            return found

        def tasks(n: int) -> list[np.ndarray]:
            return [mean + _SPREAD * rng.normal(size=n) for mean in _TASKS]

        def middle_of(n: int, repeat: int) -> Estimate:
            return stratified_interquartile(tasks(n), resamples=400, seed=repeat)

        found = {}
        for name, (draw, truth) in VALUES.items():

            def mean_of(n: int, repeat: int, draw: _Draw = draw) -> Estimate:
                return estimate_mean(draw(rng, n), resamples=1000, seed=repeat)

            found[f"mean, {name}"] = shares(mean_of, truth)
        found["mean over nine tasks"] = shares(
            lambda n, _: stratified_mean(tasks(n)), float(_TASKS.mean())
        )
        middle = interquartile_mean(np.concatenate(tasks(20_000)))
        found["interquartile mean over nine tasks"] = shares(middle_of, middle)
        rows = [[name, *(f"{100 * s:.0f}" for s in line)] for name, line in found.items()]
        header = ["of 100 intervals that hold", *(f"n = {n}" for n in self.counts)]
        print(f"{markdown(header, rows)}\n\n{self.repeats} draws each; 95 are aimed at.")
        return found


if __name__ == "__main__":
    sys.exit(main(Coverage, __spec__.name, sys.argv[1:]))
