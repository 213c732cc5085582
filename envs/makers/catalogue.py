"""What can be made here, by name: tables alone, which need no simulator."""

import re

from diffplan.envs.formats.d4rl_catalogue import CATALOGUE

MAZES = ("open", "umaze", "medium", "large")

POINTMAZES = {
    "pointmaze-open": "PointMaze_Open-v3",
    "pointmaze-umaze": "PointMaze_UMaze-v3",
    "pointmaze-medium": "PointMaze_Medium-v3",
    "pointmaze-large": "PointMaze_Large-v3",
}
"""NAME -> Gymnasium id."""

MAZE2D = tuple(
    re.sub(r"-v\d+$", "", dataset.name)
    for dataset in CATALOGUE.values()
    if dataset.domain == "maze2d"
)
"""maze2d-umaze, maze2d-large-dense, ...: D4RL's names without their version."""

# In the benchmark's own order.
MT10 = (
    "reach-v3",
    "push-v3",
    "pick-place-v3",
    "door-open-v3",
    "drawer-open-v3",
    "drawer-close-v3",
    "button-press-topdown-v3",
    "peg-insert-side-v3",
    "window-open-v3",
    "window-close-v3",
)
METAWORLD: dict[str, tuple[str, ...]] = {
    "metaworld-mt10": MT10,
    **{f"metaworld-{task.removesuffix('-v3')}": (task,) for task in MT10},
}
"""NAME -> its tasks: the ten together, and each alone."""

MAKEABLE = (*sorted(POINTMAZES), *MAZE2D, *METAWORLD)
"""What `diffplan datasets make` takes."""
