"""`diffplan study DATA...`: the same planners on several datasets, over training seeds.

diffplan study hopper-medium.hdf5 halfcheetah-medium.hdf5 --seeds 3 --steps 6000 --out runs/study
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from diffplan.errors import DiffplanError
from diffplan.scripts.evaluate.command import Evaluate
from diffplan.scripts.planning_options import PlanningOptions
from diffplan.scripts.train import Train

_OURS = "trajectory-diffuser"
# label -> (file name, how the trained network plans); the first is the configuration's own way
_ROWS: dict[str, tuple[str, PlanningOptions]] = {
    "ours": ("ours", PlanningOptions()),
    "proposer only": ("proposer-only", PlanningOptions(start="none", denoising_steps=0)),
    "from noise": ("from-noise", PlanningOptions(start="noise", denoising_steps=10)),
}
# the figures without the episodes: the summary stays readable
_KEPT = (
    *("return_mean", "return_ci95", "normalised_score", "normalised_ci95"),
    *("success_rate", "success_ci95", "episodes", "train_seconds", "runs", "planning", "command"),
    *("decision_ms_mean", "decision_ms_median", "replan_ms_median", "between_ms_median"),
)
_COMMON = (
    *("dataset", "env_id", "reference", "score_label", "data_label", "environment_differences"),
    *("config", "seed", "protocol", "machine"),
)


@dataclass(frozen=True)
class Study:
    """Train one configuration per dataset and seed, and score its ways of planning.

    Every dataset gets its preset, as in `diffplan train`. One network per run is trained; ours,
    the proposal alone and planning from noise are three ways of using it, on the same seeds.
    What is already in OUT is not done again, so that a stopped study goes on where it was.
    """

    data: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="DATA...")]
    """Names, Minari ids or files, as for `diffplan train --dataset`."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder for the runs (DIR/DATASET/seed-S) and results."""
    config: str = _OURS
    """Configuration to train."""
    seeds: int = 1
    """Training seeds 0 to SEEDS - 1 of each dataset."""
    steps: int = 6000
    """Updates of each run."""
    terminations: Literal["as-recorded", "as-truncations"] | None = None
    """Of `diffplan train`: what ends at a time limit though the data call it terminated."""
    episodes: int = 50
    """Evaluation episodes of each run and way of planning."""
    seed: int = 1000
    """Of the first evaluation episode."""
    ways: bool = True
    """Also score the proposal alone and planning from noise."""
    json: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: DIR/study.json)")
    ] = None
    """Where the summary goes, with a picture beside it; datasets it already holds are kept."""

    def run(self) -> dict[str, Any]:
        """Train, evaluate, write the summary; returns it."""
        from diffplan.scripts.report.files import check_writable, write_json

        target = self.json or self.out / "study.json"
        if not self.data:
            raise DiffplanError("name at least one dataset; see: diffplan datasets list")
        for name, value in (("seeds", self.seeds), ("episodes", self.episodes)):
            if value < 1:
                raise DiffplanError(f"--{name} must be at least 1, got {value}")
        check_writable(target, "results file")
        summary: dict[str, Any] = {}
        names = [self._name(dataset) for dataset in self.data]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise DiffplanError(f"two of the datasets are called {twice}; rename one of the files")
        for dataset, name in zip(self.data, names, strict=True):
            found = self._study(dataset, self.out / name)
            summary = _earlier(target)  # another study may have written to the file meanwhile
            summary["datasets"][name] = found
            write_json(target, summary)
            draw(summary, target.with_suffix(".png"))
            print(f"wrote {target} and {target.with_suffix('.png')}")
        return summary

    def _name(self, dataset: str) -> str:
        """Of a dataset's folder and of its place in the summary, with a config that is not ours."""
        path = Path(dataset)
        name = path.stem if path.exists() else dataset.replace("/", "-")
        return name if self.config == _OURS else f"{name}-{self.config}"

    def _study(self, dataset: str, folder: Path) -> dict[str, Any]:
        """Train the seeds on one dataset and score them; what goes into the summary."""
        from diffplan.model.run_folder import list_checkpoints, read_header

        runs = [folder / f"seed-{seed}" for seed in range(self.seeds)]
        for seed, run in enumerate(runs):
            # a run that is far enough is kept, a shorter one goes on
            found = list_checkpoints(run)
            if found:
                header = read_header(found[-1])
                was = (header.config.name, header.info.id)
                if was != (self.config, dataset):
                    raise DiffplanError(
                        f"{run} holds {was[0]} trained on {was[1]}, not {self.config} on "
                        f"{dataset}; choose another --out"
                    )
                if header.step >= self.steps:
                    continue
            options = ["--dataset", dataset, "--out", str(run), "--steps", str(self.steps)]
            if self.terminations is not None:
                options += ["--terminations", self.terminations]
            Train.parse([self.config, *options, "--seed", str(seed), "--resume"]).run()
        rows: dict[str, Any] = {}
        common: dict[str, Any] = {}
        ways = _ROWS if self.ways else {"ours": _ROWS["ours"]}
        # one network, planned with in each way
        for label, (stem, planning) in ways.items():
            # controllers and pictures once, with the configuration's own way
            own = label == "ours"
            found_row = self._row(runs, folder / f"{stem}.json", planning, own)
            kept = {key: found_row[key] for key in _KEPT if key in found_row}
            rows[self.config if own and self.config != _OURS else label] = kept
            if own:
                common = {key: found_row.get(key) for key in _COMMON}
                common["others"] = {
                    name: {key: policy[key] for key in _KEPT if key in policy}
                    for name, policy in found_row.get("policies", {}).items()  # of one task
                    if not name.startswith("planner")
                }
        return {**common, "rows": rows}

    def _row(
        self, runs: list[Path], file: Path, planning: PlanningOptions, baselines: bool
    ) -> dict[str, Any]:
        options = Evaluate(
            runs=tuple(runs),
            episodes=self.episodes,
            num_envs=self.episodes,
            seed=self.seed,
            json=file,
            planning=planning,
            baselines=baselines,
            pictures=baselines,
        )
        if file.is_file():
            found: dict[str, Any] = json.loads(file.read_text())
            # the same command and the same updates: nothing could come out otherwise
            done = [[run["folder"], run["updates"]] for run in found["runs"]]
            if found["command"] == options.command and done == [[str(r), self.steps] for r in runs]:
                return found
        return options.run()


def draw(summary: dict[str, Any], path: Path) -> None:
    """Draw each dataset's scores with intervals, and what made the data, as a PNG file."""
    from matplotlib.figure import Figure

    from diffplan.scripts.report.pictures import CANDIDATE, EXECUTED, PLAN, PROPOSAL, save, style

    colours = dict(zip(_ROWS, (PLAN, PROPOSAL, EXECUTED), strict=True))
    found = summary["datasets"]
    with style():
        figure = Figure(figsize=(8, 0.5 + 1.1 * len(found)), layout="constrained")
        panels = figure.subplots(len(found), 1, squeeze=False)[:, 0]
        for axes, (name, study) in zip(panels, found.items(), strict=True):
            scaled = all("normalised_score" in row for row in study["rows"].values())
            mean, ends = (
                ("normalised_score", "normalised_ci95")
                if scaled
                else ("return_mean", "return_ci95")
            )
            labels = list(study["rows"])
            for place, label in enumerate(labels):
                row = study["rows"][label]
                axes.plot(
                    row[ends],
                    [place, place],
                    color=colours.get(label, PLAN),
                    linewidth=4,
                    alpha=0.4,
                )
                axes.plot(row[mean], place, "o", color=colours.get(label, PLAN))
            made = study["others"].get("data") or study["others"].get("controller")
            if made is not None:
                axes.axvline(made[mean], color=CANDIDATE, linestyle="--", linewidth=1.2)
            axes.set_xlim(left=min(0.0, *(row[ends][0] for row in study["rows"].values())))
            axes.set_yticks(range(len(labels)), labels)
            axes.set_ylim(len(labels) - 0.5, -0.5)
            axes.set_title(f"{name}, {'score' if scaled else 'return'}", loc="left", fontsize=10)
        figure.supxlabel(
            "dots: means; bars: 95 % intervals; dashed: what made the data", fontsize=9
        )
        save(figure, path)


def _earlier(target: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(target.read_text())
    except (OSError, json.JSONDecodeError):
        return {"datasets": {}}
    return found if "datasets" in found else {"datasets": {}}
