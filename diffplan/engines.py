"""Ways to run a decision: the same numbers, up to rounding, at different speeds.

An engine runs `decision.PlanStep` and `decision.ActStep`. "eager" calls them; "onnx" runs each as
one graph in ONNX Runtime, the fastest way on a CPU core; "cuda-graph" replays one captured CUDA
graph per call. The latter two work with fixed batch sizes: a batch is filled up to the next power
of two, which changes nothing for the rows that count, as rows do not depend on each other.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from diffplan.config import PlanningConfig
from diffplan.decision import ActStep, Planned, PlanStep
from diffplan.errors import DiffplanError
from diffplan.model import PlannerModel

_OPSET = 17


class Engine(Protocol):
    """Runs decisions of one model with fixed settings, on the model's device.

    startup_seconds: what preparing it took so far (exporting, capturing), for reports.
    """

    name: str
    startup_seconds: float

    def plan(
        self,
        states: Tensor,
        goals: Tensor | None,
        targets: Tensor | None,
        seeds: Tensor,
        counts: Tensor,
        previous: Tensor | None = None,
        task: Tensor | None = None,
    ) -> Planned:
        """Plans in environment units for states [B, D], goals [B, G], target returns [B].

        seeds, counts: int64 [B], what their random numbers follow from. previous: [B, H - keep, D],
        what is left of the plans before, to go on from them. task: [B, F] codes of the tasks.
        """
        ...

    def act(self, states: Tensor, plan: Tensor, place: Tensor, lag: Tensor) -> Tensor:
        """Actions [B, A]; see `decision.ActStep`."""
        ...


class EagerEngine:
    """Calls the modules as they are."""

    name = "eager"
    startup_seconds = 0.0

    def __init__(self, model: PlannerModel, settings: PlanningConfig, valued: bool = False) -> None:
        self._plan = PlanStep(model, settings, valued=valued)
        self._again = PlanStep(model, settings, reuse=True) if settings.reuse else self._plan
        self._act = ActStep(model)

    @torch.inference_mode()
    def plan(
        self,
        states: Tensor,
        goals: Tensor | None,
        targets: Tensor | None,
        seeds: Tensor,
        counts: Tensor,
        previous: Tensor | None = None,
        task: Tensor | None = None,
    ) -> Planned:
        step = self._plan if previous is None else self._again
        planned: Planned = step(states, goals, targets, *step.draw(seeds, counts), previous, task)
        return planned

    @torch.inference_mode()
    def act(self, states: Tensor, plan: Tensor, place: Tensor, lag: Tensor) -> Tensor:
        actions: Tensor = self._act(states, plan, place, lag)
        return actions


class OnnxEngine:
    """One ONNX Runtime graph for a plan and one for an action, per batch size."""

    name = "onnx"

    def __init__(self, model: PlannerModel, settings: PlanningConfig) -> None:
        """Raises DiffplanError without onnxruntime, or for a model that is not on a CPU."""
        if model.plan_scale.device.type != "cpu":
            raise DiffplanError(
                f"engine onnx runs on a CPU, but the model is on {model.plan_scale.device}; "
                "expected device cpu, or engine cuda-graph"
            )
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
    def plan(
        self,
        states: Tensor,
        goals: Tensor | None,
        targets: Tensor | None,
        seeds: Tensor,
        counts: Tensor,
        previous: Tensor | None = None,
        task: Tensor | None = None,
    ) -> Planned:
        key, step = ("plan", self._plan) if previous is None else ("again", self._again)
        inputs = [states, goals, targets, *step.draw(seeds, counts), previous, task]
        return Planned(*self._run(key, step, inputs))

    @torch.inference_mode()
    def act(self, states: Tensor, plan: Tensor, place: Tensor, lag: Tensor) -> Tensor:
        return self._run("act", self._act, [states, plan, place, lag])[0]

    def _run(self, key: str, step: nn.Module, inputs: Sequence[Tensor | None]) -> list[Tensor]:
        rows, size = _rows(inputs), _size(inputs)
        session = self._sessions.get((key, size))
        padded = [None if t is None else _padded(t, size) for t in inputs]
        if session is None:
            began = time.perf_counter()
            session = _session(step, padded)
            self._sessions[key, size] = session
            self.startup_seconds += time.perf_counter() - began
        outputs = session([t for t in padded if t is not None])
        return outputs if rows == size else [output[:rows] for output in outputs]


class GraphEngine:
    """Static input buffers, and one CUDA graph that is captured over them, per batch size.

    On a CPU the same buffers are used and the modules are called instead of a graph: slower than
    eager, there to be tested.
    """

    name = "cuda-graph"

    def __init__(self, model: PlannerModel, settings: PlanningConfig, bf16: bool = False) -> None:
        """bf16: run the networks in bfloat16; plans and coefficients stay in float32."""
        self.startup_seconds = 0.0
        self._device = model.plan_scale.device
        self._bf16 = bf16
        self._plan = PlanStep(model, settings)
        self._again = PlanStep(model, settings, reuse=True) if settings.reuse else self._plan
        self._act = ActStep(model)
        self._captured: dict[tuple[str, int], _Captured] = {}

    def __getstate__(self) -> dict[str, Any]:
        # graphs belong to a process
        return {**self.__dict__, "_captured": {}}

    @torch.inference_mode()
    def plan(
        self,
        states: Tensor,
        goals: Tensor | None,
        targets: Tensor | None,
        seeds: Tensor,
        counts: Tensor,
        previous: Tensor | None = None,
        task: Tensor | None = None,
    ) -> Planned:
        key, step = ("plan", self._plan) if previous is None else ("again", self._again)

        def planned(
            states: Tensor,
            goals: Tensor | None,
            targets: Tensor | None,
            seeds: Tensor,
            counts: Tensor,
            previous: Tensor | None,
            task: Tensor | None,
        ) -> Sequence[Tensor]:
            return _made(step(states, goals, targets, *step.draw(seeds, counts), previous, task))

        inputs = [states, goals, targets, seeds, counts, previous, task]
        return Planned(*self._run(key, planned, inputs))

    @torch.inference_mode()
    def act(self, states: Tensor, plan: Tensor, place: Tensor, lag: Tensor) -> Tensor:
        def acted(*inputs: Tensor) -> Sequence[Tensor]:
            return (self._act(*inputs),)

        return self._run("act", acted, [states, plan, place, lag])[0]

    def _run(
        self, key: str, function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor | None]
    ) -> list[Tensor]:
        size = _size(inputs)
        captured = self._captured.get((key, size))
        if captured is None:
            began = time.perf_counter()
            captured = _Captured(function, inputs, size, self._device, self._bf16)
            self._captured[key, size] = captured
            self.startup_seconds += time.perf_counter() - began
        return captured(inputs)


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

        self.buffers = buffers = [None if t is None else _padded(t, size).clone() for t in inputs]
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
            for _ in range(3):
                self.run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.outputs = self.run()
        self.graph = graph

    def __call__(self, inputs: Sequence[Tensor | None]) -> list[Tensor]:
        rows = _rows(inputs)
        for buffer, value in zip(self.buffers, inputs, strict=True):
            if buffer is not None and value is not None:
                buffer[:rows].copy_(value, non_blocking=True)
        if self.graph is None:
            return [output[:rows] for output in self.run()]
        self.graph.replay()
        # the next replay writes over them
        return [output[:rows].clone() for output in self.outputs]


ENGINES: dict[str, Callable[[PlannerModel, PlanningConfig], Engine]] = {
    "eager": EagerEngine,
    "onnx": OnnxEngine,
    "cuda-graph": GraphEngine,
}


def make_engine(name: str, model: PlannerModel, settings: PlanningConfig) -> Engine:
    """The named engine. "auto": cuda-graph on a GPU, onnx on a CPU that has it, else eager.

    Eager also for the U-Net on a CPU, whose convolutions are slow in ONNX Runtime, and where a
    value's gradient guides.

    Raises DiffplanError for an unknown name, and where the engine cannot run here.
    """
    device = model.plan_scale.device.type
    if name == "auto":
        exports = model.config.denoiser.network != "unet" and _has_onnx()
        name = "cuda-graph" if device == "cuda" else "onnx" if exports else "eager"
        name = "eager" if settings.value_guidance else name
    if name not in ENGINES:
        raise DiffplanError(f"engine is {name!r}, expected auto, {', '.join(ENGINES)}")
    if name != "eager" and settings.value_guidance:
        raise DiffplanError(
            f"engine {name} cannot take gradients, which planning.value_guidance needs; give "
            "engine eager"
        )
    if name == "cuda-graph" and device != "cuda":
        raise DiffplanError(
            f"engine cuda-graph needs the model on a GPU, but it is on {device}; give device cuda, "
            "or engine onnx or eager"
        )
    return ENGINES[name](model, settings)


# --- Batches -------------------------------------------------------------------------------------


def _made(planned: Planned | Tensor) -> list[Tensor]:
    """What a step put out, without the actions that a plan does not hold."""
    made = planned if isinstance(planned, tuple) else (planned,)
    return [t for t in made if t is not None]


def _rows(inputs: Sequence[Tensor | None]) -> int:
    return len(next(t for t in inputs if t is not None))


def _size(inputs: Sequence[Tensor | None]) -> int:
    """The next power of two."""
    return 1 << (_rows(inputs) - 1).bit_length()


def _padded(tensor: Tensor, size: int) -> Tensor:
    """Filled up to `size` rows with copies of the first."""
    missing = size - len(tensor)
    if not missing:
        return tensor
    return torch.cat([tensor, tensor[:1].expand(missing, *tensor.shape[1:])])


# --- ONNX Runtime --------------------------------------------------------------------------------


def _has_onnx() -> bool:
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
        return _made(self.step(*(next(values) if there else None for there in self.present)))


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
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    used = [(names.index(i.name), i.name) for i in session.get_inputs()]

    def run(values: Sequence[Tensor]) -> list[Tensor]:
        feeds = {name: values[index].numpy() for index, name in used}
        return [torch.from_numpy(output) for output in session.run(None, feeds)]

    return run
