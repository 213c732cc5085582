"""What a planner is set beside: what made its data, the data themselves, and chance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from diffplan.data.episodes import DatasetInfo, Episodes
from diffplan.envs.controllers import RandomPolicy, pointmaze_controllers
from diffplan.envs.d4rl_catalogue import CATALOGUE
from diffplan.envs.data_returns import comparable_returns
from diffplan.envs.datasets import load_dataset, load_datasets
from diffplan.envs.maze2d_controllers import maze2d_controllers
from diffplan.envs.metaworld import scripted_policies
from diffplan.envs.minari_data import is_local
from diffplan.envs.minari_remote import is_minari_id
from diffplan.envs.rollout import Policy
from diffplan.errors import DiffplanError
from diffplan.scripts.results import Score
from diffplan.training import fingerprint


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


def training_data(info: DatasetInfo, trained_on: str) -> Episodes | str:
    """The episodes that a run was trained on, or why they are not at hand.

    info: what the dataset says about itself. trained_on: `training.fingerprint` of what the run
    was trained on; data of the same name that have changed since do not count. Nothing is
    downloaded.
    """
    if info.source == "combined":
        return _combined_data(info, trained_on)
    known = CATALOGUE.get(info.id)
    here = known.path.is_file() if known else is_local(info.id) or Path(info.id).exists()
    reason = ""
    # A file without timeouts is cut by the environment, which may have been given in training.
    environments = dict.fromkeys((None, info.env_id if info.source == "d4rl" else None))
    if not here and (known or is_minari_id(info.id)):
        reason, environments = f"{info.id} is not on this machine", {}
    for env in environments:
        try:
            episodes = load_dataset(info.id, env)
        except DiffplanError as error:
            reason = reason or str(error)
            continue
        found = fingerprint(episodes)
        if found == trained_on:
            return episodes
        reason = f"{info.id} now holds other data ({found}) than the run saw ({trained_on})"
    return reason


def _combined_data(info: DatasetInfo, trained_on: str) -> Episodes | str:
    """See `training_data`; the parts may be anywhere, but for what would have to be downloaded."""
    parts = info.details["parts"]
    for part in parts:
        known = CATALOGUE.get(part)
        if not (known.path.is_file() if known else is_local(part) or Path(part).exists()):
            return f"{part} is not on this machine"
    try:
        episodes = load_datasets(parts)
    except DiffplanError as error:
        return str(error)
    found = fingerprint(episodes)
    if found != trained_on:
        return f"{info.id} now holds other data ({found}) than the run saw ({trained_on})"
    return episodes
