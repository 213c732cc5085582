"""The same agent, told its task, constrained, given several aims or few sensors; other plans."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np

from diffplan.agents.task_memory import TaskMemory
from diffplan.config.sections import PlanningConfig
from diffplan.constraints.kinds import Constraint
from diffplan.data.info import DatasetInfo
from diffplan.engines.decision import Plan
from diffplan.errors import DiffplanError
from diffplan.lazy import late
from diffplan.planning.composed import Aim
from diffplan.planning.wanted import Way

_composed = late("diffplan.agents.composed:composed")
_constrained = late("diffplan.agents.constrained:constrained")
_edited = late("diffplan.agents.editing:edited")
_Asked = late("diffplan.agents.editing:Asked")
_sensing = late("diffplan.agents.sensing:sensing")


class Variants:
    """The part of `PlannerAgent` that makes others of it, which share its model.

    constraints: what its plans keep to, see `constrained`. sees_all: whether every column of an
    observation is measured, see `sensing`.
    """

    constraints: tuple[Constraint, ...] = ()
    sees_all = True
    info: DatasetInfo
    settings: PlanningConfig
    _memory: TaskMemory
    _wished: dict[str, Any]  # what `constrained` adds to a plan

    def for_task(self, task: int | None) -> Self:
        """This agent, told that its task is number `task` of the data's; None: it is not told.

        DiffplanError for a model that is told otherwise (`data.tasks`) or knows no such number.
        """
        return self._knowing(self._memory.of_task(task, self.info.tasks))

    def for_demonstration(self, states: np.ndarray) -> Self:
        """This agent, shown the states [n, D] of one episode of its task, as data hold them."""
        return self._knowing(self._memory.of_demonstration(states))

    def from_history(self) -> Self:
        """This agent, which infers its task from the states it has been in this episode."""
        return self._knowing(self._memory.of_history())

    def constrained(
        self,
        *constraints: Constraint,
        way: Way | None = None,
        candidates: int = 16,
        weight: float = 1.0,
    ) -> Self:
        """This agent under constraints that its data never showed (`diffplan.constraints`).

        way: how plans are made to meet them, see `diffplan.planning.wishes`; None: by what they
        are. candidates: plans among which one that meets them is taken. weight: of the ways with a
        gradient or a temperature. Goals are then reached around obstacles in their columns, by way
        of the waypoints without a time, in the order given. `Plan.violations` has by how much each
        plan is off. Raises DiffplanError for what the plans do not hold.
        """
        made: Self = _constrained(self, constraints, way=way, candidates=candidates, weight=weight)
        return made

    def composed(self, *aims: Aim) -> Self:
        """This agent for several goals or returns at once (`diffplan.planning.Aim`).

        Plans are denoised in the sum of the directions in which each condition moves them; an empty
        `Aim()` is what the environment and the settings ask for. Raises DiffplanError for a model
        that never learned without conditions, or knows no such condition.
        """
        made: Self = _composed(self, aims)
        return made

    # many arguments: what may be another, by keyword
    def edit(
        self,
        plan: Plan | np.ndarray,
        observation: Any,
        *,
        goal: Any = None,
        returns: Any = None,
        states: Mapping[int, Any] | None = None,
        had: Any = None,
        source: Variants | None = None,
        method: str = "edit-friendly",
        skip: float = 0.0,
    ) -> Plan:
        """Plans as they would be for something else, with what is peculiar to them kept.

        plan: what `plan` returned for these observations, or the states [B, H+1, D] of what was
        done, the first of them those observed: then it is asked what would have been. The states of
        a `Plan` are less `layout.offset`, where data have one; an array is not.
        goal: [G] or [B, G] to go to instead. returns: to ask for instead, one or [B]. states: by
        place in the plan, states [D] or [B, D] to hold there, NaN in columns left open; place 0 is
        the current one. All in environment units; with none of them the plans come back as they
        are. had: the returns-to-go that were asked for or reached, where not those that the agent
        asks for as an episode begins. source: the agent that the plans are of; made of them is what
        this one would do. method: how plans are taken apart (`diffplan.diffusion.inversion`). skip:
        share of the noise levels, the noisiest, that are left out: with more of them more stays,
        and less of what is asked is met. Constraints of the agent are kept to, those in
        time as at the first step of an episode. Row i of a batch takes its noise by the agent's
        seed + i: edited alone, any row takes that of row 0.
        Raises DiffplanError for a wrong shape, for what plans of this model are not made for, and
        for a model whose process has no noise.
        """
        found: Plan = _edited(
            *(self, plan, observation, _Asked(goal, returns, states, had)),
            **{"source": source, "method": method, "skip": skip},
        )
        return found

    def sensing(
        self,
        columns: int = 1,
        *,
        sensors: Sequence[Sequence[int]] | None = None,
        choice: Literal["active", "random"] | Sequence[int] = "active",
        particles: int = 16,
    ) -> Self:
        """This agent where not every column is measured; it says which to measure next.

        Its `predict` takes NaN for what is not known, and the state that it returns holds in `asks`
        [B, D] what to measure for the next call. columns: how many at a time, or how many sensors;
        sensors: the columns of each, a column each where None. choice: "active" asks for what
        `particles` particles of the plan's reverse process spread most in, "random" for any,
        numbers for those sensors always. What is asked for changes when a plan is made. Raises
        DiffplanError for plans that do not hold the columns.
        """
        made: Self = _sensing(self, columns, sensors, choice, particles)
        return made

    def _knowing(self, memory: TaskMemory) -> Self:
        # shares model and engine, which hold nothing of a task
        twin = copy.copy(self)
        twin._memory = memory
        return twin


def refuse_constraints(agent: Variants) -> None:
    """Raise DiffplanError for an agent whose constraints or aims would be lost on the way."""
    if agent.constraints or agent._wished or not agent.sees_all:
        raise DiffplanError(
            "constraints, aims and sensors are not part of what is written: write the agent "
            "without them, and put them to the one that is loaded again (`constrained`, "
            "`composed`, `sensing`)"
        )
