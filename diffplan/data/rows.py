"""Index tables that cost a few numbers per episode instead of a few per state.

Each answers `table[index]` for a tensor of indices by a binary search among the episodes, so that
millions of states need no tables in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor


class Table:
    """Tensors that answer for indices where they lie."""

    def to(self, device: torch.device) -> Self:
        """Answer for indices on the device from here on; returns self."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self


class Rows(Table):
    """A set of state indices in ascending order: one run of neighbours per episode, or none.

    rows[k] is its k-th member, for a tensor k of any shape with entries in [0, len(rows)).
    """

    def __init__(self, first: Tensor, counts: Tensor) -> None:
        """first: [E] first member of each run, int64. counts: [E] members; below 0 means none."""
        # episodes shorter than a window have none
        counts = counts.clamp(min=0)
        self._ends = counts.cumsum(0)
        # member k of a run is k plus what its run is moved by
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


class TaskRows(Rows):
    """Rows to draw from, where there are tasks from the one asked for; then ordered by task.

    Each task that has members is drawn equally often, not by its share of them.
    """

    def __init__(self, first: Tensor, counts: Tensor, tasks: Tensor | None = None) -> None:
        """first, counts: [E] as of `Rows`. tasks: [E] task of each run, int64, None without."""
        self._sizes: Tensor | None = None
        if tasks is not None:
            # stable: within a task the episodes keep their order
            order = tasks.argsort(stable=True)
            first, counts, tasks = first[order], counts[order].clamp(min=0), tasks[order]
            self._sizes = torch.zeros(int(tasks[-1]) + 1, dtype=torch.long)
            self._sizes.index_add_(0, tasks, counts)
            self._before = self._sizes.cumsum(0) - self._sizes
            # one ticket for each task that has members
            self._tickets = self._sizes.clamp(max=1).cumsum(0)
            self._count = int(self._tickets[-1])
        super().__init__(first, counts)

    def draw_tasks(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor | None:
        """Draw a task for each draw to come, [*shape] int64; None, at no cost, without tasks."""
        if self._sizes is None:
            return None
        there = generator.device
        ticket = torch.randint(self._count, shape, generator=generator, device=there)
        return torch.searchsorted(self._tickets, ticket, right=True)

    def draw(
        self, shape: tuple[int, ...], generator: torch.Generator, task: Tensor | None
    ) -> Tensor:
        """Draw members, [*shape], from the `task` of each (broadcast to shape), of all if None."""
        if self._sizes is None or task is None:
            there = generator.device
            return self[torch.randint(len(self), shape, generator=generator, device=there)]
        size = self._sizes[task]
        # in double precision: float32 has too few digits for the members of large data
        share = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
        return self[self._before[task] + torch.minimum((share * size).long(), size - 1)]


class PerEpisode(Table):
    """table[i]: the value of the episode that state i belongs to."""

    def __init__(self, state_starts: Tensor, values: Tensor) -> None:
        """state_starts: [E+1] offsets of the episodes' states. values: [E]."""
        self._ends = state_starts[1:].contiguous()
        self._values = values

    def __getitem__(self, state: Tensor) -> Tensor:
        return self._values[torch.searchsorted(self._ends, state, right=True)]


class StepOf(Table):
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
