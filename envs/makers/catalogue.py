"""What can be made here, by name: tables alone, which need no simulator."""

import re
from dataclasses import dataclass
from typing import Literal

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


@dataclass(frozen=True)
class Locomotion:
    """The actors of a locomotion task, each a file TASK-STEPS.npz beside this one.

    env_id: where they were trained and are rolled out. until_medium: steps of their training, the
    last of them medium; medium-replay has all of them. expert: steps, too.
    """

    env_id: str
    until_medium: tuple[str, ...]
    expert: str

    @property
    def actors(self) -> tuple[str, ...]:
        """All of them, in the order of their training."""
        return (*self.until_medium, self.expert)


LOCOMOTION_TASKS = {
    "hopper": Locomotion("Hopper-v5", ("50k", "100k", "150k", "225k"), "350k"),
    "walker2d": Locomotion("Walker2d-v5", ("50k", "100k", "150k", "200k"), "400k"),
    "halfcheetah": Locomotion("HalfCheetah-v5", ("20k", "40k", "60k"), "160k"),
}
LOCOMOTION = tuple(
    f"{task}-{kind}"
    for task in LOCOMOTION_TASKS
    for kind in ("medium", "medium-replay", "expert", "medium-expert")
)
"""hopper-medium, ...: D4RL's names without their version."""

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


@dataclass(frozen=True)
class MazeSet:
    """One of OGBench's maze datasets.

    env_name: OGBench's id of the maze. kind: see `makers.ogbench_mazes`. episodes: in the official
    training file. steps: rows of an episode. noise: standard deviation, on the actor's actions.
    """

    env_name: str
    kind: Literal["navigate", "stitch", "explore"]
    episodes: int
    steps: int
    noise: float


def _ogbench_mazes() -> dict[str, MazeSet]:
    found = {}
    for body, noise in (("pointmaze", 0.5), ("antmaze", 0.2)):
        for maze in ("medium", "large", "giant", "teleport"):
            env, long = f"{body}-{maze}-v0", maze == "giant"
            for made in (
                MazeSet(env, "navigate", 500 if long else 1000, 2001 if long else 1001, noise),
                MazeSet(env, "stitch", 5000, 201, noise),
                MazeSet(env, "explore", 10_000, 501, 1.0),
            ):
                # only ants explore, and not the giant maze
                if made.kind != "explore" or (body == "antmaze" and not long):
                    found[f"{body}-{maze}-{made.kind}-v0"] = made
    return found


@dataclass(frozen=True)
class PlaySet:
    """One of OGBench's datasets of an arm at play.

    env_name: OGBench's id. stack: bounds of the probability, drawn for each episode, that a cube
    is put on another one. episodes, steps: as in `MazeSet`.
    """

    env_name: str
    stack: tuple[float, float]
    episodes: int = 1000
    steps: int = 1001


OGBENCH: dict[str, MazeSet | PlaySet] = {
    **_ogbench_mazes(),
    "cube-single-play-v0": PlaySet("cube-single-v0", (0.0, 0.0)),
    "cube-double-play-v0": PlaySet("cube-double-v0", (0.0, 0.25)),
    "scene-play-v0": PlaySet("scene-v0", (0.5, 0.5)),
    "puzzle-3x3-play-v0": PlaySet("puzzle-3x3-v0", (0.5, 0.5)),
}
"""NAME, as OGBench's -> how its data are made."""

FETCH = {
    "fetch-reach": ("FetchReach-v4", 0.3),
    "fetch-push": ("FetchPush-v4", 0.2),
    "fetch-pick-and-place": ("FetchPickAndPlace-v4", 0.15),
}
"""NAME -> Gymnasium id, standard deviation of the noise on the controller's actions."""

MAKEABLE = (*sorted(POINTMAZES), *MAZE2D, *LOCOMOTION, *METAWORLD, *FETCH, *OGBENCH)
"""What `diffplan datasets make` takes."""
