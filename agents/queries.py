"""Five questions to one trained network, one call each, in environment units."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffplan.agents.planner_agent import PlannerAgent
from diffplan.engines.decision import Plan
from diffplan.errors import DiffplanError
from diffplan.model.context import Context
from diffplan.planning.queries import answers_of


class Queries:
    """What a model of config multi-task or streams knows beside how to plan.

    agent: as `load_agent` gives it. What is drawn comes from its seed: the same question has the
    same answer. Every method raises DiffplanError for a wrong shape and for a question that the
    model was not trained to answer.
    """

    def __init__(self, agent: PlannerAgent) -> None:
        if agent.model.spec.planned:
            raise DiffplanError(
                "this model plans the goal's columns alone (plan.columns goal), and questions are "
                "asked about whole states; train with --plan.columns all to ask them"
            )
        self.agent = agent
        self.model = agent.model
        self.answers = answers_of(agent.model)

    def plan(self, observation: Any) -> Plan:
        """Plans for observations [B, D] (goal environments: a dict of arrays); see `Plan`."""
        return self.agent.plan(observation)

    @torch.no_grad()
    def policy(self, observation: Any) -> np.ndarray:
        """Actions [B, A] to take next in observations [B, D], without making a plan."""
        context = self.model.normalised_context(self.agent.context(observation))
        actions = self.answers.policy(context, self._noise(len(context)))
        return self._array(self.model.environment_actions(actions))

    @torch.no_grad()
    def inverse_dynamics(self, states: np.ndarray) -> np.ndarray:
        """Actions [B, H * stride, A] that lead along plan states [B, H+1, D], whatever for."""
        context, x = self._plans(states)
        actions = self.answers.inverse_dynamics(context, x, self._noise(len(x)))
        return self._array(self.model.environment_actions(actions.flatten(1, 2)))

    @torch.no_grad()
    def forward_model(
        self, states: np.ndarray, actions: np.ndarray, steps: int | None = None
    ) -> np.ndarray:
        """Plan states [B, H+1, D] that actions [B, H * stride, A] lead to from states [B, D].

        steps: reverse steps, those of planning if None.
        """
        model, plan = self.model, self.model.config.plan
        context = self._context(self._checked(states, (model.spec.state_dim,), "states"))
        shape = (plan.horizon * plan.stride, model.spec.action_dim)
        given = model.scaled_actions(self._tensor(self._checked(actions, shape, "actions")))
        if len(given) != len(context):
            raise DiffplanError(f"{len(context)} states but {len(given)} rows of actions")
        x = self.answers.forward_model(
            context,
            given.unflatten(1, (plan.horizon, plan.stride)),
            self._noise(len(context)),
            steps or self.agent.settings.denoising_steps,
        )
        return self._array(model.states.inverse(model.from_plan(context.state, x)))

    @torch.no_grad()
    def evaluate(
        self, states: np.ndarray, goals: np.ndarray | None = None, actions: np.ndarray | None = None
    ) -> np.ndarray:
        """Returns-to-go [B] of plan states [B, H+1, D] with goals [B, G].

        actions: [B, H * stride, A] that led along them, None for those of `inverse_dynamics`;
        heads of the denoiser do not look at them.
        """
        model, plan = self.model, self.model.config.plan
        # streams hold actions, so the plan is not whole without them
        if actions is None and model.streams is not None:
            actions = self.inverse_dynamics(states)
        beside = None
        if actions is not None:
            shape = (plan.horizon * plan.stride, model.spec.action_dim)
            beside = model.scaled_actions(self._tensor(self._checked(actions, shape, "actions")))
            beside = beside.unflatten(1, (plan.horizon, plan.stride))
        if model.spec.goal_dim:
            if goals is None:
                raise DiffplanError(f"goals [B, {model.spec.goal_dim}] are missing")
            goals = self._checked(goals, (model.spec.goal_dim,), "goals")
        context, x = self._plans(states, beside, goals)
        values = self.answers.evaluation(context, x)
        return self._array(model.returns.inverse(values.unsqueeze(-1)).squeeze(-1))

    @torch.no_grad()
    def task(self, states: np.ndarray, level: int = 1) -> np.ndarray:
        """Probabilities [B, tasks] of the task that plan states [B, H+1, D] are from.

        level: to which they are noised before; the network knows no less than 1.
        """
        context, x = self._plans(states)
        top = self.model.plain_process.T
        if not 1 <= level <= top:
            raise DiffplanError(f"level is {level}, expected 1 to {top}")
        noise = self._noise(len(x))
        return self._array(self.answers.task(context, x, level, noise))

    # --- Inside ----------------------------------------------------------------------------------

    def _context(self, states: np.ndarray, goals: np.ndarray | None = None) -> Context:
        """What plans from states [B, D] would be made for, normalised; the task as the agent's."""
        return self.model.normalised_context(self.agent.context_at(states, goals))

    def _plans(
        self, states: np.ndarray, actions: Tensor | None = None, goals: np.ndarray | None = None
    ) -> tuple[Context, Tensor]:
        """What plans along states [B, H+1, D] are made for, and they as tensors [B, rows, D]."""
        model, plan = self.model, self.model.config.plan
        shape = (plan.horizon + 1, model.spec.state_dim)
        checked = self._checked(states, shape, "plan states")
        context, z = self._context(checked[:, 0], goals), model.states(self._tensor(checked))
        if model.streams is None:
            return context, model.to_plan(z[:, 0], z[:, 1:])
        if actions is None:
            actions = z.new_zeros(len(z), plan.horizon, plan.stride, model.spec.action_dim)
        # what is asked about is replaced, or noised away, by the question
        returns = z.new_zeros(len(z))
        return context, model.to_plan(z[:, 0], z[:, 1:], actions, returns)

    def _checked(self, array: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
        found = np.asarray(array, np.float32)
        if found.ndim != 1 + len(shape) or found.shape[1:] != shape:
            expected = ", ".join(map(str, ("B", *shape)))
            raise DiffplanError(f"{name} have shape {found.shape}, expected [{expected}]")
        return found

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.agent.device)

    def _noise(self, rows: int) -> Tensor:
        # a new generator each time: the same question has the same answer
        generator = torch.Generator().manual_seed(self.agent.seed)
        shape = (rows, self.model.rows, self.model.plan_dim)
        return torch.randn(shape, generator=generator).to(self.agent.device)

    @staticmethod
    def _array(tensor: Tensor) -> np.ndarray:
        result: np.ndarray = tensor.cpu().numpy()
        return result
