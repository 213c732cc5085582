"""Decisions by plain calls."""

from __future__ import annotations

import torch
from torch import Tensor

from diffplan.config.sections import PlanningConfig
from diffplan.engines.decision import ActStep, Plan, PlanStep
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel


class EagerEngine:
    """Calls the modules as they are."""

    name = "eager"
    startup_seconds = 0.0

    def __init__(
        self,
        model: PlannerModel,
        settings: PlanningConfig,
        detailed: bool = False,
        valued: bool = False,
    ) -> None:
        """detailed, valued: see `PlanStep`."""
        self._plan = PlanStep(model, settings, detailed=detailed, valued=valued)
        self._again = self._plan
        if settings.reuse:
            self._again = PlanStep(model, settings, reuse=True, detailed=detailed)
        self._act = ActStep(model)

    @torch.inference_mode()
    def plan(self, context: Context, seeds: Tensor, counts: Tensor) -> Plan:
        step = self._plan if context.previous is None else self._again
        planned: Plan = step(context, step.draw(seeds, counts))
        return planned

    def prepare(self, rows: int) -> None:
        """Nothing has to be made ready."""

    @torch.inference_mode()
    def act(self, states: Tensor, plan: Tensor, place: Tensor, lag: Tensor) -> Tensor:
        actions: Tensor = self._act(states, plan, place, lag)
        return actions
