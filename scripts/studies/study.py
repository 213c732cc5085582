"""`diffplan study [DATA...]`: rows beside each other on the same data, over training seeds.

diffplan study --out runs/main                                   # the main table of docs/results.md
diffplan study hopper-medium --only ours cloning --seeds 2 --out runs/hopper
diffplan study mine.npz --env my_env:Tank-v0 --rows planners --out runs/mine
diffplan study runs/medium --rows ways --out runs/ways           # of a run that is trained already
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from diffplan.errors import DiffplanError
from diffplan.scripts.datasets.command import Make
from diffplan.scripts.report.seeds import CHOOSING, REPORTING, TRIED, check_apart, check_choosing
from diffplan.scripts.studies.cells import Cell, Cells
from diffplan.scripts.studies.rows import GROUPS, MAIN, data_name
from diffplan.scripts.studies.sources import Source
from diffplan.scripts.studies.work import Budget


@dataclass(frozen=True)
class Study:
    """Train and score rows, learners or ways of planning, on the same data, seeds and episodes.

    A cell is one row, dataset and training seed and has a file of its own; what is there is not
    done again, so that a stopped study goes on where it was. The summary holds what is there.
    Training seeds are 1 to SEEDS and episodes begin at 1000, which have chosen nothing; with
    --choose they are 10 to 9 + SEEDS and begin at 5000, and the table says that it chooses.
    """

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder for the runs (DIR/DATASET/ours/seed-S), cells, tables and pictures."""
    data: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="DATA...")] = MAIN
    """Names, Minari ids or files, as for `diffplan train --dataset`, or with --rows ways folders
    that it wrote. Those of the main table are made where they are missing."""
    rows: Literal[
        "main", "ours", "tuned", "planners", "windows", "processes", "ablations", "heads", "ways"
    ] = "main"
    """What is compared. main: ours, cloning (also of the best tenth), TD3+BC, IQL (both also at
    discount 0.999), ReBRAC; ours: it alone, with times; tuned: as trained, and as `diffplan tune
    --budget 400` chooses; ways: one network, planned with in every way; the others are of
    docs/family.md."""
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ROW...")] = ()
    """Names of the rows to do, where not all."""
    seeds: int = 5
    """Training seeds; model-free rows with critics have three at most."""
    choose: bool = False
    """Compare in order to choose: on seeds that are not reported."""
    steps: int = 6000
    """Updates of planners."""
    updates: int = 50_000
    """Updates of rows with critics, batches of 256; cloning has half as many."""
    env: Annotated[
        str | None, tyro.conf.arg(metavar="ID", help_behavior_hint="(default: the data's own)")
    ] = None
    """Gymnasium id of the environment to score in; module:ID imports the module first."""
    terminations: Literal["as-recorded", "as-truncations"] | None = None
    """Of `diffplan train`: what ends at a time limit though the data call it terminated."""
    layout: Literal["episodes", "environments"] | None = None
    """Of the arrays of .npz files: [episodes, steps, ...] or [steps, environments, ...]."""
    episodes: int = 50
    """Episodes that score a cell."""
    seed: Annotated[
        int | None,
        tyro.conf.arg(
            metavar="INT",
            help_behavior_hint=f"(default: {REPORTING}; {CHOOSING} with --choose)",
        ),
    ] = None
    """Of the first of them."""
    tune_episodes: int = 10
    """Episodes that choose the replanning interval of a cell, in rows that try some."""
    tune_seed: int = 50_000
    """Of the first of them."""
    part: Annotated[str, tyro.conf.arg(metavar="I/N")] = "1/1"
    """Do every Nth run, from the Ith on, where N processes share the work."""
    ray: Annotated[str | None, tyro.conf.arg(metavar="auto|local|ADDRESS")] = None
    """Do the cells on a Ray cluster: that of this machine, one that is started, or an address."""
    summary: bool = False
    """Train and score nothing: summarise the cells that are there."""

    def run(self) -> dict[str, Any]:
        """Do the cells that are missing; then write DIR/study.json (DIR/ROWS.json) and pictures.

        Raises DiffplanError, before anything is trained, for what cannot be trained or scored.
        """
        from diffplan.scripts.report.files import check_writable
        from diffplan.scripts.studies.report import summarise

        index, count = self._check()
        check_writable(self.target, "results file")
        if not self.summary:
            if count == 1:
                self._make()
            cells = self.cells
            mine = self._on_gpu(cells, cells.missing(index, count))
            if mine:
                print(f"to do: {cells.told(mine)}", flush=True)
            if self.ray is not None:
                from diffplan.scripts.studies.spread import spread

                # a worker looks at the data of its cells alone
                spread(lambda word: replace(self, data=(word,)), cells, mine, self.ray)
                mine = []
            for place, cell in enumerate(mine):
                print(f"{place + 1} of {len(mine)}: {cell}", flush=True)
                cells.do(cell)
                if left := mine[place + 1 :]:
                    print(f"left: {cells.told(left)}", flush=True)
        return summarise(self.cells, self.target, self.command)

    def _on_gpu(self, cells: Cells, mine: list[Cell]) -> list[Cell]:
        """Do what is model-free on a GPU, where there is one; what is left."""
        import torch

        from diffplan.scripts.studies.on_gpu import learn

        free = [cell for cell in mine if cell.row.method is not None]
        if not free or not torch.cuda.is_available():
            return mine
        learn(cells, free)
        return [cell for cell in mine if cell.row.method is None]

    @cached_property
    def cells(self) -> Cells:
        """All of them, done or not."""
        how = self.env, self.terminations, self.layout
        sources = tuple(Source(word, *how) for word in self.data)
        if self.summary:  # of what is there: other data need not be
            sources = tuple(s for s in sources if (self.out / s.name / "cells").is_dir())
        rows = GROUPS[self.rows]
        rows = {label: row for label, row in rows.items() if not self.only or label in self.only}
        return Cells(self.out, sources, self.rows, rows, self._training_seeds, self._budget)

    @property
    def target(self) -> Path:
        """The results file."""
        name = "study" if self.rows == "main" else self.rows
        return self.out / f"{name}{'-choosing' if self.choose else ''}.json"

    @property
    def _training_seeds(self) -> range:
        first = TRIED.start if self.choose else 1
        return range(first, first + self.seeds)

    @property
    def _budget(self) -> Budget:
        seed = (CHOOSING if self.choose else REPORTING) if self.seed is None else self.seed
        return Budget(
            self.steps, self.updates, self.episodes, seed, self.tune_episodes, self.tune_seed
        )

    @property
    def command(self) -> str:
        """The command line that does the same."""
        words = ["diffplan", "study"]
        words += [] if self.data == MAIN else [_shown(data) for data in self.data]
        words += [] if self.rows == "main" else ["--rows", self.rows]
        words += ["--only", *self.only] if self.only else []
        words += ["--choose"] if self.choose else []
        names = ("seeds", "steps", "updates", "episodes", "seed", "env", "terminations", "layout")
        for name in names:
            if (value := getattr(self, name)) is not None:
                words += [f"--{name}", str(value)]
        if any(row.goal_strides for row in GROUPS[self.rows].values()):
            words += ["--tune-episodes", str(self.tune_episodes)]
            words += ["--tune-seed", str(self.tune_seed)]
        return shlex.join([*words, "--out", str(self.out)])

    def _check(self) -> tuple[int, int]:
        if not self.data:
            raise DiffplanError("name at least one dataset; see: diffplan datasets list")
        least = {"seeds": 1, "steps": 1, "updates": 4, "episodes": 1, "tune_episodes": 1}
        for name, low in least.items():
            if (value := getattr(self, name)) < low:
                option = f"--{name.replace('_', '-')}"
                raise DiffplanError(f"{option} must be at least {low}, got {value}")
        known = GROUPS[self.rows]
        if unknown := [label for label in self.only if label not in known]:
            there = ", ".join(map(repr, known))
            raise DiffplanError(f"no row {unknown[0]!r} in {self.rows}; it has {there}")
        names = [data_name(data) for data in self.data]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise DiffplanError(f"two of the datasets are called {twice}; rename one of the files")
        self._check_seeds()
        index, _, count = self.part.partition("/")
        if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
            raise DiffplanError(f"--part is {self.part!r}, expected I/N with 1 <= I <= N, as 1/2")
        return int(index) - 1, int(count)

    def _check_seeds(self) -> None:
        """What chooses and what scores have seeds of their own."""
        budget, seeds = self._budget, self._training_seeds
        last = TRIED.stop if self.choose else TRIED.start
        if seeds.stop > last:
            raise DiffplanError(
                f"--seeds is {self.seeds}, expected at most {last - seeds.start}: training seeds "
                f"{TRIED.start} to {TRIED.stop - 1} choose, with --choose, and others score"
            )
        if budget.seed < 0:
            raise DiffplanError(f"--seed must not be negative, got {budget.seed}")
        if self.choose:
            check_choosing("--seed", budget.seed)
        elif (end := budget.seed + self.episodes) > CHOOSING:
            raise DiffplanError(
                f"episodes have seeds {budget.seed} to {end - 1}, and those from {CHOOSING} on "
                "choose; give a --seed below, or --choose"
            )
        check_choosing("--tune-seed", self.tune_seed)
        check_apart(
            range(self.tune_seed, self.tune_seed + self.tune_episodes),
            range(budget.seed, budget.seed + self.episodes),
            "--tune-seed",
        )

    def _make(self) -> None:
        """Make the data of the main table that are not on this machine."""
        from diffplan.envs.datasets import load_dataset

        for name in self.data:
            if name in MAIN:
                try:
                    load_dataset(name, progress=False)
                except DiffplanError:
                    Make(name).run()


def _shown(data: str) -> str:
    """A file or a run by its name alone: where it lies is a matter of the machine."""
    return Path(data).name if Path(data).exists() else data
