"""A function over static buffers: on CUDA one graph, copies from and to the host included."""

from __future__ import annotations

import contextlib
import copy
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from diffplan.engines.padding import filled, row_count
from diffplan.errors import first_line

Function = Callable[..., Sequence[Tensor]]

_Module = TypeVar("_Module", bound=nn.Module)
_ALIGNED = 16  # bytes: every input begins where any type may
_WARM = 3  # calls in which libraries choose their kernels
_MEASURED = (16, 64)  # rows


@dataclass(frozen=True)
class Numbers:
    """What networks compute in; what they are given and give is float32 in any case."""

    bf16: bool = False
    tf32: bool = False

    @contextlib.contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """Let calls on the device compute in them, whatever the process chose for itself."""
        cast = torch.autocast(device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False)
        if device.type != "cuda":
            with cast:
                yield
            return
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        _let_round("high" if self.tf32 else "highest", self.tf32)
        try:
            with cast:
                yield
        finally:
            _let_round(*before)


def _let_round(products: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions


def rounded(model: _Module) -> _Module:
    """A copy whose layers hold their weights in bfloat16, as autocast rounds them in every call."""
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.ConvTranspose1d):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.bfloat16()
    return twin


@cache
def _side(device: torch.device) -> torch.cuda.Stream:
    """Where graphs are captured: one stream, as each has memory of its own for its products."""
    return torch.cuda.Stream(device)


class Captured:
    """A function of a batch of one size.

    Calls write over what the one before put out. Where capturing fails a warning says so, and the
    function is called instead.
    """

    # many arguments: what is captured, and where it lives
    def __init__(
        self,
        function: Function,
        inputs: Sequence[Tensor | None],
        size: int,
        told: int,
        device: torch.device,
        numbers: Numbers,
        pool: Any = None,
    ) -> None:
        """inputs: of the shapes, types and places of all that come. told: which output the host
        gets. pool: of the memory that graphs share.
        """
        self._function, self._told, self._device, self._numbers = function, told, device, numbers
        examples = [None if t is None else filled(t, size) for t in inputs]
        staged = [t if t is not None and t.device.type == "cpu" else None for t in examples]
        sizes = [0 if t is None else -(-t.nbytes // _ALIGNED) * _ALIGNED for t in staged]
        on_gpu = device.type == "cuda"
        self._here = torch.zeros(sum(sizes), dtype=torch.uint8, pin_memory=on_gpu)
        self._there = torch.zeros(sum(sizes), dtype=torch.uint8, device=device)
        self._given = _views(self._here, sizes, staged)  # where a call writes
        self._read = _views(self._there, sizes, staged)  # where the function reads
        for place, example in enumerate(examples):
            if example is not None and self._given[place] is None:
                self._given[place] = self._read[place] = example.clone()
        self._write(examples)
        self._back: Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._done = torch.cuda.Event() if on_gpu else None
        if on_gpu:
            self._capture(pool)

    @property
    def fails(self) -> bool:
        """Whether it could not be captured where it should have been."""
        return self._done is not None and self._graph is None

    def __call__(self, inputs: Sequence[Tensor | None]) -> list[Tensor]:
        if self._done is not None:
            self._done.synchronize()  # the call before may still read the pinned buffer
        self._write(inputs)
        if self._graph is None:
            self._outputs = self._run()
        else:
            self._graph.replay()
        if self._done is not None:
            self._done.record()
        rows = row_count(inputs)
        return [output[:rows] for output in self._outputs]

    def told(self, rows: int) -> np.ndarray:
        """The output that the host gets, of the last call."""
        result: np.ndarray
        if self._back is None:
            result = self._outputs[self._told][:rows].numpy()
            return result
        assert self._done is not None
        self._done.synchronize()
        result = self._back[:rows].numpy().copy()
        return result

    def _write(self, inputs: Sequence[Tensor | None]) -> None:
        rows = row_count(inputs)
        for buffer, value in zip(self._given, inputs, strict=True):
            if buffer is not None and value is not None:
                buffer[:rows].copy_(value, non_blocking=True)

    def _run(self) -> list[Tensor]:
        self._there.copy_(self._here, non_blocking=True)
        with self._numbers.on(self._device):
            # outputs are float32 whatever the networks compute in
            made = [
                o.float() if o.dtype == torch.bfloat16 else o for o in self._function(*self._read)
            ]
        if self._device.type == "cuda":
            told = made[self._told]
            if self._back is None:
                self._back = torch.empty(told.shape, dtype=told.dtype, pin_memory=True)
            self._back.copy_(told, non_blocking=True)
        return made

    def _capture(self, pool: Any) -> None:
        stream = _side(self._device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM):
                self._run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            # the outer one: PyTorch leaves its own stream current where capturing fails
            # other threads may go on using CUDA
            with (
                torch.cuda.stream(stream),
                torch.cuda.graph(
                    graph, pool=pool, stream=stream, capture_error_mode="thread_local"
                ),
            ):
                self._outputs = self._run()
        except RuntimeError as error:
            reason = first_line(error.__context__ or error)
            warnings.warn(f"no CUDA graph ({reason}); calling eagerly", stacklevel=2)
            return
        self._graph = graph


def _views(
    buffer: Tensor, sizes: Sequence[int], like: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The parts of a buffer of bytes, as what lies in them."""
    return [
        None if t is None else part[: t.nbytes].view(t.dtype).view(t.shape)
        for part, t in zip(buffer.split(list(sizes)), like, strict=True)
    ]


def row_bytes(
    function: Function, inputs: Sequence[Tensor | None], device: torch.device, numbers: Numbers
) -> float:
    """Bytes of a GPU's memory that one more row of a batch takes while the function runs."""
    peaks = list[int]()
    for rows in (_MEASURED[0], *_MEASURED):  # the first call also makes what stays
        given = [None if t is None else filled(t[:1].to(device), rows) for t in inputs]
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        with numbers.on(device):
            function(*given)
        peaks.append(torch.cuda.max_memory_allocated(device) - before)
    return max(1.0, math.ceil((peaks[2] - peaks[1]) / (_MEASURED[1] - _MEASURED[0])))
