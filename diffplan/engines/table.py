"""Ways to run a decision: the same numbers, up to rounding, at different speeds.

An engine runs `decision.PlanStep` and `decision.ActStep`. "eager" calls them; "onnx" runs each as
one graph in ONNX Runtime, the fastest way on a CPU core; "onnx-int8" the same with 8-bit products,
which changes plans, so nothing chooses it but who asks; "cuda-graph" replays one captured CUDA
graph per call, "-tf32" with products of rounded inputs and "-bf16" with networks in bfloat16.
All but the first work with a few fixed batch sizes: others are split and filled up (`padding`),
which changes nothing for the rows that count, as rows do not depend on each other.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from diffplan.errors import DiffplanError
from diffplan.lazy import late

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from diffplan.config.sections import PlanningConfig
    from diffplan.engines.decision import Plan
    from diffplan.model.context import Context
    from diffplan.model.planner_model import PlannerModel


class Engine(Protocol):
    """Runs decisions of one model with fixed settings, on the model's device.

    What it is given may lie there or on the host.

    startup_seconds: what preparing it took so far (exporting, capturing), for reports.
    """

    name: str
    startup_seconds: float

    def plan(self, context: Context, seeds: Tensor, counts: Tensor) -> Plan:
        """Plans for B rows of a context, all in environment units.

        seeds, counts: int64 [B], what their random numbers follow from. The engine's next call may
        write over them.
        """
        ...

    def keep(self, plan: Plan) -> Plan:
        """The plans of the last call, which later calls do not change."""
        ...

    def read(self, made: Tensor) -> np.ndarray:
        """The actions of the last call, of `act` or the first ones of its plans, on the host."""
        ...

    def prepare(self, rows: int) -> None:
        """Make ready whatever batches of at most so many rows need: nothing starts up later."""
        ...

    def act(
        self,
        states: Tensor,
        plan: Tensor,
        place: Tensor,
        lag: Tensor,
        features: Tensor | None = None,
    ) -> Tensor:
        """Actions [B, A]; see `decision.ActStep`."""
        ...


@dataclass(frozen=True)
class EngineKind:
    """One way to run decisions, and what must be known before it is made.

    device: the only kind of device that it runs on, None for any. direct: whether it calls the
    steps as they are written, neither exported nor captured. gradients: whether it can take
    gradients. keeps_graphs: whether what it makes ready can be kept in a folder. installed:
    whether what it needs is. fast: whether it is worth its start for a model. exact: whether its
    plans are those of the others, but for rounding.
    """

    make: Callable[..., Engine]
    device: Literal["cpu", "cuda"] | None = None
    direct: bool = False
    gradients: bool = False
    keeps_graphs: bool = False
    installed: Callable[[], bool] = lambda: True
    fast: Callable[[PlannerModel], bool] = lambda model: True
    exact: bool = True

    def made(
        self, model: PlannerModel, settings: PlanningConfig, detailed: bool, graphs: Path | None
    ) -> Engine:
        """The engine for a model; graphs: where it may keep them."""
        kept = {"graphs": graphs} if self.keeps_graphs else {}
        return self.make(model, settings, detailed, **kept)

    def runs(self, model: PlannerModel, settings: PlanningConfig) -> bool:
        """Whether it can run these decisions here."""
        here = self.device in (None, model.plan_scale.device.type)
        return here and self.installed() and (self.gradients or not settings.value_guidance)


# by name: the command line knows the engines before it imports PyTorch
_EAGER = late("diffplan.engines.eager:EagerEngine")
_ONNX = late("diffplan.engines.onnx:OnnxEngine")
_INT8 = late("diffplan.engines.int8:Int8Engine")
_GRAPH = late("diffplan.engines.cuda_graph:GraphEngine")
ENGINES: dict[str, EngineKind] = {
    "eager": EngineKind(_EAGER, direct=True, gradients=True),
    "onnx": EngineKind(
        _ONNX,
        "cpu",
        keeps_graphs=True,
        installed=late("diffplan.engines.onnx:has_onnx"),
        fast=late("diffplan.engines.onnx:exports_well"),
    ),
    "onnx-int8": EngineKind(
        _INT8,
        "cpu",
        keeps_graphs=True,
        installed=late("diffplan.engines.onnx:has_onnx"),
        exact=False,
    ),
    "cuda-graph": EngineKind(_GRAPH, "cuda"),
    "cuda-graph-tf32": EngineKind(partial(_GRAPH, tf32=True), "cuda", exact=False),
    "cuda-graph-bf16": EngineKind(partial(_GRAPH, bf16=True), "cuda", exact=False),
}
"""Ways to run a decision, by name."""
DIRECT = next(name for name, kind in ENGINES.items() if kind.direct)
"""The one that runs whatever the settings are, and whose stages can be timed apart."""
_AUTO = ("cuda-graph", "onnx", "eager")
_PLACES = {"cpu": "a CPU", "cuda": "a GPU"}


def check_engine(name: str, option: str = "engine") -> None:
    """Raise DiffplanError for a name that is neither an engine's nor "auto"."""
    if name not in ("auto", *ENGINES):
        raise DiffplanError(f"{option} is {name!r}, expected auto, {', '.join(ENGINES)}")


def make_engine(
    name: str,
    model: PlannerModel,
    settings: PlanningConfig,
    detailed: bool = False,
    graphs: Path | None = None,
) -> Engine:
    """The named engine. "auto": the first of cuda-graph, onnx and eager that runs here and is fast.

    detailed: its plans hold their proposals, candidates and values. graphs: a folder in which an
    engine that makes graphs keeps them.

    Raises DiffplanError for an unknown name, and where the engine cannot run here.
    """
    check_engine(name)
    device = model.plan_scale.device.type
    if name == "auto":
        found = (ENGINES[each] for each in _AUTO)
        kind = next(each for each in found if each.runs(model, settings) and each.fast(model))
        if kind.direct and device == "cuda":
            warnings.warn(
                "planning.value_guidance takes gradients, which no captured graph does: planned on "
                "the GPU call by call, slower (engine eager)",
                stacklevel=2,
            )
        return kind.made(model, settings, detailed, graphs)
    kind = ENGINES[name]
    if settings.value_guidance and not kind.gradients:
        able = ", ".join(each for each, other in ENGINES.items() if other.gradients)
        raise DiffplanError(
            f"engine {name} cannot take gradients, which planning.value_guidance needs; give "
            f"engine {able}"
        )
    if kind.device not in (None, device):
        able = " or ".join(n for n, other in ENGINES.items() if other.device in (None, device))
        raise DiffplanError(
            f"engine {name} needs the model on {_PLACES[kind.device]}, but it is on {device}; give "
            f"device {kind.device}, or engine {able}"
        )
    return kind.made(model, settings, detailed, graphs)
