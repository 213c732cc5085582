"""Model-free rows of a study on a GPU: all of them learn at once, and processors score them."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from diffplan.errors import DiffplanError, PartialResult
from diffplan.scripts.studies.cells import Cell, Cells
from diffplan.scripts.studies.work import over_updates, score
from diffplan.scripts.yardsticks.settings import Settings


def learn(cells: Cells, missing: Sequence[Cell], device: str = "cuda") -> None:
    """Do these cells, which are model-free; those of one method and shape are batched products.

    Policies are scored in processes of their own, as many as there are processors but one, while
    training goes on. A cell is kept when it is scored after its last update, so that what is
    stopped before that begins anew.

    Raises:
        DiffplanError: A number of updates that calls of the GPU do not add up to.
        PartialResult: Some could not be scored; the others are kept.
    """
    from diffplan.scripts.yardsticks.policy import BLOCK, Learner, Training, train

    budget = cells.budget
    groups: dict[Any, list[Cell]] = {}
    for cell in missing:
        method, about = _method(cell), cell.source.about
        width, actions = about.layout.state_dim + about.layout.goal_dim, len(about.info.action_low)
        alike = method.method, method.rate, method.batch, width, actions, budget.length(cell.row)
        groups.setdefault(alike, []).append(cell)
    together = list(groups.values())
    marks = [budget.marks(group[0].row) for group in together]
    if device != "cpu" and any(mark % BLOCK for each in marks for mark in each):
        raise DiffplanError(
            f"--updates is {budget.updates}, and a GPU does {BLOCK} at a call; give a multiple of "
            f"{8 * BLOCK}, or hide it (CUDA_VISIBLE_DEVICES=)"
        )
    print(f"training {len(missing)} cells at once on {_name(device)}", flush=True)
    held = {source: source.episodes() for source in dict.fromkeys(c.source for c in missing)}
    learners = [
        Learner(
            [Training(_method(cell), held[cell.source], cell.seed) for cell in group],
            own[-1],
            device,
        )
        for group, own in zip(together, marks, strict=True)
    ]
    held.clear()
    scores = _Scores(cells, len(missing), device)
    # a forked process could not use the GPU's library, which this one has begun to use
    spawn = multiprocessing.get_context("spawn")
    allowed = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    workers = max(1, min(len(allowed(0)) - 1, len(missing)))
    with ProcessPoolExecutor(workers, spawn, initializer=_one_thread) as pool:
        for place, updates, policies in train(learners, marks, f"{len(missing)} trainings"):
            for cell, policy in zip(together[place], policies, strict=True):
                future = pool.submit(score, policy, cell.source.about.info, budget)
                scores.expect(cell, updates, future)
            scores.collect(wait=False)
        print(f"trained in {scores.seconds:.0f} s; scoring goes on", flush=True)
        scores.collect(wait=True)
    if failed := scores.failed:
        raise PartialResult(
            f"{len(failed)} of {len(missing)} cells could not be scored, the first was "
            f"{next(iter(failed))}: {next(iter(failed.values()))}; the others are kept"
        )


@dataclass
class _Scores:
    """What policies score, until a cell has all that it holds."""

    cells: Cells
    trainings: int
    device: str
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._begun, self._since = time.strftime("%Y-%m-%d %H:%M:%S"), time.perf_counter()
        self._waiting: list[tuple[Cell, int, float, Future[dict[str, Any]]]] = []
        self._curves: dict[str, dict[str, Any]] = {}

    @property
    def seconds(self) -> float:
        """Since the training began."""
        return time.perf_counter() - self._since

    def expect(self, cell: Cell, updates: int, future: Future[dict[str, Any]]) -> None:
        self._waiting.append((cell, updates, self.seconds, future))

    def collect(self, wait: bool) -> None:
        """Keep the cells that are complete. wait: for all that is expected."""
        import torch

        waiting, self._waiting = self._waiting, []
        for each in waiting:
            cell, updates, seconds, future = each
            if not wait and not future.done():
                self._waiting.append(each)
            elif (error := future.exception()) is not None:
                self.failed.setdefault(str(cell), f"{type(error).__name__}: {error}")
            else:
                curve = self._curves.setdefault(str(cell), {})
                curve[str(updates)] = future.result()
                if len(curve) == len(self.cells.budget.marks(cell.row)):
                    # what others on the same GPU slow down is no time of this one alone
                    where: dict[str, Any] = {"device": _name(self.device), "begun": self._begun}
                    where |= {"torch": torch.__version__, "trainings": self.trainings}
                    found = {"train_cpu_seconds": None, "trained_on": where | {"seconds": seconds}}
                    self.cells.keep(cell, found | over_updates(curve))


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
