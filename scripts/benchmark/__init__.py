"""`diffplan benchmark`: what a decision costs, stage by stage, and why."""

from diffplan.scripts.benchmark.command import Benchmark

__all__ = ["Benchmark"]
