"""Meta-World data made by its scripted policies, saved as genuine local Minari datasets."""

from __future__ import annotations

import contextlib
import importlib.metadata
import warnings
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari.storage import get_dataset_path
from tqdm import tqdm

from diffplan.data.info import Task
from diffplan.envs.formats.minari_write import already_made, software_versions, write_minari
from diffplan.envs.makers.catalogue import METAWORLD
from diffplan.envs.rollouts.workers import in_order
from diffplan.envs.simulators.installed import require_simulator
from diffplan.envs.simulators.registration import METAWORLD_LIMIT, register_environments
from diffplan.errors import DiffplanError
from diffplan.limits import require_disk, require_memory

_ENV_ID = "diffplan/metaworld-v3"
_RECIPE_KEYS = ("name", "episodes_per_task", "steps", "action_noise", "seed", "metaworld")
_AT_ONCE = 5  # episodes of one job: a process makes its environment for each


@dataclass(frozen=True)
class _Job:
    """Some episodes of a task: `first` to `last` - 1 of those of the dataset."""

    task: str
    first: int
    last: int
    steps: int
    action_noise: float
    seed: int


@dataclass(frozen=True)
class _Episode:
    """observations [T+1, 39] float64, actions [T, 4] float32, rewards [T]; seed of its reset."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    success: bool
    seed: int


def metaworld_id(name: str) -> str:
    """The Minari id of a NAME: metaworld-mt10 is metaworld/mt10-v0."""
    return f"metaworld/{name.removeprefix('metaworld-')}-v0"


def make_metaworld(
    name: str,
    *,
    episodes_per_task: int = 50,
    steps: int = 150,
    action_noise: float = 0.0,
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> str:
    """Make a Meta-World dataset and return its Minari id.

    name: a key of METAWORLD. steps: longest episode; one ends earlier, 10 steps after its first
    success, always as a truncation. action_noise: standard deviation of the Gaussian noise on the
    policy's actions, before these are clipped to [-1, 1]; what is kept is what was executed. seed:
    of places and noise; the first episodes of a task do not depend on how many are made, nor on
    the other tasks. workers: processes, by default one per core up to 8. overwrite: replace a
    dataset of that id that was made otherwise.

    A dataset made with the same arguments is kept as it is. An interrupted call leaves nothing
    behind. Raises DiffplanError for an unknown name, numbers out of range, an id in use, and where
    Meta-World is not installed.
    """
    _check(name, episodes_per_task, steps, action_noise, seed, workers)
    require_simulator("metaworld", f"making {name}")
    version = importlib.metadata.version("metaworld")
    tasks = [
        Task(task.removesuffix("-v3"), _ENV_ID, {"env_name": task}, 39) for task in METAWORLD[name]
    ]
    recipe = {
        "name": name,
        "episodes_per_task": episodes_per_task,
        "steps": steps,
        "action_noise": action_noise,
        "seed": seed,
        "metaworld": version,
        "tasks": [asdict(task) for task in tasks],
        "versions": {**software_versions(), "metaworld": version},
    }
    dataset_id = metaworld_id(name)
    if already_made(dataset_id, recipe, _RECIPE_KEYS, _describe, overwrite):
        return dataset_id
    # of one step each: most end long before the last
    most = len(tasks) * episodes_per_task
    require_memory(8 * 39 * most, f"{most:,} episodes", "make fewer")
    # small jobs: the tasks differ in length, and no process should wait for the longest
    jobs = [
        _Job(task, first, min(first + _AT_ONCE, episodes_per_task), steps, action_noise, seed)
        for task in METAWORLD[name]
        for first in range(0, episodes_per_task, _AT_ONCE)
    ]
    with tqdm(
        total=len(tasks) * episodes_per_task, desc=name, unit="episode", disable=not progress
    ) as bar:
        episodes: list[_Episode] = []
        for made in in_order([partial(_run, job) for job in jobs], workers, "give fewer --workers"):
            episodes += made
            bar.update(len(made))
    size = sum(e.observations.nbytes + e.actions.nbytes + e.rewards.nbytes for e in episodes)
    require_disk(get_dataset_path(), size, f"{len(episodes):,} episodes", "make fewer")
    of = [task.name for task in tasks for _ in range(episodes_per_task)]  # as the jobs were laid
    metadata = [
        {"task": task, "success": episode.success}
        for task, episode in zip(of, episodes, strict=True)
    ]
    # kept with the data: scripted policies fail at times
    recipe["success_rate"] = {
        task.name: float(np.mean([m["success"] for m in metadata if m["task"] == task.name]))
        for task in tasks
    }
    write_minari(
        dataset_id,
        map(_buffer, episodes),
        len(episodes),
        recipe,
        episode_metadata=metadata,
        progress=progress,
        observation_space=spaces.Box(-np.inf, np.inf, (39,), np.float64),
        action_space=spaces.Box(-1.0, 1.0, (4,), np.float32),
        algorithm_name=f"Meta-World's scripted policies, action noise {action_noise:g}",
        description=f"Meta-World {version}: {', '.join(METAWORLD[name])}.",
    )
    return dataset_id


def _check(
    name: str,
    episodes_per_task: int,
    steps: int,
    action_noise: float,
    seed: int,
    workers: int | None,
) -> None:
    if name not in METAWORLD:
        raise DiffplanError(f"unknown dataset name '{name}'; can be made: {', '.join(METAWORLD)}")
    if episodes_per_task < 1 or not 1 <= steps <= METAWORLD_LIMIT:
        raise DiffplanError(
            f"{episodes_per_task} episodes per task of at most {steps} steps: expected at least "
            f"1, and 1 to {METAWORLD_LIMIT}"
        )
    if not 0 <= action_noise < np.inf or seed < 0 or (workers is not None and workers < 1):
        raise DiffplanError(
            f"action noise {action_noise:g}, seed {seed}, workers {workers}: expected numbers from "
            "0 on, and at least one worker"
        )


def _describe(recipe: dict[str, Any]) -> str:
    return (
        f"{recipe.get('episodes_per_task')} episodes per task of {recipe.get('steps')} steps, "
        f"action noise {recipe.get('action_noise')}, seed {recipe.get('seed')}, Meta-World "
        f"{recipe.get('metaworld')}, MuJoCo {recipe.get('versions', {}).get('mujoco')}"
    )


def _run(job: _Job) -> list[_Episode]:
    from metaworld.policies import ENV_POLICY_MAP

    register_environments()
    # a process makes its own: simulators do not travel between processes
    env = gym.make(_ENV_ID, env_name=job.task, max_episode_steps=job.steps)
    with contextlib.closing(env), warnings.catch_warnings():
        # the policies say that some of their actions are clipped
        warnings.simplefilter("ignore", UserWarning)
        policy: Any = ENV_POLICY_MAP[job.task]
        return [_roll_out(env, policy(), job, e) for e in range(job.first, job.last)]


def _roll_out(env: gym.Env, policy: Any, job: _Job, episode: int) -> _Episode:
    """Noise and places from generators that know the task by its name."""
    key = [job.seed, *job.task.encode(), episode]
    places, noise = (np.random.default_rng([*key, stream]) for stream in (1, 2))
    # kept with the episode, so that it can be set up again
    reset_seed = int(places.integers(2**31))
    observation, _ = env.reset(seed=reset_seed)
    observations, actions, rewards = [observation], [], []
    success = ended = False
    while not ended:
        wanted = policy.get_action(observation)
        # noise before clipping; kept is what was executed
        wanted = wanted + job.action_noise * noise.standard_normal(len(wanted))
        actions.append(np.clip(wanted, -1.0, 1.0).astype(np.float32))
        observation, reward, _, ended, info = env.step(actions[-1])
        observations.append(observation)
        rewards.append(float(reward))
        success |= bool(info["success"])
    return _Episode(
        np.stack(observations), np.stack(actions), np.array(rewards), success, reset_seed
    )


def _buffer(episode: _Episode) -> EpisodeBuffer:
    length = len(episode.actions)
    return EpisodeBuffer(
        seed=episode.seed,
        observations=episode.observations,
        actions=episode.actions,
        rewards=episode.rewards,
        terminations=np.zeros(length, np.bool_),
        truncations=np.arange(length) == length - 1,
    )
