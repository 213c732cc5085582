"""Data of the Fetch arm made by scripted controllers, saved as genuine local Minari datasets.

The environments are Gymnasium-Robotics' (Plappert et al. 2018, arXiv 1802.09464): 50 steps, a goal
for the gripper or for a box. Each controller is told the goal and acts by proportional control, its
actions with Gaussian noise; episodes that fail are kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from minari.data_collector import EpisodeBuffer
from minari.storage import get_dataset_path
from tqdm import tqdm

from diffplan.envs.formats.minari_write import already_made, software_versions, write_minari
from diffplan.envs.makers.catalogue import FETCH
from diffplan.envs.rollouts.workers import in_order
from diffplan.envs.simulators.installed import register_robotics, require_simulator
from diffplan.errors import DiffplanError
from diffplan.limits import require_disk

_RECIPE_KEYS = ("name", "episodes", "action_noise", "seed")
_AT_ONCE = 25  # episodes of one job
_STEP_BYTES = 900  # in Minari's files
# metres
_BEHIND = 0.09  # where a push begins, from the box's centre
_ABOVE = 0.1  # how high the gripper passes over the box
_GRIPPED = 0.06  # opening of a gripper that holds the box
_NEAR = 0.012  # of the box, to grip it


@dataclass(frozen=True)
class _Job:
    env_id: str
    first: int
    last: int
    seed: int
    action_noise: float


def fetch_id(name: str) -> str:
    """The Minari id of a NAME: fetch-push is fetch/push-v0."""
    return f"fetch/{name.removeprefix('fetch-')}-v0"


def make_fetch(
    name: str,
    *,
    episodes: int = 1500,
    action_noise: float | None = None,
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> str:
    """Make a dataset of the Fetch arm and return its Minari id.

    name: a key of FETCH. episodes: of 50 steps each; the first do not depend on how many are made,
    nor on the number of processes. action_noise: standard deviation, by default the task's own.
    seed: of places, goals and noise. workers: processes, by default one per core up to 8.
    overwrite: replace a dataset of that id that was made otherwise.

    A dataset made with the same arguments is kept as it is. An interrupted call leaves nothing
    behind. Raises DiffplanError for an unknown name, numbers out of range, an id in use, and where
    gymnasium-robotics is not installed.
    """
    if name not in FETCH:
        raise DiffplanError(f"unknown dataset name '{name}'; can be made: {', '.join(FETCH)}")
    env_id, usual = FETCH[name]
    noise = usual if action_noise is None else action_noise
    if episodes < 1 or seed < 0 or not 0 <= noise < np.inf or (workers or 1) < 1:
        raise DiffplanError(
            f"{episodes} episodes, action noise {noise:g}, seed {seed}, workers {workers}: "
            "expected at least one episode and worker, and numbers from 0 on"
        )
    require_simulator("robotics", f"making {name}")
    register_robotics()
    recipe = {
        "name": name,
        "episodes": episodes,
        "action_noise": noise,
        "seed": seed,
        "versions": software_versions(),
    }
    dataset_id = fetch_id(name)
    if already_made(dataset_id, recipe, _RECIPE_KEYS, _describe, overwrite):
        return dataset_id
    require_disk(get_dataset_path(), 50 * _STEP_BYTES * episodes, f"{episodes:,} episodes", "fewer")
    jobs = [
        _Job(env_id, first, min(first + _AT_ONCE, episodes), seed, noise)
        for first in range(0, episodes, _AT_ONCE)
    ]
    made: list[EpisodeBuffer] = []
    with tqdm(total=episodes, desc=name, unit="episode", disable=not progress) as bar:
        for part in in_order([partial(_run, job) for job in jobs], workers, "give fewer --workers"):
            made += part
            bar.update(len(part))
    recipe["success_rate"] = float(np.mean([buffer.rewards[-1] == 0 for buffer in made]))
    write_minari(
        dataset_id,
        made,
        len(made),
        recipe,
        progress=progress,
        env=gym.spec(env_id),
        algorithm_name=f"scripted controller, action noise {noise:g}",
        description=f"{env_id} by a scripted controller that is told the goal.",
    )
    return dataset_id


def _describe(recipe: dict[str, Any]) -> str:
    return (
        f"{recipe.get('episodes')} episodes, action noise {recipe.get('action_noise')}, seed "
        f"{recipe.get('seed')}, MuJoCo {recipe.get('versions', {}).get('mujoco')}"
    )


def _run(job: _Job) -> list[EpisodeBuffer]:
    register_robotics()
    with contextlib.closing(gym.make(job.env_id)) as env:
        act = _CONTROLLERS[job.env_id]
        return [_roll_out(env, act, job, episode) for episode in range(job.first, job.last)]


def _roll_out(
    env: gym.Env, act: Callable[[dict[str, np.ndarray]], np.ndarray], job: _Job, episode: int
) -> EpisodeBuffer:
    rng = np.random.default_rng([job.seed, episode])
    seen = [env.reset(seed=int(rng.integers(2**31)))[0]]
    actions, rewards, over = [], [], False
    while not over:
        noise = job.action_noise * rng.standard_normal(4)
        actions.append(np.clip(act(seen[-1]) + noise, -1, 1).astype(np.float32))
        observation, reward, terminated, truncated, _ = env.step(actions[-1])
        seen.append(observation)
        rewards.append(float(reward))
        over = terminated or truncated
    last = np.arange(len(actions)) == len(actions) - 1
    return EpisodeBuffer(
        observations={key: np.stack([each[key] for each in seen]) for key in seen[0]},
        actions=np.stack(actions),
        rewards=np.array(rewards),
        terminations=np.zeros(len(actions), np.bool_),
        truncations=last,
    )


def _reach(observation: dict[str, np.ndarray]) -> np.ndarray:
    return np.append(10 * (observation["desired_goal"] - observation["achieved_goal"]), 0.0)


def _push(observation: dict[str, np.ndarray]) -> np.ndarray:
    """Over the box, down behind it, and through it towards the goal."""
    gripper, box = observation["observation"][:3], observation["achieved_goal"]
    way = (observation["desired_goal"] - box)[:2]
    far = float(np.linalg.norm(way))
    if far < 0.02:
        return np.zeros(4)
    way = way / far
    beside = gripper[:2] - box[:2]
    along = float(beside @ way)
    across = beside - along * way
    behind = box[:2] - _BEHIND * way
    if gripper[2] < box[2] + 0.04 and along < -0.03 and np.linalg.norm(across) < 0.025:
        target = np.append(observation["desired_goal"][:2] - 0.03 * way, box[2])
        move = 10 * (target - gripper)
        move[:2] -= 8 * across
    elif np.linalg.norm(gripper[:2] - behind) < 0.03:
        move = 10 * (np.append(behind, box[2]) - gripper)
    else:
        target = np.append(behind, box[2] + _ABOVE)
        # straight up first where it would sweep the box away
        if gripper[2] < box[2] + 0.06 and np.linalg.norm(beside) < 0.1:
            target[:2] = gripper[:2]
        move = 10 * (target - gripper)
    return np.append(move, 0.0)


def _pick_and_place(observation: dict[str, np.ndarray]) -> np.ndarray:
    """Over the box, down, close, and carry it to the goal. The last number opens the gripper."""
    gripper, box = observation["observation"][:3], observation["achieved_goal"]
    opening, to_box = float(observation["observation"][9:11].sum()), box - gripper
    if np.linalg.norm(to_box) < 0.02 and opening < _GRIPPED:
        return np.append(10 * (observation["desired_goal"] - box), -1.0)
    if np.linalg.norm(to_box[:2]) > _NEAR:
        return np.append(12 * (to_box + np.array([0, 0, 0.06])), 1.0)
    return np.append(12 * to_box, 1.0 if to_box[2] < -_NEAR else -1.0)


_CONTROLLERS = {
    "FetchReach-v4": _reach,
    "FetchPush-v4": _push,
    "FetchPickAndPlace-v4": _pick_and_place,
}
