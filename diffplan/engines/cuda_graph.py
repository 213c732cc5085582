"""Decisions as captured CUDA graphs."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffplan.config.sections import PlanningConfig
from diffplan.engines.decision import ActStep, Plan, PlanStep
from diffplan.engines.padding import filled, parts, present, row_count, sizes_upto
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel


class GraphEngine:
    """Static input buffers, and one CUDA graph that is captured over them, per batch size.

    On a CPU the same buffers are used and the modules are called instead of a graph: slower than
    eager, there to be tested.
    """

    name = "cuda-graph"

    def __init__(
        self,
        model: PlannerModel,
        settings: PlanningConfig,
        detailed: bool = False,
        bf16: bool = False,
        **wished: Any,
    ) -> None:
        """detailed, wished (steering, routes): see `PlanStep`. bf16: run the networks in
        bfloat16; plans and coefficients stay in float32.
        """
        self.startup_seconds = 0.0
        self._device = model.plan_scale.device
        self._bf16 = bf16
        self._plan = PlanStep(model, settings, detailed=detailed, **wished)
        self._again = self._plan
        if settings.reuse:
            self._again = PlanStep(model, settings, reuse=True, detailed=detailed, **wished)
        self._act = ActStep(model)
        self._captured: dict[tuple[str, int], _Captured] = {}

    def __getstate__(self) -> dict[str, Any]:
        # graphs belong to a process
        return {**self.__dict__, "_captured": {}}

    @torch.inference_mode()
    def plan(self, context: Context, seeds: Tensor, counts: Tensor) -> Plan:
        again = context.previous is not None
        key, step = ("again", self._again) if again else ("plan", self._plan)

        def planned(*inputs: Tensor) -> Sequence[Tensor]:
            *given, seeds, counts = inputs
            return present(step(Context(*given), step.draw(seeds, counts)))

        made = self._run(key, planned, [*context.tensors, seeds, counts])
        return Plan(**dict(zip(step.fields, made, strict=True)))

    @torch.inference_mode()
    def act(
        self,
        states: Tensor,
        plan: Tensor,
        place: Tensor,
        lag: Tensor,
        features: Tensor | None = None,
    ) -> Tensor:
        return self._run("act", self._acted, [states, plan, place, lag, features])[0]

    def prepare(self, rows: int) -> None:
        """Capture every graph that batches of at most so many rows can need."""
        for size in sizes_upto(rows):
            for step in {self._plan, self._again}:
                numbers = torch.zeros(size, dtype=torch.long, device=self._device)
                self.plan(step.context(size), numbers, numbers)
            if not self._plan.model.config.actions_in_plan:
                self._run("act", self._acted, self._act.example(size))

    def _acted(self, *inputs: Tensor | None) -> Sequence[Tensor]:
        return (self._act(*inputs),)

    def _run(
        self, key: str, function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor | None]
    ) -> list[Tensor]:
        outputs = []
        for first, taken, size in parts(row_count(inputs)):
            given = [None if t is None else t[first : first + taken] for t in inputs]
            captured = self._captured.get((key, size))
            if captured is None:
                began = time.perf_counter()
                captured = _Captured(function, given, size, self._device, self._bf16)
                self._captured[key, size] = captured
                self.startup_seconds += time.perf_counter() - began
            outputs.append(captured(given))
        if len(outputs) == 1:
            return outputs[0]
        return [torch.cat(part) for part in zip(*outputs, strict=True)]


class _Captured:
    """A function over static buffers; on CUDA a graph, or the plain call where capturing fails."""

    def __init__(
        self,
        function: Callable[..., Sequence[Tensor]],
        inputs: Sequence[Tensor | None],
        size: int,
        device: torch.device,
        bf16: bool,
    ) -> None:
        def run() -> list[Tensor]:
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
                # like the inputs' own, outputs are float32 whatever the networks compute in
                return [o.float() if o.dtype == torch.bfloat16 else o for o in function(*buffers)]

        self.buffers = buffers = [None if t is None else filled(t, size).clone() for t in inputs]
        self.run = run
        self.graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda":
            try:
                self._capture()
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[0]
                warnings.warn(f"no CUDA graph ({reason}); calling eagerly", stacklevel=2)
                self.graph = None

    def _capture(self) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries choose their kernels in the first calls
                self.run()
        torch.cuda.current_stream().wait_stream(stream)
        # from here on no call may wait for the device or copy from the host
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.outputs = self.run()
        self.graph = graph

    def __call__(self, inputs: Sequence[Tensor | None]) -> list[Tensor]:
        rows = row_count(inputs)
        for buffer, value in zip(self.buffers, inputs, strict=True):
            if buffer is not None and value is not None:
                buffer[:rows].copy_(value, non_blocking=True)
        if self.graph is None:
            return [output[:rows] for output in self.run()]
        self.graph.replay()
        # the next replay writes over them
        return [output[:rows].clone() for output in self.outputs]
