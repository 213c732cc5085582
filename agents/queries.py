"""Five questions to one trained network, one call each, in environment units."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffplan.agents.planner_agent import PlannerAgent
from diffplan.agents.plans import PlanView
from diffplan.errors import DiffplanError
from diffplan.model.conditions import Context
from diffplan.planning import queries


class Queries:
    """What a model of config multi-task or streams knows beside how to plan.

    agent: as `load_agent` gives it. What is drawn comes from its seed: the same question has the
    same answer. Every method raises DiffplanError for a wrong shape and for a question that the
    model was not trained to answer.
    """

    def __init__(self, agent: PlannerAgent) -> None:
        if agent.model.config.heads.kind == "separate":
            raise DiffplanError(
                "this model has separate networks (heads.kind separate) and answers no queries; "
                "train config multi-task or streams"
            )
        self.agent = agent
        self.model = agent.model

    def plan(self, observation: Any) -> PlanView:
        """Plans for observations [B, D] (goal environments: a dict of arrays); see `PlanView`."""
        return self.agent.plan(observation)

    @torch.no_grad()
    def policy(self, observation: Any) -> np.ndarray:
        """Actions [B, A] to take next in observations [B, D], without making a plan."""
        context = self._context(observation)
        actions = queries.policy(self.model, context, self._noise(len(context.state)))
        return self._array(self.model.environment_actions(actions))

    @torch.no_grad()
    def inverse_dynamics(self, states: np.ndarray) -> np.ndarray:
        """Actions [B, H * stride, A] that lead along plan states [B, H+1, D], whatever for."""
        start, x = self._plans(states)
        noise = self._noise(len(x))
        actions = queries.inverse_dynamics(self.model, Context(start, None, None), x, noise)
        return self._array(self.model.environment_actions(actions.flatten(1, 2)))

    @torch.no_grad()
    def forward_model(
        self, states: np.ndarray, actions: np.ndarray, steps: int | None = None
    ) -> np.ndarray:
        """Plan states [B, H+1, D] that actions [B, H * stride, A] lead to from states [B, D].

        steps: reverse steps, those of planning if None.
        """
        model, plan = self.model, self.model.config.plan
        start = model.states(self._checked(states, (model.spec.state_dim,), "states"))
        shape = (plan.horizon * plan.stride, model.spec.action_dim)
        given = model.scaled_actions(self._checked(actions, shape, "actions"))
        if len(given) != len(start):
            raise DiffplanError(f"{len(start)} states but {len(given)} rows of actions")
        x = queries.forward_model(
            model,
            Context(start, None, None),
            given.unflatten(1, (plan.horizon, plan.stride)),
            self._noise(len(start)),
            steps or self.agent.settings.denoising_steps,
        )
        return self._array(model.states.inverse(model.from_plan(start, x)))

    @torch.no_grad()
    def evaluate(
        self, states: np.ndarray, goals: np.ndarray | None = None, actions: np.ndarray | None = None
    ) -> np.ndarray:
        """Returns-to-go [B] of plan states [B, H+1, D] with goals [B, G].

        actions: [B, H * stride, A] that led along them, None for those of `inverse_dynamics`;
        heads of the denoiser do not look at them.
        """
        model, plan = self.model, self.model.config.plan
        if actions is None and model.streams is not None:
            actions = self.inverse_dynamics(states)
        beside = None
        if actions is not None:
            shape = (plan.horizon * plan.stride, model.spec.action_dim)
            beside = model.scaled_actions(self._checked(actions, shape, "actions"))
            beside = beside.unflatten(1, (plan.horizon, plan.stride))
        start, x = self._plans(states, beside)
        goal = None
        if model.spec.goal_dim:
            if goals is None:
                raise DiffplanError(f"goals [B, {model.spec.goal_dim}] are missing")
            goal = model.goal(self._checked(goals, (model.spec.goal_dim,), "goals"))
        values = queries.evaluation(model, Context(start, goal, None), x)
        return self._array(model.returns.inverse(values.unsqueeze(-1)).squeeze(-1))

    @torch.no_grad()
    def task(self, states: np.ndarray, level: int = 1) -> np.ndarray:
        """Probabilities [B, tasks] of the task that plan states [B, H+1, D] are from.

        level: to which they are noised before; the network knows no less than 1.
        """
        start, x = self._plans(states)
        top = self.model.plain_process.T
        if not 1 <= level <= top:
            raise DiffplanError(f"level is {level}, expected 1 to {top}")
        noise = self._noise(len(x))
        return self._array(queries.task(self.model, Context(start, None, None), x, level, noise))

    # --- Inside ----------------------------------------------------------------------------------

    def _context(self, observation: Any) -> Context:
        """What is known of observations, with the return that the agent asks for at first."""
        states, goals = self.agent.layout.split(observation)
        model = self.model
        start = self._checked(states, (model.spec.state_dim,), "the observation's state")
        goal = None if goals is None else model.goal(torch.from_numpy(goals).to(start))
        returns = None
        if model.use_returns:
            target = self.agent.first_target
            returns = model.normalised_returns(torch.full((len(start),), target).to(start))
        return Context(model.states(start), goal, returns)

    def _plans(self, states: np.ndarray, actions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Normalised start [B, D] and plan tensors [B, rows, D] of states in environment units."""
        model = self.model
        plan = model.config.plan
        z = model.states(
            self._checked(states, (plan.horizon + 1, model.spec.state_dim), "plan states")
        )
        returns = None
        if model.streams is not None:
            shape = (len(z), plan.horizon, plan.stride, model.spec.action_dim)
            actions = torch.zeros(shape).to(z) if actions is None else actions
            returns = torch.zeros(len(z)).to(z)
        else:
            actions = None
        return z[:, 0], model.to_plan(z[:, 0], z[:, 1:], actions, returns)

    def _checked(self, array: np.ndarray, shape: tuple[int, ...], name: str) -> Tensor:
        found = np.asarray(array, np.float32)
        if found.ndim != 1 + len(shape) or found.shape[1:] != shape:
            expected = ", ".join(map(str, ("B", *shape)))
            raise DiffplanError(f"{name} have shape {found.shape}, expected [{expected}]")
        return torch.from_numpy(found).to(self.agent.device)

    def _noise(self, rows: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.agent.seed)
        shape = (rows, self.model.rows, self.model.plan_dim)
        return torch.randn(shape, generator=generator).to(self.agent.device)

    @staticmethod
    def _array(tensor: Tensor) -> np.ndarray:
        result: np.ndarray = tensor.cpu().numpy()
        return result
