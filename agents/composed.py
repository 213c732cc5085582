"""An agent whose plans are for several goals or returns at once."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch

from diffplan.agents.planner_agent import PlannerAgent
from diffplan.engines.decision import PlanStep
from diffplan.engines.eager import EagerEngine
from diffplan.errors import DiffplanError
from diffplan.planning.chains import Chain, chain_of
from diffplan.planning.composed import Aim, Composed


class ComposedAgent(PlannerAgent):
    """A `PlannerAgent` for several aims; made by `PlannerAgent.composed`."""

    _alone: PlannerAgent  # the same without aims
    _aims: tuple[Aim, ...]

    def to(self, device: str | torch.device, engine: str | None = None) -> Self:
        """As `PlannerAgent.to`, with the same aims."""
        alone = copy.copy(self._alone)
        alone._memory = self._memory  # what was told since
        moved: Any = alone.to(device, engine).composed(*self._aims)
        return moved


def composed(agent: PlannerAgent, aims: Sequence[Aim]) -> ComposedAgent:
    """See `PlannerAgent.composed`."""
    _check(agent, aims)
    twin = ComposedAgent.__new__(ComposedAgent)
    twin.__dict__.update(agent.__dict__)
    twin._alone, twin._aims = agent, tuple(aims)
    twin._errands = None  # several goals at once are no errand
    twin._wished = {"steering": Composed(tuple(_shifted(agent, aim) for aim in aims))}
    detailed = agent._made[1]
    if agent.engine.name == "onnx":
        from diffplan.engines.onnx import OnnxEngine

        # kept nowhere: aims come and go
        twin.engine = OnnxEngine(agent.model, twin.settings, detailed, **twin._wished)
    else:
        if agent.engine.name.startswith("cuda-graph"):
            warnings.warn("no CUDA graph for several aims; calling eagerly", stacklevel=3)
        twin.engine = EagerEngine(agent.model, twin.settings, detailed, **twin._wished)
    twin._fields = PlanStep(agent.model, twin.settings, detailed=detailed, **twin._wished).fields
    return twin


def _shifted(agent: PlannerAgent, aim: Aim) -> Aim:
    """The aim as models know it: its goal less the offset of its columns."""
    offset = agent.layout.goal_offset
    if aim.goal is None or offset is None:
        return aim
    goal = np.asarray(aim.goal, np.float64) - offset
    return dataclasses.replace(aim, goal=tuple(goal.tolist()))


def _check(agent: PlannerAgent, aims: Sequence[Aim]) -> None:
    """Raise DiffplanError for aims that this agent's model cannot be told of together."""
    model, settings, name = agent.model, agent.settings, agent.config_name
    if not aims or not all(isinstance(aim, Aim) for aim in aims):
        raise DiffplanError(f"composed() was given {list(aims)!r}, expected Aim(goal=, returns=)")
    if agent._wished or not agent.sees_all:
        raise DiffplanError(
            "this agent is under constraints, sensing or composed; give all aims in one call of "
            "composed(), on the agent as it was loaded"
        )
    if not model.config.denoiser.drop_condition or model.multi_task is not None:
        raise DiffplanError(
            f"plans for several aims need a denoiser without heads that learned to do without "
            f"conditions (denoiser.drop_condition above 0), which that of {name} did not"
        )
    if not isinstance(chain_of(model, settings), Chain) or settings.guidance_weight != 1.0:
        raise DiffplanError(
            "plans for several aims are denoised, with weights of their own; expected "
            f"planning.denoising_steps above 0 and guidance_weight 1 for {name}"
        )
    if settings.value_guidance or settings.reuse or model.config.plan.pin_goal:
        raise DiffplanError(
            "plans for several aims go with neither planning.value_guidance, planning.reuse nor "
            "plan.pin_goal"
        )
    if not sum(aim.weight for aim in aims) > 0:
        raise DiffplanError(f"the weights {[aim.weight for aim in aims]} sum to no more than 0")
    for aim in aims:
        if aim.goal is not None and len(aim.goal) != agent.layout.goal_dim:
            raise DiffplanError(
                f"{aim} has a goal of {len(aim.goal)} numbers, but goals of this model have "
                f"{agent.layout.goal_dim}"
            )
        if aim.returns is not None and not model.use_returns:
            raise DiffplanError(f"{aim} asks for a return, but plans of {name} are made for none")
