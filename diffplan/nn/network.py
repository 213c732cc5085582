"""What the networks of a denoiser have in common."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

OfPlan = Callable[[Tensor], Tensor]
"""x_t [B, H, D] -> output [B, H, D]."""


class Network(nn.Module):
    """`net(x [B, H, D], proposal [B, H, D] or None, features [B, F]) -> [B, H, D]`."""

    use_proposal: bool

    def bind(self, proposal: Tensor | None, features: Tensor) -> tuple[OfPlan, ...]:
        """The network at all n levels of one plan: n functions of x_t alone.

        proposal: [B, H, D]; None: as zeros, if the network takes one. features: [n, B, F] or
        [n, 1, F]. A network overrides this where part of its work does not depend on x_t.
        """

        def at(level: Tensor) -> OfPlan:
            def output(x: Tensor) -> Tensor:
                given = proposal
                if given is None and self.use_proposal:
                    given = torch.zeros_like(x)
                result: Tensor = self(x, given, level.expand(len(x), -1))
                return result

            return output

        return tuple(map(at, features.unbind(0)))
