"""Procedures set beside published numbers."""

from diffplan.scripts.checks.maze2d_controllers import Maze2dControllers
from diffplan.scripts.checks.pointmaze_counts import PointmazeCounts

__all__ = ["Maze2dControllers", "PointmazeCounts"]
