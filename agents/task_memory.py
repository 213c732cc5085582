"""What an agent knows of its task: nothing, what it was told, or what it has seen."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffplan.data.drawing import DRAWING
from diffplan.data.info import Task
from diffplan.errors import DiffplanError
from diffplan.model.conditions import TaskEncoder
from diffplan.model.planner_model import PlannerModel

REMEMBERED = 512  # ends of strides of an episode


@dataclass(frozen=True)
class TaskMemory:
    """Codes of tasks for one model.

    told: [F] the same code for every row, None where the networks are not told, or not the same.
    remembers: whether codes come from the states of the episode so far.
    """

    model: PlannerModel
    told: Tensor | None
    remembers: bool = False

    @classmethod
    def unknown(cls, model: PlannerModel) -> TaskMemory:
        """Nothing is told."""
        return cls(model, None if model.tasks is None else model.tasks.unknown.detach())

    @torch.no_grad()
    def of_task(self, task: int | None, tasks: tuple[Task, ...]) -> TaskMemory:
        """Told the number of the task among those of the data; None: not told."""
        encoder = self._encoder()
        if task is None:
            return self._told(encoder.unknown.detach())
        if not 0 <= task < self.model.spec.tasks:
            raise DiffplanError(
                f"task is {task}, expected 0 to {self.model.spec.tasks - 1}: "
                + ", ".join(f"{i} {known.name}" for i, known in enumerate(tasks))
            )
        device = self.model.plan_scale.device
        return self._told(encoder.from_id(torch.tensor([task], device=device))[0])

    @torch.no_grad()
    def of_demonstration(self, states: np.ndarray) -> TaskMemory:
        """Shown the states [n, D] of one episode of the task, in environment units."""
        found, width = np.asarray(states, np.float32), self.model.spec.state_dim
        if found.ndim != 2 or found.shape[1] != width or not len(found):
            raise DiffplanError(f"the demonstration has shape {found.shape}, expected [n, {width}]")
        return self._told(self._shown(found[None])[0])

    def of_history(self) -> TaskMemory:
        """Codes from the states of the episode so far."""
        device = self.model.plan_scale.device
        # refuses now a model that is told by number
        self._encoder().from_states(torch.zeros(1, 1, self.model.spec.state_dim, device=device))
        return dataclasses.replace(self, told=None, remembers=True)

    @torch.no_grad()
    def codes(self, history: np.ndarray | None, step: np.ndarray) -> Tensor | None:
        """What the networks are told of the tasks [B, F], in rows at these steps of episodes."""
        if self.told is not None:
            return self.told.expand(len(step), -1)
        if history is None:
            return None
        stride = self.model.config.plan.stride
        many = np.minimum(step // stride, history.shape[1] - 1) + 1
        # row by row: each has seen another number of states
        return torch.cat([self._shown(row[None, :n]) for row, n in zip(history, many, strict=True)])

    def remember(
        self, history: np.ndarray | None, states: np.ndarray, step: np.ndarray
    ) -> np.ndarray | None:
        """The history with the states that end a stride; the last place holds the newest."""
        if not self.remembers:
            return None
        if history is None:
            history = np.zeros((len(states), REMEMBERED, states.shape[1]), np.float32)
        # the state is a value: what was handed out before must not change
        history, stride = history.copy(), self.model.config.plan.stride
        # a long episode keeps its beginning and its newest state
        place = np.minimum(step // stride, REMEMBERED - 1)
        rows = np.flatnonzero(step % stride == 0)
        history[rows, place[rows]] = states[rows]
        return history

    def _told(self, code: Tensor) -> TaskMemory:
        return dataclasses.replace(self, told=code, remembers=False)

    def _encoder(self) -> TaskEncoder:
        if self.model.tasks is None:
            raise DiffplanError(
                "this model is told nothing of its task: it was trained on one, or with "
                "data.tasks none"
            )
        return self.model.tasks

    def _shown(self, states: np.ndarray) -> Tensor:
        """Codes [B, F] from states [B, n, D] of the tasks, evenly spaced over them."""
        index = np.linspace(0, states.shape[1] - 1, DRAWING.prompt).round().astype(np.int64)
        seen = torch.from_numpy(states[:, index]).to(self.model.plan_scale.device)
        return self._encoder().from_states(self.model.states(seen))
