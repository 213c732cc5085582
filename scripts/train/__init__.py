"""`diffplan train`, and the same from Python."""

from typing import TYPE_CHECKING

from diffplan.lazy import attributes

if TYPE_CHECKING:
    from diffplan.scripts.train.command import Train
    from diffplan.scripts.train.python import train
    from diffplan.scripts.train.run import Run
else:
    __getattr__, __dir__ = attributes(
        __name__,
        {
            "diffplan.scripts.train.command": "Train",
            "diffplan.scripts.train.python": "train",
            "diffplan.scripts.train.run": "Run",
        },
    )

__all__ = ["Run", "Train", "train"]
