"""Model-free rows of a study on a GPU: all of them learn at once, and processors score them."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

from diffplan.errors import DiffplanError
from diffplan.scripts.studies.cells import Cell, Cells
from diffplan.scripts.studies.work import over_updates, score
from diffplan.scripts.yardsticks.settings import Settings


def learn(cells: Cells, missing: Sequence[Cell], device: str = "cuda") -> None:
    """Do these cells, which are model-free; those of one method and shape are batched products.

    Policies are scored in processes of their own, as many as there are processors but one, while
    training goes on.

    Raises DiffplanError for a number of updates that calls of the GPU do not add up to.
    """
    from diffplan.scripts.yardsticks.policy import BLOCK, Learner, Training, train

    budget = cells.budget
    groups: dict[Any, list[Cell]] = {}
    for cell in missing:
        method, layout = _method(cell), cell.source.about.layout
        width, actions = layout.state_dim + layout.goal_dim, len(cell.source.about.info.action_low)
        alike = method.method, method.rate, method.batch, width, actions, budget.length(cell.row)
        groups.setdefault(alike, []).append(cell)
    together = list(groups.values())
    marks = [budget.marks(group[0].row) for group in together]
    if device != "cpu" and any(mark % BLOCK for each in marks for mark in each):
        raise DiffplanError(
            f"--updates is {budget.updates}, and a GPU does {BLOCK} at a call; give a multiple of "
            f"{8 * BLOCK}"
        )
    held = {cell.source: cell.source.episodes() for cell in {c.source: c for c in missing}.values()}
    learners = [
        Learner(
            [Training(_method(cell), held[cell.source], cell.seed) for cell in group],
            own[-1],
            device,
        )
        for group, own in zip(together, marks, strict=True)
    ]
    held.clear()

    begin = time.perf_counter()
    scored: dict[str, dict[str, Any]] = {str(cell): {} for cell in missing}
    waiting: list[tuple[Cell, int, float, Future[dict[str, Any]]]] = []

    def collect(wait: bool) -> None:
        for each in [one for one in waiting if wait or one[3].done()]:
            waiting.remove(each)
            cell, updates, seconds, future = each
            curve = scored[str(cell)]
            curve[str(updates)] = future.result()
            if len(curve) == len(budget.marks(cell.row)):
                # what others on the same GPU slow down is no time of this one alone
                where = {"device": _name(device), "seconds": seconds, "trainings": len(missing)}
                found = {"train_cpu_seconds": None, "trained_on": where, **over_updates(curve)}
                cells.keep(cell, found)

    workers = max(1, (os.cpu_count() or 2) - 1)
    # a forked process could not use the GPU's library, which this one has begun to use
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=_one_thread) as pool:
        told = f"{len(missing)} trainings"
        for place, updates, policies in train(learners, marks, told):
            for cell, policy in zip(together[place], policies, strict=True):
                info, name = cell.source.about.info, f"{cell}, {updates} updates"
                future = pool.submit(score, policy, info, budget, name)
                waiting.append((cell, updates, time.perf_counter() - begin, future))
            collect(wait=False)
        print(f"{len(missing)} trainings in {time.perf_counter() - begin:.0f} s", flush=True)
        collect(wait=True)


def _method(cell: Cell) -> Settings:
    method = cell.row.on(cell.source.name).method
    assert method is not None
    return method


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
