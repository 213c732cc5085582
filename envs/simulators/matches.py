"""From D4RL's dataset names to environments of today whose observations match the files."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym

from diffplan.envs.simulators.registration import register_environments


@dataclass(frozen=True)
class EnvMatch:
    """An evaluation environment.

    env_id: Gymnasium id, known once `environments` is imported. env_kwargs: JSON-able keyword
    arguments of `gymnasium.make`. differences: one line, what differs from the environment behind
    D4RL's data beyond the version of MuJoCo; "" where nothing is known to.
    """

    env_id: str
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    differences: str = ""


_HAND = (
    "gymnasium-robotics 1.4.2 has the opposite sign on the reward's hand-to-object term, {share}"
)
_PEN = "a dropped pen does not end the episode, as it does in D4RL"
_KITCHEN = (
    "kitchen model of gymnasium-robotics, not checked against D4RL's files; tasks are judged by "
    "positions without noise"
)
_ANTMAZE = "D4RL's ant and mazes rebuilt on today's MuJoCo, not checked against D4RL's files"
_ANT_CONTACTS = "observations and rewards of Ant-v5, with contact forces that D4RL's ant lacks"

# (first word of the name, columns of the observations) -> environment.
_BY_TASK: dict[tuple[str, int], EnvMatch] = {
    ("hopper", 11): EnvMatch("diffplan/hopper-v2"),
    ("halfcheetah", 17): EnvMatch("HalfCheetah-v5"),
    ("walker2d", 17): EnvMatch("diffplan/walker2d-v2"),
    ("ant", 111): EnvMatch("diffplan/ant-v2"),
    ("ant", 27): EnvMatch("Ant-v4"),
    ("ant", 105): EnvMatch("Ant-v5", differences=_ANT_CONTACTS),
    ("pen", 45): EnvMatch("AdroitHandPen-v1", {"max_episode_steps": 100}, _PEN),
    ("door", 39): EnvMatch(
        "AdroitHandDoor-v1", differences=_HAND.format(share="about 0.3 points of score")
    ),
    ("hammer", 46): EnvMatch(
        "AdroitHandHammer-v1", differences=_HAND.format(share="at 0.1 a metre and step")
    ),
    ("relocate", 39): EnvMatch(
        "AdroitHandRelocate-v1", differences=_HAND.format(share="at 0.1 a metre and step")
    ),
}
# Tasks whose name says which maze or which objects.
_BY_NAME: dict[tuple[str, int], str] = {
    ("maze2d", 4): "",
    ("antmaze", 29): _ANTMAZE,
    ("kitchen", 60): _KITCHEN,
}


def match_environment(name: str, width: int) -> EnvMatch | None:
    """The environment for a D4RL dataset, None where none fits.

    name: as in D4RL ("hopper-medium-v2", "maze2d-umaze-dense-v1", "pen-human-v1"); maze2d also
        without its version. width: columns of the stored observations.
    """
    task = name.partition("-")[0]
    if (task, width) in _BY_TASK:
        return _BY_TASK[task, width]
    if (task, width) not in _BY_NAME:
        return None
    register_environments()
    # data made here are called without a version, which the environment has
    versions = [f"diffplan/{name}"]
    if not re.search(r"-v\d+$", name):
        versions += [f"diffplan/{name}-v{version}" for version in (0, 1, 2)]
    found = next((env_id for env_id in versions if env_id in gym.registry), None)
    return None if found is None else EnvMatch(found, {}, _BY_NAME[task, width])
