"""What plans are asked to keep to that the data never showed: obstacles, bounds, waypoints, costs.

In environment units, batched, knowing no model; `diffplan.planning.wishes` meets it.
"""

from diffplan.constraints.kinds import Avoid, Constraint, Custom, Limit, Reach, Waypoint
from diffplan.constraints.shapes import Box, Disc

__all__ = ["Avoid", "Box", "Constraint", "Custom", "Disc", "Limit", "Reach", "Waypoint"]
