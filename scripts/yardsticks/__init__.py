"""Model-free policies that planners are set beside in `diffplan study`; no part of a planner.

Begin with `methods.py`.
"""
