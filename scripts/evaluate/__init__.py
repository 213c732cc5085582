"""`diffplan evaluate`: seeded episodes of a trained planner."""

from diffplan.scripts.evaluate.command import Evaluate
from diffplan.scripts.evaluate.options import PlanningOptions

__all__ = ["Evaluate", "PlanningOptions"]
