"""`diffplan study [DATA...]`: ours beside model-free policies, over training seeds.

diffplan study --out runs/main                                   # the main table of docs/results.md
diffplan study hopper-medium --only ours cloning --seeds 2 --out runs/hopper
"""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from diffplan.errors import DiffplanError
from diffplan.scripts.datasets.command import Make
from diffplan.scripts.studies.study_rows import MAIN, ROWS, StudyRow, data_name
from diffplan.scripts.train import Train

if TYPE_CHECKING:
    from diffplan.data.episodes import Episodes
    from diffplan.envs.rollouts.batch import Policy

_MARKS = (0.25, 0.5, 1.0)  # of the updates: when a model-free policy is scored


@dataclass(frozen=True)
class Study:
    """Train and score ours, behaviour cloning, TD3+BC, IQL and ReBRAC on the same data and seeds.

    Nothing is chosen: every learner is scored as its last update leaves it. A cell is one row,
    dataset and training seed and has a file of its own; what is there is not done again, so that
    a stopped study goes on where it was, and two processes share the work with --part 1/2 and
    --part 2/2, of data that are there. The summary holds what is there.
    """

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder for the runs (DIR/DATASET/ours/seed-S), cells, and study.json with its picture."""
    data: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="DATA...")] = MAIN
    """Names, Minari ids or files, as for `diffplan train --dataset`. Those of the main table are
    made where they are missing."""
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ROW...")] = ()
    """Names of the rows to do, where not all."""
    seeds: int = 5
    """Training seeds, 1 to SEEDS; rows with critics have three at most."""
    steps: int = 6000
    """Updates of ours."""
    updates: int = 100_000
    """Updates of rows with critics, batches of 256; cloning has half as many."""
    terminations: Literal["as-recorded", "as-truncations"] | None = None
    """Of `diffplan train`: what ends at a time limit though the data call it terminated."""
    episodes: int = 50
    """Evaluation episodes of a cell."""
    seed: int = 1000
    """Of the first evaluation episode."""
    part: Annotated[str, tyro.conf.arg(metavar="I/N")] = "1/1"
    """Do every Nth cell, from the Ith on."""
    summary: bool = False
    """Train and score nothing: summarise the cells that are there."""

    def run(self) -> dict[str, Any]:
        """Do the cells that are missing; then write DIR/study.json and DIR/study.png."""
        from diffplan.scripts.report.files import check_writable

        index, count = self._check()
        check_writable(self.out / "study.json", "results file")
        if not self.summary:
            mine = [cell for cell in self._cells[index::count] if self._done(*cell) is None]
            if mine and count == 1:
                self._make(dict.fromkeys(data for data, _, _ in mine))
            mine = [cell for cell in mine if ROWS[cell[1]].goals or not self._goal_dim(cell[0])]
            for place, cell in enumerate(mine):
                print(f"{place + 1} of {len(mine)}: {', '.join(map(str, cell))}", flush=True)
                self._cell(*cell)
                print(self._left(mine[place + 1 :]), flush=True)
        return self._summarise()

    @property
    def _cells(self) -> list[tuple[str, str, int]]:
        """Data, row and training seed: seed by seed, so that a study that is cut has all rows."""
        return [
            (data, label, seed)
            for seed in range(1, self.seeds + 1)
            for label in self.only or ROWS
            for data in self.data
            if seed <= (ROWS[label].seeds or seed)
        ]

    def _check(self) -> tuple[int, int]:
        if not self.data:
            raise DiffplanError("name at least one dataset; see: diffplan datasets list")
        for name, low in {"seeds": 1, "steps": 1, "updates": 4, "episodes": 1, "seed": 0}.items():
            if (value := getattr(self, name)) < low:
                raise DiffplanError(f"--{name} must be at least {low}, got {value}")
        if unknown := [label for label in self.only if label not in ROWS]:
            there = ", ".join(map(repr, ROWS))
            raise DiffplanError(f"no row {unknown[0]!r} in a study; it has {there}")
        names = [data_name(data) for data in self.data]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise DiffplanError(f"two of the datasets are called {twice}; rename one of the files")
        index, _, count = self.part.partition("/")
        if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
            raise DiffplanError(f"--part is {self.part!r}, expected I/N with 1 <= I <= N, as 1/2")
        return int(index) - 1, int(count)

    def _make(self, names: dict[str, None]) -> None:
        """Make the data of the main table that are not on this machine."""
        from diffplan.envs.datasets import load_dataset

        for name in names:
            if name in MAIN:
                try:
                    load_dataset(name, progress=False)
                except DiffplanError:
                    Make(name).run()

    # --- Cells -----------------------------------------------------------------------------------

    @cached_property
    def _loaded(self) -> dict[str, Episodes]:
        """The data in use, one at a time."""
        return {}

    @cached_property
    def _identities(self) -> dict[str, str]:
        return {}

    @cached_property
    def _settled(self) -> dict[tuple[str, str], dict[str, Any]]:
        return {}

    @cached_property
    def _goal_dims(self) -> dict[str, int]:
        return {}

    def _episodes(self, data: str) -> Episodes:
        """The data as they are trained on, after what scoring needs is found to be there."""
        from diffplan.envs.datasets import load_dataset
        from diffplan.envs.simulators.compatibility import check_environment
        from diffplan.scripts.train.work import ended

        if data not in self._loaded:
            self._loaded.clear()
            episodes = load_dataset(data, progress=False)
            info = episodes.info
            if len(info.tasks) > 1 or info.env_id is None:
                raise DiffplanError(
                    f"{data} has {len(info.tasks)} tasks and the environment {info.env_id}; a "
                    "study scores on data of one task that name their environment (env_id)"
                )
            if check_environment(episodes.layout, info) is None:
                raise DiffplanError(
                    f"{info.env_id} has no time limit, and an episode may never end; register it "
                    "with max_episode_steps"
                )
            self._loaded[data] = ended(episodes, self.terminations, None, self.out)
        return self._loaded[data]

    @property
    def _ends(self) -> list[str]:
        return [] if self.terminations is None else ["--terminations", self.terminations]

    def _goal_dim(self, data: str) -> int:
        if data not in self._goal_dims:
            self._goal_dims[data] = self._episodes(data).layout.goal_dim
        return self._goal_dims[data]

    def _asked(self, data: str, label: str) -> dict[str, Any]:
        """What decides a cell: another one is not taken for it."""
        row = ROWS[label].on(data_name(data))
        length = self.steps if row.method is None else self._updates(row)
        asked = {"row": asdict(row), "updates": length, "terminations": self.terminations}
        asked |= {"episodes": self.episodes, "seed": self.seed}
        asked["data"] = self._identity(data)
        if row.method is None:
            asked["settings"] = self._settings(data, row.config)
        return dict(json.loads(json.dumps(asked)))

    def _identity(self, data: str) -> str:
        """Of what is in the dataset."""
        from diffplan.data.episodes import fingerprint

        if data not in self._identities:
            self._identities[data] = fingerprint(self._episodes(data))
        return self._identities[data]

    def _settings(self, data: str, config: str) -> dict[str, Any]:
        """The settings that a configuration has on these data."""
        from diffplan.config.config import config_to_dict
        from diffplan.config.planners import get_config
        from diffplan.training.defaults import decide

        if (data, config) not in self._settled:
            chosen = decide(get_config(config), self._episodes(data))[0]
            self._settled[data, config] = config_to_dict(chosen)
        return self._settled[data, config]

    def _updates(self, row: StudyRow) -> int:
        return round(self.updates * row.updates)

    def _file(self, data: str, label: str, seed: int) -> Path:
        return self.out / data_name(data) / "cells" / f"{label}, seed {seed}.json"

    def _done(self, data: str, label: str, seed: int) -> dict[str, Any] | None:
        """The finished cell, None if there is none with these settings."""
        file = self._file(data, label, seed)
        if not file.is_file():
            return None
        found: dict[str, Any] = json.loads(file.read_text())
        return found if found["asked"] == self._asked(data, label) else None

    def _cell(self, data: str, label: str, seed: int) -> None:
        from diffplan.scripts.report.files import write_json

        row = ROWS[label].on(data_name(data))
        found = (
            self._planner(data, row, seed) if row.method is None else self._policy(data, row, seed)
        )
        file = self._file(data, label, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"asked": self._asked(data, label), **found})

    def _planner(self, data: str, row: StudyRow, seed: int) -> dict[str, Any]:
        """Train a configuration, or go on with it, and score it."""
        from diffplan.agents import load_agent
        from diffplan.config.config import config_to_dict
        from diffplan.model.run_folder import checkpoint_updates, list_checkpoints, read_header

        self._episodes(data)
        run = self.out / data_name(data) / "ours" / f"seed-{seed}"
        there = list_checkpoints(run)
        before = checkpoint_updates(there[-1]) if there else 0
        if there and config_to_dict(read_header(there[-1]).config) != self._settings(
            data, row.config
        ):
            raise DiffplanError(
                f"{run} was trained with other settings than {row.config} has on {data}; remove it"
            )
        options = ["--dataset", data, "--out", str(run), "--steps", str(self.steps), *self._ends]
        begin = time.process_time()
        Train.parse([row.config, *options, "--seed", str(seed), "--resume"]).run()
        seconds = time.process_time() - begin
        agent = load_agent(run)
        # of a run that went on, this part stands for the others
        share = (self.steps - before) / self.steps
        found = self._score(data, agent, f"{run}")
        trained = seconds / share if share else None
        return {"train_cpu_seconds": trained, "planning": agent.planning, **found}

    def _policy(self, data: str, row: StudyRow, seed: int) -> dict[str, Any]:
        """Train a model-free method, and score it on the way."""
        import torch

        from diffplan.scripts.yardsticks.policy import train

        assert row.method is not None
        torch.set_num_threads(1)
        marks = [round(mark * self._updates(row)) for mark in _MARKS]
        curve: dict[str, Any] = {}
        begin, scoring = time.process_time(), 0.0
        for updates, policy in train(
            row.method, self._episodes(data), seed, marks, data_name(data)
        ):
            curve[str(updates)] = self._score(data, policy, f"{data}, {updates} updates")
            scoring += curve[str(updates)]["evaluation_cpu_seconds"]
        seconds = time.process_time() - begin - scoring
        return {
            "train_cpu_seconds": seconds,
            "curve": {key: cell["returns"] for key, cell in curve.items()},
            **curve[str(marks[-1])],
        }

    def _score(self, data: str, policy: Policy, description: str) -> dict[str, Any]:
        from diffplan.envs.rollouts.serial import rollout
        from diffplan.envs.simulators.environments import evaluation_env_factory

        begin = time.process_time()
        result = rollout(
            policy,
            evaluation_env_factory(self._episodes(data).info),
            episodes=self.episodes,
            num_envs=self.episodes,
            seed=self.seed,
            description=description,
        )
        return {
            "evaluation_cpu_seconds": time.process_time() - begin,
            "returns": result.returns.tolist(),
            "success": None if result.success is None else result.success.tolist(),
        }

    def _left(self, cells: list[tuple[str, str, int]]) -> str:
        """How long the cells take, by those that are done."""
        taken: dict[str, list[float]] = {}
        for cell in self._cells:
            if (found := self._done(*cell)) is not None:
                seconds = (found["train_cpu_seconds"] or 0) + found["evaluation_cpu_seconds"]
                taken.setdefault(cell[1], []).append(seconds)
        known = [seconds for each in taken.values() for seconds in each] or [0.0]
        mean = {label: sum(each) / len(each) for label, each in taken.items()}
        rest = sum(mean.get(label, sum(known) / len(known)) for _, label, _ in cells)
        return f"{len(cells)} cells left, about {rest / 3600:.1f} hours of a core"

    # --- Summary ---------------------------------------------------------------------------------

    def _summarise(self) -> dict[str, Any]:
        from diffplan.scripts.report.files import write_json
        from diffplan.scripts.report.results import machine
        from diffplan.scripts.studies.study_report import draw, study_table, summary

        found: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for data in self.data:
            for label in ROWS:
                seeds = range(1, min(self.seeds, ROWS[label].seeds or self.seeds) + 1)
                cells = [cell for s in seeds if (cell := self._done(data, label, s)) is not None]
                if cells:
                    found.setdefault(data, {})[label] = cells
        if not found:
            raise DiffplanError(
                f"{self.out} holds no cells with these settings; run the command without "
                "--summary, or give the settings it was run with"
            )
        report = {
            "command": self._command,
            "machine": machine("cpu", 1),
            "episodes": self.episodes,
            "seed": self.seed,
            **summary({data_name(data): (data, rows) for data, rows in found.items()}, self._scale),
        }
        target = self.out / "study.json"
        write_json(target, report)
        draw(report, target.with_suffix(".png"))
        print(study_table(report))
        print(f"wrote {target} and {target.with_suffix('.png')}")
        return report

    def _scale(self, data: str) -> dict[str, Any]:
        from diffplan.scripts.studies.study_report import scale

        file = self.out / data_name(data) / "scale.json"
        return scale(self._episodes(data), file, self.episodes, self.seed)

    @property
    def _command(self) -> str:
        # files by name alone: where they lie is a matter of the machine
        words = ["diffplan", "study"]
        words += [] if self.data == MAIN else [Path(data).name for data in self.data]
        words += ["--only", *self.only] if self.only else []
        for name in ("seeds", "steps", "updates", "episodes", "seed"):
            words += [f"--{name}", str(getattr(self, name))]
        return shlex.join([*words, *self._ends, "--out", str(self.out)])
