"""A diffusion transformer over the plan's time (Peebles & Xie 2023, arXiv 2212.09748)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffplan.errors import DiffplanError
from diffplan.nn.embeddings import mlp, sinusoidal, zero_
from diffplan.nn.network import Network, OfPlan


def _modulate(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    # h (1 + scale) + shift in two operations: a plan of few rows is bound by their count
    return torch.addcmul(h + shift, h, scale)


class DiTBlock(nn.Module):
    """Attention over all plan states, then an MLP, each shifted, scaled and gated (adaLN-zero)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        # without an affine map of its own: shift and scale come from the conditions
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = mlp(width, (4 * width,), width, activation=nn.GELU)

    def forward(self, h: Tensor, modulation: list[Tensor]) -> Tensor:
        """h [B, H, width], modulation: six tensors [B, 1, width] -> [B, H, width]."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation
        qkv = self.qkv(_modulate(self.norm(h), shift, scale))
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        h = torch.addcmul(h, gate, self.out(attended))
        return torch.addcmul(h, mlp_gate, self.mlp(_modulate(self.norm(h), mlp_shift, mlp_scale)))


class DiT(Network):
    """Transformer over the horizon with adaLN-zero conditioning: one token per plan state.

    One linear layer gives the modulation of all blocks. It and the last layer start at zero, so
    every block starts as the identity (Peebles & Xie 2023, section 3.2).
    """

    by_row = True

    def __init__(
        self,
        horizon: int,
        dim: int,
        features: int,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        use_proposal: bool = True,
    ) -> None:
        super().__init__()
        if width % heads:
            raise DiffplanError(f"the DiT's width {width} must be a multiple of heads={heads}")
        self.use_proposal = use_proposal
        self.depth = depth
        self.width = width
        self.enter = nn.Linear(dim * (1 + use_proposal), width)
        # learned, but neighbours in time begin alike
        self.position = nn.Parameter(sinusoidal(torch.arange(horizon), width))
        # six of every block, shift and scale before the output
        self.modulation = nn.Linear(features, (6 * depth + 2) * width)
        self.blocks = nn.ModuleList([DiTBlock(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.leave = nn.Linear(width, dim)
        zero_(self.modulation)
        zero_(self.leave)

    def bind_features(self, proposal: Tensor | None, features: Tensor) -> tuple[OfPlan, ...]:
        """The body at all levels; what they need beside x_t in one product each."""
        # the proposal is the same at every level: its share of the first layer is taken once
        entry = self.position + self.enter.bias
        if self.use_proposal and proposal is not None:
            entry = entry + F.linear(proposal, self.enter.weight[:, proposal.shape[-1] :])
        modulations = self.modulation(F.silu(features)).unsqueeze(2)

        def at(level: Tensor) -> OfPlan:
            modulation = list(level.chunk(6 * self.depth + 2, -1))

            def body(x: Tensor) -> Tensor:
                h = F.linear(x, self.enter.weight[:, : x.shape[-1]]) + entry
                for i, block in enumerate(self.blocks):
                    h = block(h, modulation[6 * i : 6 * i + 6])
                return _modulate(self.norm(h), *modulation[-2:])

            return body

        return tuple(map(at, modulations.unbind(0)))

    def output(self, h: Tensor) -> Tensor:
        result: Tensor = self.leave(h)
        return result
