"""D4RL's environments that Gymnasium lacks, by D4RL's names under "diffplan/"; Meta-World's."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

_HERE = "diffplan.envs.simulators"
METAWORLD_LIMIT = 500
OGBENCH_LIMIT = 1000  # of its mazes
MAZE2D_VERSIONS = {"open": 0, "umaze": 1, "medium": 1, "large": 1}
MAZE2D_LIMITS = {"open": 150, "umaze": 300, "medium": 600, "large": 800}
ANTMAZE_LIMITS = {"umaze": 700, "medium": 1000, "large": 1000}
# The sets of one maze differ in their data only.
ANTMAZE_SETS = {"umaze": ("", "-diverse"), "medium": ("-play", "-diverse")}
ANTMAZE_SETS["large"] = ANTMAZE_SETS["medium"]
KITCHEN_TASKS = ("complete", "partial", "mixed")
# Version 4 has version 2's models and rewards: in version 5 the step of a fall is not rewarded for
# being healthy, and Walker2d's feet have other friction. By its own name it warns of being old.
_MUJOCO_V4 = {
    "hopper-v2": "gymnasium.envs.mujoco.hopper_v4:HopperEnv",
    "walker2d-v2": "gymnasium.envs.mujoco.walker2d_v4:Walker2dEnv",
}


def register_environments() -> None:
    """Register them with Gymnasium; a second call changes nothing.

    diffplan/maze2d-{open-v0,umaze-v1,medium-v1,large-v1}, also with -dense before the version;
    diffplan/antmaze-...-v2; diffplan/kitchen-{complete,partial,mixed}-v0;
    diffplan/{hopper,walker2d,ant}-v2; diffplan/metaworld-v3 and diffplan/ogbench-v0, which take
    env_name.
    """
    for maze, limit in MAZE2D_LIMITS.items():
        for dense in (False, True):
            name = f"maze2d-{maze}{'-dense' if dense else ''}-v{MAZE2D_VERSIONS[maze]}"
            _register(name, f"{_HERE}.maze2d:Maze2D", limit, maze=maze, dense=dense)
    for maze, limit in ANTMAZE_LIMITS.items():
        for kind in ANTMAZE_SETS[maze]:
            _register(f"antmaze-{maze}{kind}-v2", f"{_HERE}.antmaze:AntMaze", limit, maze=maze)
    for tasks in KITCHEN_TASKS:
        _register(f"kitchen-{tasks}-v0", f"{_HERE}.kitchen:Kitchen", 280, tasks=tasks)
    _register("metaworld-v3", f"{_HERE}.metaworld:MetaWorld", METAWORLD_LIMIT)
    _register("ogbench-v0", f"{_HERE}.ogbench:OGBench", OGBENCH_LIMIT)
    _register("ant-v2", f"{_HERE}.ant:AntWithoutContacts", 1000)
    for name, entry_point in _MUJOCO_V4.items():
        _register(name, entry_point, 1000)


def _register(name: str, entry_point: str, limit: int, **kwargs: Any) -> None:
    if f"diffplan/{name}" not in gym.registry:
        gym.register(
            f"diffplan/{name}",
            entry_point=entry_point,
            max_episode_steps=limit,
            kwargs=kwargs,
        )
