"""Gradients inside exported graphs: what PyTorch's exporter lacks for a plan that takes some."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.onnx.utils import register_custom_op_symbolic
from torch.overrides import TorchFunctionMode


class _Elementary(TorchFunctionMode):
    """Networks in operations whose gradients are operations of ONNX.

    The exporter writes gradients down as it meets them, but for those of `layer_norm`, which its
    tracer cannot hold, and of `silu`, for which it knows no operation.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.layer_norm:
            return _layer_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextmanager
def gradients_exported(model: nn.Module) -> Iterator[None]:
    """While graphs are exported that hold gradients in plans, not in weights."""
    register_custom_op_symbolic("aten::silu_backward", _silu_backward, 17)
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in learned:
        weight.requires_grad_(False)
    try:
        with _Elementary():
            yield
    finally:
        for weight in learned:
            weight.requires_grad_(True)


def _layer_norm(
    x: Tensor,
    shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    dims = tuple(range(-len(shape), 0))
    centred = x - x.mean(dims, keepdim=True)
    # a power keeps what it was given, a root what it gave, which the tracer does not know again
    normal = centred * ((centred * centred).mean(dims, keepdim=True) + eps).pow(-0.5)
    if weight is not None:
        normal = normal * weight
    return normal if bias is None else normal + bias


def _silu_backward(graph: Any, gradient: Any, x: Any) -> Any:
    """Gradient of x s(x), s the logistic function: s (1 + x (1 - s))."""
    one = graph.op("Constant", value_t=torch.ones(()))
    s = graph.op("Sigmoid", x)
    rest = graph.op("Mul", x, graph.op("Sub", one, s))
    return graph.op("Mul", gradient, graph.op("Mul", s, graph.op("Add", one, rest)))
