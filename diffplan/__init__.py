"""Planning for offline reinforcement learning: propose, optimise by diffusion, select, decode.

Public are `diffplan.agents` (load a trained planner, act and ask), `diffplan.config` (what a
planner is), `diffplan.training` (train one), `diffplan.data` (the store of episodes) and what the
README names; the rest may change.
"""

__version__ = "0.1.0"
