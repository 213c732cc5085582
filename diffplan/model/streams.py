"""Streams: states, actions and the return of a plan, each at a noise level of its own.

One network learns to denoise all three from every combination of levels, so that which of them are
clean, noisy or nothing but noise says what it is asked for: a plan, a policy, inverse dynamics, a
forward model, an evaluation (UniDiffuser, Bao et al. 2023, arXiv 2303.06555, for two modalities;
UniCon, Li et al. 2024, arXiv 2410.11439, for paired images). The other way of having one network
for all kinds of data is `heads`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from diffplan.diffusion.forward import table
from diffplan.diffusion.grids import time_grid
from diffplan.diffusion.process import Process
from diffplan.model.conditions import ConditionEncoder, Drop
from diffplan.model.context import Context
from diffplan.model.space import Columns
from diffplan.nn.embeddings import constant, mlp, sinusoidal
from diffplan.nn.network import Network

STREAMS = ("states", "actions", "returns")
WEIGHTS = {"states": 1.0, "actions": 1.0, "returns": 0.2}
"""Of their losses."""
_EQUAL = 0.3  # share of training samples with one level in common
_CLEAN, _ABSENT = 0.25, 0.15  # shares of the streams of the others that are given, that are not

Levels = tuple[int, int, int]
"""Table indices of the streams, in the order of `STREAMS`: 0 is given, T is nothing but noise."""


class StreamDenoiser(nn.Module):
    """A network that sees x_t with three levels and conditions, read as x0_hat of all streams."""

    def __init__(
        self, network: Network, encoder: ConditionEncoder, columns: Columns, features: int
    ) -> None:
        super().__init__()
        self.network = network
        self.encoder = encoder
        self.columns = columns
        self.features = features
        self.times = nn.ModuleDict(
            {name: mlp(features, (2 * features,), features) for name in STREAMS}
        )

    def time_features(self, levels: Tensor) -> Tensor:
        """Features [B, F] of relative levels t / T [B, 3]."""
        parts = [
            time(sinusoidal(1000.0 * level, self.features))
            for time, level in zip(self.times.values(), levels.unbind(1), strict=True)
        ]
        result: Tensor = sum(parts[1:], parts[0])
        return result

    def noise(self, normal: Tensor) -> Tensor:
        """Standard normal [B, H, D] with the return's the same in all rows of a plan."""
        told = self.columns.returns
        alike = normal[:, :1, told].expand(-1, normal.shape[1], -1)
        return torch.cat([normal[..., : told.start], alike], -1)

    def spread(self, values: Iterable[float], like: Tensor) -> Tensor:
        """One number per stream to one per column of the plan tensor [D], beside `like`."""
        widths = [self.columns.of(n).stop - self.columns.of(n).start for n in STREAMS]
        return torch.cat([like.new_full((w,), v) for w, v in zip(widths, values, strict=True)])

    def loss(
        self,
        process: Process,
        x0: Tensor,
        levels: Tensor,
        noise: Tensor,
        context: Context,
        drop: Drop | None,
        mask: Tensor,
        acting: Tensor,
    ) -> dict[str, Tensor]:
        """Squared errors of x0 by stream, every row [B]; a stream that is given has none.

        x0, noise: [B, H, D], of the return alike in all rows of a plan. levels: [B, 3] table
        indices. mask: weights [B, H] of the plan states; acting: of the actions.
        """
        both = table((process.a, process.sigma), x0.dtype, x0.device)
        a, sigma = (self._by_column(x) for x in both[:, levels])
        x_t = a * x0 + sigma * noise  # every stream at a level of its own
        features = self.time_features(levels / process.T) + self.encoder(context, drop)
        error = (self.network(x_t, None, features) - x0).square()
        result = {}
        for i, name in enumerate(STREAMS):
            squares = error[..., self.columns.of(name)].mean(-1)
            weights = acting if name == "actions" else mask
            mean = (squares * weights).sum(1) / weights.sum(1).clamp(min=1e-8)
            result[name] = WEIGHTS[name] * (levels[:, i] > 0) * mean
        return result

    def _by_column(self, values: Tensor) -> Tensor:
        """Values [B, 3] of the streams for their columns: [B, 1, D]."""
        widths = [self.columns.of(n).stop - self.columns.of(n).start for n in STREAMS]
        parts = [values[:, i : i + 1].expand(-1, w) for i, w in enumerate(widths)]
        return torch.cat(parts, 1).unsqueeze(1)

    def sample(
        self,
        process: Process,
        schedule: tuple[Levels, ...],
        x: Tensor,
        encoded: Tensor,
        time: Tensor,
        clip: float | None,
    ) -> Tensor:
        """DDIM without noise along a schedule of levels: x [B, H, D] at the first to the last.

        A stream whose level stays where it is stays as it is. encoded: `encoder(context)`
        [B, F]. time: `schedule_features` of the schedule.
        """
        # the levels of a schedule are known beforehand: one body for each
        bodies = self.network.bind(None, time.unsqueeze(1) + encoded)
        for body, now, then in zip(bodies, schedule[:-1], schedule[1:], strict=True):
            x0 = body(x)
            if clip is not None:
                x0 = x0.clamp(-clip, clip)
            pairs = [(t, s, _ratio(process, t, s)) for t, s in zip(now, then, strict=True)]
            keep = self.spread((ratio for *_, ratio in pairs), x)
            move = self.spread(
                (0.0 if t == s else process.a[s] - process.a[t] * ratio for t, s, ratio in pairs),
                x,
            )
            x = keep * x + move * x0
        return x

    @torch.no_grad()
    def schedule_features(self, process: Process, schedule: tuple[Levels, ...]) -> Tensor:
        """Features [n, F] of the n levels that a schedule evaluates."""
        device = next(self.times.parameters()).device
        levels = constant(tuple(level for asked in schedule[:-1] for level in asked), device)
        return self.time_features(levels.view(-1, len(STREAMS)) / process.T)


def _ratio(process: Process, t: int, s: int) -> float:
    """What of x_t stays in x_s."""
    return 1.0 if t == s else process.sigma[s] / process.sigma[t]


def schedule(process: Process, steps: int, **levels: int | tuple[int, int]) -> tuple[Levels, ...]:
    """Levels of all streams in `steps` steps.

    For each stream: where it stays, or (first, 0), from where it is denoised. Those not named are
    absent: nothing but noise throughout.
    """

    def path(given: int | tuple[int, int]) -> tuple[int, ...]:
        if isinstance(given, int):
            return (given,) * (steps + 1)
        return time_grid(given[0], steps)

    paths = [path(levels.get(name, process.T)) for name in STREAMS]
    return tuple(zip(*paths, strict=True))


def draw_levels(rows: int, process: Process, generator: torch.Generator) -> Tensor:
    """Levels of training samples [B, 3]: independent, the two ends more often than others."""
    shape, there = (rows, len(STREAMS)), generator.device
    levels = torch.randint(1, process.T + 1, shape, generator=generator, device=there)
    chance = torch.rand(shape, generator=generator, device=there)
    ends = torch.where(chance < _CLEAN, 0, process.T)
    levels = torch.where(chance < _CLEAN + _ABSENT, ends, levels)
    equal = torch.rand(rows, 1, generator=generator, device=there) < _EQUAL
    together = torch.randint(1, process.T + 1, (rows, 1), generator=generator, device=there)
    return torch.where(equal, together, levels)
