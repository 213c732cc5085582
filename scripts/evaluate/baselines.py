"""What a planner is set beside: what made its data, the data themselves, and chance."""

from __future__ import annotations

from dataclasses import dataclass

from tqdm import tqdm

from diffplan.data.info import DatasetInfo
from diffplan.envs.datasets import training_data
from diffplan.envs.formats.data_returns import comparable_returns
from diffplan.envs.makers.controllers import RandomPolicy, pointmaze_controllers
from diffplan.envs.makers.maze2d_controllers import maze2d_controllers
from diffplan.envs.rollouts.batch import Policy
from diffplan.envs.simulators.metaworld import scripted_policies
from diffplan.scripts.report.results import Score


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
    """The controllers of the data (mazes, Meta-World without its noise), and random actions.

    PointMaze: the one that made the data and the shortest-path one, which may be the same. maze2d:
    the one that made the data and the one behind D4RL's reference scores.
    """
    found: list[Baseline] = []
    controllers = pointmaze_controllers(info, seed=seed)
    for key, controller in controllers.items():
        # data made on shortest paths: both are the same controller
        if key != "controller" and controller.path_rule == controllers["controller"].path_rule:
            continue
        kind = {"shortest": "shortest-path"}.get(controller.path_rule, controller.path_rule)
        made = " (made the data)" if key == "controller" else ""
        found.append(Baseline(key, f"{kind} controller{made}", controller))
    for key, controller2d in maze2d_controllers(info, seed=seed).items():
        one = None if controller2d.replan else 1  # its rows plan once, in their first episode
        found.append(Baseline(key, controller2d.name, controller2d, one))
    for key, scripted in scripted_policies(info).items():
        found.append(Baseline(key, "scripted policy", scripted))
    found.append(Baseline("random", "random actions", RandomPolicy.of(info, seed=seed)))
    return found


def data_score(info: DatasetInfo, trained_on: str) -> Score | None:
    """The returns of the dataset's own episodes; None, and a line, where these are not at hand.

    See `training_data`.
    """
    episodes = training_data(info, trained_on)
    if isinstance(episodes, str):
        tqdm.write(f"the returns in the data are left out: {episodes}")
        return None
    returns = comparable_returns(episodes)
    return Score("episodes of the data", returns, episodes.lengths, success=None)
