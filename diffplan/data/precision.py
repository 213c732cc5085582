"""What float32 would lose of a file's numbers: found in float64, before anything is converted."""

from __future__ import annotations

import math

import numpy as np

from diffplan.errors import DiffplanError

_ROUNDING = 2.0**-24  # of float32, relative
_FINE = 2.0**-6  # of a step's movement may be rounded away
_COARSE = 2.0**-2  # more than that is no movement any more
_CLOSE = 1e-6  # of the largest value
_JITTER = (1e-2, 1e-5)  # of what others vary by: near to float32's rounding, and elsewhere
_CONSTANT = 2.0**-44  # of the largest value: what float64 rounds by itself
_SMALLEST = 1e-30  # less than that is nothing in float32, once squared or divided


class Extent:
    """What the columns of a file span and how far they move in a step, met piece by piece.

    least, most: [D] of the finite entries. Numbers stay float64.
    """

    def __init__(self, width: int) -> None:
        self.least, self.most = np.full(width, np.inf), np.full(width, -np.inf)
        self._moved, self._moves = np.zeros(width), np.zeros(width)

    def add(self, rows: np.ndarray, inside: np.ndarray | None = None) -> None:
        """Count rows [n, D], one after the other in time.

        inside: [n - 1] bool, where a row and the next are of one episode; None: everywhere.
        """
        rows = np.asarray(rows, np.float64)
        known = np.isfinite(rows)
        self.least = np.minimum(self.least, np.where(known, rows, np.inf).min(0, initial=np.inf))
        self.most = np.maximum(self.most, np.where(known, rows, -np.inf).max(0, initial=-np.inf))
        with np.errstate(invalid="ignore", over="ignore"):
            moved = np.abs(np.diff(rows, axis=0))
        counts = np.isfinite(moved) & (moved > 0)
        if inside is not None:
            counts &= inside[:, None]
        self._moved += np.where(counts, moved, 0.0).sum(0)
        self._moves += counts.sum(0)

    @property
    def span(self) -> np.ndarray:
        """Largest less least entry of each column [D], 0 where none is finite."""
        return np.maximum(self.most - self.least, 0.0)

    @property
    def largest(self) -> np.ndarray:
        """Largest size of an entry of each column [D]."""
        size = np.maximum(np.abs(self.least), np.abs(self.most))
        return np.where(np.isfinite(size), size, 0.0)

    @property
    def movement(self) -> np.ndarray:
        """Mean distance of the steps that move a column [D]; its span where none does."""
        return np.where(self._moves > 0, self._moved / np.maximum(self._moves, 1), self.span)

    @property
    def far(self) -> np.ndarray:
        """Columns [D] that vary little, far from zero: where float32 has few digits left."""
        varies = self.span > _CONSTANT * self.largest
        return varies & (self.span < self.largest / 8)

    @property
    def jitters(self) -> np.ndarray:
        """Far columns [D] that vary by next to nothing beside most others.

        A body at rest in a simulator does; the same digits would be a signal next to others as
        fine. The closer to float32's own rounding, the less it takes.
        """
        spans = np.where(self.span > _CONSTANT * self.largest, self.span, 0.0)
        share = np.where(spans < _CLOSE * self.largest, *_JITTER)
        found = np.zeros(len(spans), np.bool_)
        for i in np.flatnonzero(self.far):
            others = np.sort(np.delete(spans, i)[np.delete(spans, i) > 0])
            found[i] = len(others) > 0 and spans[i] < share[i] * others[(len(others) - 1) // 2]
        return found

    def _rounded(self, share: float) -> np.ndarray:
        """Far columns [D] of whose movement float32 rounds away a share."""
        return np.asarray(self.far & (self.largest * _ROUNDING > share * self.movement))

    @property
    def resting(self) -> str:
        """The columns whose movement is given up as that of a body at rest, in words."""
        columns = np.flatnonzero(self._rounded(_FINE) & self.jitters)
        return ", ".join(map(str, columns))

    def offsets(self) -> tuple[float, ...]:
        """What to subtract from each column so that float32 keeps its movement; () for nothing.

        Only from columns far from zero whose steps float32 would round away: others stay as
        they are.
        """
        wanted = self._rounded(_FINE) & ~self.jitters
        if not wanted.any():
            return ()
        middle = (self.least + self.most) / 2
        return tuple(
            _round_number(float(middle[i]), float(self.span[i])) if wanted[i] else 0.0
            for i in range(len(wanted))
        )

    def lost(self) -> np.ndarray:
        """Columns whose movement float32 loses as they are: indices."""
        return np.flatnonzero(self._rounded(_COARSE) & ~self.jitters)

    def check(self, name: str, what: str) -> None:
        """Raise DiffplanError, naming the column, where float32 loses the movement."""
        for i in self.lost():
            raise DiffplanError(
                f"{name}: column {i} of {what} goes from {self.least[i]:.10g} to "
                f"{self.most[i]:.10g} in steps of about {self.movement[i]:.2g}, which float32 "
                f"rounds away (its own are {2 * self.largest[i] * _ROUNDING:.2g}); subtract "
                f"{self.least[i]:.10g} from all of them"
            )

    def check_size(self, name: str, what: str) -> None:
        """Raise DiffplanError where all columns are too small for float32."""
        if 0 < (most := self.largest.max(initial=0.0)) < _SMALLEST:
            raise DiffplanError(
                f"{name}: {what} reach only {most:.3g}, which float32 does not hold; multiply all "
                "of them by the same number"
            )


def _round_number(middle: float, span: float) -> float:
    """A number of few digits near the middle of a column."""
    unit = 10.0 ** math.floor(math.log10(span))
    return round(middle / unit) * unit


def offset_line(offsets: tuple[float, ...]) -> str:
    """The columns of states that an offset is subtracted from, in words."""
    return ", ".join(f"column {i} less {each:.10g}" for i, each in enumerate(offsets) if each)
