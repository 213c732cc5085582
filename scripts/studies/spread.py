"""Cells of a study on the workers of a Ray cluster (`pip install "diffplan[ray]"`)."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from diffplan.errors import DiffplanError, PartialResult
from diffplan.scripts.studies.cells import Cell, Cells

_AGAIN = 3  # times that the cells of a worker that died are begun again


class Asked(Protocol):
    """A study's options, which travel."""

    @property
    def cells(self) -> Cells:
        """What they ask for."""


def spread(of: Callable[[str], Asked], cells: Cells, missing: Sequence[Cell], address: str) -> None:
    """Do cells where Ray has a core free, those of one network one after the other.

    A worker writes its cells as one here would, and seeds alone decide them; those of a worker
    that dies go on in another. The study's folder, the data and this folder are seen by all
    machines of the cluster.

    of: the study of one of its sources alone. cells: all, as they are found here. address: of a
    cluster, "auto" for the one of this machine, "local" to start one.

    Raises:
        DiffplanError: No Ray, no cluster, or a cell that cannot be done.
        PartialResult: Workers that died again and again; the others' cells are kept.
    """
    try:
        import ray
    except ImportError:
        raise DiffplanError('--ray needs Ray; pip install "diffplan[ray]"') from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(
            address=None if address == "local" else address,
            include_dashboard=False if address == "local" else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise DiffplanError(
            f"--ray {address}: {error}; expected auto, local or the address of a cluster"
        ) from None
    units: dict[Any, list[Cell]] = {}
    for cell in missing:
        units.setdefault(cells.unit(cell), []).append(cell)
    lost: list[str] = []
    try:
        task = ray.remote(num_cpus=1, max_retries=_AGAIN)(_do)
        waiting = {}
        for unit in units.values():
            names = [str(cell) for cell in unit]
            waiting[task.remote(of(unit[0].source.word), names, os.getcwd())] = names
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            names = waiting.pop(done)
            try:
                ray.get(done)
                print("done: " + "; ".join(names), flush=True)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, DiffplanError):
                    raise DiffplanError(f"{names[0]}: {error.cause}") from None
                raise
            except ray.exceptions.RayError as error:
                lost += names
                print(f"lost: {'; '.join(names)}: {str(error).splitlines()[0]}", flush=True)
    finally:
        ray.shutdown()
    if lost:
        raise PartialResult(
            f"the workers of {len(lost)} cells died {_AGAIN + 1} times, the first of {lost[0]}; "
            "the other cells are kept, and the same command goes on"
        )


def _do(study: Asked, names: Sequence[str], folder: str) -> None:
    """Do these cells as far as they are missing, in the folder that paths are relative to."""
    os.chdir(folder)
    for cell in study.cells.missing():
        if str(cell) in names:
            study.cells.do(cell)
