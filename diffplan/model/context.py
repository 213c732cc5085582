"""What plans are made for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffplan.errors import DiffplanError


@dataclass(frozen=True)
class Context:
    """What B plans are made for; None where there is no such thing, or networks are not told.

    In environment units where engines and agents hand it on, normalised where networks see it
    (`PlanSpace.normalised_context`).

    state: [B, D] the current one. goal: [B, G]. target_return: [B] the return-to-go that is asked
    for. previous: [B, M, D], the M < H states that are left of the plan before (`planning.reuse`),
    None for a plan from scratch. task: [B, F] codes of the tasks, which have no units. clock: [B]
    environment steps since the episodes began, for constraints in time.
    """

    state: Tensor
    goal: Tensor | None = None
    target_return: Tensor | None = None
    previous: Tensor | None = None
    task: Tensor | None = None
    clock: Tensor | None = None

    def __len__(self) -> int:
        return len(self.state)

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All of it, in the order of the arguments."""
        return self.state, self.goal, self.target_return, self.previous, self.task, self.clock

    def given(self, name: str) -> Tensor:
        """One of its fields, by name. DiffplanError where it is missing."""
        value: Tensor | None = getattr(self, name)
        if value is None:
            raise DiffplanError(f"the model is conditioned on {name!r}, but none was given")
        return value

    def repeat(self, k: int) -> Context:
        """Every row k times: row b becomes rows b * k ... b * k + k - 1."""
        return self if k == 1 else self._each(lambda value: value.repeat_interleave(k, 0))

    def rows(self, index: slice | Tensor) -> Context:
        """Some rows, in the order of the index."""
        return self._each(lambda value: value[index])

    def to(self, device: torch.device) -> Context:
        """On a device."""
        return self._each(lambda value: value.to(device))

    def joined(self, other: Context) -> Context:
        """The rows of both; what one of them lacks is lost."""
        pairs = zip(self.tensors[1:], other.tensors[1:], strict=True)
        rest = (None if a is None or b is None else torch.cat([a, b]) for a, b in pairs)
        return Context(torch.cat([self.state, other.state]), *rest)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Context:
        changed = (None if value is None else change(value) for value in self.tensors[1:])
        return Context(change(self.state), *changed)
