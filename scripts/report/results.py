"""What an evaluation reports: scores with intervals, one aligned table, results.json."""

import contextlib
import importlib.metadata
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffplan.envs.rollouts.reading import Failure
from diffplan.envs.rollouts.references import normalised_score
from diffplan.envs.rollouts.serial import DecisionTimes, Rollout
from diffplan.errors import DiffplanError
from diffplan.model.run_folder import own_version
from diffplan.scripts.report.intervals import (
    Estimate,
    pooled_mean,
    pooled_rate,
    stratified_mean,
    wilson,
)

_PROTOCOL = (
    "Episode e of E starts with reset(seed=seed + e); row i of M environments runs episodes i, "
    "i + M, ..., a fixed number each. Returns are undiscounted sums up to the environment's own "
    "end or time limit; success means reported at any step. Intervals are 95 %: for returns and "
    "scores Student's t over fewer than 30 episodes, else a percentile bootstrap over them, Wilson "
    "for rates; they leave out the spread over training seeds. decision_ms is the wall time of a "
    "decision for one environment on the stated number of threads, environment time excluded; "
    "batched_ms is call time over running rows."
)
_POOLED_PROTOCOL = (
    " The row over training seeds is the mean of the runs' means, and the runs are its units: "
    "Student's t over their means, on common episode seeds; for rates the hull of that and Wilson "
    "over all episodes."
)
TASK_PROTOCOL = (
    " Each task plays as many episodes, on the same seeds. The mean over tasks weighs them alike "
    "and takes them as given: its interval, Student's t within tasks, leaves out how they differ "
    "(rates: Wilson over all episodes, which is a little wider). With one episode of each there is "
    "no spread within tasks, and the interval is over the tasks."
)
_PACKAGES = ("torch", "numpy", "gymnasium", "gymnasium-robotics", "mujoco", "metaworld")


@dataclass(frozen=True)
class Score:
    """How one policy did on the common seeds."""

    name: str
    returns: np.ndarray
    """[E] return of each episode; for several runs those of one after the other, [R E]."""
    lengths: np.ndarray
    """[E] steps."""
    success: np.ndarray | None
    """[E] bool, None where the environment reports none."""
    times: DecisionTimes | None = None
    """Timed at a batch of one; None for the episodes of a dataset."""
    batched_ms: np.ndarray | None = None
    """[C] milliseconds per decision during the batched rollout."""
    runs: int = 1
    """R, the trained models (training seeds) behind the episodes; they are the units if several."""
    strata: int = 1
    """Tasks behind the episodes of one run, as many of each one after the other."""
    failures: tuple[Failure, ...] = ()
    """Episodes that came to no end because of their environment; they are not counted."""
    missing: frozenset[int] = frozenset()
    """Numbers of the episodes left out, of every run and task alike."""

    @staticmethod
    def of(name: str, result: Rollout, times: DecisionTimes | None) -> "Score":
        """The score of a rollout."""
        failures, missing = result.failures, frozenset(f.episode for f in result.failures)
        return Score(
            *(name, result.returns, result.lengths, result.success, times, result.decision_ms),
            failures=failures,
            missing=missing,
        )

    @staticmethod
    def alike(scores: Sequence["Score"]) -> list["Score"]:
        """The scores without the episodes that any of them lacks, so that seeds are common.

        Raises DiffplanError where none is left.
        """
        missing = frozenset().union(*(score.missing for score in scores))
        return [score._without(missing) for score in scores] if missing else list(scores)

    def _without(self, missing: frozenset[int]) -> "Score":
        groups = self.runs * self.strata
        total = len(self.returns) // groups + len(self.missing)
        kept = [e for e in range(total) if e not in self.missing]
        counted = np.tile([e not in missing for e in kept], groups)
        if not counted.any():
            raise DiffplanError(f"{self.name}: no episode finished in all runs and tasks")
        success = None if self.success is None else self.success[counted]
        return replace(
            self,
            returns=self.returns[counted],
            lengths=self.lengths[counted],
            success=success,
            missing=missing,
        )

    @staticmethod
    def pooled(name: str, scores: Sequence["Score"]) -> "Score":
        """The score over the runs of several training seeds, the same number of episodes each."""
        scores = Score.alike(scores)
        times = [score.times for score in scores if score.times is not None]
        batched = [score.batched_ms for score in scores if score.batched_ms is not None]
        # runs of one environment report success all or none
        success = [score.success for score in scores if score.success is not None]
        return Score(
            name,
            np.concatenate([score.returns for score in scores]),
            np.concatenate([score.lengths for score in scores]),
            np.concatenate(success) if success else None,
            DecisionTimes.joined(times) if times else None,
            np.concatenate(batched) if batched else None,
            len(scores),
            scores[0].strata,
            tuple(failure for score in scores for failure in score.failures),
            scores[0].missing,
        )

    @property
    def return_estimate(self) -> Estimate:
        return self._mean(self.returns)

    @property
    def success_estimate(self) -> Estimate | None:
        if self.success is None:
            return None
        if self.runs > 1:
            return pooled_rate(np.split(self.success, self.runs))
        return wilson(int(self.success.sum()), len(self.success))

    @property
    def counted(self) -> str:
        """The number of episodes, of several runs that of each; out of how many, if some failed."""
        each = len(self.returns) // self.runs
        asked = f" of {each + self.strata * len(self.missing)}" if self.missing else ""
        return (str(each) if self.runs == 1 else f"{self.runs} x {each}") + asked

    def normalised_estimate(self, *references: str | None) -> Estimate | None:
        """The mean of the episodes' scores on D4RL's scale 0..100; None without a reference.

        references: one, or one for each of the `strata`.
        """
        # as `returns` lie: runs, tasks in each, episodes in each
        by_task = self.returns.reshape(self.runs, len(references), -1)
        scores = [normalised_score(key, by_task[:, i]) for i, key in enumerate(references)]
        known = [row for row in scores if row is not None]
        if len(known) < len(references):
            return None
        return self._mean(np.stack(known, 1).reshape(-1))

    def _mean(self, values: np.ndarray) -> Estimate:
        if self.runs > 1:
            return pooled_mean(np.split(values, self.runs))
        return stratified_mean(np.split(values, self.strata))

    def summary(self, *references: str | None) -> dict[str, Any]:
        """Everything about the policy, for results.json; see `normalised_estimate`."""
        estimate, rate = self.return_estimate, self.success_estimate
        found: dict[str, Any] = {
            "return_mean": estimate.mean,
            "return_ci95": [estimate.low, estimate.high],
            "return_std": float(self.returns.std(ddof=1)) if len(self.returns) > 1 else None,
            "success_rate": rate.mean if rate else None,
            "success_ci95": [rate.low, rate.high] if rate else None,
            "episodes": len(self.returns),
            "training_seeds": self.runs if self.times is not None else None,
            "length_mean": float(self.lengths.mean()),
        }
        if score := self.normalised_estimate(*references):
            found["normalised_score"] = score.mean
            found["normalised_ci95"] = [score.low, score.high]
        if self.times is not None:
            found |= decision_times(self.times)
        if self.batched_ms is not None:
            found["batched_ms_median"] = float(np.median(self.batched_ms))
            found["batched_ms_mean"] = float(self.batched_ms.mean())
        found["returns"] = self.returns.tolist()
        found["lengths"] = self.lengths.tolist()
        found["success"] = None if self.success is None else self.success.tolist()
        if self.missing:
            found["failed"] = [asdict(failure) for failure in self.failures]
            found["episodes_left_out"] = sorted(self.missing)
        return found


def protocol(runs: int) -> str:
    """How the figures of an evaluation of so many runs come about."""
    return _PROTOCOL + (_POOLED_PROTOCOL if runs > 1 else "")


def decision_times(times: DecisionTimes) -> dict[str, float | None]:
    """Median, 95 % quantile and mean milliseconds, replanning calls also apart."""
    # policies that do not plan say nothing of replanning
    replanning = times.ms[times.replanned] if times.replanned is not None else times.ms[:0]
    between = times.ms[~times.replanned] if times.replanned is not None else times.ms[:0]
    return {
        "decision_ms_median": float(np.median(times.ms)),
        "decision_ms_p95": float(np.quantile(times.ms, 0.95)),
        "decision_ms_mean": float(times.ms.mean()),
        "replan_ms_median": float(np.median(replanning)) if len(replanning) else None,
        "between_ms_median": float(np.median(between)) if len(between) else None,
    }


def speed_line(score: Score, rows: int) -> str:
    """What a plan costs, and a decision when `rows` environments are planned for at once."""
    assert score.batched_ms is not None
    line = f"{score.name}: "
    if score.times is None:
        return f"{line}no single decisions could be timed"
    ms = decision_times(score.times)
    if ms["replan_ms_median"] is not None and ms["between_ms_median"] is not None:
        line += f"a new plan takes {ms['replan_ms_median']:.2f} ms and "
        line += f"a step between plans {ms['between_ms_median']:.2f} ms (medians); "
    # a mean, as calls with and without new plans take turns
    batched = score.batched_ms.mean()
    return line + f"with {rows} environments at once a decision takes {batched:.2f} ms on average"


def table(
    scores: Sequence[Score], reference: str | None = None, score_label: str | None = None
) -> str:
    """One aligned line per policy under a header; `score_label` heads the normalised scores."""
    header = ["policy", "return [95 % CI]"]
    if any(score.success is not None for score in scores):
        header.append("success [95 % CI]")
    if reference:
        header.append(f"{score_label or f'D4RL {reference} score'} [95 % CI]")
    header += ["n", "ms per decision, median / p95"]
    lines = [header]
    for score in scores:
        estimate, rate = score.return_estimate, score.success_estimate
        line = [score.name, interval(estimate)]
        if "success [95 % CI]" in header:
            line.append(interval(rate, 100, " %") if rate else "-")
        if scaled := score.normalised_estimate(reference):
            line.append(interval(scaled))
        line.append(score.counted)
        if score.times is None:
            line.append("-")
        else:
            ms = decision_times(score.times)
            line.append(f"{ms['decision_ms_median']:.2f} / {ms['decision_ms_p95']:.2f}")
        lines.append(line)
    return aligned(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of as many cells each as a table: the first column to the left, others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def interval(estimate: Estimate, scale: float = 1.0, unit: str = "") -> str:
    """An estimate with its interval, times `scale` and with a unit."""
    # small numbers would lose all their figures
    digits = 3 if 0 < abs(estimate.mean * scale) < 1 else 1
    mean, low, high = (
        f"{value * scale:.{digits}f}" for value in (estimate.mean, estimate.low, estimate.high)
    )
    return f"{mean}{unit} [{low}, {high}]" if not math.isnan(estimate.low) else f"{mean}{unit}"


def machine(device: str, threads: int) -> dict[str, Any]:
    """Processor, threads, device and the versions that decide results and times."""
    # scores depend on the simulators' versions, times on PyTorch's
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # simulators are extras
            versions[name] = importlib.metadata.version(name)
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "platform": platform.platform(),
        "versions": {
            "diffplan": own_version(),
            "python": platform.python_version(),
            **versions,
        },
    }


def _processor() -> str:
    """Its name; virtual machines name no model, so its numbers stand beside."""
    with contextlib.suppress(OSError, KeyError):
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
        said = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
        name = said["model name"]
        if any(letter.isdigit() for letter in name):
            return name
        return f"{name} (family {said['cpu family']}, model {said['model']})"
    return platform.processor() or platform.machine()
