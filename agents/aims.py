"""What agents aim at beside the goal: arguments of `diffplan.runtime`'s `Detours` and `Errands`."""

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


def errands_of(model: PlannerModel) -> dict[str, Any] | None:
    """The arguments of `Errands`, moves as arrays; None where goals are about one thing."""
    if model.moves is None:
        return None
    columns = list(model.spec.goal_columns)
    plan = model.config.plan
    return {
        "things": list(model.spec.things),
        "scale": model.observed.std[columns].tolist(),
        "after": plan.horizon * plan.stride,
        **{name: value.numpy(force=True) for name, value in model.moves.named_buffers()},
    }
