"""The training loop, its log, and how a run is resumed."""

from typing import TYPE_CHECKING

from diffplan.lazy import attributes

if TYPE_CHECKING:
    from diffplan.training.loop import train
    from diffplan.training.run import Progress, RunOptions, find_previous
else:
    __getattr__, __dir__ = attributes(
        __name__,
        {
            "diffplan.training.loop": "train",
            "diffplan.training.run": "Progress RunOptions find_previous",
        },
    )

__all__ = [
    "Progress",
    "RunOptions",
    "find_previous",
    "train",
]
