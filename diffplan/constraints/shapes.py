"""Obstacles by their signed distance: negative inside, in units of the columns they lie in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from diffplan.errors import DiffplanError

_TINY = 1e-12

SignedDistance: TypeAlias = Callable[[Tensor], Tensor]
"""Points [..., C] -> signed distances [...], differentiable, negative inside.

With a method `slope`, points [..., C] -> gradients [..., C], that is asked in place of automatic
differentiation."""


@dataclass(frozen=True)
class Disc:
    """A disc, ball or hyperball. centre: [C]. radius: above 0."""

    centre: Sequence[float]
    radius: float

    def __post_init__(self) -> None:
        check_place(self.centre, "a disc's centre")
        if not (math.isfinite(self.radius) and self.radius > 0):
            raise DiffplanError(f"a disc's radius is {self.radius!r}, expected a length above 0")

    def __call__(self, points: Tensor) -> Tensor:
        """Signed distances [...] of points [..., C]."""
        return (points - vector(self.centre, points)).norm(dim=-1) - self.radius

    def slope(self, points: Tensor) -> Tensor:
        """Its gradient [..., C], without the detour of automatic differentiation."""
        away = points - vector(self.centre, points)
        return away / away.norm(dim=-1, keepdim=True).clamp(min=_TINY)


@dataclass(frozen=True)
class Box:
    """A box along the axes. low, high: [C] corners."""

    low: Sequence[float]
    high: Sequence[float]

    def __post_init__(self) -> None:
        pairs = list(zip(self.low, self.high, strict=False))
        if len(self.low) != len(self.high) or not all(a < b for a, b in pairs):
            raise DiffplanError(
                f"a box goes from {list(self.low)} to {list(self.high)}, expected each low below "
                "its high"
            )

    def __call__(self, points: Tensor) -> Tensor:
        """Signed distances [...] of points [..., C]."""
        low, high = vector(self.low, points), vector(self.high, points)
        beyond = torch.maximum(low - points, points - high)
        outside = beyond.clamp(min=0).square().sum(-1)
        # the root has no slope at 0
        far = torch.where(outside > 0, outside, 1.0).sqrt()
        return torch.where(outside > 0, far, beyond.amax(-1))

    def slope(self, points: Tensor) -> Tensor:
        """Its gradient [..., C]: away from the nearest point, inside to the nearest side."""
        low, high = vector(self.low, points), vector(self.high, points)
        beyond = torch.maximum(low - points, points - high)
        out = beyond.clamp(min=0)
        far = out.norm(dim=-1, keepdim=True)
        side = beyond == beyond.amax(-1, keepdim=True)
        share = torch.where(far > 0, out / far.clamp(min=_TINY), side / side.sum(-1, keepdim=True))
        return torch.where(points - high > low - points, share, -share)


def distance_and_slope(shape: SignedDistance, points: Tensor) -> tuple[Tensor, Tensor]:
    """Signed distances [...] of points [..., C] and their gradients [..., C], the latter fixed."""
    known = getattr(shape, "slope", None)
    if known is not None:
        return shape(points), known(points)
    with torch.inference_mode(False), torch.enable_grad():
        at = points.detach().clone().requires_grad_()
        found = shape(at)
        if found.shape != at.shape[:-1]:
            raise DiffplanError(
                f"a signed distance of points {list(at.shape)} has shape {list(found.shape)}, "
                f"expected {list(at.shape[:-1])}"
            )
        (slope,) = torch.autograd.grad(found.sum(), at)
    return shape(points), slope


def check_place(values: Sequence[float], name: str) -> None:
    """Raise DiffplanError for coordinates that are not finite."""
    if not all(math.isfinite(value) for value in values):
        raise DiffplanError(f"{name} is {list(values)}, expected finite numbers")


def vector(values: Sequence[float], like: Tensor) -> Tensor:
    """The values [C] beside points [..., C], made where these lie: no copy to the device."""
    if len(values) > like.shape[-1]:
        raise DiffplanError(
            f"{len(values)} coordinates were given for {like.shape[-1]} columns: {list(values)}"
        )
    return torch.stack([like.new_full((), value) for value in values])
