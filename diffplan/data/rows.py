"""Index tables that cost a few numbers per episode instead of a few per state.

Each answers `table[index]` for a tensor of indices by a binary search among the episodes, so that
millions of states need no tables in memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


class Rows:
    """A set of state indices in ascending order: one run of neighbours per episode, or none.

    rows[k] is its k-th member, for a tensor k of any shape with entries in [0, len(rows)).
    """

    def __init__(self, first: Tensor, counts: Tensor) -> None:
        """first: [E] first member of each run, int64. counts: [E] members; below 0 means none."""
        counts = counts.clamp(min=0)
        self._ends = counts.cumsum(0)
        self._shift = first - (self._ends - counts)
        self._size = int(counts.sum())

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, k: Tensor) -> Tensor:
        return k + self._shift[torch.searchsorted(self._ends, k, right=True)]

    def split(self, size: int) -> Iterator[Tensor]:
        """All members in order, `size` at a time."""
        for first in range(0, self._size, size):
            yield self[torch.arange(first, min(first + size, self._size))]

    def tensor(self) -> Tensor:
        """All members at once [len(self)]: 8 bytes each, twice that while they are made."""
        counts = self._ends.diff(prepend=self._ends.new_zeros(1))
        return torch.repeat_interleave(self._shift, counts).add_(torch.arange(self._size))


class PerEpisode:
    """table[i]: the value of the episode that state i belongs to."""

    def __init__(self, state_starts: Tensor, values: Tensor) -> None:
        """state_starts: [E+1] offsets of the episodes' states. values: [E]."""
        self._ends = state_starts[1:].contiguous()
        self._values = values

    def __getitem__(self, state: Tensor) -> Tensor:
        return self._values[torch.searchsorted(self._ends, state, right=True)]


class StepOf:
    """step[i]: index of the step taken at state i; of the last step where none was taken.

    States and steps have their own offsets: an episode may keep a state after its last step.
    """

    def __init__(self, state_starts: Tensor, step_starts: Tensor) -> None:
        """state_starts, step_starts: [E+1] offsets of the episodes' states and steps."""
        self._ends = state_starts[1:].contiguous()
        self._shift = step_starts[:-1] - state_starts[:-1]
        self._last = step_starts[1:] - 1

    def __getitem__(self, state: Tensor) -> Tensor:
        episode = torch.searchsorted(self._ends, state, right=True)
        return torch.minimum(state + self._shift[episode], self._last[episode])
