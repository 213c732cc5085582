"""Locomotion data made by rolling out actors trained here, as files in D4RL's layout.

medium and expert are one actor each, medium-expert is half of the one and half of the other, as in
D4RL (arXiv 2004.07219). medium-replay is a replay of the training up to medium by its snapshots:
each stands for the steps since the one before. D4RL's holds the replay buffer itself, whose actor
changes at every step. Actions are drawn from the policies. The actors are trained by
scripts/checks/behaviour.py.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator
from contextlib import nullcontext
from importlib import resources
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from diffplan.envs.formats.d4rl_write import already_made, write_d4rl
from diffplan.envs.formats.minari_write import software_versions
from diffplan.envs.makers.actors import Actor, load_actor
from diffplan.envs.makers.catalogue import LOCOMOTION, LOCOMOTION_TASKS
from diffplan.envs.rollouts.workers import Workers, count_of, worker_pool
from diffplan.errors import DiffplanError
from diffplan.limits import require_disk, require_memory

_AT_ONCE = 4  # episodes of one job
_RECIPE = ("name", "steps", "seed", "actors", "mujoco")

_Episode = dict[str, np.ndarray]


def make_locomotion(
    name: str,
    steps: int,
    seed: int,
    path: Path,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> None:
    """Write a dataset to `path`, in the layout of D4RL's locomotion files.

    name: one of LOCOMOTION. steps: rows; the last episode of each actor is cut where its share is
    full, and marked as a timeout. workers: processes, one per core up to 8 by default; the data do
    not depend on them. overwrite: replace a file that was made otherwise.

    Arrays of N rows: observations and next_observations [N, D], actions [N, A], rewards [N],
    terminals (falls), timeouts; attributes say how it was made. A file made with the same arguments
    is kept; an interrupted call leaves nothing behind. Raises DiffplanError for unknown names,
    numbers out of range, and a file made otherwise.
    """
    if name not in LOCOMOTION:
        raise DiffplanError(f"unknown locomotion data '{name}'; known: {', '.join(LOCOMOTION)}")
    shares = _shares(name, steps)
    if min(shares.values()) < 1 or seed < 0 or (workers is not None and workers < 1):
        raise DiffplanError(
            f"steps {steps}, seed {seed}, workers {workers}: expected at least {len(shares)} steps "
            f"for the actors of {name}, a seed from 0 on and at least one worker"
        )
    task = name.partition("-")[0]
    versions = {key: software_versions()[key] for key in ("mujoco", "gymnasium", "numpy")}
    of = {actor: load_actor(actor_file(actor)).meta for actor in shares}
    attributes = {
        "name": name,
        "made_by": "diffplan",
        "env_id": LOCOMOTION_TASKS[task].env_id,
        "policy": ", ".join(
            f"{count:,} steps by {of[actor]['algorithm']} trained for {of[actor]['steps']:,}"
            for actor, count in shares.items()
        ),
        "steps": steps,
        "seed": seed,
        "actors": ", ".join(shares),
        "mujoco": versions["mujoco"],
        "versions": json.dumps(versions),
    }
    if not overwrite and already_made(path, attributes, _RECIPE):
        return
    columns = sum(np.prod(space.shape) for space in _spaces(task))
    size = float(4 * (2 * columns + 2) * steps)
    require_memory(3 * size, f"{steps:,} steps", "make fewer")
    require_disk(path.parent, size, f"{steps:,} steps", "make fewer")
    parts: list[_Episode] = []
    count = count_of(workers)
    with (
        worker_pool(count, "give fewer --workers") if count > 1 else nullcontext() as pool,
        tqdm(total=steps, desc=name, unit="step", unit_scale=True, disable=not progress) as bar,
    ):
        for actor, share in shares.items():
            for episode in _episodes(pool, task, actor, seed, share):
                parts.append(episode)
                bar.update(len(episode["rewards"]))
    write_d4rl(path, {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}, attributes)


def actor_file(actor: str) -> Path:
    """The file of an actor that comes with the package, "hopper-400k"."""
    return Path(str(resources.files("diffplan.envs.makers") / f"{actor}.npz"))


def _shares(name: str, steps: int) -> dict[str, int]:
    """Actor -> how many of the steps are its own, in the order of the file."""
    task, _, kind = name.partition("-")
    known = LOCOMOTION_TASKS[task]
    medium = known.until_medium[-1]
    if kind == "medium-replay":
        # by whole steps, so that the shares add up
        trained = [0, *(int(actor.removesuffix("k")) for actor in known.until_medium)]
        bounds = [steps * done // trained[-1] for done in trained]
        shares = dict(zip(known.until_medium, np.diff(bounds).tolist(), strict=True))
    elif kind == "medium-expert":
        shares = {medium: steps // 2, known.expert: steps - steps // 2}
    else:
        shares = {medium if kind == "medium" else known.expert: steps}
    return {f"{task}-{actor}": count for actor, count in shares.items()}


def _spaces(task: str) -> tuple[Any, Any]:
    env = _simulator(task)
    return env.observation_space, env.action_space


def _episodes(
    pool: Workers | None, task: str, actor: str, seed: int, steps: int
) -> Iterator[_Episode]:
    """Episodes of an actor until they hold so many steps, the last one cut to fit."""
    left = steps
    # without end: how long an episode gets shows only when it is played
    jobs = (functools.partial(_run, task, actor, seed, n * _AT_ONCE) for n in itertools.count())
    told = (job() for job in jobs) if pool is None else pool.in_order(jobs)
    for episode in itertools.chain.from_iterable(told):
        took = min(left, len(episode["rewards"]))
        cut = {key: array[:took] for key, array in episode.items()}
        cut["timeouts"][-1] = not cut["terminals"][-1]
        yield cut
        left -= took
        if not left:
            return


def _run(task: str, actor: str, seed: int, first: int) -> list[_Episode]:
    policy, simulator = _policy(actor), _simulator(task)
    # episodes know their actor's steps and their own number alone
    own = [seed, policy.meta["steps"]]
    return [
        _roll_out(simulator, policy, np.random.default_rng([*own, episode]))
        for episode in range(first, first + _AT_ONCE)
    ]


@functools.cache
def _policy(actor: str) -> Actor:
    return load_actor(actor_file(actor))


@functools.cache
def _simulator(task: str) -> Any:
    return gym.make(LOCOMOTION_TASKS[task].env_id, disable_env_checker=True)


def _roll_out(simulator: Any, policy: Actor, rng: np.random.Generator) -> _Episode:
    rows: dict[str, list[Any]] = {
        key: []
        for key in (
            "observations",
            "actions",
            "rewards",
            "next_observations",
            "terminals",
            "timeouts",
        )
    }
    observation, _ = simulator.reset(seed=int(rng.integers(2**31)))
    over = False
    while not over:
        action = policy(observation, rng)
        following, reward, ended, cut, _ = simulator.step(action)
        row = (observation, action, reward, following, ended, cut and not ended)
        for values, value in zip(rows.values(), row, strict=True):
            values.append(value)
        observation, over = following, ended or cut
    return {
        key: np.array(values, np.bool_ if key in ("terminals", "timeouts") else np.float32)
        for key, values in rows.items()
    }
