"""Decisions in ONNX Runtime, the fastest way on a CPU core."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffplan.config.sections import PlanningConfig
from diffplan.engines.decision import ActStep, Draws, Handed, Plan, PlanStep
from diffplan.engines.gradients import gradients_exported
from diffplan.engines.padding import present, row_count, sizes_upto
from diffplan.errors import DiffplanError
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel
from diffplan.model.run_folder import own_version
from diffplan.runtime import Arrays, Graph, onnxruntime, run_in_parts

_OPSET = 17
_NAME = "input_"
_EXPORTING = threading.Lock()  # PyTorch exports one graph at a time in a process
_ABANDONED = 24 * 3600.0  # seconds


class OnnxEngine(Handed):
    """One ONNX Runtime graph for a plan and one for an action, per size of a batch.

    Graphs are exported when a size is first met, or beforehand by `prepare`; where a folder is
    given they are kept there and read from there the next time. Threads may share an engine.
    """

    name = "onnx"

    def __init__(
        self,
        model: PlannerModel,
        settings: PlanningConfig,
        detailed: bool = False,
        graphs: Path | None = None,
        **wished: Any,
    ) -> None:
        """model: on a CPU. detailed, wished (steering, routes): see `PlanStep`. graphs: a folder to
        keep them in, which is made; None: they are exported anew.

        Raises DiffplanError without onnxruntime.
        """
        _require_onnx()
        self.startup_seconds = 0.0
        self._graphs = graphs
        self._model, self._settings = model, settings
        plan = PlanStep(model, settings, detailed=detailed, **wished)
        self._steps: dict[str, PlanStep] = {"plan": plan}
        if settings.reuse:
            self._steps["again"] = PlanStep(
                model, settings, reuse=True, detailed=detailed, **wished
            )
        self._act = ActStep(model)
        self._sessions: dict[tuple[str, int], Graph] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        # sessions belong to a process
        return {**self.__dict__, "_sessions": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def plan(self, context: Context, seeds: Tensor, counts: Tensor) -> Plan:
        key = "plan" if context.previous is None else "again"
        step = self._steps[key]
        inputs = (*context.tensors, *step.draw(seeds, counts))
        made = self._run(key, [None if t is None else t.numpy() for t in inputs])
        return Plan(**dict(zip(step.fields, map(torch.from_numpy, made), strict=True)))

    def act(
        self,
        states: Tensor,
        plan: Tensor,
        place: Tensor,
        lag: Tensor,
        features: Tensor | None = None,
    ) -> Tensor:
        given = (states, plan, place, lag, features)
        made = self._run("act", [None if t is None else t.numpy() for t in given])
        return torch.from_numpy(made[0])

    def prepare(self, rows: int) -> None:
        """Make ready every graph that batches of at most so many rows can need."""
        for size in sizes_upto(rows):
            for key in self.keys:
                self._session(key, size)

    def _run(self, key: str, inputs: Arrays) -> list[np.ndarray]:
        sizes = sizes_upto(row_count(inputs))
        return run_in_parts(inputs, sizes, lambda size: self._session(key, size))

    def _session(self, key: str, size: int) -> Graph:
        found = self._sessions.get((key, size))
        if found is None:
            with self._lock:  # whoever comes second finds what the first has made
                found = self._sessions.get((key, size))
                if found is None:
                    began = time.perf_counter()
                    graph = self.graph(key, size)
                    found = Graph(graph, size, torch.get_num_threads())
                    self._sessions[key, size] = found
                    self.startup_seconds += time.perf_counter() - began
        return found

    def graph(self, key: str, size: int) -> bytes:
        """The graph of "plan", "again" or "act" for batches of one size, kept or exported now."""
        if self._graphs is None:
            return self.exported(key, size)
        name = f"{key}-{size}-{self._identity}"
        with contextlib.suppress(OSError):
            for kept in self._graphs.glob(f"{name}-*.onnx"):
                found = kept.read_bytes()
                if kept.stem == f"{name}-{_digest(found)}":  # else it is damaged
                    return found
        made = self.exported(key, size)
        _keep(self._graphs / f"{name}-{_digest(made)}.onnx", made)
        return made

    def exported(self, key: str, size: int) -> bytes:
        """The same, exported now."""
        step: ActStep | PlanStep = self._act if key == "act" else self._steps[key]
        steering = None if step is self._act else self._steps[key].steering
        differentiates = steering is not None and steering.differentiates
        with gradients_exported(self._model) if differentiates else contextlib.nullcontext():
            return exported(step.flat, step.example(size))

    @property
    def keys(self) -> tuple[str, ...]:
        """Which graphs its decisions need: plans, actions on the way of plans that hold none."""
        return (*self._steps, *([] if self._model.config.actions_in_plan else ["act"]))

    @cached_property
    def _identity(self) -> str:
        """What graphs follow from: weights, statistics, settings, inputs and versions, hashed."""
        model = self._model
        said = {
            "engine": self.name,
            "config": asdict(model.config),
            "planning": asdict(self._settings),
            "fields": self._steps["plan"].fields,
            # what an earlier version of the same number kept may take others
            "inputs": (
                [f.name for f in fields(Context)],
                Draws._fields,
                inspect.getfullargspec(ActStep.forward).args,
            ),
            "versions": (own_version(), torch.__version__, onnxruntime().__version__, _OPSET),
        }
        tensors = model.state_dict()
        if model.statistics is not None:  # calibrated anew, they are other graphs
            known = model.statistics
            tensors = {**tensors, "statistics": torch.stack([known.l, known.s, known.b])}
        if (gaussian := model.gaussian) is not None:
            parts = (gaussian.mean, gaussian.gain, gaussian.variances)
            tensors = {**tensors, "gaussian": torch.cat([part.flatten() for part in parts])}
        digest = hashlib.sha256(json.dumps(said, default=str, sort_keys=True).encode())
        for name, tensor in sorted(tensors.items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(tensor.numpy(force=True)).tobytes())
        return digest.hexdigest()[:16]


# --- ONNX Runtime --------------------------------------------------------------------------------


def exports_well(model: PlannerModel) -> bool:
    """Whether graphs of this model are faster than it is: convolutions are not."""
    denoiser = model.streams if model.streams is not None else model.denoiser
    return denoiser is None or not denoiser.network.convolves


def exports_gradients(model: PlannerModel) -> bool:
    """Whether graphs can hold the denoiser's gradient as well: of plain layers they can."""
    denoiser = model.denoiser
    return denoiser is not None and model.multi_task is None and denoiser.network.plain


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

        onnxruntime()
    except ImportError as error:
        raise DiffplanError(
            f"engine onnx needs {error.name}, which is not installed; "
            "pip install 'diffplan[onnx]', or give engine eager"
        ) from None


class _Given(nn.Module):
    """A step as a function of those inputs alone that are there."""

    def __init__(self, step: nn.Module, there: Sequence[bool]) -> None:
        super().__init__()
        self.step = step
        self.there = there

    def forward(self, *given: Tensor) -> Any:
        values: Iterator[Tensor] = iter(given)
        return present(self.step(*(next(values) if there else None for there in self.there)))


def exported(step: nn.Module, inputs: Sequence[Tensor | None]) -> bytes:
    """The graph of a step for these shapes; its inputs are named by their place among all."""
    given = tuple(t.clone() for t in inputs if t is not None)
    with (
        _EXPORTING,
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
            input_names=[f"{_NAME}{i}" for i, t in enumerate(inputs) if t is not None],
            dynamo=False,
            opset_version=_OPSET,
        )
        return file.read_bytes()


def _digest(graph: bytes) -> str:
    """Its checksum, which a kept graph has in its name."""
    return hashlib.sha256(graph).hexdigest()[:8]


def _keep(path: Path, graph: bytes) -> None:
    """Write a graph whole or not at all; where nothing can be written it is made anew next time."""
    partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        for left in path.parent.glob("*.partial"):  # by a killed process
            if time.time() - left.stat().st_mtime > _ABANDONED:
                left.unlink(missing_ok=True)
        try:
            partial.write_bytes(graph)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
