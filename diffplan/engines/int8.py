"""Decisions in ONNX Runtime whose large products are of 8-bit integers: faster, other plans."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffplan.engines.decision import PlanStep
from diffplan.engines.onnx import OnnxEngine
from diffplan.engines.quantised import multiplies_exactly, quantised
from diffplan.errors import DiffplanError
from diffplan.model.context import Context

_ROWS = 256  # plans that the ranges are taken from


class Int8Engine(OnnxEngine):
    """The graphs of `OnnxEngine`, quantised after constants are folded (`quantised`).

    Ranges are calibrated on whole decisions, every reverse step by itself (PTQ4DM, Shang et al.
    2023, arXiv 2211.15736), for states, goals and returns as the normalisers know them: no data is
    needed. They are fixed, so that a row does not depend on those beside it, as it would with
    ranges of the batch at hand.
    """

    name = "onnx-int8"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """As of `OnnxEngine`. Raises DiffplanError too where the processor's products saturate."""
        super().__init__(*arguments, **options)
        if not multiplies_exactly():
            raise DiffplanError(
                "engine onnx-int8 needs a processor that adds 8-bit products without saturation "
                "(AVX-VNNI, AVX512-VNNI, or ARM's dot products), which this one does not; give "
                "engine onnx"
            )
        self._examples: dict[str, list[np.ndarray | None]] = {}

    def exported(self, key: str, size: int) -> bytes:
        if not self._examples:
            self._examples = self._decisions()
        return quantised(super().exported(key, size), self._examples[key], size)

    @torch.inference_mode()
    def _decisions(self) -> dict[str, list[np.ndarray | None]]:
        """Inputs of every step, each [_ROWS, ...]."""
        model, settings = self._model, self._settings
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(_ROWS, *shape, generator=generator)

        spec = model.spec
        goals = model.observed.inverse(normal(spec.state_dim))[:, list(spec.goal_columns)]
        told = model.returns.inverse(normal(1)).squeeze(1)
        if settings.target_return is not None:
            told = torch.full_like(told, settings.target_return)
        given = Context(
            model.observed.inverse(normal(spec.state_dim)),
            goals if spec.goal_dim else None,
            told if model.use_returns else None,
            task=normal(model.task_dim) if model.tasks is not None else None,
        )
        seeds = torch.arange(_ROWS)
        step = self._steps["plan"]
        made = PlanStep(model, settings)(given, step.draw(seeds, 0 * seeds))
        plans = made.states
        found: dict[str, list[Tensor | None]] = {
            "plan": [*given.tensors, *step.draw(seeds, 0 * seeds)]
        }
        if "again" in self._steps:
            done = settings.replan_every // model.config.plan.stride
            later = Context(
                plans[:, done],
                given.goal,
                given.target_return,
                plans[:, done + 1 :],
                given.task,
            )
            found["again"] = [*later.tensors, *self._steps["again"].draw(seeds, 0 * seeds + 1)]
        # on the way between two states of a plan
        strides = model.config.heads.lookahead
        place = strides + seeds % (model.config.plan.horizon - strides + 1)
        share = 1 - torch.rand(_ROWS, generator=generator)
        before, ahead = plans[seeds, place - strides], plans[seeds, place]
        between = torch.lerp(ahead, before, share[:, None])
        # columns that plans do not hold are anything
        here = torch.where(between.isnan(), given.state, between)
        found["act"] = [here, plans, place, strides * share, made.features]
        return {key: [_array(x) for x in each] for key, each in found.items()}


def _array(x: Tensor | None) -> Any:
    return None if x is None else x.numpy()
