"""Decisions in ONNX Runtime, the fastest way on a CPU core."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffplan.config.sections import PlanningConfig
from diffplan.engines.decision import ActStep, FlatPlanStep, Plan, PlanStep
from diffplan.engines.padding import filled, padded_size, present, row_count
from diffplan.errors import DiffplanError
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel

_OPSET = 17


class OnnxEngine:
    """One ONNX Runtime graph for a plan and one for an action, per batch size."""

    name = "onnx"

    def __init__(self, model: PlannerModel, settings: PlanningConfig) -> None:
        """model: on a CPU. Raises DiffplanError without onnxruntime."""
        _require_onnx()
        self.startup_seconds = 0.0
        self._plan = PlanStep(model, settings)
        self._again = PlanStep(model, settings, reuse=True) if settings.reuse else self._plan
        self._act = ActStep(model)
        self._sessions: dict[tuple[str, int], Callable[[Sequence[Tensor]], list[Tensor]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # sessions belong to a process
        return {**self.__dict__, "_sessions": {}}

    @torch.inference_mode()
    def plan(self, context: Context, seeds: Tensor, counts: Tensor) -> Plan:
        again = context.previous is not None
        key, step = ("again", self._again) if again else ("plan", self._plan)
        inputs = [*context.tensors, *step.draw(seeds, counts)]
        return Plan(*self._run(key, FlatPlanStep(step), inputs))

    @torch.inference_mode()
    def act(self, states: Tensor, plan: Tensor, place: Tensor, lag: Tensor) -> Tensor:
        return self._run("act", self._act, [states, plan, place, lag])[0]

    def _run(self, key: str, step: nn.Module, inputs: Sequence[Tensor | None]) -> list[Tensor]:
        rows, size = row_count(inputs), padded_size(inputs)
        session = self._sessions.get((key, size))
        padded = [None if t is None else filled(t, size) for t in inputs]
        if session is None:
            began = time.perf_counter()
            session = _session(step, padded)
            self._sessions[key, size] = session
            self.startup_seconds += time.perf_counter() - began
        outputs = session([t for t in padded if t is not None])
        return outputs if rows == size else [output[:rows] for output in outputs]


# --- ONNX Runtime --------------------------------------------------------------------------------


def exports_well(model: PlannerModel) -> bool:
    """Whether graphs of this model are faster than it is: convolutions are not."""
    denoiser = model.streams if model.streams is not None else model.denoiser
    return denoiser is None or not denoiser.network.convolves


def has_onnx() -> bool:
    """Whether what this engine needs is installed."""
    try:
        _require_onnx()
    except DiffplanError:
        return False
    return True


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise DiffplanError(
            f"engine onnx needs {error.name}, which is not installed; "
            "pip install 'diffplan[onnx]', or give engine eager"
        ) from None


class _Given(nn.Module):
    """A step as a function of those inputs alone that are there."""

    def __init__(self, step: nn.Module, present: Sequence[bool]) -> None:
        super().__init__()
        self.step = step
        self.present = present

    def forward(self, *given: Tensor) -> Any:
        values = iter(given)
        return present(self.step(*(next(values) if there else None for there in self.present)))


def _session(
    step: nn.Module, inputs: Sequence[Tensor | None]
) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Export a step for these shapes and load it: a function of the inputs that are there."""
    import onnxruntime

    given = tuple(t.clone() for t in inputs if t is not None)
    names = [f"input_{i}" for i in range(len(given))]
    with (
        tempfile.TemporaryDirectory() as folder,
        torch.inference_mode(False),
        torch.no_grad(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        file = Path(folder) / "step.onnx"
        # ten times faster to start than the dynamo exporter, and the graphs run alike
        torch.onnx.export(
            _Given(step, [t is not None for t in inputs]),
            given,
            file,
            input_names=names,
            dynamo=False,
            opset_version=_OPSET,
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1  # a plan is one chain: nothing runs beside it
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    # the exporter drops inputs that nothing depends on
    used = [(names.index(i.name), i.name) for i in session.get_inputs()]

    def run(values: Sequence[Tensor]) -> list[Tensor]:
        feeds = {name: values[index].numpy() for index, name in used}
        return [torch.from_numpy(output) for output in session.run(None, feeds)]

    return run
