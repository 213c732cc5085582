"""Ways to run a decision: the same numbers, up to rounding, at different speeds.

An engine runs `decision.PlanStep` and `decision.ActStep`. "eager" calls them; "onnx" runs each as
one graph in ONNX Runtime, the fastest way on a CPU core; "cuda-graph" replays one captured CUDA
graph per call. The latter two work with fixed batch sizes: a batch is filled up to the next power
of two, which changes nothing for the rows that count, as rows do not depend on each other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from torch import Tensor

from diffplan.config.sections import PlanningConfig
from diffplan.engines.cuda_graph import GraphEngine
from diffplan.engines.decision import Plan
from diffplan.engines.eager import EagerEngine
from diffplan.engines.onnx import OnnxEngine, has_onnx
from diffplan.errors import DiffplanError
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel


class Engine(Protocol):
    """Runs decisions of one model with fixed settings, on the model's device.

    startup_seconds: what preparing it took so far (exporting, capturing), for reports.
    """

    name: str
    startup_seconds: float

    def plan(self, context: Context, seeds: Tensor, counts: Tensor) -> Plan:
        """Plans for B rows of a context, all in environment units.

        seeds, counts: int64 [B], what their random numbers follow from.
        """
        ...

    def act(self, states: Tensor, plan: Tensor, place: Tensor, lag: Tensor) -> Tensor:
        """Actions [B, A]; see `decision.ActStep`."""
        ...


ENGINES: dict[str, Callable[[PlannerModel, PlanningConfig], Engine]] = {
    "eager": EagerEngine,
    "onnx": OnnxEngine,
    "cuda-graph": GraphEngine,
    "cuda-graph-bf16": partial(GraphEngine, bf16=True),
}


def make_engine(name: str, model: PlannerModel, settings: PlanningConfig) -> Engine:
    """The named engine. "auto": cuda-graph on a GPU, onnx on a CPU that has it, else eager.

    Eager also for the U-Net on a CPU, whose convolutions are slow in ONNX Runtime, and where a
    value's gradient guides.

    Raises DiffplanError for an unknown name, and where the engine cannot run here.
    """
    device = model.plan_scale.device.type
    if name == "auto":
        exports = model.config.denoiser.network != "unet" and has_onnx()
        name = "cuda-graph" if device == "cuda" else "onnx" if exports else "eager"
        name = "eager" if settings.value_guidance else name
    if name not in ENGINES:
        raise DiffplanError(f"engine is {name!r}, expected auto, {', '.join(ENGINES)}")
    if name != "eager" and settings.value_guidance:
        raise DiffplanError(
            f"engine {name} cannot take gradients, which planning.value_guidance needs; give "
            "engine eager"
        )
    if name.startswith("cuda-graph") and device != "cuda":
        raise DiffplanError(
            f"engine {name} needs the model on a GPU, but it is on {device}; give device cuda, "
            "or engine onnx or eager"
        )
    return ENGINES[name](model, settings)
