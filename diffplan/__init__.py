"""Planning for offline reinforcement learning: propose, optimise by diffusion, select, decode."""

__version__ = "0.1.0"
