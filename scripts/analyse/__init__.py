"""`diffplan analyse`: what decides a run's plans, what its denoiser knows, and what to change."""

from diffplan.scripts.analyse.command import Analyse

__all__ = ["Analyse"]
