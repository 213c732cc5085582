"""Where an agent that got nowhere may go: see `diffplan.runtime.Detours`."""

from __future__ import annotations

from typing import Any

from diffplan.config.sections import PlanningConfig
from diffplan.model.planner_model import PlannerModel


def detours_of(model: PlannerModel, settings: PlanningConfig) -> dict[str, Any] | None:
    """The arguments of `Detours`, JSON-able; None where none are taken."""
    ways = model.subgoals
    if ways is None or not settings.detour_after:
        return None
    plan = model.config.plan
    return {
        "landmarks": ways.centres.tolist(),
        "speed": float(ways.speed),
        "after": settings.detour_after,
        "reach": settings.subgoal_steps or plan.horizon * plan.stride,
    }
