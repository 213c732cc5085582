"""Decisions by plain calls."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffplan.config.sections import PlanningConfig
from diffplan.data.placement import moved
from diffplan.engines.decision import ActStep, Handed, Plan, PlanStep
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel


class EagerEngine(Handed):
    """Calls the modules as they are."""

    name = "eager"
    startup_seconds = 0.0

    def __init__(
        self,
        model: PlannerModel,
        settings: PlanningConfig,
        detailed: bool = False,
        valued: bool = False,
        **wished: Any,
    ) -> None:
        """detailed, valued, wished (steering, routes): see `PlanStep`."""
        self._plan = PlanStep(model, settings, detailed=detailed, valued=valued, **wished)
        self._again = self._plan
        if settings.reuse:
            self._again = PlanStep(model, settings, reuse=True, detailed=detailed, **wished)
        self._act, self._device = ActStep(model), model.plan_scale.device
        # what inference mode makes cannot be differentiated
        steering = self._plan.steering
        differentiates = steering is not None and steering.differentiates
        self._quietly = torch.no_grad if differentiates else torch.inference_mode

    def plan(self, context: Context, seeds: Tensor, counts: Tensor) -> Plan:
        step = self._plan if context.previous is None else self._again
        if self._device.type != "cpu":
            context = moved(context, self._device)
            seeds, counts = moved(seeds, self._device), moved(counts, self._device)
        with self._quietly():
            planned: Plan = step(context, step.draw(seeds, counts))
        return planned

    def prepare(self, rows: int) -> None:
        """Nothing has to be made ready."""

    @torch.inference_mode()
    def act(
        self,
        states: Tensor,
        plan: Tensor,
        place: Tensor,
        lag: Tensor,
        features: Tensor | None = None,
    ) -> Tensor:
        given = states, plan, place, lag, features
        actions: Tensor = self._act(*(moved(t, self._device) for t in given))
        return actions
