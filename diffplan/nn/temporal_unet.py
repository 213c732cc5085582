"""The temporal U-Net: convolutions over the plan's time, published with Diffuser.

Ronneberger et al. 2015 (arXiv 1505.04597) for the shape; Janner et al. 2022 (arXiv 2205.09991,
appendix C) for the one-dimensional version that Trajectory Diffuser (arXiv 2407.16142) uses.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffplan.errors import DiffplanError
from diffplan.nn.embeddings import zero_
from diffplan.nn.network import Network, OfPlan


def _conv_block(inputs: int, outputs: int, kernel: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2),
        nn.GroupNorm(groups, outputs),
        nn.Mish(),
    )


class ResidualTemporalBlock(nn.Module):
    """Two convolutions with the features added between them, and a skip around both."""

    def __init__(self, inputs: int, outputs: int, features: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.first = _conv_block(inputs, outputs, kernel, groups)
        self.second = _conv_block(outputs, outputs, kernel, groups)
        self.shift = nn.Linear(features, outputs)
        self.skip = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, h: Tensor, features: Tensor) -> Tensor:
        """h [B, C, H], features [B, F] after their activation -> [B, C', H]."""
        inner = self.first(h) + self.shift(features).unsqueeze(-1)
        return self.second(inner) + self.skip(h)


class Level(nn.Module):
    """Two residual blocks at one resolution."""

    def __init__(self, inputs: int, outputs: int, features: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.first = ResidualTemporalBlock(inputs, outputs, features, kernel, groups)
        self.second = ResidualTemporalBlock(outputs, outputs, features, kernel, groups)

    def forward(self, h: Tensor, features: Tensor) -> Tensor:
        """h [B, C, H], features [B, F] after their activation -> [B, C', H]."""
        return self.second(self.first(h, features), features)


class TemporalUNet(Network):
    """U-Net over time, for any horizon: padded inside to a multiple of 2 ** (levels - 1).

    Wired as published: the skips of all levels but the finest are used, and each level on the way
    up ends with its upsampling. The last layer starts at zero.
    """

    by_row = True
    convolves = True

    def __init__(
        self,
        horizon: int,
        dim: int,
        features: int,
        width: int = 64,
        mults: tuple[int, ...] = (1, 2, 4, 8),
        kernel: int = 5,
        groups: int = 8,
        use_proposal: bool = True,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise DiffplanError(f"the U-Net needs an odd kernel, got {kernel}")
        if width % groups:
            raise DiffplanError(f"the U-Net's width {width} must be a multiple of groups={groups}")
        self.horizon = horizon
        self.width = width * mults[0]
        self.use_proposal = use_proposal
        # every level but the last halves the time
        self.padding = -horizon % 2 ** (len(mults) - 1)

        def level(inputs: int, outputs: int) -> Level:
            return Level(inputs, outputs, features, kernel, groups)

        widths = [width * mult for mult in mults]
        inputs = [dim * (1 + use_proposal), *widths[:-1]]
        # (coarse, fine) on the way up, from the bottom
        turns = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.down = nn.ModuleList(map(level, inputs, widths))
        self.shrink = nn.ModuleList(
            [nn.Conv1d(width, width, 3, stride=2, padding=1) for width in widths[:-1]]
        )
        self.middle = level(widths[-1], widths[-1])
        self.up = nn.ModuleList([level(2 * coarse, fine) for coarse, fine in turns])
        self.grow = nn.ModuleList(
            [nn.ConvTranspose1d(fine, fine, 4, stride=2, padding=1) for _, fine in turns]
        )
        self.last = _conv_block(widths[0], widths[0], kernel, groups)
        self.leave = nn.Conv1d(widths[0], dim, 1)
        zero_(self.leave)

    def bind_features(self, proposal: Tensor | None, features: Tensor) -> tuple[OfPlan, ...]:
        # unlike the other networks nothing is folded: convolutions take x_t and x̂ as one
        features = F.mish(features)

        def at(level: Tensor) -> OfPlan:
            def body(x: Tensor) -> Tensor:
                given = torch.zeros_like(x) if proposal is None else proposal
                inputs = torch.cat([x, given], dim=-1) if self.use_proposal else x
                return self._body(inputs, level.expand(len(x), -1))

            return body

        return tuple(map(at, features.unbind(0)))

    def _body(self, x: Tensor, features: Tensor) -> Tensor:
        """x [B, H, D or 2 D], features [B, F] after their activation -> [B, H, C]."""
        h = x.transpose(1, 2)
        if self.padding:
            # the plan stays at its end, as windows do: zeros would be a jump
            h = torch.cat([h, h[..., -1:].expand(-1, -1, self.padding)], dim=-1)
        # as published the finest skip is left over at the end
        skips = []
        for i, level in enumerate(self.down):
            if i > 0:
                h = self.shrink[i - 1](h)
            h = level(h, features)
            skips.append(h)
        h = self.middle(h, features)
        for level, grow in zip(self.up, self.grow, strict=True):
            h = grow(level(torch.cat([h, skips.pop()], dim=1), features))
        return self.last(h)[..., : self.horizon].transpose(1, 2)

    def output(self, h: Tensor) -> Tensor:
        result: Tensor = self.leave(h.transpose(1, 2))
        return result.transpose(1, 2)
