"""`diffplan compare RUN`: one trained model, every way of planning with it, in one table."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from diffplan.errors import DiffplanError
from diffplan.model.run_folder import find_checkpoint
from diffplan.nn.device import check_device
from diffplan.scripts.report.markdown import (
    machine_line,
    markdown,
    mean_interval,
    milliseconds,
    percent,
)

if TYPE_CHECKING:
    from diffplan.agents import PlannerAgent
    from diffplan.envs.rollouts.serial import Rollout
    from diffplan.scripts.evaluate.baselines import Baseline
    from diffplan.scripts.evaluate.tasks import Tasks
    from diffplan.scripts.report.results import Score

# name -> planning settings; everything else as in PlanningConfig, one candidate unless said
ROWS: dict[str, dict[str, Any]] = {
    "proposer only": {"start": "none", "denoising_steps": 0},
    "refined, 1 step": {"start": "process", "denoising_steps": 1},
    "refined, 3 steps": {"start": "process", "denoising_steps": 3},
    "refined, 5 steps": {"start": "process", "denoising_steps": 5},
    "refined, 3 steps, K = 16": {"start": "process", "denoising_steps": 3, "candidates": 16},
    "proposer only, K = 16": {"start": "none", "denoising_steps": 0, "candidates": 16},
    "from noise, 10 steps": {"start": "noise", "denoising_steps": 10},
    "from noise, 20 steps": {"start": "noise", "denoising_steps": 20},
    "from noise, 10 steps, K = 16": {"start": "noise", "denoising_steps": 10, "candidates": 16},
    "SDEdit start, 3 steps": {"start": "sdedit", "denoising_steps": 3},
    "raw start, 5 steps": {"start": "raw", "denoising_steps": 5},
    "goes on, 1 step": {"start": "process", "denoising_steps": 3, "reuse": True},
}
# every row is a refinement of it: differences are to it
BASE = "proposer only"
# intervals that are tried, in strides: one list for models of every stride, as plans are renewed
# where they have a state
STRIDES = (1, 2, 4, 8, 16)
_TIMED = "replan_ms_median"
_ROUNDS, _PLANS_A_ROUND = 5, 8  # of timing
_PROTOCOL = (
    "Every row plans with the same weights. Each row's replanning interval is the best of the "
    "tried ones on the tuning seeds, which no evaluation episode uses. 'Against proposer only' is "
    "the mean paired difference on the same seeds. The raw start is the proposal put into this "
    "model's own DDPM chain at level 5 of {levels}, not the published model. 'Goes on' refines "
    "three steps at first and then proposes only what is missing of the "
    "plan before, refined one step. Milliseconds are at a batch of one on the stated number "
    "of threads, environment time excluded: all rows are timed in turn in {rounds} rounds, of "
    "which each row's fastest median counts; per decision is one plan and the steps until the "
    "next, over their number."
)


@dataclass(frozen=True)
class Compare:
    """Compare ways of planning with one trained model: starts, denoising steps, candidates.

    Each way first picks its best replanning interval on seeds of its own; then all run the same
    evaluation episodes. A JSON file that holds finished rows of the same comparison is continued.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder that `diffplan train --out` wrote."""
    episodes: int = 100
    """Evaluation episodes of each row, on the same seeds."""
    seed: int = 1000
    """Of the first evaluation episode."""
    tune_episodes: int = 40
    """Episodes that choose a row's replanning interval."""
    tune_seed: int = 50_000
    """Of the first tuning episode."""
    json: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: RUN/compare.json)")
    ] = None
    """Where the results go; the picture goes beside it."""
    device: str = "cpu"
    """Where the networks run."""
    threads: int = 1
    """PyTorch threads."""

    def run(self) -> dict[str, Any]:
        """Compare, print and write; returns what the JSON file holds."""
        self._check()
        import torch

        from diffplan.scripts.report.files import check_writable

        target = self.json or self.folder / "compare.json"
        check_writable(target, "results file")
        torch.set_num_threads(self.threads)
        return _compare(self, target)

    def _check(self) -> None:
        for name in ("episodes", "tune_episodes", "threads"):
            if (value := getattr(self, name)) < 1:
                raise DiffplanError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        for name in ("seed", "tune_seed"):
            if (value := getattr(self, name)) < 0:
                raise DiffplanError(f"--{name.replace('_', '-')} must not be negative, got {value}")
        evaluated = range(self.seed, self.seed + self.episodes)
        tuned = range(self.tune_seed, self.tune_seed + self.tune_episodes)
        if max(evaluated.start, tuned.start) < min(evaluated.stop, tuned.stop):
            raise DiffplanError(
                f"tuning seeds {tuned.start} to {tuned.stop - 1} overlap evaluation seeds "
                f"{evaluated.start} to {evaluated.stop - 1}; choose another --tune-seed"
            )
        check_device(self.device, "--device")
        find_checkpoint(self.folder)


def _compare(options: Compare, target: Path) -> dict[str, Any]:
    from diffplan.agents import load_agent
    from diffplan.scripts.evaluate.tasks import Tasks
    from diffplan.scripts.report.files import write_json
    from diffplan.scripts.report.results import machine

    agent = load_agent(options.folder, device=options.device, tuned=False)
    tasks = Tasks.of(agent, options.folder, options.seed)
    report: dict[str, Any] = {
        "command": _command(options),
        "config": agent.config_name,
        "dataset": agent.info.id,
        "dataset_details": agent.info.details,
        "env_id": agent.info.env_id,
        "tasks": tasks.names,
        "train_seconds": agent.train_seconds,
        "updates": agent.updates,
        "episodes": options.episodes,
        "seed": options.seed,
        "tune_episodes": options.tune_episodes,
        "tune_seed": options.tune_seed,
        "protocol": _PROTOCOL.format(levels=agent.model.config.denoiser.levels, rounds=_ROUNDS),
        "machine": machine(options.device, options.threads),
        "left_out": {},
    }
    # rows are kept as they are done: hours of rollouts survive an interruption
    rows = report["rows"] = _finished(target, report)
    for name, settings in ROWS.items():
        if name in rows:
            continue
        try:
            rows[name] = _row(options, name, settings, tasks)
        except DiffplanError as error:
            report["left_out"][name] = str(error)
            continue
        write_json(target, report)
    if not any(name in rows for name in ROWS):
        name, why = next(iter(report["left_out"].items()))
        raise DiffplanError(f"{options.folder} plans in none of these ways; {name}: {why}")
    # last, as they take no tuning
    others = {found[0].name: found for found in tasks.baselines(options.seed)}
    for name, found in others.items():
        if name not in rows:
            rows[name] = _baseline(options, found, tasks)
    # in the order of the table, whatever was finished first
    rows = report["rows"] = {name: rows[name] for name in (*ROWS, *others) if name in rows}
    _differences(rows)
    _time(options, rows, tasks)
    write_json(target, report)
    picture = target.with_suffix(".png")
    from diffplan.scripts.report.pictures import replan_sweep

    replan_sweep(picture, {n: r["tuning"] for n, r in rows.items() if r["tuning"]})
    print(compare_table(report))
    print(f"wrote {target}\nwrote {picture}")
    return report


def _command(options: Compare) -> str:
    words = ["diffplan", "compare", str(options.folder)]
    for name in ("episodes", "seed", "tune_episodes", "tune_seed"):
        words += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    return shlex.join(words)


def _finished(target: Path, report: dict[str, Any]) -> dict[str, Any]:
    """Rows of an earlier, interrupted run of the very same comparison, with today's settings."""
    if not target.is_file():
        return {}
    try:
        before = json.loads(target.read_text())
        same = all(
            before.get(key) == report[key]
            for key in ("command", "dataset", "dataset_details", "train_seconds", "updates")
        )
        rows = dict(before["rows"]) if same else {}
        # a row counts only if it was planned as the table says today
        asked = {name: {"candidates": 1, **settings} for name, settings in ROWS.items()}
        rows = {
            name: row
            for name, row in rows.items()
            if all(row["planning"][key] == value for key, value in asked.get(name, {}).items())
        }
        if before["protocol"] != report["protocol"]:  # times measured in another way
            for row in rows.values():
                row.pop(_TIMED, None)
        return rows
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}


def _row(options: Compare, name: str, settings: dict[str, Any], tasks: Tasks) -> dict[str, Any]:
    """Tune the replanning interval of one way of planning, then evaluate it."""
    settings = {"candidates": 1, **settings}
    own = _agent(options, {"candidates": 1})
    tuning: dict[str, list[float]] = {}
    # going on from a plan needs at least one state of it that is left
    longest = own.horizon - 1 if settings.get("reuse") else own.horizon
    for every in sorted({own.stride * min(strides, longest) for strides in STRIDES}):
        found = tasks.play(
            tasks.told(_agent(options, {**settings, "replan_every": every})),
            episodes=options.tune_episodes,
            num_envs=options.tune_episodes,
            seed=options.tune_seed,
            description=f"{name}, replan every {every}",
        )
        estimate = _score(name, found, tasks).return_estimate
        tuning[str(every)] = [estimate.mean, estimate.low, estimate.high]
    every = int(max(tuning, key=lambda key: tuning[key][0]))
    agent = _agent(options, {**settings, "replan_every": every})
    played = tasks.play(
        tasks.told(agent),
        episodes=options.episodes,
        num_envs=options.episodes,
        seed=options.seed,
        description=name,
    )
    score = _score(name, played, tasks)
    tuned = {"replan_every": every, "tuning": tuning, "planning": agent.planning}
    return {**score.summary(None), **tuned}


def _agent(options: Compare, settings: dict[str, Any]) -> PlannerAgent:
    from diffplan.agents import load_agent

    # ways are compared as trained: what was tuned is one way, and chosen on other seeds
    return load_agent(options.folder, device=options.device, tuned=False, **settings)


def _score(name: str, played: Rollout, tasks: Tasks) -> Score:
    from diffplan.scripts.report.results import Score

    strata = len(tasks.infos)
    return Score(name, played.returns, played.lengths, played.success, strata=strata)


def _time(options: Compare, rows: dict[str, Any], tasks: Tasks) -> None:
    """Time all ways of planning in turn, several times over.

    What else the machine does slows every way alike, and the fastest median is nearest to what
    the way itself costs.
    """
    from tqdm import tqdm

    from diffplan.scripts.report.results import decision_times

    planned = [row for row in rows.values() if row["tuning"] is not None]
    # times are taken of all rows together or of none
    if all(_TIMED in row for row in planned):
        return
    agents = [_agent(options, row["planning"]) for row in planned]
    found: list[list[dict[str, float | None]]] = [[] for _ in planned]
    for turn in tqdm(range(_ROUNDS * len(planned)), desc="timing", unit=" runs", leave=False):
        agent, times = agents[turn % len(planned)], found[turn % len(planned)]
        interval = agent.settings.replan_every
        measured = tasks.time(
            agent, seed=options.seed, steps=_PLANS_A_ROUND * interval, warmup=interval
        )
        times.append(decision_times(measured))
    for row, agent, times in zip(planned, agents, found, strict=True):
        interval = agent.settings.replan_every
        plan, between = (
            min((ms for t in times if (ms := t[key]) is not None), default=0.0)
            for key in ("replan_ms_median", "between_ms_median")
        )
        row["replan_ms_median"], row["between_ms_median"] = plan, between
        # one new plan and the steps that follow it, over their number
        row["decision_ms_mean"] = (plan + (interval - 1) * between) / interval


def _baseline(options: Compare, found: list[Baseline], tasks: Tasks) -> dict[str, Any]:
    """A row for a policy that does not plan; found: it in every task."""
    played = tasks.play(
        [other.policy for other in found],
        episodes=options.episodes,
        num_envs=min(options.episodes, found[0].rows or options.episodes),
        seed=options.seed,
        description=found[0].name,
    )
    score = _score(found[0].name, played, tasks)
    return {**score.summary(None), "replan_every": None, "tuning": None, "planning": None}


def _differences(rows: dict[str, Any]) -> None:
    """Add each row's mean paired difference to the proposer alone, with its interval."""
    from diffplan.scripts.report.intervals import estimate_mean

    base = rows.get(BASE)
    for row in rows.values():
        row["difference"] = None
        if base is not None and row is not base:
            # the same seeds in both rows, so that the luck of an episode cancels
            paired = estimate_mean(np.array(row["returns"]) - np.array(base["returns"]))
            row["difference"] = [paired.mean, paired.low, paired.high]


def _where(data: dict[str, Any]) -> str:
    tasks = data.get("tasks", ())
    return f"{', '.join(tasks)}, each" if len(tasks) > 1 else str(data["env_id"])


def compare_table(data: dict[str, Any]) -> str:
    """The table of `diffplan compare`."""
    header = ["planning", "replans every", "return [95 % CI]", "against proposer only"]
    header += ["success [95 % CI]"]
    header += ["ms per decision (mean)", "ms per plan"]
    rows = []
    for name, row in data["rows"].items():
        difference = row["difference"]
        rows.append(
            [
                name,
                str(row["replan_every"] or "–"),
                mean_interval(row["return_mean"], row["return_ci95"]),
                "–" if difference is None else mean_interval(difference[0], difference[1:], 1, "+"),
                percent(row),
                milliseconds(row.get("decision_ms_mean")),
                milliseconds(row.get("replan_ms_median")),
            ]
        )
    without = data.get("left_out", {})
    left_out = "".join(f"Left out: {name} ({why}).\n\n" for name, why in without.items())
    details = data["dataset_details"]
    return (
        f"{data['config']}, {data['updates']} updates ({data['train_seconds']:.0f} s) on "
        f"{data['dataset']} ({details.get('steps', '?')} steps, seed {details.get('seed', '?')}, "
        f"{details.get('path_rule', '?')} paths); {_where(data)}, {data['episodes']} episodes, "
        f"seeds {data['seed']} to {data['seed'] + data['episodes'] - 1}; one training seed.\n\n"
        f"{markdown(header, rows)}\n\n{left_out}{data['protocol']}\n\n"
        f"Command: `{data['command']}`. Machine: {machine_line(data)}."
    )
