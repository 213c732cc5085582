"""Decisions as captured CUDA graphs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffplan.config.sections import PlanningConfig
from diffplan.engines.captured import Captured, Numbers, rounded, row_bytes
from diffplan.engines.counter_rng import has_kernels
from diffplan.engines.decision import ActStep, Plan, PlanStep
from diffplan.engines.padding import largest_within, parts, present, row_count, sizes_upto
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel

_UNMEASURED = 64  # rows that any memory holds
_SHARE = 0.25  # of the free memory that one call may take


def _acted(step: ActStep, *inputs: Tensor | None) -> Sequence[Tensor]:
    return (step(*inputs),)


class GraphEngine:
    """One CUDA graph per step and batch size: what the host gives, all of a decision, and back.

    Inputs of the host go through one pinned buffer in one copy; what `predict` returns comes back
    in another; both are part of the graph. Batches are run in parts that take a quarter of the
    free memory at most, and the graphs share one pool of it.

    On a CPU the same buffers are used and the modules are called instead of a graph: slower than
    eager, there to be tested.
    """

    def __init__(
        self,
        model: PlannerModel,
        settings: PlanningConfig,
        detailed: bool = False,
        bf16: bool = False,
        tf32: bool = False,
        **wished: Any,
    ) -> None:
        """detailed, wished (steering, routes): see `PlanStep`. bf16: run the networks in
        bfloat16; plans and coefficients stay in float32. tf32: round what products read to TF32.
        """
        self.name = "cuda-graph" + ("-bf16" if bf16 else "-tf32" if tf32 else "")
        self.startup_seconds = 0.0
        self._device = model.plan_scale.device
        self._numbers = Numbers(bf16, tf32)
        model = self._fused(rounded(model) if bf16 else model)
        self._plan = PlanStep(model, settings, detailed=detailed, **wished)
        self._again = self._plan
        if settings.reuse:
            self._again = PlanStep(model, settings, reuse=True, detailed=detailed, **wished)
        self._act = ActStep(model)
        # no method: graphs would hold the engine that holds them, and their memory would stay
        self._acted = partial(_acted, self._act)
        self._captured: dict[tuple[Any, ...], Captured] = {}
        self._largest: dict[str, int] = {}
        self._pool: Any = None
        self._lent: Plan | None = None
        self._told: tuple[Tensor, Captured] | None = None  # what is on its way to the host

    def _fused(self, model: PlannerModel) -> PlannerModel:
        """The model with networks of one launch each, where that is faster: of rounded products."""
        bf16, tf32 = self._numbers.bf16, self._numbers.tf32
        if self._device.type != "cuda" or not (bf16 or tf32) or not has_kernels(self._device):
            return model
        from diffplan.engines.fused_networks import fused

        return fused(model, "bf16" if bf16 else "tf32")

    def __getstate__(self) -> dict[str, Any]:
        # graphs belong to a process
        without: dict[str, Any] = {
            "_captured": {},
            "_largest": {},
            "_pool": None,
            "_lent": None,
            "_told": None,
        }
        return {**self.__dict__, **without}

    @torch.inference_mode()
    def plan(self, context: Context, seeds: Tensor, counts: Tensor) -> Plan:
        again = context.previous is not None
        key, step = ("again", self._again) if again else ("plan", self._plan)

        def planned(*inputs: Tensor) -> Sequence[Tensor]:
            *given, seeds, counts = inputs
            return present(step(Context(*given), step.draw(seeds, counts)))

        inputs = [*context.tensors, seeds, counts]
        made, lent = self._run(key, planned, inputs, step.fields.index("first"))
        plan = Plan(**dict(zip(step.fields, made, strict=True)))
        self._lent = plan if lent else None
        return plan

    @torch.inference_mode()
    def act(
        self,
        states: Tensor,
        plan: Tensor,
        place: Tensor,
        lag: Tensor,
        features: Tensor | None = None,
    ) -> Tensor:
        return self._run("act", self._acted, [states, plan, place, lag, features])[0][0]

    @torch.inference_mode()
    def keep(self, plan: Plan) -> Plan:
        if plan is not self._lent:
            return plan
        kept = Plan(*(None if part is None else part.clone() for part in plan))
        if self._told is not None:
            self._told = kept.first, self._told[1]
        return kept

    def read(self, made: Tensor) -> np.ndarray:
        if self._told is not None and made is self._told[0]:
            return self._told[1].told(len(made))
        result: np.ndarray = made.numpy(force=True)
        return result

    @torch.inference_mode()
    def prepare(self, rows: int) -> None:
        """Capture every graph that batches of at most so many rows can need."""
        for size in sizes_upto(rows):
            numbers = torch.zeros(size, dtype=torch.long)
            for step in {self._plan, self._again}:
                context = step.context(size)
                # what an agent has on the device
                staying: dict[str, Any] = {"previous": context.previous, "task": context.task}
                given = replace(context.to(torch.device("cpu")), **staying)
                self.plan(given, numbers, numbers)
            if not self._plan.model.config.actions_in_plan:
                states, plan, place, lag, features = self._act.example(size)
                assert states is not None and place is not None and lag is not None
                following = [states.cpu(), plan, place.cpu(), lag.cpu(), features]
                self._run("act", self._acted, following)

    def _run(
        self,
        key: str,
        function: Callable[..., Sequence[Tensor]],
        inputs: Sequence[Tensor | None],
        told: int = 0,
    ) -> tuple[list[Tensor], bool]:
        """What a step makes, and whether the next call writes over it. told: for the host."""
        # streams, events and kernels are those of the current device
        with torch.cuda.device_of(self._plan.model.plan_scale):
            return self._run_there(key, function, inputs, told)

    def _run_there(
        self,
        key: str,
        function: Callable[..., Sequence[Tensor]],
        inputs: Sequence[Tensor | None],
        told: int,
    ) -> tuple[list[Tensor], bool]:
        rows, made = row_count(inputs), list[Tensor]()
        self._told = None
        if not rows:  # a row that nobody asked for knows all shapes
            one = [None if t is None else t.new_zeros(1, *t.shape[1:]) for t in inputs]
            return [part[:0] for part in self._run_there(key, function, one, told)[0]], False
        every = list(parts(rows, self._most(key, function, inputs, rows)))
        for first, taken, size in every:
            given = [None if t is None else t[first : first + taken] for t in inputs]
            captured = self._graph(key, function, given, size, told)
            found = captured(given)
            if len(every) == 1:
                self._told = found[told], captured
                return found, True
            if not made:
                made = [part.new_empty(rows, *part.shape[1:]) for part in found]
            for whole, part in zip(made, found, strict=True):
                whole[first : first + taken] = part
        return made, False

    def _graph(
        self,
        key: str,
        function: Callable[..., Sequence[Tensor]],
        inputs: Sequence[Tensor | None],
        size: int,
        told: int,
    ) -> Captured:
        places = tuple(None if t is None else t.device.type for t in inputs)
        found = self._captured.get((key, size, places))
        if found is None:
            began = time.perf_counter()
            if self._pool is None and self._device.type == "cuda":
                self._pool = torch.cuda.graph_pool_handle()
            found = Captured(function, inputs, size, told, self._device, self._numbers, self._pool)
            self._captured[key, size, places] = found
            if found.fails:
                self._pool = None  # PyTorch may take it to be captured into for ever
            self.startup_seconds += time.perf_counter() - began
        return found

    def _most(
        self,
        key: str,
        function: Callable[..., Sequence[Tensor]],
        inputs: Sequence[Tensor | None],
        rows: int,
    ) -> int | None:
        """Rows of one call at most, where that has to be asked."""
        if self._device.type != "cuda" or rows <= _UNMEASURED:
            return None
        if key not in self._largest:
            free, _ = torch.cuda.mem_get_info(self._device)
            needed = row_bytes(function, inputs, self._device, self._numbers)
            self._largest[key] = largest_within(_SHARE * free, needed)
        return self._largest[key]
