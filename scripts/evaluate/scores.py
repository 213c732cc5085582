"""What an evaluation found: scores of every policy in every task, over runs and over tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from diffplan.agents import PlannerAgent
from diffplan.data.info import DatasetInfo
from diffplan.envs.rollouts.traces import Trace
from diffplan.scripts.evaluate.labels import Labels
from diffplan.scripts.evaluate.options import TaskGiven
from diffplan.scripts.evaluate.runs import Run
from diffplan.scripts.report.results import Score


@dataclass(frozen=True)
class Place:
    """Where one task is evaluated.

    own: what the dataset says of the task. used: the same with the environment asked for. limit:
    that environment's time limit in steps, None if Gymnasium knows of none. labels: what sets it
    apart from D4RL's own.
    """

    own: DatasetInfo
    used: DatasetInfo
    limit: int | None
    labels: Labels

    @property
    def task(self) -> str | None:
        """Its name, None where the data have no tasks."""
        return self.own.tasks[0].name if self.own.tasks else None


@dataclass(frozen=True)
class TaskScores:
    """How the policies did in one task.

    by_run: the planner of every run. planner: over all runs. others: what made the data, and
    chance, by key. traces: the first run's first episodes.
    """

    place: Place
    by_run: tuple[Score, ...]
    planner: Score
    others: dict[str, Score]
    traces: tuple[Trace, ...]


@dataclass(frozen=True)
class Evaluation:
    """The runs, with the checkpoints that were played, and how they did in every task.

    given: what they were told of the task, None: nothing, as there is one or as in training.
    """

    runs: tuple[Run, ...]
    given: TaskGiven | None
    tasks: tuple[TaskScores, ...]

    @property
    def agent(self) -> PlannerAgent:
        """Of the first run; all are trained alike, and plan alike but for what was tuned."""
        return self.runs[0].agent

    @property
    def references(self) -> tuple[str | None, ...]:
        """Of the normalised scores of every task."""
        return tuple(task.place.labels.reference for task in self.tasks)

    @property
    def by_run(self) -> tuple[Score, ...]:
        """Every run's planner, over tasks."""
        return tuple(
            over_tasks([task.by_run[run] for task in self.tasks]) for run in range(len(self.runs))
        )

    @property
    def mean(self) -> Score:
        """The planner over tasks and runs."""
        return over_runs(self.tasks[0].planner.name, self.by_run)


def over_runs(name: str, scores: Sequence[Score]) -> Score:
    """One row out of the training seeds'; that of a single run as it is."""
    # seeds are the units of the pooled row; of one seed episodes are
    return Score.pooled(name, scores) if len(scores) > 1 else scores[0]


def over_tasks(scores: Sequence[Score]) -> Score:
    """One run's episodes of all tasks, one task after the other; of a single task as they are."""
    failures = tuple(failure for score in scores for failure in score.failures)
    scores = Score.alike(scores)
    first = scores[0]
    success = [score.success for score in scores if score.success is not None]
    batched = [score.batched_ms for score in scores if score.batched_ms is not None]
    return replace(
        first,
        returns=np.concatenate([score.returns for score in scores]),
        lengths=np.concatenate([score.lengths for score in scores]),
        # where one environment does not report it, the rate of the others is none of all
        success=np.concatenate(success) if len(success) == len(scores) else None,
        batched_ms=np.concatenate(batched) if batched else None,
        # the interval is drawn within tasks: how these differ is no chance
        strata=len(scores),
        failures=failures,
    )
