"""What the networks of a denoiser have in common."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

OfPlan = Callable[[Tensor], Tensor]
"""x_t [B, H, D] -> features [B, H, C] or [B, C], or the output [B, H, D]."""


class Network(nn.Module):
    """`net(x [B, H, D], proposal [B, H, D] or None, features [B, F]) -> [B, H, D]`.

    A body, which `bind_features` runs, and a last layer, `output`: heads read what lies between.
    """

    use_proposal: bool
    width: int
    """Columns C of the features before the output."""
    by_row: bool
    """Whether there are features of every plan state, [B, H, C], or of the whole plan, [B, C]."""

    plain: bool = False
    """Whether it is linear layers, norms and `silu` alone, whose gradients ONNX has."""
    convolves: bool = False
    """Whether it is made of convolutions, which ONNX Runtime is slow at."""

    def bind_features(self, proposal: Tensor | None, features: Tensor) -> tuple[OfPlan, ...]:
        """The body at all n levels of one plan: n functions of x_t alone.

        proposal: [B, H, D]; None: as zeros, if the network takes one. features: [n, B, F] or
        [n, 1, F].
        """
        raise NotImplementedError

    def output(self, h: Tensor) -> Tensor:
        """The last layer: features before the output -> [B, H, D]."""
        raise NotImplementedError

    def bind(self, proposal: Tensor | None, features: Tensor) -> tuple[OfPlan, ...]:
        """The whole network at all n levels of one plan; arguments as for `bind_features`."""

        # its own function: a lambda in a loop would see the last body only
        def whole(body: OfPlan) -> OfPlan:
            return lambda x: self.output(body(x))

        return tuple(map(whole, self.bind_features(proposal, features)))

    def forward(self, x: Tensor, proposal: Tensor | None, features: Tensor) -> Tensor:
        """x [B, H, D], proposal [B, H, D] (None without `use_proposal`), features [B, F]."""
        return self.bind(proposal, features.unsqueeze(0))[0](x)
