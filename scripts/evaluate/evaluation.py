"""The work behind `diffplan evaluate`: what is checked first, measured, said and drawn."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from diffplan.data.info import DatasetInfo
from diffplan.errors import DiffplanError, PartialResult
from diffplan.model.run_folder import BEST
from diffplan.scripts.evaluate.drawing import check_video, draw, film
from diffplan.scripts.evaluate.measure import measure, places
from diffplan.scripts.evaluate.options import EvaluateOptions
from diffplan.scripts.evaluate.report import failures, page, results
from diffplan.scripts.evaluate.runs import load_runs
from diffplan.scripts.report.files import check_writable, write_json


def evaluate(options: EvaluateOptions) -> dict[str, Any]:
    """Do what `Evaluate.run` says."""
    target, folder = _targets(options)
    with _torch_threads(options.threads):
        runs = load_runs(options)
        # before the episodes: an evaluation that cannot be kept is not made
        check_writable(target, "results file")
        if options.checkpoint == "best":
            for run in runs:
                check_writable(run.folder / BEST, "choice of the best checkpoint")
        if options.pictures or options.video:
            check_writable(folder / "plans.png", "picture")
        _check_tasks(options, runs[0].agent.info)
        where = places(runs[0].agent, options.env, options.time_limit)
        # the same for frames that cannot be drawn
        if options.video:
            check_video(where[0])
        found = measure(options, runs, where)
        report = results(options, found)
        print(page(options, found))
        write_json(target, report)
        written = [target]
        if options.pictures:
            written += draw(folder, found)
        if options.video:
            written += film(options, folder, found)
    print("\n".join(f"wrote {path}" for path in written))
    if lost := list(failures(found)):
        more = f" (the first of {len(lost)}, which are all in the file)" if len(lost) > 1 else ""
        raise PartialResult(f"{lost[0]}{more}; the other episodes are in {target}")
    return report


def _check_tasks(options: EvaluateOptions, info: DatasetInfo) -> None:
    """Refuse what goes with one task only, and what goes with several."""
    if len(info.tasks) <= 1:
        if options.task_given is not None:
            raise DiffplanError(
                f"--task-given {options.task_given} goes with a model of several tasks, and "
                f"{options.runs[0]} has one; leave it out"
            )
        return
    if options.video:
        raise DiffplanError("--video goes with a model of one task; leave it out")


def _targets(options: EvaluateOptions) -> tuple[Path, Path]:
    """The results file and the folder of pictures; other ways do not overwrite the run's own."""
    ways = "".join(f"-{key}-{value}" for key, value in options.unusual.items())
    parent = options.runs[0]
    # beside the runs: the row over them belongs to none
    if len(options.runs) > 1:
        ways = "".join(f"-{run.name}" for run in options.runs) + ways
        parent = parent.parent
    ways = re.sub(r"[^\w.+-]", "_", ways)
    return options.json or parent / f"results{ways}.json", parent / f"pictures{ways}"


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
