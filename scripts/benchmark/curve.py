"""How far a measured cost is a straight line: a fixed part, and the same for every further unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STRAIGHT = 0.15  # largest relative distance from a line that still counts as on it


@dataclass(frozen=True)
class Line:
    """cost = fixed + slope x, from the measured x `first` to the measured x `last`."""

    fixed: float
    slope: float
    first: float
    last: float

    def at(self, x: float) -> float:
        return self.fixed + self.slope * x


def straight_line(x: Sequence[float], cost: Sequence[float]) -> Line | None:
    """The line that most neighbouring points lie on, of equal ones the last; None for less than 3.

    x ascends. Least squares in relative distances, neither fixed cost nor slope negative; on the
    line is what lies within `STRAIGHT` of it.
    """
    # from all points down to three: the longest stretch that is straight is the answer
    for length in range(len(x), 2, -1):
        # the last first: large sizes are where the slope is wanted
        for begin in range(len(x) - length, -1, -1):
            some = slice(begin, begin + length)
            line = Line(*_fit(x[some], cost[some]), x[begin], x[begin + length - 1])
            pairs = zip(x[some], cost[some], strict=True)
            if all(abs(line.at(a) - c) <= STRAIGHT * c for a, c in pairs):
                return line
    return None


def _fit(x: Sequence[float], cost: Sequence[float]) -> tuple[float, float]:
    """Fixed part and slope by least squares of relative distances, neither negative."""
    a, c = np.asarray(x, float), np.asarray(cost, float)
    # both sides over the cost, so that a millisecond weighs as its share of it
    columns = np.stack([1 / c, a / c], 1)
    fixed, slope = np.linalg.lstsq(columns, np.ones_like(c), rcond=None)[0]
    # a negative part stands for noise: leave it out and fit the other alone
    if fixed < 0:
        only = columns[:, 1]
        return 0.0, float(only.sum() / (only @ only))
    if slope < 0:
        only = columns[:, 0]
        return float(only.sum() / (only @ only)), 0.0
    return float(fixed), float(slope)
