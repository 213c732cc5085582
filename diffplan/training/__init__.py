"""The training loop, its log, and how a run is resumed."""

from diffplan.training.loop import train
from diffplan.training.run import RunOptions, find_previous

__all__ = ["RunOptions", "find_previous", "train"]
