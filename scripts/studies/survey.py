"""`diffplan survey DATA...`: every planner and every process on the same data, one fair table.

diffplan survey pointmaze-medium hopper-medium.hdf5 --rows planners --seeds 2 --out runs/survey
"""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from diffplan.config.planners import get_config
from diffplan.errors import DiffplanError
from diffplan.scripts.planning_options import as_words
from diffplan.scripts.studies.study_rows import data_name
from diffplan.scripts.studies.survey_beside import ROUNDS, others, times
from diffplan.scripts.studies.survey_rows import GROUPS, Row
from diffplan.scripts.train import Train

_PROTOCOL = (
    "Every row has the same data and the same number of updates. Networks of a kind are the same "
    "size, but for the transformer of the Decision Transformer, and without a goal ours averages "
    "four value networks and draws the better of 16 windows, which are its settings and not "
    "theirs; batches are 256 windows where there is no proposer and 64 with one, noised twice. "
    "Without a goal Diffuser plans 16 candidates, and Decision Diffuser's horizon is 31. A cell "
    "is one row, dataset and training seed: it chooses its replanning interval, the best mean "
    "of those tried, on {tune_episodes} episodes from seed {tune_seed}, and is scored with it on "
    "{episodes} episodes from seed {seed}, the same for all. Intervals are 95 %, by a bootstrap "
    "over training seeds and the episodes of each: with few training seeds they say less than the "
    "truth about how these differ. Milliseconds are medians at a batch of one, eager on one "
    "thread, environment time excluded; all rows of a dataset are timed in turn in {rounds} "
    "rounds, of which each row's fastest counts; per decision is one plan and the steps until the "
    "next over their number. Network calls are those of one plan that wait for one another: "
    "proposer, denoiser and value gradient."
)


@dataclass(frozen=True)
class Survey:
    """Train and score rows of planners or of choices within one on several datasets and seeds.

    Cells that are in OUT are not done again, so that a stopped survey goes on where it was; two
    processes share the work with --part 1/2 and --part 2/2. The summary holds what is there.
    """

    data: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="DATA...")]
    """Names, Minari ids or files, as for `diffplan train --dataset`."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder for the runs (DIR/DATASET/ROW/seed-S), cells and results."""
    rows: Literal["planners", "processes", "ablations", "heads", "head-choices"] = "planners"
    """What is compared."""
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ROW...")] = ()
    """Names of the rows to do, where not all."""
    seeds: int = 2
    """Training seeds 0 to SEEDS - 1."""
    steps: int = 4000
    """Updates of each run."""
    terminations: Literal["as-recorded", "as-truncations"] | None = None
    """Of `diffplan train`: what ends at a time limit though the data call it terminated."""
    episodes: int = 40
    """Evaluation episodes of a cell."""
    seed: int = 1000
    """Of the first evaluation episode."""
    tune_episodes: int = 10
    """Episodes that choose a cell's replanning interval."""
    tune_seed: int = 50_000
    """Of the first tuning episode."""
    part: Annotated[str, tyro.conf.arg(metavar="I/N")] = "1/1"
    """Do every Nth cell, from the Ith on."""
    summary: bool = False
    """Train and score nothing: time and summarise the cells that are there."""

    def run(self) -> dict[str, Any]:
        """Do the cells that are missing; then write DIR/ROWS.json and its pictures."""
        index, count = self._check()
        names = [data_name(data) for data in self.data]
        # seed by seed, so that a survey that is cut has every row once
        cells = [
            (data, name, label, seed)
            for seed in range(self.seeds)
            for label in self._labels
            for data, name in zip(self.data, names, strict=True)
        ]
        if not self.summary:
            # rows that share a network belong to one part: two must not train it at once
            runs = list(
                dict.fromkeys(self._run(self.out / n, label, s) for _, n, label, s in cells)
            )
            mine = set(runs[index::count])
            for data, name, label, seed in cells:
                if self._run(self.out / name, label, seed) in mine:
                    self._cell(data, self.out / name, label, seed)
        if count > 1 and any(
            self._done(self.out / n, label, s) is None for _, n, label, s in cells
        ):
            print("cells are missing: the other parts do them; then --summary")
            return {}
        return self._summarise(names)

    @property
    def _labels(self) -> list[str]:
        return list(self.only or GROUPS[self.rows])

    def _check(self) -> tuple[int, int]:
        if not self.data:
            raise DiffplanError("name at least one dataset; see: diffplan datasets list")
        least = {
            "seeds": 1,
            "steps": 1,
            "episodes": 1,
            "tune_episodes": 1,
            "seed": 0,
            "tune_seed": 0,
        }
        for name, low in least.items():
            if (value := getattr(self, name)) < low:
                raise DiffplanError(
                    f"--{name.replace('_', '-')} must be at least {low}, got {value}"
                )
        known = GROUPS[self.rows]
        if unknown := [label for label in self.only if label not in known]:
            there = ", ".join(map(repr, known))
            raise DiffplanError(f"no row {unknown[0]!r} in {self.rows}; it has {there}")
        names = [data_name(data) for data in self.data]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise DiffplanError(f"two of the datasets are called {twice}; rename one of the files")
        judged = range(self.seed, self.seed + self.episodes)
        tuned = range(self.tune_seed, self.tune_seed + self.tune_episodes)
        if max(judged.start, tuned.start) < min(judged.stop, tuned.stop):
            raise DiffplanError(
                f"tuning seeds {tuned.start} to {tuned.stop - 1} overlap evaluation seeds "
                f"{judged.start} to {judged.stop - 1}; choose another --tune-seed"
            )
        index, _, count = self.part.partition("/")
        if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
            raise DiffplanError(f"--part is {self.part!r}, expected I/N with 1 <= I <= N, as 1/2")
        return int(index) - 1, int(count)

    @cached_property
    def _known(self) -> set[str]:
        """Datasets whose environments are there."""
        return set()

    # --- Cells -----------------------------------------------------------------------------------

    def _row(self, label: str) -> Row:
        return GROUPS[self.rows][label]

    def _asked(self, label: str) -> dict[str, Any]:
        """What decides a cell: another one is not taken for it."""
        settings = ("steps", "episodes", "seed", "tune_episodes", "tune_seed")
        row = json.loads(json.dumps(asdict(self._row(label))))
        return {**row, **{name: getattr(self, name) for name in settings}}

    def _file(self, folder: Path, label: str, seed: int) -> Path:
        return folder / "cells" / self.rows / f"{label}, seed {seed}.json"

    def _done(self, folder: Path, label: str, seed: int) -> dict[str, Any] | None:
        """The finished cell, None if there is none with these settings."""
        file = self._file(folder, label, seed)
        if not file.is_file():
            return None
        found: dict[str, Any] = json.loads(file.read_text())
        return found if found["asked"] == self._asked(label) else None

    def _run(self, folder: Path, label: str, seed: int) -> Path:
        return folder / self._row(label).trained / f"seed-{seed}"

    def _cell(self, data: str, folder: Path, label: str, seed: int) -> None:
        from diffplan.scripts.report.files import write_json

        if self._done(folder, label, seed) is not None:
            return
        row, run = self._row(label), self._run(folder, label, seed)
        options = ["--dataset", data, "--out", str(run), "--steps", str(self.steps)]
        if self.terminations is not None:
            options += ["--terminations", self.terminations]
        # rows that share a run choose among different numbers of candidates
        valued = {} if get_config(row.config).tells_returns else {"heads.value": "returns"}
        for key, value in (valued | row.training).items():
            options += as_words(f"--{key.replace('_', '-')}", value)
        self._check_environment(data)
        # runs are shared by rows and groups: all must have trained as long
        for other in (folder / "cells").glob("*/*.json"):
            kept = json.loads(other.read_text())
            if "updates" in kept and kept["asked"]["steps"] != self.steps:
                raise DiffplanError(
                    f"{folder} holds runs of {kept['asked']['steps']} updates, and --steps is "
                    f"{self.steps}; give the same, or another --out"
                )
        # goes on where a run stopped, and refuses one of other settings
        Train.parse([row.config, *options, "--seed", str(seed), "--resume"]).run()
        file = self._file(folder, label, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"asked": self._asked(label), **self._score(run, row, label)})

    def _check_environment(self, data: str) -> None:
        """Refuse before the training what could not be scored after it."""
        from diffplan.envs.datasets import load_dataset
        from diffplan.envs.simulators.compatibility import check_environment

        if data in self._known:
            return
        episodes = load_dataset(data, None, progress=False)
        info = episodes.info
        if len(info.tasks) > 1:
            raise DiffplanError(
                f"{data} holds {len(info.tasks)} tasks; a survey trains and scores on data of one"
            )
        if info.env_id is None:
            raise DiffplanError(
                f"{data} does not say in which environment it was collected, which a survey needs; "
                "name the file after a D4RL task, or store an env_id in it"
            )
        # raises where the simulator is missing, too
        if check_environment(episodes.layout, info) is None:
            raise DiffplanError(
                f"{info.env_id} has no time limit, and an episode may never end; register it with "
                "max_episode_steps"
            )
        self._known.add(data)

    def _score(self, run: Path, row: Row, label: str) -> dict[str, Any]:
        """Tune and evaluate one trained network."""
        from diffplan.agents import load_agent
        from diffplan.envs.rollouts.serial import rollout
        from diffplan.envs.simulators.environments import evaluation_env_factory
        from diffplan.planning.chains import network_calls

        agent = load_agent(run)
        make_env = evaluation_env_factory(agent.info)
        goal = agent.layout.goal_dim > 0
        tried = row.goal_strides if goal else row.reward_strides
        planning = row.planning if goal else row.planning | row.reward_planning
        tuning: dict[int, float] = {}
        for every in sorted({agent.stride * min(n, agent.horizon) for n in tried}):
            found = rollout(
                load_agent(run, **planning, replan_every=every),
                make_env,
                episodes=self.tune_episodes,
                num_envs=self.tune_episodes,
                seed=self.tune_seed,
                description=f"{run}, {label}, replan every {every}",
            )
            tuning[every] = float(found.returns.mean())
        every = max(tuning, key=lambda k: tuning[k])
        agent = load_agent(run, **planning, replan_every=every)
        # the interval was chosen on seeds of its own: these have decided nothing yet
        result = rollout(
            agent,
            make_env,
            episodes=self.episodes,
            num_envs=self.episodes,
            seed=self.seed,
            description=f"{run}, {label}",
        )
        return {
            "replan_every": every,
            "tuning": {str(k): value for k, value in tuning.items()},
            "planning": agent.planning,
            "returns": result.returns.tolist(),
            "success": None if result.success is None else result.success.tolist(),
            "network_calls": network_calls(agent.model, agent.settings),
            "parameters": sum(p.numel() for p in agent.model.parameters()),
            "train_seconds": agent.train_seconds,
            "updates": agent.updates,
        }

    # --- Summary ---------------------------------------------------------------------------------

    def _summarise(self, names: list[str]) -> dict[str, Any]:
        from diffplan.scripts.report.files import write_json
        from diffplan.scripts.report.results import machine
        from diffplan.scripts.studies.survey_report import draw, survey_table

        target = self.out / f"{self.rows}.json"
        report: dict[str, Any] = {
            "command": self._command,
            "protocol": _PROTOCOL.format(rounds=ROUNDS, **asdict(self)),
            "machine": machine("cpu", 1),
            "survey": {},
        }
        for name in names:
            found = self._dataset(self.out / name)
            if found["rows"]:
                report["survey"][name] = found
        if not report["survey"]:
            raise DiffplanError(
                f"{self.out} holds no cells of these {self.rows} with these settings; run the "
                "command without --summary, or give the settings it was run with"
            )
        write_json(target, report)
        pictures = draw(report, self.out, self.rows)
        print(survey_table(report))
        print("\n".join(f"wrote {path}" for path in (target, *pictures)))
        return report

    @property
    def _command(self) -> str:
        # files by name alone: where they lie is a matter of the machine
        words = ["diffplan", "survey", *(Path(data).name for data in self.data)]
        words += ["--out", str(self.out)]
        for name in ("rows", "seeds", "steps", "episodes", "seed", "tune_episodes", "tune_seed"):
            words += [f"--{name.replace('_', '-')}", str(getattr(self, name))]
        words += ["--only", *self.only] if self.only else []
        return shlex.join(words)

    def _dataset(self, folder: Path) -> dict[str, Any]:
        """All rows of one dataset, as far as their cells are done, with what made the data."""
        import numpy as np

        from diffplan.agents import load_agent
        from diffplan.envs.rollouts.references import normalised_score, reference_key
        from diffplan.scripts.report.intervals import runs_mean

        cells = {
            label: [
                cell
                for seed in range(self.seeds)
                if (cell := self._done(folder, label, seed)) is not None
            ]
            for label in self._labels
        }
        cells = {label: found for label, found in cells.items() if found}
        if not cells:
            return {"rows": {}}
        # any run says what the data are
        first = next(iter(cells))
        agent = load_agent(self._run(folder, first, 0))
        # planned as in the cells, with the interval that was chosen there
        agents = {
            label: load_agent(self._run(folder, label, 0), **found[0]["planning"])
            for label, found in cells.items()
        }
        # in one go and in turn: cells were scored on days of different load
        timed = times(agents, self.seed, folder.name)
        rows: dict[str, Any] = {}
        for label, found in cells.items():
            returns = [cell["returns"] for cell in found]
            # seeds are the units, episodes are nested in them
            estimate = runs_mean(returns)
            rows[label] = {
                "return_mean": estimate.mean,
                "return_ci95": [estimate.low, estimate.high],
                "seed_means": [sum(r) / len(r) for r in returns],
                "replan_every": [cell["replan_every"] for cell in found],
                "network_calls": found[0]["network_calls"],
                "parameters": found[0]["parameters"],
                "train_seconds": sum(cell["train_seconds"] or 0 for cell in found) / len(found),
                "training_seeds": len(found),
                "episodes": self.episodes,
                **timed[label],
            }
            success = [cell["success"] for cell in found if cell["success"] is not None]
            if success:
                rows[label]["success_rate"] = sum(map(sum, success)) / sum(map(len, success))
            reference = reference_key(agent.info)
            scored = [normalised_score(reference, np.asarray(r)) for r in returns]
            if all(score is not None for score in scored):
                score = runs_mean([s for s in scored if s is not None])
                rows[label]["normalised_score"] = score.mean
                rows[label]["normalised_ci95"] = [score.low, score.high]
        return {
            "env_id": agent.info.env_id,
            "rows": rows,
            "others": others(folder, agent, self.episodes, self.seed),
        }
