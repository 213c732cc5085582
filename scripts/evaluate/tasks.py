"""Episodes in every task of an agent's data, as those of one are played."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from diffplan.agents import PlannerAgent
from diffplan.data.info import DatasetInfo
from diffplan.envs.datasets import training_data
from diffplan.envs.rollouts.batch import Policy
from diffplan.envs.rollouts.parallel import joined
from diffplan.envs.rollouts.serial import DecisionTimes, Rollout, rollout, time_decisions
from diffplan.envs.simulators.tasks import task_env_factory, task_infos
from diffplan.model.run_folder import find_checkpoint, read_header
from diffplan.scripts.evaluate.baselines import Baseline, baselines
from diffplan.scripts.evaluate.task_given import teller, what_is_given


@dataclass(frozen=True)
class Tasks:
    """Where an agent plays; one task is the case n = 1.

    agent: says which observations it takes. infos: of each task. tell: an agent, told of the task
    of this number as it was in training.
    """

    agent: PlannerAgent
    infos: tuple[DatasetInfo, ...]
    tell: Callable[[Any, int], Any]

    @staticmethod
    def of(agent: PlannerAgent, run: Path, seed: int) -> Tasks:
        """The tasks of the run's data; seed: of the demonstrations, where these are shown."""
        infos = task_infos(agent.info)
        # nothing to tell: the header need not be read
        if len(agent.info.tasks) <= 1:
            return Tasks(agent, infos, lambda told, _: told)
        header = read_header(find_checkpoint(run))
        data = partial(training_data, agent.info, header.fingerprint)
        given = what_is_given(None, header.config)
        return Tasks(agent, infos, teller(given, agent.info, data, seed))

    @property
    def names(self) -> list[str]:
        """Of several tasks."""
        return [task.name for info in self.infos for task in info.tasks]

    def play(self, policies: Sequence[Policy], *, description: str, **options: Any) -> Rollout:
        """Seeded episodes of a policy in every task, one task after the other; see `rollout`."""
        played = []
        for place, (info, policy) in enumerate(zip(self.infos, policies, strict=True)):
            name = f"{self.names[place]}, {description}" if len(self.infos) > 1 else description
            make_env = task_env_factory(info, self.agent.layout)
            played.append(rollout(policy, make_env, description=name, **options))
        # traces are numbered on from task to task
        first = [place * len(played[0].returns) for place in range(len(played))]
        return joined(played, first)

    def told(self, agent: PlannerAgent) -> list[PlannerAgent]:
        """The agent for every task."""
        return [self.tell(agent, place) for place in range(len(self.infos))]

    def time(self, agent: PlannerAgent, **options: Any) -> DecisionTimes:
        """Times of decisions in the first task; planning takes as long in every one."""
        make_env = task_env_factory(self.infos[0], self.agent.layout)
        return time_decisions(self.tell(agent, 0), make_env, **options)

    def baselines(self, seed: int) -> list[list[Baseline]]:
        """What the planner is set beside, one for every task, as far as all tasks have it."""
        found = [{other.key: other for other in baselines(info, seed)} for info in self.infos]
        # a mean over some of the tasks would stand beside one over all
        common = [key for key in found[0] if all(key in others for others in found)]
        return [[others[key] for others in found] for key in common]
