"""An agent in a loop over vector environments: keeps the state, knows when episodes begin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from diffplan.errors import DiffplanError

if TYPE_CHECKING:
    from diffplan.agents.planner_agent import PlannerAgent
    from diffplan.agents.state import AgentState


class Policy:
    """Acts in vector environments, whatever they do at the end of an episode.

        policy = Policy(agent, envs)
        observation, _ = envs.reset(seed=0)
        for _ in range(1000):
            step = envs.step(policy(observation))
            observation = policy.observe(step)

    Gymnasium's environments say themselves how they reset (`metadata["autoreset_mode"]`):
    NEXT_STEP, their default, hands out the last observation of an episode, ignores the action that
    follows, and answers with the first observation of the next one; SAME_STEP answers with that at
    once; DISABLED leaves the reset to the caller, who hands the new observation to the next call.
    Stable-Baselines3's VecEnv is of the second kind.
    """

    def __init__(self, agent: PlannerAgent, envs: Any, *, seeds: np.ndarray | None = None) -> None:
        """envs: a vector environment of Gymnasium or Stable-Baselines3, or one environment.

        seeds: [B] of the rows' planning noise; the agent's own from its seed on where None.
        Raises DiffplanError for environments whose reset mode is unknown.
        """
        self.agent = agent
        self._late = _resets_late(envs)
        self._seeds = seeds
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next observation begins an episode in every row."""
        self._state: AgentState | None = None
        self._begins: np.ndarray | None = None
        self._ended: np.ndarray | None = None

    def __call__(self, observation: Any, deterministic: bool = True) -> np.ndarray:
        """Actions [B, A] for observations [B, ...] (no batch axis: one environment's)."""
        if self._state is None and self._seeds is not None:
            rows = np.ones(len(self._seeds), bool)
            self._state = self.agent.reset_rows(None, rows, self._seeds)
        action, self._state = self.agent.predict(
            observation, self._state, self._begins, deterministic
        )
        return action

    def observe(self, step: tuple[Any, ...]) -> Any:
        """Take in what `step` returned, five parts (Gymnasium) or four (VecEnv): its observation.

        Raises DiffplanError before the first action, and for a tuple of another length.
        """
        if self._state is None:
            raise DiffplanError("policy.observe was called before the policy acted")
        if len(step) not in (4, 5):
            raise DiffplanError(
                f"policy.observe was given {len(step)} parts, expected what env.step returns: "
                "observation, reward, terminated, truncated, info"
            )
        observation, reward, *ends = step[:-1]
        ended = np.atleast_1d(np.logical_or.reduce([np.asarray(end, bool) for end in ends]))
        running = ~self._ended if self._late and self._ended is not None else np.ones_like(ended)
        rewards = np.atleast_1d(np.asarray(reward, float))
        self._state = self.agent.observe(self._state, rewards, running)
        self._begins = ~running if self._late else ended
        self._ended = ended
        return observation


def _resets_late(envs: Any) -> bool:
    """Whether an episode's first observation comes one step after its last."""
    mode = getattr(envs, "metadata", None) or {}
    name = getattr(mode.get("autoreset_mode"), "name", None)
    if name is None:
        # a VecEnv resets at once; a single environment is reset by its caller
        return False
    if name not in ("NEXT_STEP", "SAME_STEP", "DISABLED"):
        raise DiffplanError(
            f"the environments reset in mode {name}, expected NEXT_STEP, SAME_STEP or DISABLED"
        )
    return bool(name == "NEXT_STEP")
