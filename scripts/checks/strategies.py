"""Ways to train the denoiser otherwise, beside the way it is trained: error and score by updates.

    python -m diffplan.scripts.checks.strategies hopper-medium pointmaze-medium --out DIR

Every row, training seed and number of updates has a file of its own, and what is there is not done
again. Errors are root mean squares in plan units over
held-out windows, the same for all rows: of the denoiser over all levels of the process that plans
come by, and of whole plans. Rows that only plan otherwise, or fine-tune, share the runs of
"baseline".
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from diffplan.agents import PlannerAgent, load_agent
from diffplan.config.config import Config
from diffplan.config.sections import DataConfig, PlanSpaceConfig
from diffplan.data.windows import WindowSampler
from diffplan.diffusion.forward import q_sample
from diffplan.envs.datasets import load_dataset
from diffplan.model.checkpoint import load_model, save_checkpoint
from diffplan.model.denoiser import Inputs
from diffplan.model.run_folder import checkpoint_updates, list_checkpoints
from diffplan.scripts.analyse.plans import Maker
from diffplan.scripts.analyse.subject import Sample, Subject, draw
from diffplan.scripts.checks import main
from diffplan.scripts.checks.strategy_runs import train_together
from diffplan.scripts.evaluate.tasks import Tasks
from diffplan.scripts.report.files import write_json
from diffplan.scripts.report.intervals import bounds, pooled_mean
from diffplan.scripts.report.markdown import machine_line, markdown, mean_interval
from diffplan.scripts.report.results import machine
from diffplan.scripts.studies.beside import beside, scores
from diffplan.scripts.studies.rows import Row
from diffplan.scripts.studies.sources import Source
from diffplan.training.matching import Matching

_MATCHED = "MMD, 250 updates more"
_NOISE = {"start": "noise", "denoising_steps": 5}
_SDEDIT = {"start": "sdedit", "denoising_steps": 5}
_PATH = {"denoiser.shortest_path": True}

ROWS: dict[str, Row] = {
    "baseline": Row(),
    "min-SNR": Row(training={"training.min_snr": 5.0}),
    "immiscible": Row(training={"training.immiscible": True}),
    "alignment": Row(training={"training.alignment": 0.5}),
    "curriculum": Row(training={"training.curriculum": 100}),
    "routing": Row(training={"denoiser.routing": 0.8}),
    "shortest path": Row(training=_PATH),
    _MATCHED: Row(),
    "from noise": Row(planning=_NOISE),
    "from noise, shortest path": Row(training=_PATH, planning=_NOISE),
    "SDEdit": Row(planning=_SDEDIT),
    "SDEdit, a level per state": Row(planning=_SDEDIT | {"start_by_step": True}),
}
"""What is set beside each other; planning settings in place of the configuration's."""

_MARKS = (0.25, 0.5, 1.0)
_RATE, _ROWS, _MORE = 1e-5, 64, 250  # of fine-tuning: updates beyond those of the run
_WINDOWS, _WINDOWS_SEED = 2048, 77


@dataclass(frozen=True)
class StrategyTable:
    """Train, measure and play every row; then print the tables."""

    data: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Datasets, as for `diffplan train --dataset`."""
    out: Path
    """Folder for runs and cells."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Training seeds."""
    only: tuple[str, ...] = ()
    """Names of the rows to do, where not all."""
    steps: int = 2000
    """Updates in all."""
    episodes: int = 100
    """That score a checkpoint; 0: errors alone."""
    seed: int = 1000
    """Of the first of them."""
    summary: bool = False
    """Train and play nothing."""

    def run(self) -> None:
        """Do what is missing, seed by seed, and print."""
        torch.set_num_threads(1)
        rows = {label: row for label, row in ROWS.items() if not self.only or label in self.only}
        for seed in () if self.summary else self.seeds:
            for word in self.data:
                self._train(word, seed, rows)
                for label, row in rows.items():
                    self._do(word, label, row, seed)
        for word in self.data:
            print(self._table(word, list(rows)), end="\n\n")
        where = machine_line({"machine": machine("cpu", 1)})
        print(f"Command: `{self._command}`. Machine: {where}.")

    @property
    def _command(self) -> str:
        words = [*self.data, "--seeds", *map(str, self.seeds), "--steps", str(self.steps)]
        words += ["--episodes", str(self.episodes), "--seed", str(self.seed)]
        return " ".join(["python -m diffplan.scripts.checks.strategies", *words])

    @property
    def _marks(self) -> list[int]:
        return [round(mark * self.steps) for mark in _MARKS]

    def _file(self, word: str, label: str, seed: int, updates: int) -> Path:
        return self.out / word / "cells" / f"{label}, seed {seed}, {updates} updates.json"

    # --- One cell --------------------------------------------------------------------------------

    def _run(self, word: str, row: Row, seed: int) -> Path:
        return self.out / word / (row.trained if row.training else "baseline") / f"seed-{seed}"

    def _train(self, word: str, seed: int, rows: dict[str, Row]) -> None:
        """All runs of a dataset and seed that are not there."""
        wanted = {self._run(word, row, seed): row.training for row in rows.values()}
        missing = {
            run: training
            for run, training in wanted.items()
            if not set(self._marks) <= {checkpoint_updates(path) for path in list_checkpoints(run)}
        }
        if missing:
            seconds = train_together(load_dataset(word, progress=False), missing, seed, self._marks)
            told = ", ".join(f"{run.parent.name} {taken:.0f}" for run, taken in seconds.items())
            print(f"{word}, seed {seed}: CPU seconds of the denoisers: {told}", flush=True)

    def _do(self, word: str, label: str, row: Row, seed: int) -> None:
        run = self._run(word, row, seed)
        for updates in self._marks:
            file = self._file(word, label, seed, updates)
            kept = json.loads(file.read_text()) if file.is_file() else {}
            if not kept or (self.episodes and not kept["returns"]):
                found = self._measured(word, label, row, run, seed, updates)
                print(f"{word}, {label}, seed {seed}, {updates}: {_short(found)}", flush=True)
                file.parent.mkdir(parents=True, exist_ok=True)
                write_json(file, found)

    def _matched(self, word: str, run: Path, updates: int, seed: int) -> Path:
        """A run of one checkpoint, fine-tuned from that of another."""
        model, header, _ = load_model(run / f"checkpoint-{updates:08d}")
        matching = Matching(model, _RATE)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(_MORE):
            matching.update(_sampler(word, header.config, seed), _ROWS, generator)
        out = run.parents[1] / "matched" / f"{run.name}-{updates}"
        header = dataclasses.replace(header, step=updates + _MORE)
        return save_checkpoint(out, header, model.state_dict(), {}).parent

    def _measured(
        self, word: str, label: str, row: Row, run: Path, seed: int, updates: int
    ) -> dict[str, Any]:
        checkpoint: int | str = updates
        if label == _MATCHED:
            run, checkpoint = self._matched(word, run, updates, seed), "last"
        planning = row.planned(Source(word).has_goal)
        agent = load_agent(run, checkpoint=checkpoint, engine="eager", tuned=False, **planning)
        sampler = _sampler(word, agent.model.config, seed)
        sample = draw(agent.model, sampler, _WINDOWS, _WINDOWS_SEED, "held-out")
        with torch.no_grad():
            errors = {"denoiser": _denoiser_error(agent, sample), "plan": _error(agent, sample)}
        if not self.episodes:
            return errors | {"returns": []}
        tasks, began = Tasks.of(agent, run, self.seed), time.process_time()
        played = tasks.play(
            tasks.told(agent),
            episodes=self.episodes,
            num_envs=self.episodes,
            seed=self.seed,
            description=str(run),
        )
        return {
            **errors,
            "returns": played.returns.tolist(),
            "success": None if played.success is None else played.success.tolist(),
            "evaluation_cpu_seconds": time.process_time() - began,
        }

    # --- Tables ----------------------------------------------------------------------------------

    def _table(self, word: str, labels: list[str]) -> str:
        """Means over training seeds, and differences to the baseline with the same seeds."""
        scale: dict[str, Any] = {}
        if self.episodes:
            file = self.out / word / "scale.json"
            found = beside(Source(word), file, self.episodes, self.seed, others=False)
            scale = found["scale"]

        def told(label: str, updates: int, key: str) -> dict[int, float]:
            values = {}
            for seed in self.seeds:
                file = self._file(word, label, seed, updates)
                cell = json.loads(file.read_text()) if file.is_file() else {"returns": []}
                if key == "score" and cell["returns"]:
                    values[seed] = float(scores(cell["returns"], scale).mean())
                elif key in cell:
                    values[seed] = cell[key]
            return values

        header = [word, "updates", "n"]
        keys = ["denoiser", "plan", "score"]
        header += [f"{key}{more}" for key in keys for more in ("", ", against baseline")]
        lines = []
        for label in labels:
            for updates in self._marks:
                line = [label, str(updates), str(len(told(label, updates, "plan")))]
                for key in keys:
                    digits = 1 if key == "score" else 4
                    ours, base = told(label, updates, key), told("baseline", updates, key)
                    line += _cells(ours, base, digits)
                lines.append(line)
        return markdown(header, lines)


@functools.lru_cache(maxsize=2)
def _sampler_of(word: str, data: DataConfig, plan: PlanSpaceConfig, seed: int) -> WindowSampler:
    config = dataclasses.replace(Config(), data=data, plan=plan)
    return WindowSampler(load_dataset(word, progress=False), config, seed=seed)


def _sampler(word: str, config: Config, seed: int) -> WindowSampler:
    """Of a training seed, which also says which episodes are held out."""
    return _sampler_of(word, config.data, config.plan, seed)


def _cells(ours: dict[int, float], base: dict[int, float], digits: int) -> list[str]:
    if not ours:
        return ["–", "–"]
    mean = sum(ours.values()) / len(ours)
    apart = [ours[seed] - base[seed] for seed in ours if seed in base]
    if ours == base or not apart:
        return [f"{mean:.{digits}f}", "–"]
    estimate = pooled_mean([[value] for value in apart])
    ends = bounds(estimate)
    shown = f"{estimate.mean:+.{digits}f}"
    if ends is not None and len(apart) > 1:
        shown = mean_interval(estimate.mean, ends, digits, "+")
    return [f"{mean:.{digits}f}", shown]


def _short(found: dict[str, Any]) -> str:
    told = f"denoiser {found['denoiser']:.4f}, plan {found['plan']:.4f}"
    returns = found["returns"]
    return f"{told}, return {sum(returns) / len(returns):.1f}" if returns else told


def _denoiser_error(agent: PlannerAgent, sample: Sample) -> float:
    """Of x0_hat, over all levels of the process that plans come by."""
    model, subject = agent.model, Subject(agent)
    own = agent.settings.start == "process"
    process = model.main_process if own else model.plain_process
    levels, denoiser = tuple(range(process.T, 0, -1)), subject.denoiser
    proposal, scale = (sample.proposal, model.noise_scale) if own else (None, None)
    shown = proposal if denoiser.use_proposal else None
    inputs = Inputs(shown, proposal if any(process.r) else None)
    denoise = denoiser.bind(process, (*levels, 0), denoiser.encode(sample.context), inputs)
    path, squares = None if own else model.path, []
    for t in levels:
        at = torch.full((len(sample),), t)
        x = (
            q_sample(process, at, sample.x0, proposal, sample.noise, scale)
            if path is None
            else path.noised(t, sample.x0, sample.noise)
        )
        squares.append(subject.squares(denoise(x, t) - sample.x0).mean() / subject.free.sum())
    return float(torch.stack(squares).mean().sqrt())


def _error(agent: PlannerAgent, sample: Sample) -> float:
    """Of plans made as the settings say."""
    subject = Subject(agent)
    x = Maker(subject, sample, _WINDOWS_SEED).plans()
    return float((subject.squares(x - sample.x0).mean() / subject.free.sum()).sqrt())


if __name__ == "__main__":
    sys.exit(main(StrategyTable, "diffplan.scripts.checks.strategies", sys.argv[1:]))
