"""The proposer's steps and the denoiser's body on a GPU, each in one launch (Triton).

A tile of rows runs from the first layer to the last, through all states of a proposal, with its
activations in registers and, between two layers, in a scratch that stays in the L2 cache. Called
layer by layer they go through memory after every operation, which at large batches takes longer
than the products; at small ones the launches do.
"""

from __future__ import annotations

import copy
import warnings
from functools import cache
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from diffplan.errors import first_line
from diffplan.model.context import Context
from diffplan.model.denoiser import Denoiser
from diffplan.model.proposer.autoregressive import MarkovProposer
from diffplan.model.proposer.base import LOG_STD, Proposal, Proposer
from diffplan.nn.embeddings import angles_of
from diffplan.nn.network import Network, OfPlan
from diffplan.nn.residual_mlp import ResidualBlock, ResidualMLP

_Module = TypeVar("_Module", bound=nn.Module)
_WIDTHS = (64, 128, 256)
_LEAST = 16  # rows and columns of a product
_FEW, _MANY = 16, 64  # rows of a tile


def fused(model: _Module, precision: str) -> _Module:
    """A copy whose networks run in one launch, where they are of the kinds that can.

    precision: of what products read, in Triton's words or "bf16"; sums are float32. The weights are
    those of the moment: the copy does not follow the model.
    """
    twin = copy.copy(model)
    twin._modules = dict(model._modules)
    for name, part in model._modules.items():
        # of things to be fetched a step computes products of places, which no launch here does
        if type(part) is MarkovProposer and part.width in _WIDTHS and not part.goal.thing_count:
            twin._modules[name] = FusedProposer(part, precision)
        elif isinstance(part, ResidualMLP) and part.width in _WIDTHS:
            twin._modules[name] = FusedMLP(part, precision)
        elif isinstance(part, Denoiser):
            twin._modules[name] = fused(part, precision)
    return twin


class FusedProposer(Proposer):
    """A `MarkovProposer` whose steps are one launch."""

    angles: Tensor
    fixed: Tensor

    def __init__(self, own: MarkovProposer, precision: str) -> None:
        super().__init__(own.spec)
        self.own, self.precision = own, precision
        dim, goal, goal_map = own.spec.state_dim, len(own.goal.columns), own.goal_map
        layers = [layer for layer in own.body.modules() if isinstance(layer, nn.Linear)]
        first, *inner = (_weight(layer) for layer in layers)
        features = () if goal_map is None else (goal, goal, *[goal_map.angles.shape[1]] * 2)
        sizes = [dim, *features, int(own.spec.use_returns), own.spec.task_dim]
        parts = first.t().split(sizes)
        state, returns, task = parts[0], parts[-2], parts[-1]
        if not own.spec.use_returns:
            returns = first.new_zeros(1, own.width)
        angles = first.new_zeros(dim, 0)
        sines = cosines = first.new_zeros(0, own.width)
        fixed = [task]
        if goal_map is not None:
            aim, way, sine, cosine = parts[1:5]
            # the place moves with every step; what the goal alone decides stays
            moving = goal_map.angles.abs().sum(0) > 0
            state = state + goal_map.way @ way
            angles, sines, cosines = goal_map.angles[:, moving], sine[moving], cosine[moving]
            fixed = [aim + way, sine[~moving], cosine[~moving], task]
        held, turned = _columns(dim + 1), _columns(angles.shape[1])
        entering = [_padded(torch.cat([state, returns]), held, own.width)]
        entering += [_padded(part, turned, own.width) for part in (sines, cosines)]
        # mean and spread of a column lie side by side; a change comes in units of the state
        scale = F.pad(own.plan_scale[0], (0, 1), value=1.0)
        units = torch.stack([scale, torch.ones_like(scale)])
        last = cast(nn.Linear, own.head[-1])
        leave = _weight(last).unflatten(0, (2, dim + 1)) * units.unsqueeze(-1)
        ends = last.bias.detach().float().unflatten(0, (2, dim + 1)) * units
        kind = _kind(precision)
        kept = {
            "fixed": torch.cat(fixed).t().to(kind),
            "angles": _padded(angles, held, turned),
            "enter": torch.cat(entering).t().to(kind),
            "inner": torch.cat([first[:0, :1].expand(0, own.width), *inner]).to(kind),
            "biases": torch.stack([_bias(layer) for layer in layers]),
            "leave": _padded(leave.transpose(0, 1).flatten(0, 1), 2 * held, own.width).to(kind),
            "ends": F.pad(ends.t().flatten(), (0, 2 * held - ends.numel())),
            "scale": F.pad(scale, (0, held - len(scale))),
        }
        for name, value in kept.items():
            self.register_buffer(name, value.contiguous())
        self.columns, self.layers = held, len(inner)
        self.works = True

    def propose(
        self, context: Context, noise: Tensor | None = None, horizon: int | None = None
    ) -> Proposal:
        if self.works:
            try:
                return self._propose(context, noise, horizon)
            except Exception as error:  # of the compiler or the card: its memory on the chip
                self.works = _say_why_not(error)
        return self.own.propose(context, noise, horizon)

    def _propose(self, context: Context, noise: Tensor | None, horizon: int | None) -> Proposal:
        spec, state = self.spec, context.state
        rows, horizon = len(state), spec.horizon if horizon is None else horizon
        parts = [context.given("task")] if spec.task_dim else []
        if self.goal.columns:
            goal = context.given("goal")
            angles = angles_of(goal)
            parts = [goal, angles.sin(), angles.cos(), *parts]
        # what stays the same at every step
        known = torch.cat(parts, 1) if parts else state
        returns = context.given("target_return") if spec.use_returns else state.new_zeros(rows)
        place = torch.cat([state, returns.unsqueeze(1)], 1)
        size = place.shape[1]
        path = torch.empty(rows, horizon, size, device=state.device)
        tiles = _Tiles(rows, self.own.width, self.precision, state.device, pairs=True)
        drawn = noise if noise is None else noise.contiguous()
        _unroll[tiles.grid,](
            place, known, drawn, path, tiles.scratch, self.angles, self.enter, self.fixed,
            self.inner, self.biases, self.leave, self.ends, self.scale, rows, horizon,
            KNOWN=self.fixed.shape[1], FED=tiles.fed(self.fixed.shape[1]), SIZE=size,
            MOVING=size if spec.use_returns else size - 1, HELD=self.columns,
            TURNED=self.angles.shape[1], LAYERS=self.layers, GOAL=len(self.goal.columns) > 0,
            NOISE=noise is not None, LOW=LOG_STD[0], SPAN=LOG_STD[1] - LOG_STD[0],
            **tiles.options,
        )  # fmt: skip
        return Proposal(path[..., :-1], path[..., -1])


class FusedMLP(Network):
    """A `ResidualMLP` whose body is one launch a level."""

    by_row = False
    plain = True

    def __init__(self, own: ResidualMLP, precision: str) -> None:
        super().__init__()
        self.own, self.precision = own, precision
        self.use_proposal, self.width, self.shape = own.use_proposal, own.width, own.shape
        self.depth, self.epsilon = len(own.blocks), own.norm.eps
        self.works = True
        kind = _kind(precision)
        blocks = [cast(ResidualBlock, block) for block in own.blocks]
        products, shifts = list[Tensor](), list[Tensor]()
        for block in blocks:
            # the norm's own scale and shift are part of the layer that reads it
            scale, shift = _both(block.norm)
            products += [_weight(block.inner) * scale, _weight(block.outer)]
            shifts.append(_weight(block.inner) @ shift)
        flat = own.shape[0] * own.shape[1]
        x, *proposal, features = _weight(own.enter).split(
            [flat] * (1 + own.use_proposal) + [own.shifts.in_features], 1
        )
        biases = torch.cat([_bias(block.inner) for block in blocks])
        kept = {
            "x": x.to(kind),
            "proposal": (proposal[0] if proposal else x[:0]).to(kind),
            "features": torch.cat([features, _weight(own.shifts)]).to(kind),
            "added": torch.cat([_bias(own.enter), _bias(own.shifts) + biases + torch.cat(shifts)]),
            "products": torch.stack(products).to(kind),
            "ends": torch.stack([*(_bias(block.outer) for block in blocks), *_both(own.norm)]),
        }
        for name, value in kept.items():
            self.register_buffer(name, value.contiguous())

    def bind_features(self, proposal: Tensor | None, features: Tensor) -> tuple[OfPlan, ...]:
        given = None
        if self.use_proposal and proposal is not None:
            given = proposal.flatten(1).contiguous()

        def at(level: Tensor) -> OfPlan:
            def run(x: Tensor) -> Tensor:
                if self.works:
                    try:
                        return self._body(x.flatten(1), given, level)
                    except Exception as error:  # of the compiler or the card
                        self.works = _say_why_not(error)
                return self.own.bind_features(proposal, level.unsqueeze(0))[0](x)

            return run

        return tuple(map(at, features.contiguous().unbind(0)))

    def _body(self, x: Tensor, proposal: Tensor | None, features: Tensor) -> Tensor:
        rows, flat = x.shape
        made = torch.empty(rows, self.width, device=x.device, dtype=_kind(self.precision))
        tiles = _Tiles(rows, self.width, self.precision, x.device, pairs=False)
        _body[tiles.grid,](
            x.contiguous(), proposal, features, made, tiles.scratch, self.x, self.proposal,
            self.features, self.added, self.products, self.ends, rows, _stride(features),
            FLAT=flat, PROPOSAL=proposal is not None, FEATURES=features.shape[1],
            FED=tiles.fed(max(flat, features.shape[1])),
            DEPTH=self.depth, EPSILON=self.epsilon, **tiles.options,
        )  # fmt: skip
        return made

    def output(self, h: Tensor) -> Tensor:
        return self.own.output(h)


def _say_why_not(error: Exception) -> bool:
    warnings.warn(f"a network is called layer by layer ({first_line(error)})", stacklevel=3)
    return False


class _Tiles:
    """How many programs share the rows of a launch, and what each of them is.

    A program goes on to the next tile with the scratch of the one before: only so is it small.
    """

    def __init__(
        self, rows: int, width: int, precision: str, device: torch.device, *, pairs: bool
    ) -> None:
        """pairs: whether two large programs share a processor, with half of the threads each: one
        computes while the other waits for weights, if what it holds fits half of the registers.
        """
        processors, kind = _processors(device), _kind(precision)
        few = rows <= 2 * _FEW * processors
        pairs = pairs and not few
        size = _FEW if few else _MANY
        self.grid = min(triton.cdiv(rows, size), processors * (2 if pairs else 1))
        self.scratch = torch.empty(self.grid, size, width, device=device, dtype=kind)
        self.options: dict[str, Any] = {
            "WIDTH": width,
            "ROWS": size,
            "DEEP": 64 if precision == "bf16" else 32,  # columns of a product's steps: 128 bytes
            "BF16": precision == "bf16",
            "PRECISION": "ieee" if precision == "bf16" else precision,
            "STAGES": 2 if pairs else 3,  # steps whose weights are on their way
            "num_warps": 4 if pairs else 8,
        }

    def fed(self, size: int) -> int:
        """Columns of an input that are read at once."""
        return min(self.options["DEEP"], _columns(size))


@cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def _kind(precision: str) -> torch.dtype:
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _weight(layer: nn.Linear) -> Tensor:
    return layer.weight.detach().float()


def _bias(layer: nn.Linear) -> Tensor:
    return layer.bias.detach().float()


def _both(norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    return norm.weight.detach().float(), norm.bias.detach().float()


def _columns(size: int) -> int:
    """A power of two that holds so many."""
    return max(_LEAST, 1 << max(0, size - 1).bit_length())


def _padded(x: Tensor, rows: int, columns: int) -> Tensor:
    return F.pad(x, (0, columns - x.shape[1], 0, rows - x.shape[0]))


def _stride(x: Tensor) -> int:
    """Between rows; 0 where all rows have the same."""
    return x.stride(0) if x.ndim > 1 and len(x) > 1 else 0


@triton.jit
def _operand(x, BF16: tl.constexpr):  # type: ignore[no-untyped-def]
    return x.to(tl.bfloat16) if BF16 else x


@triton.jit
def _silu(x):  # type: ignore[no-untyped-def]
    return x / (1.0 + tl.exp(-x))


@triton.jit
def _linear(  # type: ignore[no-untyped-def]
    total, source, weights, WIDTH: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr,
    DEEP: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """total [ROWS, N] + x W^T, of x [ROWS, WIDTH] in the scratch and weights [N, WIDTH]."""
    row, n = tl.arange(0, ROWS), tl.arange(0, N)
    for first in tl.range(0, WIDTH, DEEP, num_stages=STAGES):
        k = first + tl.arange(0, DEEP)
        x = tl.load(source + row[:, None] * WIDTH + k[None, :])
        w = tl.load(weights + n[None, :] * WIDTH + k[:, None])
        total = tl.dot(x, w, total, input_precision=PRECISION)
    return total


@triton.jit
def _passed(x, scratch, WIDTH: tl.constexpr, ROWS: tl.constexpr, BF16: tl.constexpr):  # type: ignore[no-untyped-def]
    """Lay x [ROWS, WIDTH] into the scratch for the next layer."""
    at = scratch + tl.arange(0, ROWS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    tl.debug_barrier()  # others may still read what lies there
    tl.store(at, _operand(x, BF16))
    tl.debug_barrier()


@triton.jit
def _fed(  # type: ignore[no-untyped-def]
    total, source, row, inside, stride, weights, SIZE: tl.constexpr, CHUNK: tl.constexpr,
    N: tl.constexpr, ACTIVE: tl.constexpr, BF16: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """total + x W^T of x [rows, SIZE] in memory, after its activation if ACTIVE."""
    n = tl.arange(0, N)
    for first in tl.static_range(0, SIZE, CHUNK):
        k = first + tl.arange(0, CHUNK)
        there = source + row[:, None] * stride + k[None, :]
        x = tl.load(there, mask=inside & (k < SIZE)[None, :], other=0.0).to(tl.float32)
        if ACTIVE:
            x = _silu(x)
        ours = weights + n[None, :] * SIZE + k[:, None]
        w = tl.load(ours, mask=(k < SIZE)[:, None], other=0.0)
        total = tl.dot(_operand(x, BF16), w, total, input_precision=PRECISION)
    return total


@triton.jit
def _spread(values, ROWS: tl.constexpr, N: tl.constexpr):  # type: ignore[no-untyped-def]
    """The same [N] in all rows."""
    return tl.zeros((ROWS, N), tl.float32) + tl.load(values + tl.arange(0, N))[None, :]


@triton.jit
def _small(weights, first, STRIDE: tl.constexpr, K: tl.constexpr, N: tl.constexpr):  # type: ignore[no-untyped-def]
    """The transpose [K, N] of columns first, first + 1, ... of weights [N, STRIDE]."""
    k, n = first + tl.arange(0, K), tl.arange(0, N)
    return tl.load(weights + n[None, :] * STRIDE + k[:, None])


# many arguments: functions of Triton hold nothing
@triton.jit
def _unroll(  # type: ignore[no-untyped-def]
    begin, known, noise, path, scratch, angles, enter, fixed, inner, biases, leave, ends, scale,
    rows, steps, KNOWN: tl.constexpr, FED: tl.constexpr, SIZE: tl.constexpr, MOVING: tl.constexpr,
    HELD: tl.constexpr, TURNED: tl.constexpr, LAYERS: tl.constexpr, GOAL: tl.constexpr,
    NOISE: tl.constexpr, LOW: tl.constexpr, SPAN: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, DEEP: tl.constexpr, STAGES: tl.constexpr, BF16: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Proposals: `MarkovProposer._unroll`."""
    TAKEN: tl.constexpr = HELD + 2 * TURNED
    column = tl.arange(0, HELD)
    own = scratch + tl.program_id(0) * ROWS * WIDTH
    units = tl.load(scale + column)
    turning = tl.load(angles + column[:, None] * TURNED + tl.arange(0, TURNED)[None, :])
    for tile in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = (tl.zeros((ROWS,), tl.int64) + tile) * ROWS + tl.arange(0, ROWS)
        inside = (row < rows)[:, None]
        held = inside & (column < SIZE)[None, :]
        place = tl.load(begin + row[:, None] * SIZE + column[None, :], mask=held, other=0.0)
        for step in range(steps):
            h = _spread(biases, ROWS, WIDTH)
            if KNOWN > 0:
                h = _fed(
                    h, known, row, inside, KNOWN, fixed, KNOWN, FED, WIDTH, False, BF16, PRECISION
                )  # fmt: skip
            here = _operand(place, BF16)
            h = tl.dot(here, _small(enter, 0, TAKEN, HELD, WIDTH), h, input_precision=PRECISION)
            if GOAL:
                # in float32: bfloat16 cannot tell neighbouring places apart
                turned = tl.dot(place, turning, input_precision="ieee")
                for part in tl.static_range(2):
                    wave = tl.sin(turned) if part == 0 else tl.cos(turned)
                    w = _small(enter, HELD + part * TURNED, TAKEN, TURNED, WIDTH)
                    h = tl.dot(_operand(wave, BF16), w, h, input_precision=PRECISION)
            _passed(_silu(h), own, WIDTH, ROWS, BF16)
            for layer in range(LAYERS):
                h = _spread(biases + (layer + 1) * WIDTH, ROWS, WIDTH)
                weights = inner + layer * WIDTH * WIDTH
                h = _linear(h, own, weights, WIDTH, WIDTH, ROWS, DEEP, STAGES, PRECISION)
                _passed(_silu(h), own, WIDTH, ROWS, BF16)
            both = _spread(ends, ROWS, 2 * HELD)
            both = _linear(both, own, leave, WIDTH, 2 * HELD, ROWS, DEEP, STAGES, PRECISION)
            moved, spread = tl.split(both.reshape(ROWS, HELD, 2))
            there = (row[:, None] * steps + step) * SIZE + column[None, :]
            if NOISE:
                spread = tl.exp(SPAN / (1.0 + tl.exp(-spread)) + LOW) * units[None, :]
                moved += tl.load(noise + there, mask=held, other=0.0) * spread
            # what does not move is told anew
            place = tl.where((column < MOVING)[None, :], place + moved, moved)
            tl.store(path + there, place, mask=held)


@triton.jit
def _normed(h, WIDTH: tl.constexpr, EPSILON: tl.constexpr):  # type: ignore[no-untyped-def]
    h -= (tl.sum(h, 1) / WIDTH)[:, None]
    return h * tl.rsqrt(tl.sum(h * h, 1) / WIDTH + EPSILON)[:, None]


@triton.jit
def _body(  # type: ignore[no-untyped-def]
    flat, given, level, made, scratch, x, proposal, features, added, products, ends, rows, stride,
    FLAT: tl.constexpr, PROPOSAL: tl.constexpr, FEATURES: tl.constexpr, FED: tl.constexpr,
    DEPTH: tl.constexpr, EPSILON: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
    DEEP: tl.constexpr, STAGES: tl.constexpr, BF16: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Features of plans at one level: the body of a `ResidualMLP`."""
    n = tl.arange(0, WIDTH)
    own = scratch + tl.program_id(0) * ROWS * WIDTH
    for tile in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row = (tl.zeros((ROWS,), tl.int64) + tile) * ROWS + tl.arange(0, ROWS)
        inside = (row < rows)[:, None]
        h = _spread(added, ROWS, WIDTH)
        h = _fed(h, flat, row, inside, FLAT, x, FLAT, FED, WIDTH, False, BF16, PRECISION)
        if PROPOSAL:
            h = _fed(
                h, given, row, inside, FLAT, proposal, FLAT, FED, WIDTH, False, BF16, PRECISION
            )  # fmt: skip
        h = _fed(
            h, level, row, inside, stride, features, FEATURES, FED, WIDTH, False, BF16, PRECISION
        )  # fmt: skip
        for block in range(DEPTH):
            _passed(_normed(h, WIDTH, EPSILON), own, WIDTH, ROWS, BF16)
            weights = products + 2 * block * WIDTH * WIDTH
            seen = features + (block + 1) * WIDTH * FEATURES
            inner = _spread(added + (block + 1) * WIDTH, ROWS, WIDTH)
            inner = _fed(
                inner, level, row, inside, stride, seen, FEATURES, FED, WIDTH, True, BF16, PRECISION
            )  # fmt: skip
            inner = _linear(inner, own, weights, WIDTH, WIDTH, ROWS, DEEP, STAGES, PRECISION)
            _passed(_silu(inner), own, WIDTH, ROWS, BF16)
            h += tl.load(ends + block * WIDTH + n)[None, :]
            h = _linear(
                h, own, weights + WIDTH * WIDTH, WIDTH, WIDTH, ROWS, DEEP, STAGES, PRECISION
            )
        last = ends + DEPTH * WIDTH + n
        h = _normed(h, WIDTH, EPSILON) * tl.load(last)[None, :] + tl.load(last + WIDTH)[None, :]
        tl.store(made + row[:, None] * WIDTH + n[None, :], _silu(h), mask=inside)
