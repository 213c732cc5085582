"""Seeded episodes of a policy, and the scores that they are set beside."""

from typing import TYPE_CHECKING

from diffplan.lazy import attributes

if TYPE_CHECKING:
    from diffplan.envs.rollouts.batch import Policy
    from diffplan.envs.rollouts.parallel import rollout_in_processes
    from diffplan.envs.rollouts.references import normalised_score, reference_key
    from diffplan.envs.rollouts.serial import DecisionTimes, Rollout, rollout, time_decisions
    from diffplan.envs.rollouts.traces import Trace
else:
    __getattr__, __dir__ = attributes(
        __name__,
        {
            "diffplan.envs.rollouts.batch": "Policy",
            "diffplan.envs.rollouts.parallel": "rollout_in_processes",
            "diffplan.envs.rollouts.references": "normalised_score reference_key",
            "diffplan.envs.rollouts.serial": "DecisionTimes Rollout rollout time_decisions",
            "diffplan.envs.rollouts.traces": "Trace",
        },
    )

__all__ = [
    "DecisionTimes",
    "Policy",
    "Rollout",
    "Trace",
    "normalised_score",
    "reference_key",
    "rollout",
    "rollout_in_processes",
    "time_decisions",
]
