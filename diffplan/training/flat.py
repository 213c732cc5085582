"""All weights in one vector: what is done to each number takes one operation, not one per layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_ALIGNED = 16  # numbers: every weight begins at a cache line, as products like it


def flattened(parameters: Sequence[Tensor], *, gradients: bool = False) -> Tensor:
    """A vector of which the parameters, all on one device, become views.

    gradients: of zeros instead, of which their gradients become views.
    """
    sizes = [-(-p.numel() // _ALIGNED) * _ALIGNED for p in parameters]
    whole = parameters[0].new_zeros(sum(sizes))
    for parameter, part in zip(parameters, whole.detach().split(sizes), strict=True):
        view = part[: parameter.numel()].view_as(parameter)
        if gradients:
            parameter.grad = view
        else:
            view.copy_(parameter.detach())
            parameter.data = view
    return whole.detach()


class Weights:
    """The weights of a model that learn, and their gradients, part by part and as one vector.

    vector: [N], a parameter for an optimiser, whose gradient is theirs.
    """

    def __init__(self, model: nn.Module) -> None:
        """The model's parameters become views, on the device that it is on."""
        parts = [[p for p in part.parameters() if p.requires_grad] for part in model.children()]
        parts = [part for part in parts if part]
        whole = [p for part in parts for p in part]
        self.vector = nn.Parameter(flattened(whole))
        self.vector.grad = flattened(whole, gradients=True)
        sizes = [sum(-(-p.numel() // _ALIGNED) * _ALIGNED for p in part) for part in parts]
        self._of_parts = list(self.vector.grad.split(sizes))

    @torch.no_grad()
    def clip(self, bound: float) -> None:
        """Bound the norm of each part's gradient: a large one must not slow the others down."""
        norms = torch.stack(torch._foreach_norm(self._of_parts))
        scales = (bound / (norms + 1e-6)).clamp(max=1)
        torch._foreach_mul_(self._of_parts, list(scales.unbind()))
