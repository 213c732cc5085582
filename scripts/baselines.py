"""What a planner is set beside: the controllers that made its data, and chance."""

from __future__ import annotations

from dataclasses import dataclass

from diffplan.data.episodes import DatasetInfo
from diffplan.envs.controllers import RandomPolicy, pointmaze_controllers
from diffplan.envs.maze2d_controllers import maze2d_controllers
from diffplan.envs.rollout import Policy


@dataclass(frozen=True)
class Baseline:
    """A policy to compare with.

    key: in results.json. name: in tables. rows: environments that it may step at once, None for
    any number.
    """

    key: str
    name: str
    policy: Policy
    rows: int | None = None


def baselines(info: DatasetInfo, seed: int) -> list[Baseline]:
    """The controllers of the data (PointMaze, maze2d in D4RL's frame), and random actions.

    PointMaze: the one that made the data and the shortest-path one, which may be the same. maze2d:
    the one that made the data and the one behind D4RL's reference scores.
    """
    found: list[Baseline] = []
    controllers = pointmaze_controllers(info, seed=seed)
    for key, controller in controllers.items():
        if key != "controller" and controller.path_rule == controllers["controller"].path_rule:
            continue
        kind = {"shortest": "shortest-path"}.get(controller.path_rule, controller.path_rule)
        made = " (made the data)" if key == "controller" else ""
        found.append(Baseline(key, f"{kind} controller{made}", controller))
    for key, controller2d in maze2d_controllers(info, seed=seed).items():
        one = None if controller2d.replan else 1  # its rows plan once, in their first episode
        found.append(Baseline(key, controller2d.name, controller2d, one))
    found.append(Baseline("random", "random actions", RandomPolicy.of(info, seed=seed)))
    return found
