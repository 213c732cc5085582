"""The rollout of `serial.py` spread over processes: each steps and plans for its own episodes.

While one process waits for its environments another one plans, on a device that they share too.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from diffplan.envs.rollouts.batch import Policy
from diffplan.envs.rollouts.serial import Rollout, rollout
from diffplan.envs.rollouts.workers import in_order


def rollout_in_processes(
    policy: Policy,
    make_env: Callable[[], gym.Env],
    *,
    episodes: int,
    num_envs: int,
    seed: int,
    workers: int,
    record: int = 0,
    progress: bool = True,
    description: str = "",
    **options: Any,
) -> Rollout:
    """`rollout` in `workers` processes: the same episodes, so for a policy that treats rows
    independently the same results; with one worker it is `rollout` itself.

    The arguments are those of `rollout` and the number of processes.

    policy and make_env are sent to the processes and must be picklable. num_envs: rows of all
    processes together. The bar shows the first process. Times are those of busy neighbours.

    Raises:
        DiffplanError: As `rollout`, or a process that died; the others are stopped at once.
    """
    workers = min(workers, episodes, num_envs)
    if workers <= 1:
        return rollout(
            policy,
            make_env,
            episodes=episodes,
            num_envs=num_envs,
            seed=seed,
            record=record,
            progress=progress,
            description=description,
            **options,
        )
    # neighbouring episodes stay together, so that the recorded first ones do
    edges = np.linspace(0, episodes, workers + 1).round().astype(int).tolist()
    jobs = [
        partial(
            _share,
            policy,
            make_env,
            torch.get_num_threads(),
            episodes=last - first,
            # rounded up: no process goes without a row
            num_envs=-(-num_envs // workers),
            seed=seed + first,
            record=min(max(record - first, 0), last - first),
            progress=progress and first == 0,
            description=f"{description} (1 of {workers} processes)",
            **options,
        )
        for first, last in itertools.pairwise(edges)
    ]
    parts = list(in_order(jobs, workers, "give fewer --workers or --num-envs"))
    return joined(parts, edges)


def _share(
    policy: Policy, make_env: Callable[[], gym.Env], threads: int, **options: Any
) -> Rollout:
    # a new process starts with as many as there are cores, and would fight its neighbours
    torch.set_num_threads(threads)
    return rollout(policy, make_env, **options)


def joined(parts: Sequence[Rollout], first: Sequence[int]) -> Rollout:
    """One rollout out of those of neighbouring episodes, `first` the number of each one's first."""
    success = [part.success for part in parts if part.success is not None]
    traces = [
        dataclasses.replace(trace, episode=trace.episode + offset)
        for part, offset in zip(parts, first, strict=False)
        for trace in part.traces
    ]
    failures = [
        dataclasses.replace(failure, episode=failure.episode + offset)
        for part, offset in zip(parts, first, strict=False)
        for failure in part.failures
    ]
    # a part without episodes reports nothing
    told = [part for part in parts if len(part.returns)]
    return Rollout(
        np.concatenate([part.returns for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        np.concatenate(success) if len(success) == len(told) and success else None,
        np.concatenate([part.terminated for part in parts]),
        np.concatenate([part.call_ms for part in parts]),
        np.concatenate([part.live_rows for part in parts]),
        tuple(traces),
        tuple(failures),
    )
