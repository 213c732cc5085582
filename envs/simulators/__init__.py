"""Environments: which there are, how one is found, what it takes."""

from typing import TYPE_CHECKING

from diffplan.lazy import attributes

if TYPE_CHECKING:
    from diffplan.envs.simulators.compatibility import check_environment
    from diffplan.envs.simulators.environments import evaluation_env_factory, make_env
    from diffplan.envs.simulators.mazes import Maze, maze_of
    from diffplan.envs.simulators.tasks import make_task_env, task_env_factory, task_infos
else:
    __getattr__, __dir__ = attributes(
        __name__,
        {
            "diffplan.envs.simulators.compatibility": "check_environment",
            "diffplan.envs.simulators.environments": "evaluation_env_factory make_env",
            "diffplan.envs.simulators.mazes": "Maze maze_of",
            "diffplan.envs.simulators.tasks": "make_task_env task_env_factory task_infos",
        },
    )

__all__ = [
    "Maze",
    "check_environment",
    "evaluation_env_factory",
    "make_env",
    "make_task_env",
    "maze_of",
    "task_env_factory",
    "task_infos",
]
