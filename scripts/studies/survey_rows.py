"""What `diffplan survey` compares: rows of planners, of processes, and of ours without a part."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

OURS = "trajectory-diffuser"


@dataclass(frozen=True)
class Row:
    """One way of planning.

    config: the configuration that is trained. training: "section.key" -> value that differs from
    it and its preset. planning: settings of `PlanningConfig` that differ; reward_planning: for data
    without a goal as well. goal_strides, reward_strides: replanning intervals that are
    tried, in steps of the plan.
    """

    config: str
    training: dict[str, Any] = field(default_factory=dict)
    planning: dict[str, Any] = field(default_factory=dict)
    # in strides, not steps: one list for data of every stride
    goal_strides: tuple[int, ...] = (2, 4, 8, 16)
    reward_strides: tuple[int, ...] = (1, 2, 4, 8)
    reward_planning: dict[str, Any] = field(default_factory=dict)

    @property
    def trained(self) -> str:
        """Folder of its runs: rows that plan differently with one network share them."""
        changes = [f"{key}={value}" for key, value in self.training.items()]
        return ",".join([self.config, *changes])


_ALONE = {"start": "none", "denoising_steps": 0}

# planners as their papers have them, with the intervals that they tried
PLANNERS: dict[str, Row] = {
    "ours": Row(OURS),
    "ours, proposal alone": Row(OURS, planning=_ALONE),
    "ours, from noise": Row("from-noise"),
    "Decision Transformer": Row(
        "decision-transformer", goal_strides=(1, 2, 4, 8), reward_strides=(1, 2, 4)
    ),
    # 31 states in place of 99: better with this network (hopper-medium, one run: 1190 against 950)
    "Decision Diffuser": Row(
        "decision-diffuser",
        {"plan.horizon": 31},
        goal_strides=(4, 8, 16, 31),
        reward_strides=(1, 4, 16),
    ),
    # a quarter of the published candidates: 64 take half an hour to score at every step
    "Diffuser": Row(
        "diffuser",
        goal_strides=(1, 4, 16, 32),
        reward_strides=(1, 4, 8),
        reward_planning={"candidates": 16},
    ),
    "Diffusion Veteran": Row(
        "diffusion-veteran", goal_strides=(1, 2, 4, 8), reward_strides=(1, 2, 4)
    ),
}

# one candidate and five denoising steps throughout, so that nothing but the process differs
_ONE = {"candidates": 1, "denoising_steps": 5}
_OWN = {"start": "process", "start_level": None, **_ONE}

PROCESSES: dict[str, Row] = {
    "proposal alone": Row(OURS, planning={**_ALONE, "candidates": 1}),
    "RDDM": Row(OURS, planning=_OWN),
    "Resfusion": Row("resfusion", planning=_OWN),
    "interpolant, ODE": Row("interpolant", planning=_OWN),
    "interpolant, SDE": Row("interpolant", planning={**_OWN, "eta": 1.0}),
    "rectified flow": Row("rectified-flow", planning=_OWN),
    "DiffuseVAE": Row("diffuse-vae", planning=_OWN),
    "proposal as a condition": Row("conditioned", planning=_OWN),
    "SDEdit, level by residual": Row(
        OURS, planning={**_ONE, "start": "sdedit", "start_level": None}
    ),
    "raw proposal at level 5": Row(OURS, planning={**_ONE, "start": "raw", "start_level": 5}),
    "noise, 5 steps": Row(OURS, planning={**_ONE, "start": "noise", "start_level": None}),
}

_RDDM = {"start": "process", "start_level": None}
# without a goal the value has something to choose only among noised proposals
_CHOOSING = {"start": "sdedit", "start_level": 6, "candidates": 4}


def _without(training: dict[str, Any] | None = None, planning: dict[str, Any] | None = None) -> Row:
    """Ours with something changed in training or planning."""
    planning = planning or {}
    return Row(OURS, training or {}, planning, reward_planning=_CHOOSING | planning)


ABLATIONS: dict[str, Row] = {
    "base": _without(),
    "teacher-forced proposals": _without({"proposer.training": "teacher-forced"}),
    "K = 1": _without(planning={"candidates": 1}),
    "K = 4": _without(planning={"candidates": 4}),
    "K = 16": _without(planning={"candidates": 16}),
    "K = 16, softmax over values": _without(planning={"candidates": 16, "select": "softmax"}),
    "value by expectile 0.5, the mean": _without({"heads.expectile": 0.5}),
    "value by expectile 0.9": _without({"heads.expectile": 0.9}),
    "value bootstrapped, expectile 0.7": _without(
        {"heads.value": "bootstrapped", "heads.expectile": 0.7}
    ),
    "value bootstrapped, expectile 0.9": _without(
        {"heads.value": "bootstrapped", "heads.expectile": 0.9}
    ),
    "RDDM": _without(planning={**_RDDM, **_ONE}),
    "RDDM, v instead of x0": _without({"denoiser.prediction": "v"}, {**_RDDM, **_ONE}),
    "RDDM, proposal not an input": _without(
        {
            "denoiser.condition_on_proposal": False,
            "planning.start": "process",
            "planning.start_level": None,
        },
        {**_RDDM, **_ONE},
    ),
    "noise, x0": Row("from-noise"),
    "noise, eps instead of x0": Row("from-noise", {"denoiser.prediction": "eps"}),
}

# who tells actions and values: networks of their own, heads, streams
HEADS: dict[str, Row] = {
    "separate networks": Row(OURS),
    "separate networks, K = 1": Row(OURS, planning={"candidates": 1}),
    "shared heads": Row("multi-task"),
    "shared heads, K = 16": Row("multi-task", planning={"candidates": 16}),
    "streams": Row("streams"),
    "streams, K = 16": Row("streams", planning={"candidates": 16}),
}

HEAD_CHOICES: dict[str, Row] = {
    "shared heads": Row("multi-task"),
    "aggregated, weight 0.5": Row("multi-task", {"heads.aggregation": 0.5}),
    "a noise level per stream": Row("streams"),
}

GROUPS: dict[str, dict[str, Row]] = {
    "planners": PLANNERS,
    "processes": PROCESSES,
    "ablations": ABLATIONS,
    "heads": HEADS,
    "head-choices": HEAD_CHOICES,
}
