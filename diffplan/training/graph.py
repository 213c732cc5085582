"""An update as one CUDA graph: what Python does in some thousand calls the GPU does in one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffplan.errors import first_line

_WARM = 3  # updates in which libraries choose their kernels; they count like any other


class CapturedUpdate:
    """A function without arguments that reads and writes the same tensors in every call.

    It may not wait for the device, nor give one call another shape than the next, and what it
    returns the next call writes over. Where capturing fails a warning says so, and the function is
    called instead.
    """

    def __init__(
        self,
        update: Callable[[], Tensor],
        generators: Sequence[torch.Generator],
        device: torch.device,
    ) -> None:
        """generators: those of the device that the update draws from, beside PyTorch's own."""
        self._update, self._generators = update, tuple(generators)
        self._stream = torch.cuda.Stream(device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._calls = 0

    def __call__(self) -> Tensor:
        """Run it once."""
        if self._calls == _WARM:
            self._capture()
        self._calls += 1
        if self._graph is not None:
            self._graph.replay()
            return self._made
        # where it will be captured: gradients stay with the stream that made them
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            made = self._update()
        torch.cuda.current_stream().wait_stream(self._stream)
        return made

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        own = *self._generators, torch.cuda.default_generators[self._stream.device_index]
        before = [generator.get_state() for generator in own]
        try:
            # the outer one: PyTorch leaves its own stream current where capturing fails; other
            # threads may go on using CUDA
            with (
                torch.cuda.stream(self._stream),
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
            ):
                self._made = self._update()
        except RuntimeError as error:
            # they are left as if the capture went on, and draw no more
            for generator, state in zip(own, before, strict=True):
                fresh = torch.Generator(generator.device)
                fresh.set_state(state)
                generator.graphsafe_set_state(fresh.graphsafe_get_state())
            reason = first_line(error.__context__ or error)
            warnings.warn(
                f"no CUDA graph of an update ({reason}); updates are called one by one",
                stacklevel=2,
            )
            return
        self._graph = graph


def why_not(device: torch.device, drawn_on: torch.device, processes: int) -> str | None:
    """Why updates on a device are not captured, "" where nobody expects it; None: they are.

    drawn_on: where batches are drawn.
    """
    if device.type != "cuda":
        return ""
    if processes > 1:
        return f"{processes} processes add up their gradients"
    if drawn_on.type != "cuda":
        return "the data do not fit into the GPU's memory beside the training"
    return None
