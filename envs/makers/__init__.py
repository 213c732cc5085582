"""Data that are made here: controllers that run, and the datasets of their runs."""

from typing import TYPE_CHECKING

from diffplan.lazy import attributes

if TYPE_CHECKING:
    from diffplan.envs.makers.catalogue import MAKEABLE
    from diffplan.envs.makers.maze2d_data import make_maze2d
    from diffplan.envs.makers.metaworld_data import make_metaworld
    from diffplan.envs.makers.pointmaze_data import make_pointmaze
else:
    __getattr__, __dir__ = attributes(
        __name__,
        {
            "diffplan.envs.makers.catalogue": "MAKEABLE",
            "diffplan.envs.makers.maze2d_data": "make_maze2d",
            "diffplan.envs.makers.metaworld_data": "make_metaworld",
            "diffplan.envs.makers.pointmaze_data": "make_pointmaze",
        },
    )

__all__ = [
    "MAKEABLE",
    "make_maze2d",
    "make_metaworld",
    "make_pointmaze",
]
