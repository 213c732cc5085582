"""`diffplan evaluate`: seeded episodes of a trained planner."""

from diffplan.scripts.evaluate.command import Evaluate

__all__ = ["Evaluate"]
